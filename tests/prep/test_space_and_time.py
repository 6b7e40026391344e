"""From file to store: which spaces are taken and how they are recorded, and time against scipy's own cubic spline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prep_samples import Array, brain_series, save
from scipy.interpolate import CubicSpline

from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, prepare
from slimbrain.store import Store

WriteRun = Callable[..., Path]
FRAMES = 41


def stored(store: Store, key: str) -> Array:
    """(T, P, V) values as the store gives them back, in the image's units."""
    mean, std = store.moments(key)
    return store.voxels(key).astype(np.float64) * std + mean


@pytest.mark.parametrize("tr", [2.0, 0.5, 1.5, 3.0])
def test_the_store_holds_the_cubic_spline_of_what_was_recorded(tmp_path: Path, grid8: Grid, mask8: Path, tr: float) -> None:
    store, recorded = prepared_on_lattice(tmp_path, grid8, mask8, tr, header_tr=0.0)
    (info,) = store.sessions
    times = np.arange(int((FRAMES - 1) * tr / 0.72 + 1e-9) + 1) * 0.72
    expected = CubicSpline(np.arange(FRAMES) * tr, recorded, bc_type="not-a-knot")(times)
    assert (info.tr, info.n_frames) == (0.72, len(times))
    assert store.sidecar(info.key)["TimeResampling"] == "interpolating cubic B-spline"
    inside = grid8.voxel_mask
    mean, std = store.moments(info.key)
    np.testing.assert_allclose(mean[inside], expected.mean(axis=0)[inside], rtol=1e-5)
    np.testing.assert_allclose(std[inside], expected.std(axis=0)[inside], rtol=1e-4)
    # Half precision resolves 1/2048 of a value; z-scores here stay under 5.
    np.testing.assert_allclose(stored(store, info.key)[:, inside], expected[:, inside], atol=5 * 30 / 2048)


@pytest.mark.parametrize("where", ["sidecar", "header"])
@pytest.mark.parametrize("tr", [0.7, 0.72, 0.735, 0.8])
def test_series_near_the_published_tr_keep_every_frame(tmp_path: Path, grid8: Grid, mask8: Path, tr: float, where: str) -> None:
    # A header holds float32, in which 0.8 lies above and 0.7 below what the band says.
    store, recorded = prepared_on_lattice(tmp_path, grid8, mask8, tr if where == "sidecar" else None, tr if where == "header" else 0.0)
    (info,) = store.sessions
    assert (info.tr, info.n_frames) == (tr, FRAMES)
    assert store.sidecar(info.key)["TimeResampling"] == "none"
    assert store.sidecar(info.key)["SourceRepetitionTimeFrom"] == where
    inside = grid8.voxel_mask
    np.testing.assert_allclose(stored(store, info.key)[:, inside], recorded[:, inside], atol=5 * 30 / 2048)


def test_the_sidecar_is_believed_over_the_header_and_the_difference_is_said(write_run: WriteRun, bids_dir: Path, tmp_path: Path) -> None:
    write_run(tr=2.0, header_tr=1.5, frames=20)
    summary = prepare(bids_dir, tmp_path / "store", PrepOptions(resolution="8mm"))
    assert "header gives TR 1.5 s where its sidecar gives 2 s" in summary.prepared[0].warnings[0]
    store = Store(tmp_path / "store")
    assert store.sidecar(store.sessions[0].key)["SourceRepetitionTime"] == 2.0


def prepared_on_lattice(tmp_path: Path, grid8: Grid, mask8: Path, tr: float | None, header_tr: float) -> tuple[Store, Array]:
    """A run whose voxels are those of the lattice, so that space changes nothing; the store, and (T, P, V) as recorded."""
    data = brain_series(grid8.mask.shape, FRAMES)
    stem = "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold"
    save(tmp_path / "in" / "sub-01" / "func" / f"{stem}.nii.gz", data, grid8.lattice.affine, header_tr)
    if tr is not None:
        (tmp_path / "in" / "sub-01" / "func" / f"{stem}.json").write_text(f'{{"RepetitionTime": {tr}}}')
    prepare(tmp_path / "in", tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    return Store(tmp_path / "store"), grid8.pack(np.moveaxis(data, -1, 0)).astype(np.float64)


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152NLin2009cAsym", "MNI152Lin", "MNI152NLin6Sym"])
def test_templates_of_one_family_are_recorded(write_run: WriteRun, bids_dir: Path, tmp_path: Path, mask8: Path, space: str) -> None:
    write_run(space=f"_space-{space}")
    prepare(bids_dir, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    store = Store(tmp_path / "store")
    (info,) = store.sessions
    assert (info.space, store.sidecar(info.key)["Space"], store.contract.space) == (space, space, "MNI152")


REFUSED = ("T1w", "MNIInfant_cohort-1", "MNIPediatricAsym_cohort-2", "fsaverage", "fsLR", "MNI305")


@pytest.mark.parametrize("space", ["", *(f"_space-{name}" for name in REFUSED)])
def test_other_spaces_are_refused_in_one_sentence(write_run: WriteRun, bids_dir: Path, tmp_path: Path, mask8: Path, space: str) -> None:
    path = write_run(space=space)
    (failure,) = prepare(bids_dir, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm")).failures
    assert failure.reason.startswith(f"{path}: ") and failure.reason.endswith(".") and ". " not in failure.reason
    named = space.split("-")[1].split("_")[0] if space else "native"
    assert named in failure.reason and "MNI152 family" in failure.reason
    assert not Store(tmp_path / "store").sessions
