"""Where an image lies: which of a NIfTI header's two transforms is believed, and what is said where they disagree."""

from __future__ import annotations

import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError, TransformWarning

_FloatArray = npt.NDArray[Any]

_MNI_CODE = 4
"""NIFTI_XFORM_MNI_152: the code of an sform or qform that leads to MNI space."""

_WARN_SHIFT = 0.5
"""Voxels between what sform and qform say of a place, above which the user is warned; rounding of a quaternion moves less."""

_VOXEL_MM = (0.3, 20.0)
"""Voxel sizes that can be an image of a whole brain."""


def image_transform(path: Path | str, image: Any) -> tuple[_FloatArray, str]:
    """The affine of an image, and a sentence about it where sform and qform disagree.

    Of the two, the one whose code says MNI space is taken; else the sform, as nibabel does.

    Parameters
    ----------
    path : Path
        What messages name.
    image : nibabel.Nifti1Pair
        An affine that was set in memory counts, and not the header that it has outdated.

    Returns
    -------
    affine : ndarray of float64
        (4, 4), voxel index to mm.
    note : str
        Empty if there is nothing to say.

    Raises
    ------
    InputError
        If neither is set, both say MNI space and differ by more than a voxel, or the affine cannot be that of a brain.
    """
    affine, note = _chosen(path, image)
    _check_affine(path, affine)
    return affine, note


def affine_of(path: Path | str, image: Any) -> _FloatArray:
    """The affine of a mask, an atlas or a map, by the same rule; where sform and qform disagree, a `TransformWarning` says so.

    Parameters
    ----------
    image : nibabel.spatialimages.SpatialImage
        One of another format than NIfTI has one transform alone.

    Raises
    ------
    InputError
        As `image_transform`.
    """
    if "sform_code" not in image.header:
        return np.asarray(image.affine, np.float64)
    affine, note = image_transform(path, image)
    if note:
        warnings.warn(f"{path}: {note}", TransformWarning, stacklevel=2)
    return affine


def _chosen(path: Path | str, image: Any) -> tuple[_FloatArray, str]:
    header, affine = image.header, np.asarray(np.full((4, 4), np.nan) if image.affine is None else image.affine, np.float64)
    if not header["sform_code"] and not header["qform_code"]:
        raise InputError(f"{path}: has neither sform nor qform, so its place in MNI space is unknown; write it with its affine.")
    try:
        (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    except ValueError:
        # No rotation belongs to its quaternion, and nibabel goes by the sform alone.
        return affine, ""
    if sform is None or qform is None or not np.allclose(affine, header.get_best_affine()):
        return affine, ""
    millimetres, voxels = _shift(sform, qform, image.shape[:3])
    if sform_code == qform_code == _MNI_CODE and voxels > 1:
        raise InputError(f"{path}: its sform and qform both say MNI space and lie {millimetres:.3g} mm apart; keep the one that is right.")
    name, taken = ("qform", qform) if qform_code == _MNI_CODE != sform_code else ("sform", sform)
    said = f"its sform (code {sform_code}) and qform (code {qform_code}) lie {millimetres:.3g} mm apart; the {name} was taken."
    return np.asarray(taken, np.float64), said if voxels > _WARN_SHIFT else ""


def _shift(first: _FloatArray, second: _FloatArray, shape: tuple[int, ...]) -> tuple[float, float]:
    """How far two affines put one voxel apart at most, in mm and in the shortest edge of a voxel."""
    corners = np.array(list(product(*((0, size - 1) for size in shape))))
    with np.errstate(all="ignore"):
        difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
        millimetres = float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())
        edge = float(np.linalg.norm(first[:3, :3], axis=0).min())
    return millimetres, millimetres / edge if edge else 0.0


def _check_affine(path: Path | str, affine: _FloatArray) -> None:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < _VOXEL_MM[0] ** 3:
        raise InputError(f"{path}: its affine is not invertible or not finite; write the image with its true affine.")
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if (zooms < _VOXEL_MM[0]).any() or (zooms > _VOXEL_MM[1]).any():
        sizes = " x ".join(f"{zoom:g}" for zoom in zooms)
        raise InputError(f"{path}: its affine gives voxels of {sizes} mm; write the image with its true affine in mm.")
