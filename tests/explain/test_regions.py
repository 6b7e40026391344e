"""Region tables against nilearn's resampling and numpy's own sums; every form that labels come in."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from explain_samples import slab
from nilearn.image import resample_img

from slimbrain.errors import InputError
from slimbrain.explain.regions import _read_labels, read_atlas, region_rows, unit_atlas


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Blocks of 20 mm, numbered, on a 3 mm grid that is stored left-handed."""
    shape = (60, 70, 60)
    index = np.indices(shape)
    values = (1 + index[0] // 7 + 9 * (index[1] // 7) + 90 * (index[2] // 7)).astype(np.int16)
    values[:5] = 0
    affine = np.array([[-3.0, 0, 0, 85], [0, 3, 0, -105], [0, 0, 3, -70], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "atlas.nii.gz")
    return tmp_path / "atlas.nii.gz"


def test_regions_are_those_of_the_nearest_voxel(atlas: Path) -> None:
    grid = slab()
    expected = resample_img(
        nibabel.load(atlas), grid.lattice.affine, (24, 24, 24), interpolation="nearest", force_resample=True, copy_header=True
    ).get_fdata()
    found = read_atlas(atlas, None, grid)
    dense = grid.unpack(found.region)
    same = dense[grid.mask] == expected[grid.mask]
    # Where a voxel's centre lies midway between two of the atlas, either is nearest.
    mm = np.argwhere(grid.mask) * 8.0 + grid.lattice.origin_mm
    place = np.abs(nibabel.affines.apply_affine(np.linalg.inv(nibabel.load(atlas).affine), mm)) % 1
    midway = (np.abs(place - 0.5) < 1e-6).any(axis=1)
    assert same[~midway].all() and (~midway).sum() > 100
    assert set(found.names) == set(np.unique(dense[dense > 0]).astype(int))


def test_a_row_holds_mean_share_and_peak_of_its_voxels(atlas: Path) -> None:
    grid = slab()
    values = np.where(grid.voxel_mask, np.random.default_rng(0).normal(size=grid.voxel_mask.shape), 0.0)
    found = read_atlas(atlas, None, grid)
    rows = region_rows(values, found, grid)
    dense, numbers = grid.unpack(values), grid.unpack(found.region)
    assert len(rows) == len(found.names) > 5
    for row in rows:
        own = numbers == int(str(row["region"]))
        assert int(str(row["voxels"])) == own.sum()
        assert float(str(row["mean"])) == pytest.approx(dense[own].mean(), rel=1e-4)
        assert float(str(row["share"])) == pytest.approx(np.abs(dense[own]).sum() / np.abs(dense).sum(), rel=1e-4)
        peak = tuple(
            np.rint([(float(str(row[f"peak_{axis}_mm"])) - low) / 8 for axis, low in zip("xyz", (-93, -109, -75), strict=True)]).astype(int)
        )
        assert (
            own[peak] and abs(dense[peak]) == np.abs(dense[own]).max() and float(str(row["peak"])) == pytest.approx(dense[peak], rel=1e-4)
        )
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), key=lambda share: -float(str(share)))


def test_units_stand_in_for_an_atlas() -> None:
    grid = slab()
    rows = region_rows(np.where(grid.voxel_mask, 1.0, 0.0), unit_atlas(grid), grid)
    assert len(rows) == len(grid.units) and sum(float(str(row["share"])) for row in rows) == pytest.approx(1)
    assert sum(int(str(row["voxels"])) for row in rows) == grid.n_voxels and "64 mm" in unit_atlas(grid).name


@pytest.mark.parametrize(
    "text",
    [
        "index\tname\tcolor\n1\tLeft V1\t#fff\n7\tRight V1\t#000\n",
        "name\tindex\nLeft V1\t1\nRight V1\t7\n",
        "1 Left V1\n7 Right V1\n",
        "1\tLeft V1\n7\tRight V1\n",
    ],
)
def test_labels_are_read_in_every_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(text)
    assert _read_labels(tmp_path / "labels.tsv") == {1: "Left V1", 7: "Right V1"}


def test_a_list_of_names_counts_from_one(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("Left V1\nRight V1\n")
    assert _read_labels(tmp_path / "labels.txt") == {1: "Left V1", 2: "Right V1"}


def test_what_is_no_atlas_is_refused(tmp_path: Path, atlas: Path) -> None:
    grid = slab()
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        read_atlas(tmp_path / "text.nii", None, grid)
    nibabel.save(nibabel.Nifti1Image(np.full((5, 5, 5), 0.5, np.float32), np.eye(4)), tmp_path / "probability.nii")
    with pytest.raises(InputError, match="whole number"):
        read_atlas(tmp_path / "probability.nii", None, grid)
    far = np.eye(4)
    far[:3, 3] = 500
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 5, 5), np.int16), far), tmp_path / "far.nii")
    with pytest.raises(InputError, match="no region where the store's mask lies"):
        read_atlas(tmp_path / "far.nii", None, grid)
    (tmp_path / "bad.tsv").write_text("index\tname\nx\ty\n")
    with pytest.raises(InputError, match=r"bad\.tsv: has a line"):
        _read_labels(tmp_path / "bad.tsv")
