"""Index tables that let stage 2 compute visible brain tokens and nothing else.

A segment is one mask unit over `unit_frames` frames: attention before level 3 stays inside it, so deleting a segment
means leaving its rows out of the tables. On a CPU, segments of equal length are computed together, in blocks small enough for
its cache; nothing is padded but the few pooled cells by which such segments differ. Where a variable-length attention kernel
runs, all segments are one block, and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimbrain.errors import ContractError
from slimbrain.grid import Grid, Level
from slimbrain.models.attention import Spans, spans_of

_IntArray = npt.NDArray[np.int64]
_BoolArray = npt.NDArray[np.bool_]

BLOCK_TOKENS = 4096
"""Tokens computed at once before level 3 on a CPU: 8192 rows of 64 float32 are 2 MiB, about a core's cache."""

DEVICE_BLOCK_TOKENS = 2**20
"""The same on an accelerator, which needs larger blocks: segments of one length rarely need two."""

POOL = 2
"""Pooling halves time and each direction of space at both transitions."""


@dataclass(frozen=True)
class Block:
    """Segments that are computed together in one level: L tokens, segment by segment, frame by frame.

    Attributes
    ----------
    rows : Tensor
        (L,) input row of each token: of the voxels in level 1, of level 1's output in level 2.
    spans : Spans
        Tokens of each segment, as queries and as keys.
    children : Tensor
        (Q, 16) tokens that each pooled element is made of: eight octants in the first frame, then in the second. Where the brain has no
        child, another one stands in.
    exists : Tensor
        (Q, 16) bool, False where one stands in.
    pooled_spans : Spans
        Pooled elements of each segment as queries, its tokens as keys.
    kept : Tensor or None
        (K,) pooled elements, among Q, that are not there to fill up a segment; None if all are kept.
    patch, frame : Tensor
        Patch and frame of the tokens, counted through the batch; (W, 1, N) and (W, F, 1) where the L tokens are W segments of F frames
        and N patches, else (1, 1, L). Empty in level 2.
    shape : tuple of int
        (W, F, N) or (1, 1, L), the shape in which patch and frame give every token its position.
    """

    rows: Tensor
    spans: Spans
    children: Tensor
    exists: Tensor
    pooled_spans: Spans
    kept: Tensor | None
    patch: Tensor
    frame: Tensor
    shape: tuple[int, int, int]

    def to(self, device: torch.device) -> Block:
        return replace(self, **_moved(self, device))


@dataclass(frozen=True)
class Packing:
    """Which tokens exist in a batch of clips, as tables for the encoder.

    Attributes
    ----------
    levels : tuple of tuple of Block
        Blocks of level 1 (rows of the voxels) and level 2 (rows of level 1's output).
    order : Tensor
        (L,) puts level 2's output in order of clip, time step, unit.
    clip, step, unit : Tensor
        (L,) where each of the L tokens of level 3 belongs; a step is 4 frames, a unit 4 patches per side.
    lengths : tuple of int
        Tokens of each clip.
    """

    levels: tuple[tuple[Block, ...], tuple[Block, ...]]
    order: Tensor
    clip: Tensor
    step: Tensor
    unit: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Packing:
        first, second = (tuple(block.to(device) for block in level) for level in self.levels)
        return replace(self, levels=(first, second), **_moved(self, device))


def _moved(tables: Block | Packing, device: torch.device) -> dict[str, Any]:
    values = {item.name: getattr(tables, item.name) for item in fields(tables)}
    return {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class _Segments:
    """Visible segments of one batch: clip, time unit and mask unit of each, (S,) each."""

    clip: _IntArray
    time: _IntArray
    unit: _IntArray


def pack_clips(
    grids: Sequence[Grid], visible: Sequence[_BoolArray], unit: str, unit_frames: int, block_tokens: int | None = BLOCK_TOKENS
) -> Packing:
    """Tables for a batch of clips, each with its own grid and its own visible mask units.

    Parameters
    ----------
    grids : sequence of Grid
        Grid of each clip.
    visible : sequence of ndarray of bool
        (N, U) bool of each clip: time units of `unit_frames` frames, mask units of the grid.
    unit : str
        `unit` or `region`, the level that mask units are taken from.
    unit_frames : int
        Frames a time unit.
    block_tokens : int or None
        Tokens computed at once before level 3, in blocks of segments of one length; None for one block of all lengths.

    Raises
    ------
    ContractError
        If a visibility table does not fit its grid, or nothing is visible in a clip.
    """
    trees = [_tree(grid, unit) for grid in grids]
    for tree, shown in zip(trees, visible, strict=True):
        if shown.ndim != 2 or shown.shape[1] != len(tree.patches) or not shown.any():
            raise ContractError(
                f"a visibility table of shape {shown.shape} shows {int(shown.sum())} units: it must be (time units, {len(tree.patches)}) "
                "and show at least one unit."
            )
    segments = _visible_segments(visible)
    frames = np.array([shown.shape[0] * unit_frames for shown in visible])
    patches = np.array([grid.n_patches for grid in grids])
    first, cell_start = _first_level(trees, segments, frames, patches, unit_frames, block_tokens)
    second, token_start = _level(trees, segments, cell_start, "units", block_tokens)
    return Packing((first, second), *_tokens(trees, segments, token_start, unit_frames // POOL**2, len(grids)))


@dataclass(frozen=True)
class _Tree:
    """Counts and children below each mask unit of one grid.

    Attributes
    ----------
    patches : ndarray of int
        (U,) patches in each mask unit; `patch_start` (U,) the first of them.
    cells, units : ndarray of int
        (U,) cells and 16-voxel units in each; `unit_start` (U,) the first unit.
    cell_children, unit_children : ndarray of int
        (U, M, 8) the child in each octant, counted from the mask unit's first; -1 where there is none.
    """

    patches: _IntArray
    patch_start: _IntArray
    cells: _IntArray
    units: _IntArray
    unit_start: _IntArray
    cell_children: _IntArray
    unit_children: _IntArray


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
        cell_children=_children(cell_bounds, grid.cells.offsets, octants(grid.patches)),
        unit_children=_children(unit_bounds, unit_cells, octants(grid.cells)),
    )


def octants(level: Level) -> _IntArray:
    """(N,) which eighth of its parent, of twice its edge, each element is: 4 x + 2 y + z with coordinates of 0 or 1."""
    return level.index % POOL @ np.array([POOL**2, POOL, 1])


def _children(bounds: _IntArray, offsets: _IntArray, octant: _IntArray) -> _IntArray:
    """(U, M, 8) children of each element below a mask unit, counted from the mask unit's first child; -1 where there is none."""
    table = np.zeros((len(bounds) - 1, int(np.diff(bounds).max()), POOL**3), dtype=np.int64)
    for mask_unit, (low, high) in enumerate(pairwise(bounds)):
        table[mask_unit, : high - low] = -1
        parent = np.repeat(np.arange(high - low), np.diff(offsets[low : high + 1]))
        table[mask_unit, parent, octant[offsets[low] : offsets[high]]] = np.arange(len(parent))
    return table


def _visible_segments(visible: Sequence[_BoolArray]) -> _Segments:
    parts = [np.nonzero(shown) for shown in visible]
    clip = np.repeat(np.arange(len(visible)), [len(time) for time, _ in parts])
    return _Segments(clip, np.concatenate([time for time, _ in parts]), np.concatenate([unit for _, unit in parts]))


def _per_segment(trees: Sequence[_Tree], segments: _Segments, name: str) -> _IntArray:
    """A property of each segment's mask unit: (S, ...)."""
    return np.concatenate([_padded(trees, name, clip)[segments.unit[segments.clip == clip]] for clip in range(len(trees))])


def _padded(trees: Sequence[_Tree], name: str, clip: int) -> _IntArray:
    """Children tables of different grids have different widths; zeros fill up, and are never kept."""
    table: _IntArray = getattr(trees[clip], name)
    if table.ndim == 1:
        return table
    width = max(getattr(tree, name).shape[1] for tree in trees)
    return np.pad(table, ((0, 0), (0, width - table.shape[1]), (0, 0)))


def _first_level(
    trees: Sequence[_Tree], segments: _Segments, frames: _IntArray, patches: _IntArray, unit_frames: int, block_tokens: int | None
) -> tuple[tuple[Block, ...], _IntArray]:
    """Blocks of level 1, with the patch and the frame of every token."""
    frame = segments.time[:, None] * unit_frames + np.arange(unit_frames)
    in_frame = _per_segment(trees, segments, "patch_start")[:, None]
    clip_row, clip_patch, clip_frame = (_starts(counts)[segments.clip][:, None] for counts in (frames * patches, patches, frames))
    start = clip_row + in_frame + frame * patches[segments.clip][:, None]
    return _level(trees, segments, start, "cells", block_tokens, (clip_patch + in_frame, clip_frame + frame))


def _level(
    trees: Sequence[_Tree],
    segments: _Segments,
    start: _IntArray,
    pooled_name: str,
    block_tokens: int | None,
    position: tuple[_IntArray, _IntArray] | None = None,
) -> tuple[tuple[Block, ...], _IntArray]:
    """Blocks of one level, and where each segment's pooled rows start, by frame, in the level's output: (S, F/2).

    Parameters
    ----------
    start : ndarray of int
        (S, F) input row of each segment's first token in each of its frames.
    position : tuple of ndarray of int or None
        First patch (S, 1) and frames (S, F) of the segments.
    """
    counts = _per_segment(trees, segments, "patches" if pooled_name == "cells" else "cells")
    pooled = _per_segment(trees, segments, pooled_name)
    children = _per_segment(trees, segments, "cell_children" if pooled_name == "cells" else "unit_children")
    blocks, done = [], 0
    output_start = np.zeros((len(counts), start.shape[1] // POOL), dtype=np.int64)
    for members in _groups(counts, start.shape[1], block_tokens):
        block, row = _block(members, start, counts, pooled, children, position)
        blocks.append(block)
        output_start[members] = row + done
        done += int(row[-1, -1]) + int(pooled[members[-1]])
    return tuple(blocks), output_start


def _groups(counts: _IntArray, frames: int, block_tokens: int | None) -> Iterator[_IntArray]:
    """Segments of one length, at most `block_tokens` tokens at once; all segments at once without."""
    if block_tokens is None:
        yield np.arange(len(counts))
        return
    for count in np.unique(counts):
        of_size = np.flatnonzero(counts == count)
        per_block = max(1, block_tokens // (frames * int(count)))
        yield from np.split(of_size, range(per_block, len(of_size), per_block))


def _block(
    members: _IntArray,
    start: _IntArray,
    counts: _IntArray,
    pooled: _IntArray,
    children: _IntArray,
    position: tuple[_IntArray, _IntArray] | None,
) -> tuple[Block, _IntArray]:
    """One block, and the output row at which each member's pooled elements start, by frame: (W, F/2)."""
    frames, size, parts = start.shape[1], counts[members], pooled[members]
    even = bool((size == size[0]).all())
    first_token = _starts(frames * size)[:-1]
    # Even segments are filled up to the same number of pooled elements, so that their queries stay one batch.
    queries = np.full_like(parts, parts.max()) if even else parts
    segment, half, place = _ragged(queries, frames // POOL)
    token = first_token[segment] + half * POOL * size[segment]
    child = children[members][segment, place]
    exists = child >= 0
    child = token[:, None] + np.where(exists, child, child.max(1, keepdims=True))
    kept = np.flatnonzero(place < parts[segment])
    of_token, frame_of_token, place_of_token = _ragged(size, frames)
    rows = start[members][of_token, frame_of_token] + place_of_token
    patch, frame, shape = np.zeros((1, 1, 0), np.int64), np.zeros((1, 1, 0), np.int64), (1, 1, len(rows))
    if position is not None and even:
        shape = (len(members), frames, int(size[0]))
        patch, frame = (position[0][members] + np.arange(size[0]))[:, None], position[1][members][:, :, None]
    elif position is not None:
        patch = (position[0][members][of_token, 0] + place_of_token)[None, None]
        frame = position[1][members][of_token, frame_of_token][None, None]
    block = Block(
        rows=torch.from_numpy(rows),
        spans=spans_of((frames * size).tolist(), (frames * size).tolist()),
        children=torch.from_numpy(np.concatenate((child, child + size[segment][:, None]), axis=1)),
        exists=torch.from_numpy(np.concatenate((exists, exists), axis=1)),
        pooled_spans=spans_of((frames // POOL * queries).tolist(), (frames * size).tolist()),
        kept=None if len(kept) == len(place) else torch.from_numpy(kept),
        patch=torch.from_numpy(patch),
        frame=torch.from_numpy(frame),
        shape=shape,
    )
    output = _starts(frames // POOL * parts)[:-1, None] + parts[:, None] * np.arange(frames // POOL)
    return block, output


def _ragged(counts: _IntArray, frames: int) -> tuple[_IntArray, _IntArray, _IntArray]:
    """Segment, frame and place in its frame of every token of segments with `counts` tokens per frame."""
    a_frame = np.repeat(counts, frames)
    frame_of_token = np.repeat(np.arange(len(a_frame)), a_frame)
    segment, frame = np.divmod(frame_of_token, frames)
    return segment, frame, np.arange(len(frame_of_token)) - _starts(a_frame)[frame_of_token]


def _starts(counts: _IntArray) -> _IntArray:
    """Where each of several consecutive parts starts, and where the last ends."""
    return np.concatenate(([0], np.cumsum(counts)))


def _tokens(
    trees: Sequence[_Tree], segments: _Segments, start: _IntArray, steps: int, clips: int
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
