"""Mean map of every window of a session, on the finest blocks that fit the page and the reading time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.grid import BOX_CORNER_MM, BOX_MM, Grid
from slimbrain.report.volumes import encode_values, rounded, scale_of
from slimbrain.saliency import WindowRow
from slimbrain.store import Store

_FloatArray = npt.NDArray[Any]

_MAPS_BYTES = 2_100_000
"""Blocks of all windows of all sessions together, one byte each, before they are deflated (to about 90 % as text)."""

_READ_BYTES = 256 * 2**20
"""Bytes of voxels to read at most; more would make the report slow. Means of cells are stored and cost nothing."""

_STEPS = 62
"""Shades of a thumbnail map."""

_Windows = Mapping[str, Sequence[WindowRow]]


@dataclass(frozen=True)
class Blocks:
    """The cubes whose means a map shows: voxels, patches or cells.

    Attributes
    ----------
    level : str
        `voxel`, `patch` or `cell`.
    index : array
        (N, 3) position of each in the box, in cubes.
    edge_mm : float
        Side of a cube.
    """

    level: str
    index: npt.NDArray[np.int64]
    edge_mm: float

    def to_json(self) -> dict[str, Any]:
        """Where the cubes lie, for the page's script: one list for all windows of all sessions."""
        side = round(BOX_MM / self.edge_mm)
        places = np.ravel_multi_index(tuple(self.index.T), (side,) * 3)
        return {
            "shape": [side] * 3,
            "origin": rounded(BOX_CORNER_MM + self.edge_mm / 2),
            "step": [self.edge_mm] * 3,
            "index": places.tolist(),
        }


def choose_blocks(store: Store, windows: _Windows) -> Blocks:
    """The finest cubes whose maps fit the page; finer than cells only where all frames can be read at little cost."""
    n_windows, grid = sum(map(len, windows.values())), store.grid
    frames = sum(store.session(key).n_frames for key in windows)
    levels = [_level(grid, name) for name in ("voxel", "patch", "cell")]
    if frames * grid.voxel_index.size * np.dtype(np.float16).itemsize > _READ_BYTES:
        return levels[-1]
    # Voxels of 2 mm are what the slice viewer is for.
    fitting = [blocks for blocks in levels if len(blocks.index) * n_windows <= _MAPS_BYTES and blocks.edge_mm >= 8]
    return fitting[0] if fitting else levels[-1]


def _level(grid: Grid, name: str) -> Blocks:
    voxel, patch = grid.lattice.voxel_mm, grid.lattice.voxel_mm * grid.lattice.patch
    if name == "voxel":
        return Blocks(name, np.stack(np.unravel_index(grid.voxel_index[grid.voxel_mask], grid.mask.shape), axis=1), voxel)
    return Blocks(name, grid.patches.index, patch) if name == "patch" else Blocks(name, grid.cells.index, 2 * patch)


def encode_windows(store: Store, blocks: Blocks, windows: _Windows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and maps, as JSON, of one session after the other, until the page has no room for the next."""
    room = _MAPS_BYTES
    for key, rows in windows.items():
        room -= len(rows) * len(blocks.index)
        if room < 0:
            return
        means = _window_means(store, key, rows, blocks)
        yield key, encode_values(means, *scale_of(means), _STEPS)


def _window_means(store: Store, key: str, rows: Sequence[WindowRow], blocks: Blocks) -> _FloatArray:
    """(N, B) mean over frames, and over the brain voxels of each block, of the z-scored signal of each window."""
    spans = [frames_of(row, store.session(key).tr) for row in rows]
    if blocks.level == "cell":
        coarse = store.coarse(key)
        return np.stack([coarse[start:stop].mean(axis=0) for start, stop in spans])
    return np.stack([_block_means(store, store.voxels(key, start, stop), blocks) for start, stop in spans])


def _block_means(store: Store, voxels: _FloatArray, blocks: Blocks) -> _FloatArray:
    """(B,) of (T, P, V)."""
    mean, mask = voxels.mean(axis=0, dtype=np.float32), store.grid.voxel_mask
    return mean[mask] if blocks.level == "voxel" else mean.sum(axis=1) / mask.sum(axis=1)


def frames_of(row: WindowRow, tr: float) -> tuple[int, int]:
    """First frame of a window, and the one after its last; the table has seconds."""
    start = round(row.onset_s / tr)
    return start, start + max(1, round(row.duration_s / tr))
