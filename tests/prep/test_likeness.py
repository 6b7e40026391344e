"""Likeness to the template: planted flips and shifts of real masks and heads, and an overlap counted by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prep_samples import Array, save
from scipy.ndimage import gaussian_filter

from slimbrain.grid import LATTICES, Grid
from slimbrain.prep.likeness import (
    _FLIPS,
    _LIKENESS_FRAMES,
    Likeness,
    _mirror_overlap,
    _on_lattice,
    _template_mask,
    brightness,
    overlap,
    template_likeness,
)
from slimbrain.prep.source import open_source
from slimbrain.simulate import CohortSpec, simulate_cohort

TEMPLATE = "templates/tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz"


def head(mask: Array, frames: int = 3, seed: int = 0) -> Array:
    """(X, Y, Z, T) a head whose brain is ten times as bright as the rest, with a smooth receive field, texture and noise."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(mask.shape), 6)
    still = (0.1 + 0.9 * mask) * np.exp(0.3 * field / field.std()) * rng.uniform(0.7, 1.3, mask.shape)
    return np.asarray(1000 * still[..., None] * (1 + 0.02 * rng.standard_normal((*mask.shape, frames))), np.float32)


def likeness_of(path: Path, data: Array, affine: Array, brain: Array | None = None) -> Likeness:
    found = template_likeness(open_source(save(path, data, affine, 2.0)), brain)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def template(shared_data: Path) -> tuple[Array, Array]:
    """Every second voxel of the real 2 mm mask, and where these lie."""
    image = nibabel.load(shared_data / TEMPLATE)
    return image.get_fdata()[::2, ::2, ::2] > 0, image.affine @ np.diag((2, 2, 2, 1))


def lopsided() -> Array:
    """A mask on the 8 mm lattice: an ellipsoid that lacks its right, lower, front eighth."""
    place = np.indices((24,) * 3)
    ball = sum(((axis - centre) / radius) ** 2 for axis, centre, radius in zip(place, (11.5, 11.5, 11.5), (7, 9, 7), strict=True)) < 1
    return np.asarray(ball & ~((place[0] >= 12) & (place[1] >= 12) & (place[2] < 12)))


# --- planted


def test_a_head_in_its_place_is_not_flagged(template: tuple[Array, Array], tmp_path: Path) -> None:
    mask, affine = template
    found = likeness_of(tmp_path / "head.nii", head(mask), affine)
    assert found.overlap > 0.95 and found.better_flip == "" and found.warnings == []


@pytest.mark.parametrize(
    ("flip", "words"), [("up_down", "upside down"), ("front_back", "front to back"), ("turned", "upside down and front")]
)
@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR"])
def test_a_planted_flip_is_named(flip: str, words: str, codes: str, template: tuple[Array, Array], tmp_path: Path) -> None:
    """The array is reversed along an axis of the world, its affine is not; however the file is stored."""
    mask, affine = template
    image = nibabel.Nifti1Image(np.flip(head(mask), _FLIPS[flip]), affine)
    turned = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes))
    stored = image.as_reoriented(turned)
    found = likeness_of(tmp_path / "head.nii", np.asarray(stored.dataobj), stored.affine)
    assert found.better_flip == flip and found.flipped[flip] > 0.95
    assert len(found.warnings) == 1 and words in found.warnings[0]


def test_left_and_right_of_the_template_cannot_be_told_and_are_not_judged(template: tuple[Array, Array], tmp_path: Path) -> None:
    mask, affine = template
    found = likeness_of(tmp_path / "head.nii", np.flip(head(mask), 0), affine)
    assert abs(found.flipped["left_right"] - found.overlap) < 0.01
    assert "left_right" not in found.telling and found.warnings == []


@pytest.mark.parametrize("flip", _FLIPS)
def test_all_flips_of_a_lopsided_brain_are_told(flip: str, tmp_path: Path) -> None:
    brain = lopsided()
    data = np.flip(head(brain), _FLIPS[flip])
    found = likeness_of(tmp_path / "head.nii", data, LATTICES["8mm"].affine, brain)
    assert found.better_flip == flip and set(found.telling) == set(_FLIPS)
    upright = likeness_of(tmp_path / "upright.nii", head(brain), LATTICES["8mm"].affine, brain)
    assert upright.warnings == []


@pytest.mark.parametrize("axis", range(3))
def test_a_head_elsewhere_does_not_look_like_one_in_mni_space(axis: int, template: tuple[Array, Array], tmp_path: Path) -> None:
    mask, affine = template
    moved = affine.copy()
    moved[axis, 3] += 40
    found = likeness_of(tmp_path / "head.nii", head(mask), moved)
    assert found.overlap < 0.75 and "does not look like a brain in MNI space" in found.warnings[0]


@pytest.mark.parametrize("cut", [5, 10, 15])
def test_a_field_of_view_filled_up_with_zeros_is_not_flagged(cut: int, template: tuple[Array, Array], tmp_path: Path) -> None:
    """Up to a quarter of the brain is missing here; a flip is still told."""
    mask, affine = template
    data = head(mask)
    data[:, :, :cut] = 0
    assert likeness_of(tmp_path / "cut.nii", data, affine).warnings == []
    assert likeness_of(tmp_path / "flipped.nii", data[:, :, ::-1], affine).better_flip == "up_down"


def test_a_masked_series_without_its_mean_looks_like_a_brain(template: tuple[Array, Array], tmp_path: Path) -> None:
    mask, affine = template
    residuals = np.random.default_rng(0).standard_normal((*mask.shape, 10)).astype(np.float32) * mask[..., None]
    assert likeness_of(tmp_path / "residuals.nii", residuals, affine).warnings == []
    assert likeness_of(tmp_path / "flipped.nii", residuals[:, ::-1], affine).better_flip == "front_back"


def test_nothing_to_compare_gives_nothing(tmp_path: Path) -> None:
    data = np.zeros((10, 10, 10, 4), np.float32)
    assert template_likeness(open_source(save(tmp_path / "empty.nii", data, LATTICES["8mm"].affine, 2.0))) is None


# --- real and simulated


@pytest.mark.parametrize("flip", ["", "front_back", "up_down", "turned"])
def test_real_recordings_are_flagged_only_when_they_are_flipped(flip: str, shared_data: Path, tmp_path: Path) -> None:
    files = sorted(path for folder in ("faces", "lowres6") for path in (shared_data / folder).rglob("*_bold.nii*"))
    assert len(files) == 7
    for number, file in enumerate(files):
        image = nibabel.load(file)
        data = np.asarray(image.dataobj[..., :_LIKENESS_FRAMES], np.float32)
        axes = [int(np.flatnonzero(nibabel.io_orientation(image.affine)[:, 0] == axis)[0]) for axis in _FLIPS.get(flip, ())]
        found = likeness_of(tmp_path / f"{number}.nii", np.flip(data, axes), image.affine)
        assert found.better_flip == flip, file
        assert bool(found.warnings) == bool(flip)


def test_simulated_cohorts_give_no_false_alarm(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, CohortSpec(subjects=8, sessions=1, frames=10, events_per_session=0, spikes_per_session=0))
    files = sorted(tmp_path.rglob("*_bold.nii.gz"))
    assert len(files) == 8
    for file in files:
        found = template_likeness(open_source(file))
        assert found is not None and found.warnings == [] and found.overlap > 0.9


# --- parts, against counting by hand


def test_the_template_is_the_mask_of_the_coarse_grid_and_left_right_symmetric() -> None:
    mask = _template_mask()
    np.testing.assert_array_equal(mask, Grid.mni152("8mm").mask)
    assert {name: _mirror_overlap(mask, axes) < 0.92 for name, axes in _FLIPS.items()} == {
        "left_right": False,
        "front_back": True,
        "up_down": True,
        "turned": True,
    }


def test_mirror_overlap_by_hand() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 1, 1] = mask[2, 1, 1] = mask[2, 2, 1] = True
    # About the middle of the two rows the mirror image of (1, 1), (2, 1), (2, 2) is (2, 1), (1, 1), (1, 2).
    assert _mirror_overlap(mask, (0,)) == pytest.approx(2 / 3)
    assert _mirror_overlap(mask, (2,)) == 1


def test_brightness_is_the_root_mean_square_of_the_first_frames(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 5, 6, 12)).astype(np.float32)
    data[1, 1, 1, 2], data[1, 1, 1, 11] = np.nan, 5
    expected = np.sqrt(np.mean(data[..., :_LIKENESS_FRAMES].astype(float) ** 2, axis=3))
    expected[1, 1, 1] = 0
    np.testing.assert_allclose(
        brightness(open_source(save(tmp_path / "image.nii", data, np.diag((4.0, 4, 4, 1)), 2.0))), expected, rtol=1e-6
    )


def test_a_linear_field_comes_through_the_lattice_unchanged() -> None:
    affine = np.diag((-3.0, 3, 3, 1))
    affine[:3, 3] = 100, -120, -90
    mm = np.moveaxis(np.indices((67, 80, 67)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    sampled = _on_lattice(mm @ [1.0, 2.0, 3.0], affine)
    places = np.moveaxis(np.indices((24,) * 3), 0, -1) * 8.0 + LATTICES["8mm"].origin_mm
    known = np.isfinite(sampled)
    inside = ((places - 2 > mm[-1, 0, 0]) & (places + 2 < mm[0, -1, -1])).all(axis=-1)
    assert known[inside].all() and known.sum() > 8000
    # Where all probes lie inside; at the rim the mean is of those that do.
    np.testing.assert_allclose(sampled[inside], (places @ [1.0, 2.0, 3.0])[inside], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_overlap_equals_sorting_by_hand(seed: int, unknown: int) -> None:
    rng = np.random.default_rng(seed)
    image, brain = rng.permutation(64).reshape(4, 4, 4) + 1.0, rng.random((4, 4, 4)) < 0.4
    flat = image.reshape(-1)
    flat[rng.permutation(64)[:unknown]] = rng.choice([0.0, np.nan])
    ranked = sorted(((value, inside) for value, inside in zip(flat, brain.reshape(-1), strict=True) if value > 0), reverse=True)
    size = sum(bool(inside) for _, inside in ranked)
    expected = sum(bool(inside) for _, inside in ranked[:size]) / size if size else None
    assert overlap(image, brain) == (None if expected is None else pytest.approx(expected))
