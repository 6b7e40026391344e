"""Quality figures against planted gaps, spikes and motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.bids import Run
from slimbrain.prep.quality import assess, coverage_gap, dvars_spikes, framewise_displacement
from slimbrain.prep.volume import Prepared

AXES = {"x": 0, "y": 1, "z": 2}


def millimetres(grid: Grid) -> np.ndarray:
    """(3, P, V) x, y and z of each voxel."""
    return grid.pack(np.indices(grid.mask.shape) * grid.lattice.voxel_mm + grid.lattice.origin_mm[:, None, None, None])


@pytest.mark.parametrize(
    ("axis", "low_end", "edge", "words"),
    [
        ("z", True, -23.0, "below z = -23 mm"),
        ("z", False, 33.0, "above z = 33 mm"),
        ("x", True, -33.0, "left of x = -33 mm"),
        ("x", False, 39.0, "right of x = 39 mm"),
        ("y", True, -57.0, "behind y = -57 mm"),
        ("y", False, 23.0, "in front of y = 23 mm"),
    ],
)
def test_a_cut_field_of_view_is_named(grid8: Grid, axis: str, low_end: bool, edge: float, words: str) -> None:
    place = millimetres(grid8)[AXES[axis]]
    covered = grid8.voxel_mask & ((place > edge) if low_end else (place < edge))
    assert coverage_gap(covered, grid8) == words


def test_holes_and_full_coverage_have_no_side(grid8: Grid) -> None:
    assert coverage_gap(grid8.voxel_mask, grid8) == ""
    holes = np.random.default_rng(0).random(grid8.voxel_mask.shape) < 0.3
    middle = np.abs(millimetres(grid8)).max(axis=0) < 40
    assert coverage_gap(grid8.voxel_mask & ~(holes & middle), grid8) == ""


def test_planted_spikes_are_found() -> None:
    dvars = np.random.default_rng(1).normal(1, 0.02, 200)
    dvars[[20, 21, 150]] = 2.0
    assert set(np.flatnonzero(dvars_spikes(dvars))) >= {20, 21, 150}
    assert dvars_spikes(dvars).sum() < 12
    assert not dvars_spikes(np.ones(50)).any()


def make(grid: Grid, tmp_path: Path, motion: list[str]) -> tuple[Prepared, Run]:
    shape = grid.voxel_mask.shape
    table = tmp_path / "confounds.tsv"
    table.write_text("\n".join(["framewise_displacement\tother", *(f"{value}\t0" for value in motion)]) + "\n")
    dvars = np.array([1.0, 1.0, 1.1, 1.0, 5.0])
    covered = grid.voxel_mask
    prepared = Prepared(
        np.zeros((6, *shape), np.float16), np.where(covered, 900, 0), np.where(covered, 30, 0), 0.72, covered, 0.9, 3, dvars, np.arange(6.0)
    )
    return prepared, Run(tmp_path / "image.nii", {"sub": "01"}, confounds=table)


def test_figures_series_and_warnings(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", "0.1", "0.9", "0.2", "0.3", "0.5"])
    quality = assess(prepared, grid8, run, source_tr=2.0, warn_coverage=0.95)
    assert quality.scalars == {"coverage": 0.9, "tsnr": 30.0, "dvars_mean": 1.82, "spikes": 1, "fd_mean": 0.4, "fd_max": 0.9}
    assert quality.series["fd"] == [None, 0.1, 0.9, 0.2, 0.3, 0.5]
    assert quality.series["dvars"] == [None, 1.0, 1.0, 1.1, 1.0, 5.0]
    assert quality.series["time_s"] == [0, 2, 4, 6, 8, 10]
    # Frame 2 moved 0.9 mm; the change of 5 leads to frame 5; 0.5 mm is not over 0.5 mm.
    assert quality.series["flagged"] == [2, 5]
    assert any("90.0%" in warning for warning in quality.warnings)
    assert any("3 brain voxels" in warning for warning in quality.warnings)


def test_motion_of_another_length_is_not_reported(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", "0.1"])
    quality = assess(prepared, grid8, run, source_tr=2.0, warn_coverage=0.0)
    assert "fd_mean" not in quality.scalars
    assert any("2 rows for 6 frames" in warning for warning in quality.warnings)


def test_motion_that_is_no_number_is_refused(grid8: Grid, tmp_path: Path) -> None:
    _, run = make(grid8, tmp_path, ["much"])
    with pytest.raises(InputError, match="framewise_displacement"):
        framewise_displacement(run)
