"""sform and qform that disagree: which is believed, what is said, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from prep_samples import affine, head_series

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.source import open_source, source_of
from slimbrain.store import Store

WriteRun = Callable[..., Path]
SCANNER, ALIGNED, TALAIRACH, MNI, OTHER = 1, 2, 3, 4, 5
VOXEL_MM = 16.0


def moved(millimetres: float) -> np.ndarray:
    matrix = affine(VOXEL_MM)
    matrix[2, 3] += millimetres
    return matrix


def write(path: Path, sform: tuple[np.ndarray, int], qform: tuple[np.ndarray, int], frames: int = 8) -> Path:
    image = nibabel.Nifti1Image(head_series(frames), sform[0])
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((VOXEL_MM,) * 3 + (0.72,))
    image.set_sform(*sform)
    image.set_qform(*qform)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    "codes", [(SCANNER, MNI), (MNI, SCANNER), (ALIGNED, MNI), (MNI, OTHER), (SCANNER, ALIGNED), (TALAIRACH, TALAIRACH)]
)
def test_the_transform_that_says_mni_is_believed_and_the_distance_told(codes: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", (affine(VOXEL_MM), codes[0]), (moved(20), codes[1]))
    source = open_source(path)
    believed = moved(20) if codes[1] == MNI else affine(VOXEL_MM)
    np.testing.assert_allclose(source.affine, believed, atol=1e-3)
    (note,) = source.notes
    name = "qform" if codes[1] == MNI else "sform"
    assert "lie 20 mm apart" in note and f"the {name} was taken" in note
    # The image that somebody loaded is the same image.
    loaded = source_of(nibabel.load(path), "image")
    np.testing.assert_array_equal(loaded.affine, source.affine)
    assert loaded.notes == source.notes


def test_two_that_say_mni_must_agree_to_a_voxel(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"both say MNI space and lie 20 mm apart; keep the one that is right") as caught:
        open_source(write(tmp_path / "image.nii", (affine(VOXEL_MM), MNI), (moved(20), MNI)))
    assert str(tmp_path / "image.nii") in str(caught.value)
    source = open_source(write(tmp_path / "near.nii", (affine(VOXEL_MM), MNI), (moved(12), MNI)))
    np.testing.assert_allclose(source.affine, affine(VOXEL_MM))
    assert "lie 12 mm apart" in source.notes[0]


@pytest.mark.parametrize("qform", [(affine(VOXEL_MM), MNI), (moved(1), SCANNER), (moved(50), 0)])
def test_what_agrees_or_is_not_set_is_not_talked_about(qform: tuple[np.ndarray, int], tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "image.nii", (affine(VOXEL_MM), MNI), qform))
    assert source.notes == ()
    np.testing.assert_allclose(source.affine, affine(VOXEL_MM))


def test_an_affine_that_was_corrected_in_memory_counts(tmp_path: Path) -> None:
    image = nibabel.load(write(tmp_path / "image.nii", (moved(40), SCANNER), (moved(20), MNI)))
    corrected = nibabel.Nifti1Image(image.dataobj, affine(VOXEL_MM), image.header)
    np.testing.assert_allclose(source_of(corrected, "image").affine, affine(VOXEL_MM))
    # In place, which leaves the header as it was.
    image.affine[:] = affine(VOXEL_MM)
    np.testing.assert_allclose(source_of(image, "image").affine, affine(VOXEL_MM))


def test_a_rotation_counts_where_it_moves_most(tmp_path: Path) -> None:
    """By 0.2 rad about the first voxel: the far corners move by 0.2 of their distance from the axis, about 59 mm."""
    turned = affine(VOXEL_MM)
    turned[:3, :3] = nibabel.eulerangles.euler2mat(0.2) @ turned[:3, :3]
    (note,) = open_source(write(tmp_path / "image.nii", (affine(VOXEL_MM), SCANNER), (turned, ALIGNED))).notes
    distance = 2 * np.sin(0.1) * np.hypot(13 * VOXEL_MM, 13 * VOXEL_MM)
    assert f"lie {distance:.3g} mm apart" in note


def test_a_store_holds_the_warning(bids_dir: Path, tmp_path: Path, mask8: Path) -> None:
    path = bids_dir / "sub-01" / "func" / "sub-01_task-rest_space-MNI152NLin6Asym_bold.nii.gz"
    write(path, (moved(20), SCANNER), (affine(VOXEL_MM), MNI), frames=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = prepare(bids_dir, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    assert any("lie 20 mm apart; the qform was taken" in warning for warning in summary.prepared[0].warnings)
    store = Store(tmp_path / "store")
    assert any("20 mm" in warning for warning in store.sidecar(store.sessions[0].key)["Warnings"])
    assert float(store.sessions[0].qc["template_overlap"]) > 0.9


def test_a_mask_is_believed_by_the_same_rule_and_the_command_says_so_in_a_sentence(
    write_run: WriteRun, bids_dir: Path, mask8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run()
    right = nibabel.load(mask8)
    wrong = right.affine.copy()
    wrong[2, 3] -= 16
    mask = nibabel.Nifti1Image(np.asarray(right.dataobj), wrong)
    mask.set_sform(wrong, SCANNER)
    mask.set_qform(right.affine, MNI)
    mask.to_filename(tmp_path / "mask.nii")
    for name, path in (("two", tmp_path / "mask.nii"), ("one", mask8)):
        assert run_command(["prep", str(bids_dir), str(tmp_path / name), "--mask", str(path), "--resolution", "8mm"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "apart" in line]
    assert lines == [f"slimbrain: {tmp_path / 'mask.nii'}: its sform (code 1) and qform (code 4) lie 16 mm apart; the qform was taken."]
    assert Store(tmp_path / "two").contract == Store(tmp_path / "one").contract
