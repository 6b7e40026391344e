"""Parcel series of XCP-D, giga_connectome and nilearn's maskers: trees as these write them, places computed by hand or by nilearn."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from layout_samples import Prep
from nilearn.maskers import NiftiLabelsMasker
from nilearn.plotting import find_parcellation_cut_coords
from prep_samples import Array

from slimbrain.errors import InputError
from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.layouts.parcellated import PARCELLATED
from slimbrain.store import Store

NAMES = ("LH_Vis_1", "LH_SomMot_1", "RH_Default_1")
CORNERS = ((2, 3, 4), (10, 3, 4), (10, 12, 8))
"""First voxel of each parcel, a block of 2 x 2 x 2."""
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 2, -10], [0, 0, 0, 1]])
CENTRES = np.array([[-2 * (x + 0.5) + 30, 2 * (y + 0.5) - 40, 2 * (z + 0.5) - 10] for x, y, z in CORNERS])
FRAMES = 30


def courses(seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal((FRAMES, len(NAMES))) * (1, 20, 0.01) + (0, 1000, 3))


def write_series(path: Path, values: Array, names: tuple[str, ...] = NAMES, sidecar: dict[str, object] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (names, *values.tolist())) + "\n", encoding="utf-8")
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def write_atlas(path: Path, numbers: tuple[int, ...] = (1, 2, 5)) -> Path:
    values = np.zeros((16, 16, 16), np.int16)
    for number, (x, y, z) in zip(numbers, CORNERS, strict=True):
        values[x : x + 2, y : y + 2, z : z + 2] = number
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, AFFINE).to_filename(path)
    return path


def write_xcpd(root: Path, atlas: str = "4S156Parcels", entity: str = "seg") -> Path:
    stem = f"sub-01_ses-a_task-rest_run-1_space-MNI152NLin2009cAsym_{entity}-{atlas}_stat-mean"
    table = write_series(root / "sub-01" / "ses-a" / "func" / f"{stem}_timeseries.tsv", courses(), sidecar={"RepetitionTime": 0.8})
    folder = root / "atlases" / f"atlas-{atlas}"
    write_atlas(folder / f"atlas-{atlas}_space-MNI152NLin2009cAsym_dseg.nii.gz")
    rows = ["index\tlabel\tnetwork", *(f"{number}\t{name}\tn/a" for number, name in zip((1, 2, 5), NAMES, strict=True))]
    (folder / f"atlas-{atlas}_dseg.tsv").write_text("\n".join(rows) + "\n")
    return table


def zscored(values: Array) -> Array:
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


@pytest.mark.parametrize("entity", ["seg", "atlas"])
def test_xcp_d_is_recognised_and_its_parcels_are_located(tmp_path: Path, out: Path, prep: Prep, entity: str) -> None:
    write_xcpd(tmp_path / "xcpd", entity=entity)
    assert choose_layout(tmp_path / "xcpd") is PARCELLATED
    summary = prep(tmp_path / "xcpd")
    assert (len(summary.prepared), summary.failures) == (1, [])
    store = Store(out)
    (info,) = store.sessions
    assert (info.key, info.tr) == ("sub-01_ses-a_task-rest_run-1_space-roi", 0.8)
    channels, sidecar = store.channels(info.key), store.sidecar(info.key)
    assert channels.names == NAMES
    np.testing.assert_allclose(channels.mm, CENTRES)
    np.testing.assert_allclose(store.coarse(info.key), zscored(courses()), atol=1e-4)
    assert (sidecar["Layout"], sidecar["Atlas"], sidecar["SourceSpace"]) == ("parcellated", "4S156Parcels", "MNI152NLin2009cAsym")


def test_giga_connectome_numbers_its_columns_and_gives_a_frequency(tmp_path: Path, out: Path, prep: Prep) -> None:
    root, names = tmp_path / "giga", ("0", "1", "2")
    func = root / "sub-1" / "func"
    write_series(func / "sub-1_task-rest_seg-Toy3Parcels_desc-denoiseSimple_timeseries.tsv", courses(), names)
    # One sidecar holds for the series of a run by every atlas.
    (func / "sub-1_task-rest_desc-denoiseSimple_timeseries.json").write_text(json.dumps({"SamplingFrequency": 1.25}))
    write_atlas(func / "sub-1_seg-Toy3Parcels_dseg.nii.gz")
    assert choose_layout(root) is PARCELLATED
    assert prep(root).failures == []
    store = Store(out)
    (info,) = store.sessions
    assert info.tr == pytest.approx(0.8)
    assert store.channels(info.key).names == names
    np.testing.assert_allclose(store.channels(info.key).mm, CENTRES)


def test_several_atlases_are_not_mixed(tmp_path: Path, out: Path, prep: Prep) -> None:
    root = tmp_path / "xcpd"
    write_xcpd(root, "Glasser")
    write_xcpd(root, "Gordon")
    with pytest.raises(InputError, match="several atlases; choose one of Glasser, Gordon with --atlas"):
        prep(root)
    with pytest.raises(InputError, match="no series of the atlas Tian; choose one of Glasser, Gordon"):
        prep(root, atlas="Tian")
    assert len(prep(root, atlas="seg-Gordon").prepared) == 1
    (info,) = Store(out).sessions
    assert Store(out).sidecar(info.key)["Atlas"] == "Gordon"


def test_a_parcel_without_a_place_is_named(tmp_path: Path) -> None:
    table = write_xcpd(tmp_path)
    write_series(table, courses(), (*NAMES[:2], "Elsewhere"))
    found = PARCELLATED.find(tmp_path, RecordingQuery())
    assert found.runs == []
    assert "does not have the parcel 'Elsewhere'" in found.failures[0].reason


def test_without_an_image_of_the_atlas_the_way_out_is_said(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_series(tmp_path / "sub-01" / "func" / "sub-01_task-rest_seg-Own_timeseries.tsv", courses(), sidecar={"RepetitionTime": 0.72})
    (failure,) = PARCELLATED.find(tmp_path, RecordingQuery()).failures
    assert "no image of its atlas" in failure.reason and "--channels none" in failure.reason
    assert prep(tmp_path, channels="none").failures == []
    (info,) = Store(out).sessions
    assert not Store(out).channels(info.key).mm.any()


@pytest.mark.parametrize("damage", ["text", "probabilities"])
def test_what_is_no_atlas_is_refused(tmp_path: Path, damage: str) -> None:
    write_xcpd(tmp_path)
    (image,) = tmp_path.glob("atlases/*/*.nii.gz")
    if damage == "text":
        image.write_bytes(b"no image")
    else:
        nibabel.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), AFFINE).to_filename(image)
    (failure,) = PARCELLATED.find(tmp_path, RecordingQuery()).failures
    assert ("cannot be read" if damage == "text" else "whole numbers") in failure.reason


def test_a_table_of_channels_at_the_root_keeps_the_plain_layout(tmp_path: Path) -> None:
    write_xcpd(tmp_path)
    (tmp_path / "channels.tsv").write_text("name\tx\ty\tz\n" + "".join(f"{name}\t0\t0\t{n}\n" for n, name in enumerate(NAMES)))
    assert choose_layout(tmp_path).name == "roi"


# --- fMRIPrep and nilearn's maskers


def masked(root: Path, atlas: Path, lut: pd.DataFrame | None, subject: str = "01") -> Array:
    """Series of a small image as a user of nilearn writes them, in BIDS' names, and the same as an array."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = AFFINE[:3, 3] - (30, 0, 0)
    values = np.random.default_rng(0).standard_normal((16, 16, 16, FRAMES)).astype(np.float32) + 100
    masker = NiftiLabelsMasker(atlas, lut=lut, standardize="zscore_sample").set_output(transform="pandas")
    series = masker.fit_transform(nibabel.Nifti1Image(values, affine))
    path = root / f"sub-{subject}" / "func" / f"sub-{subject}_task-rest_space-MNI152NLin6Asym_seg-Own_timeseries.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    series.to_csv(path, sep="\t", index=False)
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 0.75}))
    return np.asarray(series)


@pytest.mark.parametrize("labelled", [True, False])
def test_what_nilearns_masker_gives_is_read_with_the_atlas_it_used(tmp_path: Path, out: Path, prep: Prep, labelled: bool) -> None:
    """Columns are called as the look-up table has them, or by the numbers of the atlas; places are those of nilearn's plotting."""
    atlas = write_atlas(tmp_path / "atlases" / "atlas-Own_space-MNI152NLin6Asym_dseg.nii.gz")
    lut = pd.DataFrame({"index": [0, 1, 2, 5], "name": ["Background", *NAMES]})
    if labelled:
        lut.to_csv(tmp_path / "atlases" / "atlas-Own_dseg.tsv", sep="\t", index=False)
    series = masked(tmp_path, atlas, lut if labelled else None)
    assert prep(tmp_path).failures == []
    store = Store(out)
    (info,) = store.sessions
    assert info.tr == 0.75 and store.channels(info.key).names == (NAMES if labelled else ("1", "2", "5"))
    np.testing.assert_allclose(store.channels(info.key).mm, find_parcellation_cut_coords(atlas), atol=1e-4)
    np.testing.assert_allclose(store.coarse(info.key), zscored(series), atol=1e-3)


def test_a_table_of_places_does_without_an_image(tmp_path: Path, out: Path, prep: Prep) -> None:
    """In any order, with the background, which has no place, and with a region that the masker dropped."""
    masked(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"), pd.DataFrame({"index": [0, 1, 2, 5], "name": ["Background", *NAMES]}))
    table = tmp_path / "atlases" / "atlas-Own" / "atlas-Own_dseg.tsv"
    table.parent.mkdir(parents=True)
    rows = [("Background", *["n/a"] * 3), ("Dropped", 0, 0, 0), *((name, *place) for name, place in zip(NAMES, CENTRES, strict=True))]
    pd.DataFrame(rows[::-1], columns=["name", "x", "y", "z"]).to_csv(table, sep="\t", index=False)
    assert prep(tmp_path).failures == []
    (info,) = Store(out).sessions
    np.testing.assert_allclose(Store(out).channels(info.key).mm, CENTRES)
    table.write_text("name\tx\ty\tz\nLH_Vis_1\tleft\t0\t0\n")
    (failure,) = PARCELLATED.find(tmp_path, RecordingQuery()).failures
    assert "needs the columns name, x, y and z" in failure.reason


def test_the_index_that_pandas_writes_is_named(tmp_path: Path, out: Path, prep: Prep) -> None:
    table = write_xcpd(tmp_path)
    pd.DataFrame(courses(), columns=list(NAMES)).to_csv(table, sep="\t")
    (failure,) = prep(tmp_path, channels="none").failures
    assert "to_csv(..., index=False)" in failure.reason
