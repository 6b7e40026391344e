"""Maps from files, such as those of `slimbrain explain`: any 3D NIfTI image in MNI space."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.grid import LATTICES
from slimbrain.report.volumes import Volume
from slimbrain.transform import affine_of

_FloatArray = npt.NDArray[Any]

_WAY_OUT = "name a 3D NIfTI map in MNI space"
MAP_SUFFIXES = (".nii", ".nii.gz")

_MOST_VOXELS = 5_000_000
"""Maps of more voxels (1 mm has 7 million) are resampled to 2 mm: the page has no room for more."""


def map_name(path: Path) -> str:
    """The file's name without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def read_map(path: Path) -> Volume:
    """A map as it stands, its axes in MNI order; resampled to the 2 mm lattice where its axes are oblique. Voxels of 0 count as empty.

    Raises
    ------
    InputError
        If the file is not readable, not 3D, holds no value, does not lie in the MNI box, or has two transforms that say MNI and disagree.
    """
    import nibabel

    broken = nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError
    try:
        read: Any = nibabel.load(path)
        image = nibabel.as_closest_canonical(type(read)(read.dataobj, affine_of(path, read), read.header))
        values = np.asarray(image.get_fdata(dtype=np.float32))
    except (OSError, EOFError, ValueError, TypeError, zlib.error, *broken) as error:
        raise InputError(f"{path}: cannot be read as a map ({error}); {_WAY_OUT}.") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(f"{path}: has {values.ndim} dimensions {values.shape}; {_WAY_OUT}, one file per map.")
    values = np.where(np.isfinite(values) & (values != 0), values, np.nan)
    if not np.isfinite(values).any():
        raise InputError(f"{path}: has no value other than 0; {_WAY_OUT}.")
    volume = _along_axes(values, image.affine)
    if not _touches_box(volume.cropped()):
        raise InputError(f"{path}: has no value within the MNI box; {_WAY_OUT}.")
    return volume


def _along_axes(values: _FloatArray, affine: _FloatArray) -> Volume:
    """The map on its own lattice if that has no rotation and is not too fine, else on the 2 mm lattice."""
    steps = np.diag(affine)[:3]
    straight = np.allclose(affine[:3, :3], np.diag(steps), atol=1e-3 * np.abs(steps).max())
    if straight and values.size <= _MOST_VOXELS:
        return Volume(values, affine[:3, 3].astype(np.float64), steps.astype(np.float64))
    from scipy.ndimage import map_coordinates

    lattice = LATTICES["2mm"]
    to_source = np.linalg.inv(affine) @ lattice.affine
    places = np.indices((lattice.edge,) * 3).reshape(3, -1)
    source = to_source[:3, :3] @ places + to_source[:3, 3:]
    # The nearest voxel: a mean with empty ones would shrink the map, and a label map has no means.
    taken = map_coordinates(values, source, order=0, cval=np.nan).reshape((lattice.edge,) * 3)
    return Volume(taken, lattice.origin_mm, np.full(3, lattice.voxel_mm))


def _touches_box(volume: Volume) -> bool:
    lattice = LATTICES["2mm"]
    low, high = lattice.origin_mm, lattice.origin_mm + (lattice.edge - 1) * lattice.voxel_mm
    last = volume.origin_mm + (np.array(volume.values.shape) - 1) * volume.step_mm
    return bool(np.isfinite(volume.values).any() and (last >= low).all() and (volume.origin_mm <= high).all())
