"""Signals as targets of stage 2: the mean of every cell, or patch, of a token's unit, in both halves of its step.

They cannot collapse, need no pass of a target encoder, and say in the data's own unit how much is predicted. What a linear
model of the population predicts of them is known too (docs/stage2.md), so that a skill has a scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimbrain.config import SignalDetail
from slimbrain.data.clip import Clip
from slimbrain.grid import Grid
from slimbrain.models.packing import POOL, octants

_HALVES = 2
"""Means per step: of its first and of its second half, so that tokens keep what changes within a step."""

_PARTS: dict[SignalDetail, int] = {"cells": POOL**3, "patches": POOL**6}
"""Cells, and patches, of a whole unit."""


def signals_per_token(detail: SignalDetail) -> int:
    """K: eight cells, or 64 patches, in two halves."""
    return _PARTS[detail] * _HALVES


def signal_slots(grid: Grid, detail: SignalDetail = "cells") -> Tensor:
    """(N,) where each cell stands in a table of units by octants, 8 * unit + octant; each patch, in one of cells by octants likewise."""
    cells = grid.cell_unit * POOL**3 + octants(grid.cells)
    return torch.from_numpy(cells if detail == "cells" else cells[grid.patch_cell] * POOL**3 + octants(grid.patches))


def token_signals(clips: Sequence[Clip], token_frames: int, detail: SignalDetail = "cells") -> tuple[Tensor, Tensor]:
    """What the tokens of clips stand for.

    Parameters
    ----------
    clips : sequence of Clip
        B clips.
    token_frames : int
        Frames per token.
    detail : str
        What means are taken of.

    Returns
    -------
    values : Tensor
        (L, K) float32 mean z-scored signal of each part and half, clip by clip, step by step, unit by unit; 0 where the brain has no part.
    exists : Tensor
        (L, K) bool.
    """
    parts = [_signals(clip, token_frames, detail) for clip in clips]
    return torch.cat([values for values, _ in parts]), torch.cat([exists for _, exists in parts])


def signal_series(values: Tensor, grid: Grid, detail: SignalDetail = "cells") -> Tensor:
    """Series of the parts (2 S, N), a frame per half of a step, from values (S U, K) of one whole clip as `token_signals` orders them."""
    table = values.unflatten(0, (-1, grid.n_units)).unflatten(2, (_PARTS[detail], _HALVES)).permute(0, 3, 1, 2)
    return table.reshape(-1, grid.n_units * _PARTS[detail])[:, signal_slots(grid, detail).to(values.device)]


def _means_of_sums(patches: Tensor, grid: Grid) -> Tensor:
    """(T, C) from sums over the voxels of each patch (T, P)."""
    sums = patches.new_zeros(len(patches), grid.n_cells).index_add_(1, torch.tensor(grid.patch_cell, device=patches.device), patches)
    return sums / torch.tensor(grid.cell_voxels, device=patches.device)


def _signals(clip: Clip, token_frames: int, detail: SignalDetail) -> tuple[Tensor, Tensor]:
    grid, device, slots = clip.grid, clip.voxels.device, signal_slots(clip.grid, detail).to(clip.voxels.device)
    sums = clip.voxels.sum(-1, dtype=torch.float32).unflatten(0, (-1, token_frames // _HALVES)).mean(1)
    means = _means_of_sums(sums, grid) if detail == "cells" else sums / torch.tensor(grid.patch_voxels, device=device)
    slot_count = grid.n_units * _PARTS[detail]
    table = means.new_zeros(len(means), slot_count).index_copy_(1, slots, means)
    exists = torch.zeros(slot_count, dtype=torch.bool, device=device).index_fill_(0, slots, True)
    # (2 S, 8 U) to (S, U, 8, 2): the two halves of a cell lie side by side.
    values = table.unflatten(0, (-1, _HALVES)).unflatten(2, (-1, _PARTS[detail])).permute(0, 2, 3, 1)
    exists = exists.view(1, -1, _PARTS[detail], 1).expand(values.shape)
    return values.reshape(-1, signals_per_token(detail)), exists.reshape(-1, signals_per_token(detail))
