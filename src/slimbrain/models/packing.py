"""Index tables that let stage 2 compute visible brain tokens and nothing else.

A segment is one mask unit over `unit_frames` frames: attention before stage 3 stays inside it, so deleting a segment
means leaving its rows out of the tables. Segments of equal length are computed together, in blocks small enough for
the processor's cache; nothing is padded but the few pooled cells by which such segments differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimbrain.errors import ContractError
from slimbrain.grid import Grid, Level

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BLOCK_TOKENS = 8192
"""Tokens computed at once before stage 3: 8192 rows of 64 float32 are 2 MiB, about a core's cache."""

POOL = 2
"""Max-pooling halves time and each direction of space at both transitions."""


@dataclass(frozen=True)
class Clip:
    """Some windows of one session, concatenated: what stage 2 sees of it.

    Attributes
    ----------
    voxels : (T, P, V) in the grid's order, z-scored.
    seconds : (T,) time of each frame since the session began.
    grid : the grid that `voxels` is packed with.
    """

    voxels: Tensor
    seconds: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        frames, patches, values = self.voxels.shape
        if (patches, values) != self.grid.voxel_mask.shape or self.seconds.shape != (frames,):
            raise ContractError(
                f"voxels {tuple(self.voxels.shape)} and seconds {tuple(self.seconds.shape)} do not fit {self.grid!r}; pack with it."
            )


@dataclass(frozen=True)
class Block:
    """Segments of equal length that are computed together in one stage.

    Attributes
    ----------
    rows : (W, F, N) input row of each token: W segments, F frames, N places a frame.
    children : (W, M, 8) places that each pooled element is the maximum of; a rim element repeats its first child.
    kept : (K,) pooled rows, among W * F/2 * M, that are not there to fill up a segment.
    """

    rows: Tensor
    children: Tensor
    kept: Tensor

    def to(self, device: torch.device) -> Block:
        return Block(*(getattr(self, item.name).to(device) for item in fields(self)))


@dataclass(frozen=True)
class Packing:
    """Everything the encoder needs to know about which tokens exist in a batch of clips.

    Attributes
    ----------
    stages : blocks of stage 1 (rows of the voxels) and stage 2 (rows of stage 1's output).
    patch_of_row, frame_of_row : (R,) patch and frame, counted through the batch, of each row of the voxels.
    order : (L,) puts stage 2's output in order of clip, time step, unit.
    clip, step, unit : (L,) where each of the L tokens of stage 3 belongs; a step is 4 frames, a unit 4 patches a side.
    lengths : tokens of each clip.
    """

    stages: tuple[tuple[Block, ...], tuple[Block, ...]]
    patch_of_row: Tensor
    frame_of_row: Tensor
    order: Tensor
    clip: Tensor
    step: Tensor
    unit: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Packing:
        tensors = {item.name: getattr(self, item.name).to(device) for item in fields(self) if item.name not in ("stages", "lengths")}
        first, second = (tuple(block.to(device) for block in stage) for stage in self.stages)
        return replace(self, stages=(first, second), **tensors)


@dataclass(frozen=True)
class _Segments:
    """Visible segments of one batch: clip, time unit and mask unit of each, (S,) each."""

    clip: IntArray
    time: IntArray
    unit: IntArray


def pack_clips(grids: Sequence[Grid], visible: Sequence[BoolArray], unit: str, unit_frames: int) -> Packing:
    """Tables for a batch of clips, each with its own grid and its own visible mask units.

    Parameters
    ----------
    grids : grid of each clip.
    visible : (N, U) bool of each clip: time units of `unit_frames` frames, mask units of the grid.
    unit : `unit` or `region`, the level that mask units are taken from.
    unit_frames : frames a time unit.

    Raises
    ------
    ContractError
        If a visibility table does not fit its grid, or nothing is visible in a clip.
    """
    trees = [_tree(grid, unit) for grid in grids]
    for tree, seen in zip(trees, visible, strict=True):
        if seen.ndim != 2 or seen.shape[1] != len(tree.patches) or not seen.any():
            raise ContractError(
                f"visible units {seen.shape}, {int(seen.sum())} seen: expected (time units, {len(tree.patches)}), at least one seen."
            )
    segments = _visible_segments(visible)
    frames = [seen.shape[0] * unit_frames for seen in visible]
    n_patches = [grid.n_patches for grid in grids]
    first, cell_start = _stage(trees, segments, _patch_starts(trees, segments, frames, n_patches, unit_frames), unit_frames, "cells")
    second, token_start = _stage(trees, segments, cell_start, unit_frames // POOL, "units")
    row_patch, row_frame = _row_positions(frames, n_patches)
    return Packing((first, second), row_patch, row_frame, *_tokens(trees, segments, token_start, unit_frames // POOL**2, len(grids)))


@dataclass(frozen=True)
class _Tree:
    """Counts and children below each mask unit of one grid.

    Attributes
    ----------
    patches : (U,) patches in each mask unit; `patch_start` (U,) the first of them.
    cells, units : (U,) cells and 16-voxel units in each; `unit_start` (U,) the first unit.
    cell_children, unit_children : (U, M, 8) as in `Block.children`.
    """

    patches: IntArray
    patch_start: IntArray
    cells: IntArray
    units: IntArray
    unit_start: IntArray
    cell_children: IntArray
    unit_children: IntArray


@lru_cache(maxsize=16)
def _tree(grid: Grid, unit: str) -> _Tree:
    top: Level = grid.regions if unit == "region" else grid.units
    cell_bounds = np.searchsorted(grid.cells.offsets, top.offsets)
    unit_bounds = np.searchsorted(grid.units.offsets, top.offsets)
    unit_cells = np.searchsorted(grid.cells.offsets, grid.units.offsets)
    return _Tree(
        patches=top.sizes,
        patch_start=top.offsets[:-1],
        cells=np.diff(cell_bounds),
        units=np.diff(unit_bounds),
        unit_start=unit_bounds[:-1],
        cell_children=_children(cell_bounds, grid.cells.offsets),
        unit_children=_children(unit_bounds, unit_cells),
    )


def _children(bounds: IntArray, offsets: IntArray) -> IntArray:
    """(U, M, 8) children of each element below a mask unit, counted from the mask unit's first child."""
    table = np.zeros((len(bounds) - 1, int(np.diff(bounds).max()), POOL**3), dtype=np.int64)
    for mask_unit, (low, high) in enumerate(pairwise(bounds)):
        start, stop = offsets[low:high] - offsets[low], offsets[low + 1 : high + 1] - offsets[low]
        child = start[:, None] + np.arange(POOL**3)
        table[mask_unit, : high - low] = np.where(child < stop[:, None], child, start[:, None])
    return table


def _visible_segments(visible: Sequence[BoolArray]) -> _Segments:
    parts = [np.nonzero(seen) for seen in visible]
    clip = np.repeat(np.arange(len(visible)), [len(time) for time, _ in parts])
    return _Segments(clip, np.concatenate([time for time, _ in parts]), np.concatenate([unit for _, unit in parts]))


def _per_segment(trees: Sequence[_Tree], segments: _Segments, name: str) -> IntArray:
    """A property of each segment's mask unit: (S, ...)."""
    return np.concatenate([_padded(trees, name, clip)[segments.unit[segments.clip == clip]] for clip in range(len(trees))])


def _padded(trees: Sequence[_Tree], name: str, clip: int) -> IntArray:
    """Children tables of different grids have different widths; zeros fill up, and are never kept."""
    table: IntArray = getattr(trees[clip], name)
    if table.ndim == 1:
        return table
    width = max(getattr(tree, name).shape[1] for tree in trees)
    return np.pad(table, ((0, 0), (0, width - table.shape[1]), (0, 0)))


def _patch_starts(
    trees: Sequence[_Tree], segments: _Segments, frames: Sequence[int], n_patches: Sequence[int], unit_frames: int
) -> IntArray:
    """(S, F) voxel row of each segment's first patch in each of its frames."""
    clip_start = np.concatenate(([0], np.cumsum(np.multiply(frames, n_patches))))[segments.clip]
    patches_a_frame = np.asarray(n_patches)[segments.clip]
    frame = segments.time[:, None] * unit_frames + np.arange(unit_frames)
    return (clip_start + _per_segment(trees, segments, "patch_start"))[:, None] + frame * patches_a_frame[:, None]


def _stage(
    trees: Sequence[_Tree], segments: _Segments, start: IntArray, frames: int, pooled_name: str
) -> tuple[tuple[Block, ...], IntArray]:
    """Blocks of one stage, and where each segment's pooled rows start, by frame, in the stage's output: (S, F/2)."""
    counts = _per_segment(trees, segments, "patches" if pooled_name == "cells" else "cells")
    pooled = _per_segment(trees, segments, pooled_name)
    children = _per_segment(trees, segments, "cell_children" if pooled_name == "cells" else "unit_children")
    blocks, done = [], 0
    output_start = np.zeros((len(counts), frames // POOL), dtype=np.int64)
    for count in np.unique(counts):
        of_size = np.flatnonzero(counts == count)
        per_block = max(1, BLOCK_TOKENS // (frames * int(count)))
        for members in np.split(of_size, range(per_block, len(of_size), per_block)):
            most = int(pooled[members].max())
            rows = start[members, :, None] + np.arange(count)
            exists = np.arange(most) < pooled[members, None]
            kept = np.broadcast_to(exists[:, None], (len(members), frames // POOL, most)).reshape(-1)
            blocks.append(Block(torch.from_numpy(rows), torch.from_numpy(children[members, :most]), torch.from_numpy(np.flatnonzero(kept))))
            row = (np.cumsum(kept) - kept).reshape(len(members), frames // POOL, most) + done
            output_start[members] = row[:, :, 0]
            done += int(kept.sum())
    return tuple(blocks), output_start


def _row_positions(frames: Sequence[int], n_patches: Sequence[int]) -> tuple[Tensor, Tensor]:
    patch_start, frame_start = np.cumsum([0, *n_patches]), np.cumsum([0, *frames])
    patch = [
        np.tile(np.arange(patches), times) + patch_start[clip] for clip, (times, patches) in enumerate(zip(frames, n_patches, strict=True))
    ]
    frame = [
        np.repeat(np.arange(times), patches) + frame_start[clip]
        for clip, (times, patches) in enumerate(zip(frames, n_patches, strict=True))
    ]
    return torch.from_numpy(np.concatenate(patch)), torch.from_numpy(np.concatenate(frame))


def _tokens(
    trees: Sequence[_Tree], segments: _Segments, start: IntArray, steps: int, clips: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, ...]]:
    """`order`, `clip`, `step`, `unit` and `lengths` of a Packing."""
    units = _per_segment(trees, segments, "units")
    unit_start = _per_segment(trees, segments, "unit_start")
    segment = np.repeat(np.arange(len(units)), units * steps)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(units * steps) - units * steps, units * steps)
    step_in, unit_in = np.divmod(within, units[segment])
    row = start[segment, step_in] + unit_in
    clip, step, unit = segments.clip[segment], segments.time[segment] * steps + step_in, unit_start[segment] + unit_in
    order = np.lexsort((unit, step, clip))
    lengths = tuple(int(count) for count in np.bincount(clip, minlength=clips))
    first, second, third, fourth = (torch.from_numpy(values[order]) for values in (row, clip, step, unit))
    return first, second, third, fourth, lengths
