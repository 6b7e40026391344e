"""Stage 2's encoder: a 4D Hiera over the visible brain tokens alone.

Levels 1 and 2 attend inside mask units, so they run block by block over the tables of `packing`; joining the children
that exist takes each unit to one token per four frames; levels 3 and 4 attend over all tokens of a clip.
Architecture after Hiera (arXiv 2306.00989) with the depths and widths of SLIM-Brain (arXiv 2512.21881).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slimbrain.config import HieraConfig
from slimbrain.data.clip import Clip
from slimbrain.errors import ContractError
from slimbrain.models.attention import Spans, attend, has_variable_length_kernel, spans_of
from slimbrain.models.autocast import Affine, cast_together
from slimbrain.models.layers import FourierPosition, Mlp, init_transformer
from slimbrain.models.memory_efficient import add, add_mlp, mean_children, merge_children, norm_linear, pool_children
from slimbrain.models.packing import BLOCK_TOKENS, DEVICE_BLOCK_TOKENS, POOL, Block, Packing, pack_clips

BoolArray = npt.NDArray[np.bool_]

SPACE_WAVES_MM = (16.0, 384.0, 12)
"""Shortest and longest wavelength, and how many: from two patches of 8 mm to twice the box."""

TIME_WAVES_S = (1.44, 2048.0, 16)
"""From two frames of 0.72 s to about the longest session."""

_CHILDREN = POOL**4
"""Tokens that a pooled token is made of where none is missing: two frames of eight octants."""

_SPACE_SCALE, _TIME_SCALE = 0.25, 0.1
"""Of position embeddings beside `signal_std`: places then begin with a standard deviation of about 0.03, times with 0.01."""


class HieraBlock(nn.Module):
    """Pre-norm attention and MLP; where the width grows, children may be joined on the way.

    Parameters
    ----------
    width, out : int
        D before and after.
    heads : int
        Attention heads.
    mlp_ratio : float
        Hidden width of the MLP over `out`.
    eps : float
        Epsilon of the norms.
    keep_hidden : bool
        Keep the hidden layer of the MLP for the backward pass; without, it is computed again.
    pooling : {'max', 'mean', 'merge'}
        How children are joined in a block that pools: `merge` is a learnt linear map of all of them, and their queries' mean.
    """

    def __init__(
        self, width: int, out: int, heads: int, mlp_ratio: float, eps: float = 1e-5, keep_hidden: bool = True, pooling: str = "max"
    ) -> None:
        super().__init__()
        if out % heads:
            raise ContractError(f"encoder width {out} is not a multiple of its {heads} heads; change voxel.embed or voxel.heads.")
        self.heads, self.keep_hidden, self.pooling = heads, keep_hidden, pooling
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)
        self.merge = nn.Linear(_CHILDREN * width, out) if pooling == "merge" else None
        self.widen = nn.Linear(width, out) if out != width and self.merge is None else None
        self.norm2 = nn.LayerNorm(out, eps)
        self.mlp = Mlp(out, int(out * mlp_ratio))

    def forward(self, x: Tensor, spans: Spans, pooling: Block | None = None) -> Tensor:
        """Attend within the spans; with `pooling`, from the tokens that its children make, which alone continue.

        Parameters
        ----------
        x : Tensor
            (L, D) tokens, span by span.

        Returns
        -------
        (L, out), or (K, out) pooled tokens.
        """
        qkv, proj, fc1, fc2, *wider = cast_together(self.qkv, self.proj, self.mlp.fc1, self.mlp.fc2, self.merge or self.widen)
        # The residual stream keeps its precision under autocast.
        q, k, v = norm_linear(x, self.norm1, qkv).chunk(3, dim=-1)
        residual = self._residual(x, pooling, *wider)
        if pooling is not None:
            q = self._join(q, pooling)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        x = add(residual, functional.linear(attend(q, k, v, spans), *proj))
        if pooling is not None and pooling.kept is not None:
            x = x[pooling.kept]
        return add_mlp(x, self.norm2, fc1, fc2, self.keep_hidden)

    def _residual(self, x: Tensor, pooling: Block | None, wider: Affine | None = None) -> Tensor:
        """The input as the attention's output is added to it: widened, and joined."""
        if wider is None:
            return x if pooling is None else self._join(x, pooling)
        if self.merge is not None and pooling is not None:
            return merge_children(x, self.norm1, wider, pooling.children, pooling.exists).to(x.dtype)
        widened = norm_linear(x, self.norm1, wider).to(x.dtype)
        return widened if pooling is None else self._join(widened, pooling)

    def _join(self, x: Tensor, pooling: Block) -> Tensor:
        if self.pooling == "max":
            return pool_children(x, pooling.children)
        return mean_children(x, pooling.children, pooling.exists)

    @torch.no_grad()
    def start_merge(self) -> None:
        """Start as a random map of the children's mean plus a random mixture, of about one standard deviation each."""
        if self.merge is not None:
            width = self.norm1.normalized_shape[0]
            of_mean = torch.randn(self.merge.out_features, width) * width**-0.5 / _CHILDREN
            self.merge.weight.normal_(std=self.merge.in_features**-0.5).add_(of_mean.repeat(1, _CHILDREN))


@dataclass(frozen=True)
class Tokens:
    """The encoder's output for a batch of clips.

    Attributes
    ----------
    values : Tensor
        (L, D) tokens of all clips, ordered by clip, step, unit.
    clip, step, unit : Tensor
        (L,) clip of the batch, step of 4 frames in the clip, unit of the grid.
    seconds : Tensor
        (L,) mean time of the token's frames since the session began.
    mm : Tensor
        (L, 3) centre of the token's unit in MNI mm.
    lengths, steps : tuple of int
        Tokens of each clip, and the steps that they are spread over.
    """

    values: Tensor
    clip: Tensor
    step: Tensor
    unit: Tensor
    seconds: Tensor
    mm: Tensor
    lengths: tuple[int, ...]
    steps: tuple[int, ...]

    def take(self, rows: Tensor, lengths: tuple[int, ...]) -> Tokens:
        """Some of the tokens, of which each clip has so many."""
        values, clip, step, unit, seconds, mm = (
            part[rows] for part in (self.values, self.clip, self.step, self.unit, self.seconds, self.mm)
        )
        return Tokens(values, clip, step, unit, seconds, mm, lengths, self.steps)


class Hiera(nn.Module):
    """The 4D hierarchical encoder.

    Parameters
    ----------
    config : HieraConfig
        Widths, depths, unit.
    voxels_per_patch : int
        V, values per patch.

    Attributes
    ----------
    block_tokens : int or None
        Tokens computed at once before level 3; by device if None.
    """

    block_tokens: int | None = None

    def __init__(self, config: HieraConfig, voxels_per_patch: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(config.patch_frames * voxels_per_patch, config.embed)
        if config.learned_positions is None:
            self.space_embed: nn.Module = FourierPosition(3, config.embed, *SPACE_WAVES_MM)
            self.time_embed: nn.Module = FourierPosition(1, config.embed, *TIME_WAVES_S)
        else:
            side, frames = config.learned_positions
            self.space_embed, self.time_embed = nn.Embedding(side**3, config.embed), nn.Embedding(frames, config.embed)
        self.blocks = nn.ModuleList(_blocks(config))
        self.norm = nn.LayerNorm(self.width, config.norm_eps)
        self.apply(init_transformer)
        for block in self.blocks:
            assert isinstance(block, HieraBlock)
            block.start_merge()
        if config.signal_std is not None:
            self._scale_input(config.signal_std)

    @torch.no_grad()
    def _scale_input(self, std: float) -> None:
        """Start with tokens that are mostly signal: from weights of 0.02, places and times make up 85 % of their variance.

        Parameters
        ----------
        std : float
            Standard deviation that z-scored voxels give each dimension of a token.
        """
        self.patch_embed.weight.normal_(std=std * self.patch_embed.in_features**-0.5)
        for embed, scale in ((self.space_embed, _SPACE_SCALE), (self.time_embed, _TIME_SCALE)):
            table = embed.project if isinstance(embed, FourierPosition) else embed
            assert isinstance(table, (nn.Linear, nn.Embedding))
            table.weight.mul_(scale)

    @property
    def width(self) -> int:
        """D of the tokens that come out."""
        return self.config.embed * 2 ** (len(self.config.depths) - 1)

    @property
    def token_frames(self) -> int:
        """Frames in one token of levels 3 and 4."""
        return POOL**2 * self.config.patch_frames

    def mask_units(self, clip: Clip) -> int:
        """U, how many mask units the clip's grid has."""
        return len(clip.grid.regions if self.config.unit == "region" else clip.grid.units)

    def everything(self, clip: Clip) -> BoolArray:
        """(N, U) the visibility table that deletes nothing but background."""
        frames = len(clip.seconds)
        if frames % self.config.unit_frames:
            raise ContractError(
                f"a clip of {frames} frames is not a whole number of units of {self.config.unit_frames}; change window.frames or window.k."
            )
        return np.ones((frames // self.config.unit_frames, self.mask_units(clip)), dtype=bool)

    def per_token(self, clip: Clip, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Spread a table over (time units, mask units) to (steps, 16-voxel units), the tokens of levels 3 and 4."""
        units = clip.grid.units
        of_unit = clip.grid.regions.of_patch[units.offsets[:-1]] if self.config.unit == "region" else np.arange(len(units))
        return np.repeat(table, self.config.unit_frames // self.token_frames, axis=0)[:, of_unit]

    def forward(self, clips: Sequence[Clip], visible: Sequence[BoolArray] | None = None) -> Tokens:
        """Encode what is visible.

        Parameters
        ----------
        clips : sequence of Clip
            B clips; grids, lengths and visible units may differ.
        visible : sequence of ndarray of bool or None
            (N, U) bool for each clip; all brain units if not given.
        """
        packing = self.pack(clips, visible)
        return self._tokens(self.norm(self.trunk(clips, packing)), clips, packing.clip, packing.step, packing.unit, packing.lengths)

    def layout(self, clips: Sequence[Clip]) -> Tokens:
        """Where and when every token of the clips is; nothing is computed, and `values` is (L, 0)."""
        counts = [(len(clip.seconds) // self.token_frames, len(clip.grid.units)) for clip in clips]
        lengths = tuple(steps * units for steps, units in counts)
        step = torch.cat([torch.arange(steps).repeat_interleave(units) for steps, units in counts])
        unit = torch.cat([torch.arange(units).repeat(steps) for steps, units in counts])
        clip = torch.arange(len(clips)).repeat_interleave(torch.tensor(lengths))
        return self._tokens(self.patch_embed.weight.new_empty(sum(lengths), 0), clips, clip, step, unit, lengths)

    def trunk(self, clips: Sequence[Clip], packing: Packing) -> Tensor:
        """(L, D) tokens of all clips, before the last norm."""
        units = self.local_levels(clips, packing.to(self.patch_embed.weight.device))
        spans = spans_of(packing.lengths, packing.lengths)
        for block in self.blocks[self.first_global :]:
            units = block(units, spans)
        return units

    @property
    def first_global(self) -> int:
        """Index of the first block with attention among all tokens of a clip."""
        return sum(self.config.depths[:2]) + 1

    def pack(self, clips: Sequence[Clip], visible: Sequence[BoolArray] | None = None) -> Packing:
        """The tables for these clips, in CPU memory."""
        visible = [self.everything(clip) for clip in clips] if visible is None else visible
        block_tokens = self._block_tokens(self.patch_embed.weight.device)
        times = self.config.unit_frames // self.config.patch_frames
        return pack_clips([clip.grid for clip in clips], visible, self.config.unit, times, block_tokens)

    def _block_tokens(self, device: torch.device) -> int | None:
        """How many tokens are computed at once before level 3; None for all, as the variable-length kernel wants them."""
        if self.config.layout == "ragged" or (self.config.layout == "auto" and self._has_ragged_kernel(device)):
            return None
        return self.block_tokens or (DEVICE_BLOCK_TOKENS if device.type == "cuda" else BLOCK_TOKENS)

    def _has_ragged_kernel(self, device: torch.device) -> bool:
        if device.type != "cuda":
            return False
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else self.patch_embed.weight.dtype
        return has_variable_length_kernel(torch.empty(0, self.config.embed // self.config.heads[0], device=device, dtype=dtype))

    def local_levels(self, clips: Sequence[Clip], packing: Packing) -> Tensor:
        """Levels 1 and 2: (L, 4 * embed) one token per unit and step, none of which depends on another unit."""
        device = self.patch_embed.weight.device
        with torch.autocast("cpu", enabled=False):  # it refuses to join the store's float16
            rows = [self._patches(clip) for clip in clips]
            voxels = (rows[0] if len(rows) == 1 else torch.cat(rows)).to(device)
        space, time = self._positions(clips)
        first, second = packing.levels
        cells = torch.cat([self._run(self._first_level, block, voxels[block.rows], space, time) for block in first])
        del voxels
        return torch.cat([self._run(self._second_level, block, cells[block.rows]) for block in second])[packing.order]

    def _patches(self, clip: Clip) -> Tensor:
        """(T / F * P, F * V) values of each patch over its F frames, one frame behind the other."""
        together = self.config.patch_frames
        if together == 1:
            return clip.voxels.flatten(0, 1)
        return clip.voxels.unflatten(0, (-1, together)).transpose(1, 2).flatten(2).flatten(0, 1)

    def _positions(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Embeddings of the patches of all clips, and of their frames."""
        weight = self.patch_embed.weight
        if self.config.learned_positions is None:
            mm = torch.cat([torch.tensor(clip.grid.patches.mm) for clip in clips])
            seconds = torch.cat([_means(clip.seconds, self.config.patch_frames) for clip in clips])[:, None]
            return self.space_embed(mm.to(weight.device)), self.time_embed(seconds.to(weight.device))
        side, frames = self.config.learned_positions
        for clip in clips:
            lattice = clip.grid.lattice
            if lattice.edge != side * lattice.patch or len(clip.seconds) > frames * self.config.patch_frames:
                raise ContractError(
                    f"positions were learned for {side} patches per side and {frames * self.config.patch_frames} frames, "
                    f"the clip has {lattice.edge // lattice.patch} and {len(clip.seconds)}; give it what the model was trained on."
                )
        place = torch.cat([torch.tensor(clip.grid.patches.index) for clip in clips]) @ torch.tensor([side * side, side, 1])
        frame = torch.cat([torch.arange(len(clip.seconds) // self.config.patch_frames) for clip in clips])
        return self.space_embed(place.to(weight.device)), self.time_embed(frame.to(weight.device))

    def _run(self, level: Callable[..., Tensor], block: Block, *inputs: Tensor) -> Tensor:
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(level, block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return level(block, *inputs)

    def _first_level(self, block: Block, voxels: Tensor, space: Tensor, time: Tensor) -> Tensor:
        x = self.patch_embed(voxels.to(self.patch_embed.weight.dtype)).view(*block.shape, -1)
        x = add(time[block.frame], add(space[block.patch], x))
        return self._local(x.flatten(0, 2), block, 0, self.config.depths[0])

    def _second_level(self, block: Block, cells: Tensor) -> Tensor:
        return self._local(cells, block, self.config.depths[0] + 1, self.first_global - 1)

    def _local(self, x: Tensor, block: Block, start: int, stop: int) -> Tensor:
        for layer in self.blocks[start:stop]:
            x = layer(x, block.spans)
        return self.blocks[stop](x, block.pooled_spans, block)

    def _tokens(self, values: Tensor, clips: Sequence[Clip], clip: Tensor, step: Tensor, unit: Tensor, lengths: tuple[int, ...]) -> Tokens:
        seconds = [_means(clip.seconds.cpu(), self.token_frames) for clip in clips]
        mm = [torch.tensor(clip.grid.units.mm) for clip in clips]
        first_step, first_unit = (torch.tensor([0, *map(len, parts)]).cumsum(0)[clip] for parts in (seconds, mm))
        clip, step, unit, of_step, of_unit = (
            part.to(values.device) for part in (clip, step, unit, torch.cat(seconds)[first_step + step], torch.cat(mm)[first_unit + unit])
        )
        return Tokens(values, clip, step, unit, of_step, of_unit, lengths, tuple(map(len, seconds)))


def _means(seconds: Tensor, frames: int) -> Tensor:
    """Mean time of every `frames` frames, in float64."""
    return seconds.double().view(-1, frames).mean(1)


def _blocks(config: HieraConfig) -> list[HieraBlock]:
    """All levels' blocks in a row; the first block of a level doubles the width."""
    blocks: list[HieraBlock] = []
    width = config.embed
    for level, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        out = config.embed * 2**level
        for number in range(depth):
            # With `recompute`, levels 1 and 2 are recomputed as a whole, and of the others the MLPs alone.
            keep_hidden = level < 2 or not config.recompute
            pooling = config.pooling if number == 0 and level in (1, 2) else "max"
            blocks.append(HieraBlock(width, out, heads, config.mlp_ratio, config.norm_eps, keep_hidden, pooling))
            width = out
    return blocks
