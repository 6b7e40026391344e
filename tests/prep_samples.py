"""Small images that the tests of preparation write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from slimbrain.prep.bids import describe_runs, list_runs
from slimbrain.prep.runs import Failure, Filters, Run

Array = npt.NDArray[Any]

HEADER_BYTES = 352
"""Of NIfTI-1, with the four that say whether extensions follow."""

LOW_CORNER_MM = (-104.0, -120.0, -86.0)
"""First voxel centre of an image of 14 voxels of 16 mm that holds the whole box of the lattice."""


def find_runs(bids_dir: Path, filters: Filters | None = None) -> tuple[list[Run], list[Failure]]:
    """The runs of a BIDS derivative with all that belongs to them."""
    runs, failures = list_runs(bids_dir, filters)
    described, damaged = describe_runs(bids_dir, runs)
    return described, [*failures, *damaged]


def affine(voxel_mm: float, origin: tuple[float, float, float] = LOW_CORNER_MM) -> Array:
    """RAS+ affine of cubic voxels."""
    matrix = np.diag((voxel_mm, voxel_mm, voxel_mm, 1.0))
    matrix[:3, 3] = origin
    return matrix


def brain_series(shape: tuple[int, ...], frames: int, seed: int = 0) -> Array:
    """(X, Y, Z, T) float32: noise around a level that differs by voxel."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(500, 1500, shape)[..., None]
    return np.asarray(level + 20 * rng.standard_normal((*shape, frames)), np.float32)


def head_series(frames: int, seed: int = 0) -> Array:
    """(14, 14, 14, T) float32 on `affine(16.0)`: the same noise, bright where MNI152 has brain and a tenth of it elsewhere."""
    from nilearn.datasets import load_mni152_brain_mask
    from scipy.ndimage import map_coordinates

    mask = load_mni152_brain_mask(resolution=2)
    to_mask = np.linalg.inv(mask.affine) @ affine(16.0)
    places = to_mask[:3, :3] @ np.indices((14, 14, 14)).reshape(3, -1) + to_mask[:3, 3:]
    inside = map_coordinates(mask.get_fdata(), places, order=0).reshape(14, 14, 14) > 0
    return np.asarray(brain_series((14, 14, 14), frames, seed) * np.where(inside, 1, 0.1)[..., None], np.float32)


def save(path: Path, data: Array, matrix: Array, tr: float = 0.0, units: str = "sec", form: int = 4) -> Path:
    """Write NIfTI with the given fourth zoom, time unit and form code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, matrix)
    image.header.set_xyzt_units("mm", units)
    if data.ndim > 3:
        zooms = image.header.get_zooms()
        image.header.set_zooms((*zooms[:3], tr, *zooms[4:]))
    image.set_sform(matrix, form)
    image.set_qform(matrix, form)
    image.to_filename(path)
    return path
