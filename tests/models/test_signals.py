"""Signals as targets, against means taken one by one."""

from __future__ import annotations

import numpy as np
import torch

from slimbrain.data.clip import Clip
from slimbrain.grid import Grid
from slimbrain.models.signals import signal_series, token_signals


def test_each_value_is_the_mean_of_a_cells_voxels_in_half_a_step(grid8: Grid) -> None:
    generator = np.random.default_rng(0)
    voxels = generator.normal(size=(12, *grid8.voxel_mask.shape)) * grid8.voxel_mask
    values, exists = token_signals([Clip(torch.tensor(voxels), torch.arange(12) * 0.72, grid8)], 4)
    assert values.shape == exists.shape == (3 * grid8.n_units, 16)
    values, exists = values.view(3, -1, 8, 2), exists.view(3, -1, 8, 2)
    assert int(exists[0, ..., 0].sum()) == grid8.n_cells
    assert not values[~exists].any()
    for cell in range(grid8.n_cells):
        octant = int(grid8.cells.index[cell] % 2 @ [4, 2, 1])
        inside = grid8.voxel_mask & (grid8.patch_cell == cell)[:, None]
        for step in range(3):
            for half in range(2):
                frames = slice(4 * step + 2 * half, 4 * step + 2 * half + 2)
                got = float(values[step, grid8.cell_unit[cell], octant, half])
                assert np.isclose(got, voxels[frames][:, inside].mean(), atol=1e-5)


def test_clips_of_different_lengths_follow_each_other(grid8: Grid) -> None:
    clips = [Clip(torch.randn(frames, *grid8.voxel_mask.shape), torch.arange(frames) * 0.72, grid8) for frames in (8, 16)]
    together, alone = token_signals(clips, 8), [token_signals([clip], 8) for clip in clips]
    for part in range(2):
        assert torch.equal(together[part], torch.cat([one[part] for one in alone]))


def test_series_of_cells_are_means_of_half_steps_in_the_order_of_the_grid(grid8: Grid) -> None:
    voxels = np.random.default_rng(1).normal(size=(8, *grid8.voxel_mask.shape)) * grid8.voxel_mask
    values, _ = token_signals([Clip(torch.tensor(voxels), torch.arange(8) * 0.72, grid8)], 4)
    series = signal_series(values, grid8)
    assert series.shape == (4, grid8.n_cells)
    for cell in range(0, grid8.n_cells, 7):
        inside = grid8.voxel_mask & (grid8.patch_cell == cell)[:, None]
        np.testing.assert_allclose(series[:, cell], voxels[:, inside].reshape(4, -1).mean(1), atol=1e-5)


def test_each_value_is_the_mean_of_a_patchs_voxels_in_half_a_step(grid8: Grid) -> None:
    generator = np.random.default_rng(2)
    voxels = generator.normal(size=(8, *grid8.voxel_mask.shape)) * grid8.voxel_mask
    values, exists = token_signals([Clip(torch.tensor(voxels), torch.arange(8) * 0.72, grid8)], 4, "patches")
    series = signal_series(values, grid8, "patches")
    assert values.shape == exists.shape == (2 * grid8.n_units, 2 * 64) and series.shape == (4, grid8.n_patches)
    values, exists = values.view(2, -1, 64, 2), exists.view(2, -1, 64, 2)
    assert int(exists[0, ..., 0].sum()) == grid8.n_patches
    assert not values[~exists].any()
    for patch in range(grid8.n_patches):
        cell = grid8.cells.index[grid8.patch_cell[patch]]
        part = int(cell % 2 @ [32, 16, 8] + grid8.patches.index[patch] % 2 @ [4, 2, 1])
        for half in range(4):
            expected = voxels[2 * half : 2 * half + 2, patch][:, grid8.voxel_mask[patch]].mean()
            assert np.isclose(float(values[half // 2, grid8.patch_unit[patch], part, half % 2]), expected, atol=1e-5)
            assert np.isclose(float(series[half, patch]), expected, atol=1e-5)
