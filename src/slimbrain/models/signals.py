"""Signals as targets of stage 2: the mean of every cell of a token's unit, in both halves of its step.

They cannot collapse, need no pass of a target encoder, and say in the data's own unit how much is predicted. What a linear
model of the population predicts of them is known too (docs/stage2.md), so that a skill has a scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimbrain.data.clip import Clip
from slimbrain.grid import Grid
from slimbrain.models.packing import POOL, octants

_HALVES = 2
"""Means per step: of its first and of its second half, so that tokens keep what changes within a step."""

_CELLS = POOL**3

SIGNALS = _CELLS * _HALVES
"""Values per token: eight cells in two halves."""


def cell_slots(grid: Grid) -> Tensor:
    """(C,) where each cell stands in a table of units by octants: 8 * unit + octant."""
    return torch.from_numpy(grid.cell_unit * _CELLS + octants(grid.cells))


def cell_signals(clips: Sequence[Clip], token_frames: int) -> tuple[Tensor, Tensor]:
    """What the tokens of clips stand for.

    Parameters
    ----------
    clips : sequence of Clip
        B clips.
    token_frames : int
        Frames per token.

    Returns
    -------
    values : Tensor
        (L, 16) float32 mean z-scored signal of each cell and half, clip by clip, step by step, unit by unit; 0 where there is no cell.
    exists : Tensor
        (L, 16) bool.
    """
    parts = [_signals(clip, token_frames) for clip in clips]
    return torch.cat([values for values, _ in parts]), torch.cat([exists for _, exists in parts])


def cell_series(values: Tensor, grid: Grid) -> Tensor:
    """Series of the cells (2 S, C), a frame per half of a step, from values (S U, 16) of one whole clip as `cell_signals` orders them."""
    table = values.unflatten(0, (-1, grid.n_units)).unflatten(2, (_CELLS, _HALVES)).permute(0, 3, 1, 2)
    return table.reshape(-1, grid.n_units * _CELLS)[:, cell_slots(grid).to(values.device)]


def _signals(clip: Clip, token_frames: int) -> tuple[Tensor, Tensor]:
    grid, device = clip.grid, clip.voxels.device
    halves = clip.voxels.sum(-1, dtype=torch.float32).unflatten(0, (-1, token_frames // _HALVES)).mean(1)
    cells = halves.new_zeros(len(halves), grid.n_cells).index_add_(1, torch.tensor(grid.patch_cell, device=device), halves)
    cells /= torch.tensor(grid.cell_voxels, device=device)
    slots = cell_slots(grid).to(device)
    table = cells.new_zeros(len(cells), grid.n_units * _CELLS).index_copy_(1, slots, cells)
    exists = torch.zeros(grid.n_units * _CELLS, dtype=torch.bool, device=device).index_fill_(0, slots, True)
    # (2 S, 8 U) to (S, U, 8, 2): the two halves of a cell lie side by side.
    values = table.unflatten(0, (-1, _HALVES)).unflatten(2, (-1, _CELLS)).permute(0, 2, 3, 1)
    exists = exists.view(1, -1, _CELLS, 1).expand(values.shape)
    return values.reshape(-1, SIGNALS), exists.reshape(-1, SIGNALS)
