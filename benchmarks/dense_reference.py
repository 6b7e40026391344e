"""What stage 2 is compared with: the published configuration, in which no background is deleted.

Written from the facts that the authors published (arXiv 2512.21881; after Hiera, arXiv 2306.00989): a box of 96 voxels a side and
40 frames in patches of 4 voxels and 1 frame; mask units of 8 patches a side and 8 frames, 135 of them; attention within
mask units in levels 1 and 2; maximum over 2 x 2 x 2 x 2 tokens at the first two transitions; attention among all tokens in levels 3
and 4. The target encoder computes all mask units, the context encoder 30 % of them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

POOL = 2


@dataclass(frozen=True)
class DenseConfig:
    """The published numbers.

    Attributes
    ----------
    sides : voxels of the box in x, y and z.
    frames, patch : frames of a sample, voxels a side of a patch.
    unit : patches a side of a mask unit, and its frames.
    embed, depths, heads, mlp_ratio : of the encoder.
    predictor_width, predictor_depth, predictor_heads : of the light predictor.
    recompute : recompute levels 1 and 2 in the backward pass.
    """

    sides: tuple[int, int, int] = (96, 96, 96)
    frames: int = 40
    patch: int = 4
    unit: int = 8
    embed: int = 64
    depths: tuple[int, int, int, int] = (2, 3, 16, 3)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    mlp_ratio: float = 4.0
    predictor_width: int = 192
    predictor_depth: int = 3
    predictor_heads: int = 6
    recompute: bool = False

    @property
    def units(self) -> tuple[int, int, int, int]:
        """Mask units in t, x, y and z."""
        x, y, z = (side // (self.patch * self.unit) for side in self.sides)
        return self.frames // self.unit, x, y, z

    @property
    def n_units(self) -> int:
        times, x, y, z = self.units
        return times * x * y * z

    @property
    def tokens_per_unit(self) -> int:
        """Tokens of a mask unit after the second pooling."""
        return (self.unit // POOL**2) ** 4

    @property
    def out(self) -> int:
        return self.embed * 2 ** (len(self.depths) - 1)


class DenseBlock(nn.Module):
    """Pre-norm attention and MLP over (W, L, D); with `edge`, the tokens are cubes of that edge in t, x, y, z, and are pooled."""

    def __init__(self, width: int, out: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)
        self.widen = nn.Linear(width, out) if out != width else None
        self.norm2 = nn.LayerNorm(out)
        self.fc1 = nn.Linear(out, int(out * mlp_ratio))
        self.fc2 = nn.Linear(int(out * mlp_ratio), out)

    def forward(self, x: Tensor, edge: int | None = None) -> Tensor:
        normed = self.norm1(x)
        residual = x if self.widen is None else self.widen(normed)
        q, k, v = self.qkv(normed).chunk(3, -1)
        if edge is not None:
            residual, q = pool(residual, edge), pool(q, edge)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        x = residual + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


def pool(x: Tensor, edge: int) -> Tensor:
    """Maximum over 2 x 2 x 2 x 2 tokens of cubes in t, x, y, z: (W, edge^4, D) -> (W, (edge / 2)^4, D)."""
    half = edge // POOL
    pairs = x.view(len(x), *(half, POOL) * 4, x.shape[-1])
    return pairs.amax((2, 4, 6, 8)).flatten(1, 4)


class DenseHiera(nn.Module):
    """The encoder: (T, X, Y, Z) volumes -> (K, tokens_per_unit, D), K mask units that are visible."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        patches = [side // config.patch for side in config.sides]
        self.patch_embed = nn.Linear(config.patch**3, config.embed)
        self.space = nn.Parameter(0.02 * torch.randn(*patches, config.embed))
        self.time = nn.Parameter(0.02 * torch.randn(config.frames, config.embed))
        self.blocks = nn.ModuleList(_blocks(config))
        self.norm = nn.LayerNorm(config.out)

    def forward(self, volumes: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Encode the mask units `chosen` (K,), counted in order of t, x, y, z; all if not given."""
        if chosen is None:
            chosen = torch.arange(self.config.n_units, device=volumes.device)
        patches = self.cut(unfold(volumes, self.config.patch))[chosen]
        position = self.cut(self.time[:, None, None, None] + self.space)[chosen]
        if self.config.recompute and torch.is_grad_enabled():
            x = checkpoint(self.local_levels, patches, position, use_reentrant=False, preserve_rng_state=False)
        else:
            x = self.local_levels(patches, position)
        shape, x = x.shape, x.flatten(0, 1)[None]
        for block in self.blocks[self.first_global :]:
            x = block(x)
        return self.norm(x).view(*shape[:-1], -1)

    @property
    def first_global(self) -> int:
        """Place of the first block that sees all tokens; the pooling into level 3 still attends within mask units."""
        return sum(self.config.depths[:2]) + 1

    def local_levels(self, patches: Tensor, position: Tensor) -> Tensor:
        """(K, 8^4, V) values and (K, 8^4, D) positions -> (K, 2^4, 4 D)."""
        x, edge, pooling = self.patch_embed(patches) + position, self.config.unit, (self.config.depths[0], self.first_global - 1)
        for number, block in enumerate(self.blocks[: self.first_global]):
            x = block(x, edge if number in pooling else None)
            edge = edge // POOL if number in pooling else edge
        return x

    def cut(self, x: Tensor) -> Tensor:
        """Cut (t, x, y, z, D) tokens into mask units: (N, unit^4, D), both in order of t, x, y, z."""
        edge = self.config.unit
        for axis in range(4):
            x = x.unflatten(2 * axis, (-1, edge))
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7, 8).flatten(4, 7).flatten(0, 3)


def unfold(volumes: Tensor, patch: int) -> Tensor:
    """(T, X, Y, Z) -> (T, x, y, z, V), the values of a patch in order of x, y, z."""
    for axis in (1, 2, 3):
        volumes = volumes.unfold(axis, patch, patch)
    return volumes.flatten(-3)


def _blocks(config: DenseConfig) -> list[DenseBlock]:
    blocks, width = [], config.embed
    for level, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        out = config.embed * 2**level
        for _ in range(depth):
            blocks.append(DenseBlock(width, out, heads, config.mlp_ratio))
            width = out
    return blocks


class DensePredictor(nn.Module):
    """Transformer over context tokens and one query for each hidden token: (K, M, D) -> (N - K, M, D)."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        inner = config.predictor_width
        self.proj_in = nn.Linear(config.out, inner)
        self.query = nn.Parameter(0.02 * torch.randn(inner))
        self.position = nn.Parameter(0.02 * torch.randn(config.n_units, config.tokens_per_unit, inner))
        self.blocks = nn.ModuleList(DenseBlock(inner, inner, config.predictor_heads, 4.0) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(inner)
        self.proj_out = nn.Linear(inner, config.out)

    def forward(self, context: Tensor, visible: Tensor) -> Tensor:
        tokens = torch.where(visible[:, None, None], self.position.new_zeros(()), self.query)
        tokens = tokens.expand(-1, context.shape[1], -1).index_put((visible.nonzero()[:, 0],), self.proj_in(context).to(tokens.dtype))
        x = (tokens + self.position).flatten(0, 1)[None]
        for block in self.blocks:
            x = block(x)
        return self.proj_out(self.norm(x[0].view(len(visible), context.shape[1], -1)[~visible]))


class DenseJepa(nn.Module):
    """Context encoder, running mean as target encoder, light predictor, smooth L1 on layer-normalised targets."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.context = DenseHiera(config)
        self.target = deepcopy(self.context).requires_grad_(False)
        self.predictor = DensePredictor(config)

    def forward(self, volumes: Tensor, visible: Tensor) -> Tensor:
        """Loss of one sample: (T, X, Y, Z) volumes, (N,) mask units that the context sees."""
        with torch.no_grad():
            target = self.target(volumes)[~visible]
        predicted = self.predictor(self.context(volumes, visible.nonzero()[:, 0]), visible)
        return functional.smooth_l1_loss(predicted, functional.layer_norm(target, target.shape[-1:]))

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * context."""
        for slow, fast in zip(self.target.parameters(), self.context.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)
