"""Confounds: against ordinary least squares, with a table written as fMRIPrep writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slimbrain.errors import InputError
from slimbrain.prep.bids import Run, find_runs
from slimbrain.prep.denoise import Confounds, load_confounds

FRAMES = 80
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def fmriprep_run(root: Path, displacement: np.ndarray, columns: int | None = None) -> Run:
    """A run whose table has the columns of fMRIPrep, or the first few of them."""
    rng = np.random.default_rng(0)
    folder, stem = root / "sub-01" / "func", "sub-01_task-rest"
    folder.mkdir(parents=True)
    (folder / f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz").touch()
    names = ["cosine00", "cosine01"]
    for base in (*MOTION, "white_matter", "csf"):
        names += [base, f"{base}_derivative1", f"{base}_power2", f"{base}_derivative1_power2"]
    names += ["framewise_displacement", "std_dvars"]
    values = rng.standard_normal((FRAMES, len(names)))
    values[:, -2], values[:, -1] = displacement, 1.0
    rows = [[f"{value:.6f}" for value in row] for row in values]
    rows[0] = ["n/a" if "derivative" in name or name == "std_dvars" else value for name, value in zip(names, rows[0], strict=True)]
    table = folder / f"{stem}_desc-confounds_timeseries.tsv"
    table.write_text("\n".join("\t".join(row[:columns]) for row in (names, *rows)) + "\n")
    table.with_suffix(".json").write_text(json.dumps({}))
    return find_runs(root)[0][0]


def test_none_needs_no_table(tmp_path: Path) -> None:
    assert load_confounds(Run(tmp_path / "image.nii", {"sub": "01"}), "none", 10) is None
    with pytest.raises(InputError, match="no desc-confounds_timeseries"):
        load_confounds(Run(tmp_path / "image.nii", {"sub": "01"}), "simple", 10)


def test_simple_takes_motion_tissue_and_cosines(tmp_path: Path) -> None:
    confounds = load_confounds(fmriprep_run(tmp_path, np.zeros(FRAMES)), "simple", FRAMES)
    assert confounds is not None
    assert {*MOTION, "white_matter", "csf", "cosine00"} <= set(confounds.names)
    assert confounds.kept.all()


def test_scrubbing_marks_moved_frames(tmp_path: Path) -> None:
    displacement = np.zeros(FRAMES)
    displacement[[40, 60]] = 2.0
    confounds = load_confounds(fmriprep_run(tmp_path, displacement), "scrubbing", FRAMES)
    assert confounds is not None
    np.testing.assert_array_equal(np.flatnonzero(~confounds.kept), [40, 60])


def test_a_table_without_the_columns_or_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not serve --denoise simple"):
        load_confounds(fmriprep_run(tmp_path / "a", np.zeros(FRAMES), columns=2), "simple", FRAMES)
    with pytest.raises(InputError, match="80 rows for 81 frames"):
        load_confounds(fmriprep_run(tmp_path / "b", np.zeros(FRAMES)), "simple", FRAMES + 1)


def test_too_few_frames_for_the_regressors_are_refused(tmp_path: Path) -> None:
    displacement = np.full(FRAMES, 2.0)
    displacement[:20] = 0.0
    with pytest.raises(InputError, match="20 kept frames leave nothing"):
        load_confounds(fmriprep_run(tmp_path, displacement), "scrubbing", FRAMES)


def test_the_fit_ignores_flagged_frames_and_cleans_all() -> None:
    rng = np.random.default_rng(1)
    design, series = rng.standard_normal((50, 3)) + 5, rng.standard_normal((50, 4))
    kept = np.ones(50, bool)
    kept[[7, 8, 30]] = False
    series[~kept] += 1000
    full = np.column_stack([np.ones(50), design])
    weights = np.linalg.lstsq(full[kept], series[kept], rcond=None)[0]
    expected = series - full @ weights + series[kept].mean(axis=0)
    cleaned = Confounds(design, kept, ("a", "b", "c")).remove(series)
    np.testing.assert_allclose(cleaned - cleaned[kept].mean(axis=0), expected - expected[kept].mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(cleaned[kept].mean(axis=0), series[kept].mean(axis=0), atol=1e-9)
