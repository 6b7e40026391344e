"""One rule for all images: masks, atlases, maps and parcels lie where the transform that says MNI puts them; recordings: tests/prep."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from slimbrain.doctor import inspect_path
from slimbrain.errors import InputError, TransformWarning
from slimbrain.explain.regions import read_atlas
from slimbrain.grid import Grid
from slimbrain.prep.layouts.parcellated import _parcel_centres
from slimbrain.report.nifti import read_map
from slimbrain.simulate.signals import _mask_source
from slimbrain.transform import affine_of

SCANNER, ALIGNED, MNI = 1, 2, 4
Place = tuple[np.ndarray, int]


def block(z_mm: float = 0.0) -> np.ndarray:
    """Affine of 4 mm voxels over a brain's box, moved up by so much."""
    affine = np.diag((4.0, 4, 4, 1))
    affine[:3, 3] = (-70, -90, -50 + z_mm)
    return affine


def write(path: Path, sform: Place, qform: Place) -> Path:
    values = np.zeros((36, 40, 28), np.int16)
    values[3:16, 3:-3, 3:-3], values[20:-3, 3:-3, 3:-3] = 1, 2
    image = nibabel.Nifti1Image(values, sform[0])
    image.set_sform(*sform)
    image.set_qform(*qform)
    image.to_filename(path)
    return path


def _atlas(path: Path) -> np.ndarray:
    return np.asarray(read_atlas(path, None, Grid(GRID.lattice, np.ones_like(GRID.mask))).region)


GRID = Grid.mni152("8mm")
READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "mask": lambda path: np.asarray(Grid.from_nifti(path, "8mm").mask),
    "image in memory as mask": lambda path: np.asarray(Grid.from_nifti(nibabel.load(path), "8mm").mask),
    "atlas": _atlas,
    "map": lambda path: np.asarray(read_map(path).origin_mm),
    "parcels": lambda path: np.array(list(_parcel_centres(path).values())),
    "mask of a simulation": lambda path: np.asarray(_mask_source(path)[1]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("codes", "name"), [((SCANNER, MNI), "qform"), ((MNI, SCANNER), "sform"), ((SCANNER, ALIGNED), "sform")])
def test_an_image_lies_where_the_transform_that_says_mni_puts_it(reader: str, codes: tuple[int, int], name: str, tmp_path: Path) -> None:
    read = READERS[reader]
    believed = block(20 if name == "qform" else 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = read(write(tmp_path / "plain.nii", (believed, MNI), (believed, MNI)))
    with pytest.warns(TransformWarning, match=rf"lie 20 mm apart; the {name} was taken\.$"):
        found = read(write(tmp_path / "image.nii", (block(), codes[0]), (block(20), codes[1])))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    other = read(write(tmp_path / "other.nii", (block(20 if name == "sform" else 0), MNI), (believed, 0)))
    assert not np.allclose(other, expected, atol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_two_that_say_mni_and_disagree_are_refused_by_name(reader: str, tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", (block(), MNI), (block(20), MNI))
    with pytest.raises(InputError, match="both say MNI space and lie 20 mm apart") as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value) and ("image in memory" in reader or str(path) in str(caught.value))


def test_formats_with_one_transform_have_nothing_to_choose() -> None:
    image: Any = nibabel.MGHImage(np.ones((4, 4, 4), np.float32), block(7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(affine_of("x.mgz", image), block(7))


def test_inspect_says_which_was_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.nii", (block(), SCANNER), (block(20), MNI))
    assert "lie 20 mm apart; the qform was taken" in str(inspect_path(path)["transform"])
    assert "transform" not in inspect_path(write(tmp_path / "plain.nii", (block(), MNI), (block(), MNI)))
