"""Confounds: against ordinary least squares, with a table written as fMRIPrep writes it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.signal import clean
from prep_samples import find_runs

from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.bids import Run
from slimbrain.prep.denoise import Confounds, load_confounds
from slimbrain.prep.volume import interpolation
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store

FRAMES = 80
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def fmriprep_run(root: Path, displacement: np.ndarray, columns: int | None = None, std_dvars: float = 1.0) -> Run:
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
    values[20, -1] = std_dvars
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


@pytest.mark.parametrize(("std_dvars", "flagged"), [(1.4, []), (1.6, [20])])
def test_scrubbing_marks_frames_of_large_change(std_dvars: float, flagged: list[int], tmp_path: Path) -> None:
    confounds = load_confounds(fmriprep_run(tmp_path, np.zeros(FRAMES), std_dvars=std_dvars), "scrubbing", FRAMES)
    assert confounds is not None
    assert np.flatnonzero(~confounds.kept).tolist() == flagged


@pytest.mark.parametrize("strategy", ["simple", "scrubbing"])
def test_a_denoised_store_is_what_nilearn_cleans(strategy: str, tmp_path: Path) -> None:
    """A simulated cohort from file to store, against nilearn's own loading and cleaning; no frame is lost on the way."""
    simulate_cohort(tmp_path / "cohort", CohortSpec(subjects=1, sessions=1, frames=160))
    assert prepare(tmp_path / "cohort", tmp_path / "store", PrepOptions(resolution="8mm", denoise=strategy)).exit_code == 0
    store, run = Store(tmp_path / "store"), find_runs(tmp_path / "cohort")[0][0]
    info = store.sessions[0]
    image = nibabel.load(run.image)
    operator = interpolation(store.grid, tuple(map(tuple, image.affine.tolist())), image.shape[:3])
    series = np.asarray(operator @ image.get_fdata().reshape(-1, 160, order="F")).T[:, store.grid.voxel_mask.ravel()]
    table, kept = load_confounds_strategy(str(run.image), denoise_strategy=strategy)
    cleaned = clean(series, confounds=table, sample_mask=kept, detrend=False, standardize=None, standardize_confounds=True)
    stored = store.voxels(info.key).astype(np.float64)[:, store.grid.voxel_mask]
    frames = np.arange(160) if kept is None else kept
    assert info.n_frames == 160 and len(cleaned) == len(frames)
    assert (len(frames) < 160) == (strategy == "scrubbing")
    # Mean and standard deviation are over all frames here, over the kept ones there.
    ours, theirs = (values - values.mean(axis=0) for values in (stored[frames], cleaned))
    np.testing.assert_allclose(ours / ours.std(axis=0), theirs / theirs.std(axis=0), atol=0.01)
    sidecar, flagged = store.sidecar(info.key), sorted(set(range(160)) - set(frames.tolist()))
    assert sidecar["Denoise"].get("FlaggedFrames") == flagged
    assert set(flagged) <= set(sidecar["Series"]["flagged"])


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
