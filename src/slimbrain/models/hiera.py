"""Stage 2's encoder: a 4D Hiera over the brain tokens that are visible, and over no others.

Stages 1 and 2 attend inside mask units, so they run block by block over the tables of `packing`; the maximum over
children that exist takes each unit to one token per four frames; stages 3 and 4 attend over all tokens of a clip.
Architecture after Hiera (arXiv 2306.00989) with the depths and widths of SLIM-Brain (arXiv 2512.21881).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from slimbrain.config import HieraConfig
from slimbrain.errors import ContractError
from slimbrain.models.layers import FourierPosition, Mlp, init_transformer
from slimbrain.models.packing import POOL, Block, Clip, Packing, pack_clips

BoolArray = npt.NDArray[np.bool_]

TOKEN_FRAMES = POOL**2
"""Frames in one token of stages 3 and 4."""

SPACE_WAVES_MM = (16.0, 384.0, 12)
"""Shortest and longest wavelength, and how many: from two patches of 8 mm to twice the box."""

TIME_WAVES_S = (1.44, 2048.0, 16)
"""From two frames of 0.72 s to about the longest session."""


class HieraBlock(nn.Module):
    """Pre-norm attention and MLP; where the width grows, tokens may be max-pooled on the way.

    Parameters
    ----------
    width, out : D before and after.
    heads : attention heads.
    mlp_ratio : hidden width of the MLP over `out`.
    """

    def __init__(self, width: int, out: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        if out % heads:
            raise ContractError(f"encoder width {out} is not a multiple of its {heads} heads; change voxel.embed or voxel.heads.")
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * out)
        self.merge = nn.Linear(out, out)
        self.widen = nn.Linear(width, out) if out != width else None
        self.norm2 = nn.LayerNorm(out)
        self.mlp = Mlp(out, int(out * mlp_ratio))

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Attend among the L tokens of each of W sequences, or among `lengths` consecutive tokens.

        Parameters
        ----------
        x : (W, L, D), or (L, D) with `lengths` that sum to L.

        Returns
        -------
        Same leading shape, width `out`.
        """
        normed = self.norm1(x)
        residual = x if self.widen is None else self.widen(normed)
        q, k, v = self._heads(self.qkv(normed))
        attended = _attend(q, k, v) if lengths is None else _attend_parts(q, k, v, lengths)
        x = residual + self.merge(attended)
        return x + self.mlp(self.norm2(x))

    def pool(self, x: Tensor, block: Block) -> Tensor:
        """Attend inside segments with pooled queries.

        Parameters
        ----------
        x : (W, F * N, D) tokens of W segments, frame by frame.

        Returns
        -------
        (K, out) the pooled tokens that exist.
        """
        normed = self.norm1(x)
        residual = max_pool(normed if self.widen is None else self.widen(normed), block)
        q, k, v = self.qkv(normed).chunk(3, dim=-1)
        attended = _attend(*(self._split(part) for part in (max_pool(q, block), k, v)))
        x = (residual + self.merge(attended)).flatten(0, 1)[block.kept]
        return x + self.mlp(self.norm2(x))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._split(part) for part in qkv.chunk(3, dim=-1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(..., H, L, D/H) each -> (..., L, D)."""
    return scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)


def _attend_parts(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attention within consecutive parts of (H, L, D/H) tensors -> (L, D); parts of other clips are never mixed."""
    parts = zip(*(part.split(list(lengths), dim=-2) for part in (q, k, v)), strict=True)
    return torch.cat([_attend(*(tensor[None] for tensor in part))[0] for part in parts])


def max_pool(x: Tensor, block: Block) -> Tensor:
    """Maximum over pairs of frames and over the children that exist.

    Parameters
    ----------
    x : (W, F * N, D), frame by frame.

    Returns
    -------
    (W, F/2 * M, D).
    """
    segments, frames, places = block.rows.shape
    x = x.unflatten(1, (frames // POOL, POOL, places)).amax(2)
    first = torch.arange(segments * (frames // POOL), device=x.device).view(segments, -1, 1, 1) * places
    children = x.flatten(0, 2)[first + block.children[:, None]]
    return children.amax(-2).flatten(1, 2)


@dataclass(frozen=True)
class Tokens:
    """What the encoder says of a batch of clips.

    Attributes
    ----------
    values : (L, D) tokens of all clips, ordered by clip, step, unit.
    clip, step, unit : (L,) clip of the batch, step of 4 frames in the clip, unit of the grid.
    seconds : (L,) mean time of the token's frames since the session began.
    mm : (L, 3) centre of the token's unit in MNI mm.
    lengths : tokens of each clip.
    """

    values: Tensor
    clip: Tensor
    step: Tensor
    unit: Tensor
    seconds: Tensor
    mm: Tensor
    lengths: tuple[int, ...]


class Hiera(nn.Module):
    """The 4D hierarchical encoder.

    Parameters
    ----------
    config : widths, depths, unit.
    voxels_per_patch : V, values a patch.
    """

    def __init__(self, config: HieraConfig, voxels_per_patch: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(voxels_per_patch, config.embed)
        self.space_embed = FourierPosition(3, config.embed, *SPACE_WAVES_MM)
        self.time_embed = FourierPosition(1, config.embed, *TIME_WAVES_S)
        self.blocks = nn.ModuleList(_blocks(config))
        self.norm = nn.LayerNorm(self.width)
        self.apply(init_transformer)

    @property
    def width(self) -> int:
        """D of the tokens that come out."""
        return self.config.embed * 2 ** (len(self.config.depths) - 1)

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
        """Spread a table over (time units, mask units) to (steps, 16-voxel units), the tokens of stages 3 and 4."""
        units = clip.grid.units
        of_unit = clip.grid.regions.of_patch[units.offsets[:-1]] if self.config.unit == "region" else np.arange(len(units))
        return np.repeat(table, self.config.unit_frames // TOKEN_FRAMES, axis=0)[:, of_unit]

    def forward(self, clips: Sequence[Clip], visible: Sequence[BoolArray] | None = None) -> Tokens:
        """Encode what is visible.

        Parameters
        ----------
        clips : B clips; grids, lengths and visible units may differ.
        visible : (N, U) bool for each clip; all brain units if not given.
        """
        visible = [self.everything(clip) for clip in clips] if visible is None else visible
        packing = pack_clips([clip.grid for clip in clips], visible, self.config.unit, self.config.unit_frames).to(
            self.patch_embed.weight.device
        )
        units = self.local_stages(clips, packing)
        first_widening = sum(self.config.depths[:2]) + 1
        for block in self.blocks[first_widening:]:
            units = block(units, packing.lengths)
        return self._tokens(self.norm(units), clips, packing)

    def local_stages(self, clips: Sequence[Clip], packing: Packing) -> Tensor:
        """Stages 1 and 2: (L, 4 * embed) one token a unit and step, none of which depends on another unit."""
        device, dtype = self.patch_embed.weight.device, self.patch_embed.weight.dtype
        with torch.autocast(device.type, enabled=False):  # it refuses to join the store's float16
            rows = torch.cat([clip.voxels.flatten(0, 1) for clip in clips]).to(device)
        space = self.space_embed(torch.cat([torch.tensor(clip.grid.patches.mm) for clip in clips]).to(device, dtype))
        time = self.time_embed(torch.cat([clip.seconds for clip in clips]).to(device, dtype)[:, None])
        cells = torch.cat(
            [
                self._run(self._first_stage, block, rows, space, time, packing.patch_of_row, packing.frame_of_row)
                for block in packing.stages[0]
            ]
        )
        units = torch.cat([self._run(self._second_stage, block, cells) for block in packing.stages[1]])
        return units[packing.order]

    def _run(self, stage, block: Block, *inputs: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(stage, block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return stage(block, *inputs)

    def _first_stage(self, block: Block, rows: Tensor, space: Tensor, time: Tensor, patch_of_row: Tensor, frame_of_row: Tensor) -> Tensor:
        index = block.rows
        x = self.patch_embed(rows[index].to(self.patch_embed.weight.dtype))
        x = x + space[patch_of_row[index[:, :1]]] + time[frame_of_row[index[:, :, :1]]]
        return self._local(x.flatten(1, 2), block, 0, self.config.depths[0])

    def _second_stage(self, block: Block, cells: Tensor) -> Tensor:
        start = self.config.depths[0] + 1
        return self._local(cells[block.rows].flatten(1, 2), block, start, start + self.config.depths[1] - 1)

    def _local(self, x: Tensor, block: Block, start: int, stop: int) -> Tensor:
        for layer in self.blocks[start:stop]:
            x = layer(x)
        pooling = self.blocks[stop]
        assert isinstance(pooling, HieraBlock)
        return pooling.pool(x, block)

    def _tokens(self, values: Tensor, clips: Sequence[Clip], packing: Packing) -> Tokens:
        device = values.device
        seconds = torch.zeros(len(values), dtype=torch.float64, device=device)
        mm = torch.zeros(len(values), 3, dtype=torch.float64, device=device)
        for number, clip in enumerate(clips):
            mine = packing.clip == number
            seconds[mine] = clip.seconds.to(device, torch.float64).view(-1, TOKEN_FRAMES).mean(1)[packing.step[mine]]
            mm[mine] = torch.tensor(clip.grid.units.mm, device=device)[packing.unit[mine]]
        return Tokens(values, packing.clip, packing.step, packing.unit, seconds, mm, packing.lengths)


def _blocks(config: HieraConfig) -> list[HieraBlock]:
    """All stages' blocks in a row; the first block of a stage doubles the width."""
    blocks: list[HieraBlock] = []
    width = config.embed
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        out = config.embed * 2**stage
        for _ in range(depth):
            blocks.append(HieraBlock(width, out, heads, config.mlp_ratio))
            width = out
    return blocks
