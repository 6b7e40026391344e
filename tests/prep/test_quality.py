"""Quality figures against planted gaps, spikes and motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prep_samples import find_runs

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.bids import Run
from slimbrain.prep.denoise import Confounds
from slimbrain.prep.frames import FrameRecord
from slimbrain.prep.likeness import Likeness
from slimbrain.prep.quality import MEASURES, _coverage_gap, _dvars_spikes, _framewise_displacement, _in_store, assess
from slimbrain.prep.timing import TimeAxis
from slimbrain.prep.volume import Prepared
from slimbrain.simulate import CohortSpec, simulate_cohort

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
    assert _coverage_gap(covered, grid8) == words


def test_holes_and_full_coverage_have_no_side(grid8: Grid) -> None:
    assert _coverage_gap(grid8.voxel_mask, grid8) == ""
    holes = np.random.default_rng(0).random(grid8.voxel_mask.shape) < 0.3
    middle = np.abs(millimetres(grid8)).max(axis=0) < 40
    assert _coverage_gap(grid8.voxel_mask & ~(holes & middle), grid8) == ""


def test_planted_spikes_are_found() -> None:
    dvars = np.random.default_rng(1).normal(1, 0.02, 200)
    dvars[[20, 21, 150]] = 2.0
    assert set(np.flatnonzero(_dvars_spikes(dvars))) >= {20, 21, 150}
    assert _dvars_spikes(dvars).sum() < 12
    assert not _dvars_spikes(np.ones(50)).any()


def make(grid: Grid, tmp_path: Path, motion: list[str]) -> tuple[Prepared, Run]:
    shape = grid.voxel_mask.shape
    table = tmp_path / "confounds.tsv"
    table.write_text("\n".join(["framewise_displacement\tother", *(f"{value}\t0" for value in motion)]) + "\n")
    dvars = np.array([1.0, 1.0, 1.1, 1.0, 5.0])
    covered = grid.voxel_mask
    prepared = Prepared(
        np.zeros((6, *shape), np.float16),
        np.where(covered, 900, 0),
        np.where(covered, 30, 0),
        0.72,
        covered,
        0.9,
        3,
        dvars,
        np.arange(6.0),
        FrameRecord(np.zeros(9, bool), np.zeros(9, bool), np.zeros(6, bool), np.zeros(6, bool), np.arange(6)),
        np.zeros(6, bool),
    )
    return prepared, Run(tmp_path / "image.nii", {"sub": "01"}, confounds=table)


def test_figures_series_and_warnings(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", "0.1", "0.9", "0.2", "0.3", "0.5"])
    quality = assess(prepared, grid8, run, TimeAxis(6, 2.0), warn_coverage=0.95)
    # The global signal counts 0 to 5: its variance is 35 / 12.
    level = {"global_signal_mean": 2.5, "global_signal_std": 1.70783}
    motion = {"fd_mean": 0.4, "fd_max": 0.9, "flagged": 2, "flagged_share": 0.333333}
    frames = {"frozen_frames": 0, "repeated_frames": 0, "nonfinite_frames": 0}
    assert quality.scalars == {"coverage": 0.9, "tsnr": 30.0, "dvars_mean": 1.82, "spikes": 1, **level, **motion, **frames}
    assert quality.series["fd"] == [None, 0.1, 0.9, 0.2, 0.3, 0.5]
    assert quality.series["dvars"] == [None, 1.0, 1.0, 1.1, 1.0, 5.0]
    assert quality.series["time_s"] == [0, 2, 4, 6, 8, 10]
    # Frame 2 moved 0.9 mm; the change of 5 leads to frame 5; 0.5 mm is not over 0.5 mm.
    assert quality.series["flagged"] == [2, 5]
    # Frames of 0.72 s between 2 and 6 s lie beside frame 2 (4 s); the last, at 9.36 s, lies between frames 4 and 5.
    assert quality.series["flagged_stored"] == [3, 4, 5, 6, 7, 8, 12, 13]
    assert any("90.0%" in warning for warning in quality.warnings)
    assert any("3 brain voxels" in warning for warning in quality.warnings)


def test_motion_of_another_length_is_not_reported(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", "0.1"])
    quality = assess(prepared, grid8, run, TimeAxis(6, 2.0), warn_coverage=0.0)
    assert "fd_mean" not in quality.scalars
    assert any("2 rows for 6 frames" in warning for warning in quality.warnings)


def test_likeness_is_recorded(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", *["0.1"] * 5])
    seen = Likeness(0.7123456789, {"up_down": 0.9}, ("up_down",))
    quality = assess(prepared, grid8, run, TimeAxis(6, 2.0), 0.0, seen)
    assert quality.scalars["template_overlap"] == 0.712346 and quality.record()["template_flips"] == {"up_down": 0.9}
    assert set(quality.scalars) == set(MEASURES)
    assert any("upside down (overlap 0.90 against 0.71)" in warning for warning in quality.warnings)


def test_frames_left_out_by_scrubbing_are_marked(grid8: Grid, tmp_path: Path) -> None:
    prepared, run = make(grid8, tmp_path, ["n/a", *["0.1"] * 5])
    confounds = Confounds(np.zeros((6, 1)), np.array([True, False, True, True, True, True]), ("a",))
    quality = assess(prepared, grid8, run, TimeAxis(6, 0.72), 0.0, confounds=confounds)
    assert quality.series["flagged"] == quality.series["flagged_stored"] == [1, 5]


@given(st.integers(4, 40), st.sampled_from([0.5, 0.72, 0.75, 1.0, 1.44, 2.0, 3.3]), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_stored_frames_are_marked_by_the_recorded_ones_beside_them(n_source: int, tr: float, seed: int) -> None:
    flagged, times = np.random.default_rng(seed).random(n_source) < 0.3, TimeAxis(n_source, tr)
    marked = _in_store(flagged, times)
    assert len(marked) == times.n_frames
    for frame, mark in enumerate(marked):
        second = frame * times.tr
        near = [number for number in range(n_source) if abs(number * tr - second) < 1e-6]
        beside = near or [number for number in range(n_source) if abs(number * tr - second) < tr]
        assert mark == any(flagged[number] for number in beside)


def test_displacement_is_worked_out_from_the_six_parameters(tmp_path: Path) -> None:
    """Power et al. 2012: the sum of absolute changes, rotations on a sphere of 50 mm."""
    rng = np.random.default_rng(0)
    motion = np.column_stack([rng.normal(0, 0.3, (20, 3)), rng.normal(0, 0.005, (20, 3))])
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    table = tmp_path / "confounds.tsv"
    table.write_text("\n".join(["\t".join(names), *("\t".join(f"{value:.9f}" for value in row) for row in motion)]) + "\n")
    found = _framewise_displacement(Run(tmp_path / "image.nii", {"sub": "01"}, confounds=table))
    assert found is not None and np.isnan(found[0])
    for frame in range(1, 20):
        step = [abs(motion[frame, column] - motion[frame - 1, column]) for column in range(6)]
        assert found[frame] == pytest.approx(sum(step[:3]) + 50 * sum(step[3:]), abs=1e-6)


def test_displacement_equals_that_of_a_simulated_cohort(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, CohortSpec(subjects=1, sessions=1, frames=60, events_per_session=0))
    run = find_runs(tmp_path)[0][0]
    written = _framewise_displacement(run)
    assert run.confounds is not None and written is not None
    lines = [line.split("\t") for line in run.confounds.read_text().splitlines()]
    column = lines[0].index("framewise_displacement")
    run.confounds.write_text("\n".join("\t".join(cells[:column] + cells[column + 1 :]) for cells in lines) + "\n")
    np.testing.assert_allclose(_framewise_displacement(run), written, atol=2e-3)


def test_motion_that_is_no_number_is_refused(grid8: Grid, tmp_path: Path) -> None:
    _, run = make(grid8, tmp_path, ["much"])
    with pytest.raises(InputError, match="framewise_displacement"):
        _framewise_displacement(run)
