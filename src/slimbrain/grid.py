"""The lattice, the mask, and the order in which brain patches are stored and computed.

Only patches that touch the mask exist. They are listed region by region (8 patches per side), unit by unit (4), cell by
cell (2), patch by patch, so that the patches of any region, unit or cell are contiguous: pooling is a segment
operation, deleting a unit is slicing, and one stored order serves attention windows of 16 and of 32 voxels.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slimbrain.disk.atomic import write_atomic
from slimbrain.errors import ContractError, InputError
from slimbrain.transform import affine_of

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

_IntArray = npt.NDArray[np.int64]
_BoolArray = npt.NDArray[np.bool_]
_FloatArray = npt.NDArray[Any]

BOX_CORNER_MM = np.array((-97.0, -113.0, -79.0))
"""Outer left-posterior-inferior corner of the box in MNI millimetres; every lattice fills the same box."""

BOX_MM = 192.0
_PATCHES_PER_CELL, PATCHES_PER_UNIT, _PATCHES_PER_REGION = 2, 4, 8
"""Patches along one side. Two max-poolings by 2 take a unit from patches through cells to one token."""

MASK_FILE = "desc-brain_mask.nii.gz"
"""Name of the mask beside a store's or a checkpoint's data, so that either can be read on its own."""

_FINEST_MASK_STEP_MM = 2.0
"""A coarse lattice voxel is probed at this step; it is brain when at least half of the probes are."""

_TIE_MM = 1e-3
"""Probes are moved by this much, so that one midway between two source voxels takes the same one however the file is stored."""


@dataclass(frozen=True)
class Lattice:
    """A cube of voxels over the MNI box, RAS+, and the edge of its patches.

    Parameters
    ----------
    edge : int
        Voxels per side.
    voxel_mm : float
        Voxel size in mm.
    patch : int
        Voxels per side of a patch.
    """

    edge: int
    voxel_mm: float
    patch: int

    def __post_init__(self) -> None:
        if self.edge * self.voxel_mm != BOX_MM or self.edge % self.patch:
            raise InputError(
                f"lattice of {self.edge} voxels of {self.voxel_mm} mm, patch {self.patch}: must fill {BOX_MM} mm with whole patches."
            )

    @property
    def id(self) -> str:
        """Name that a contract records, for example `mni-2mm-96-p4`."""
        return f"mni-{self.voxel_mm:g}mm-{self.edge}-p{self.patch}"

    @property
    def patches(self) -> int:
        """Patches per side of the box."""
        return self.edge // self.patch

    @property
    def origin_mm(self) -> _FloatArray:
        """Centre of voxel (0, 0, 0) in MNI mm."""
        return BOX_CORNER_MM + self.voxel_mm / 2

    @property
    def affine(self) -> _FloatArray:
        """(4, 4) voxel index -> MNI mm."""
        affine = np.diag((self.voxel_mm, self.voxel_mm, self.voxel_mm, 1.0))
        affine[:3, 3] = self.origin_mm
        return affine


LATTICES = {"2mm": Lattice(96, 2.0, 4), "4mm": Lattice(48, 4.0, 4), "8mm": Lattice(24, 8.0, 2), "8mm-p1": Lattice(24, 8.0, 1)}
"""By resolution. Units of `8mm` are blocks of 64 mm, for a demo in minutes; those of `8mm-p1`, with patches of one voxel, are of 32 mm, as
at 2 mm."""


def _lattice_by_id(lattice_id: str) -> Lattice:
    """The lattice a contract names.

    Raises
    ------
    ContractError
        If this version knows no such lattice.
    """
    for lattice in LATTICES.values():
        if lattice.id == lattice_id:
            return lattice
    known = ", ".join(lattice.id for lattice in LATTICES.values())
    raise ContractError(f"lattice {lattice_id} is not one of {known}; it was made by another version of slimbrain, use that one.")


@dataclass(frozen=True)
class Level:
    """The elements of one size (patches, cells, units or regions) that touch the mask, in grid order.

    Attributes
    ----------
    index : array
        (N, 3) place in the box, counted in elements of this size.
    offsets : array
        (N + 1,) element i holds the patches `offsets[i]:offsets[i + 1]`.
    mm : (N, 3) array
        Centre of the element's cube in MNI mm.

    Examples
    --------
    >>> cells = Grid.mni152("8mm").cells
    >>> cells.mm.shape == (len(cells), 3), int(cells.sizes.max())
    (True, 8)
    """

    index: _IntArray
    offsets: _IntArray
    mm: _FloatArray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sizes(self) -> _IntArray:
        """(N,) patches in each element."""
        return np.diff(self.offsets)

    @property
    def of_patch(self) -> _IntArray:
        """(P,) the element each patch belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)


class Grid:
    """A mask on a lattice, with every table that follows from it; a value: same mask, same tables, same hash.

    Parameters
    ----------
    lattice : Lattice
        The lattice.
    mask : (E, E, E) array
        Bool, E voxels per side.

    Raises
    ------
    InputError
        If the mask has another shape or no voxel.

    Examples
    --------
    >>> grid = Grid.mni152("8mm")
    >>> grid.lattice.id, grid.mask.shape
    ('mni-8mm-24-p2', (24, 24, 24))
    >>> packed = grid.pack(grid.mask)
    >>> packed.shape == (grid.n_patches, grid.voxels_per_patch), int(packed.sum()) == grid.n_voxels
    (True, True)
    """

    def __init__(self, lattice: Lattice, mask: npt.ArrayLike) -> None:
        mask = np.ascontiguousarray(mask, dtype=bool)
        if mask.shape != (lattice.edge,) * 3:
            raise InputError(f"mask of shape {mask.shape}: lattice {lattice.id} needs {(lattice.edge,) * 3}; give a mask on that lattice.")
        if not mask.any():
            raise InputError(f"mask on lattice {lattice.id} has no voxel; give a brain mask in MNI space.")
        self.lattice = lattice
        self._tables = _build_tables(lattice, np.packbits(mask).tobytes())

    @classmethod
    def mni152(cls, resolution: str = "2mm") -> Grid:
        """The MNI152 brain mask that nilearn carries, on a lattice.

        Parameters
        ----------
        resolution : str
            One of `2mm`, `4mm`, `8mm` and `8mm-p1`.

        Returns
        -------
        Grid
            The same object for the same resolution.

        Raises
        ------
        InputError
            If there is no such resolution.
        """
        return _mni152(resolution)

    @classmethod
    def from_nifti(cls, image: str | PathLike[str] | SpatialImage, resolution: str = "2mm") -> Grid:
        """Any 3D mask in MNI space, brought to the lattice by its affine, of sform and qform the one that says MNI.

        Parameters
        ----------
        image : str or PathLike or SpatialImage
            Above 0.5 in the brain; a lattice voxel is brain if at least half of it is.
        resolution : str
            One of `2mm`, `4mm`, `8mm` and `8mm-p1`.

        Returns
        -------
        Grid
            Of the patches that touch the mask.

        Raises
        ------
        InputError
            If there is no such resolution, or the mask is not readable, not 3D, does not lie in the MNI box, or has two transforms that say
            MNI and disagree.
        """
        lattice = _lattice_by_resolution(resolution)
        name = "mask" if not isinstance(image, (str, PathLike)) else str(image)
        return cls(lattice, _mask_on_lattice(_load_mask(image, name), lattice, name))

    @classmethod
    def load(cls, path: str | PathLike[str], lattice_id: str) -> Grid:
        """Read back what `save_mask` wrote.

        Parameters
        ----------
        path : str or PathLike
            NIfTI on the lattice.
        lattice_id : str
            As `grid.lattice.id`.

        Returns
        -------
        Grid
            Equal to the one that was saved.

        Raises
        ------
        ContractError, InputError
            If the file cannot be read, is not on this lattice, or there is no such lattice.
        """
        lattice = _lattice_by_id(lattice_id)
        return cls(lattice, _mask_values(_load_mask(path, str(path)), str(path)) > 0)

    def save_mask(self, path: str | PathLike[str]) -> Path:
        """Write the mask as NIfTI on the lattice, atomically.

        Parameters
        ----------
        path : str or PathLike
            Ends in `.nii` or `.nii.gz`.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        import nibabel

        image = nibabel.Nifti1Image(self.mask.astype(np.uint8), self.lattice.affine)
        return write_atomic(Path(path), image.to_filename)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        counts = f"{self.n_voxels} voxels, {self.n_patches} patches, {self.n_cells} cells, {self.n_units} units"
        return f"Grid({self.lattice.id}, {counts}, {self.hash[:8]})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Grid, (self.lattice, self.mask)

    @property
    def mask(self) -> _BoolArray:
        """(E, E, E) True in the brain."""
        return self._tables.mask

    @property
    def hash(self) -> str:
        """SHA-256 of lattice and mask, in hex."""
        return self._tables.hash

    @property
    def patches(self) -> Level:
        """Patches that touch the mask."""
        return self._tables.patches

    @property
    def cells(self) -> Level:
        """Cells of 2 patches per side."""
        return self._tables.cells

    @property
    def units(self) -> Level:
        """Units of 4 patches per side."""
        return self._tables.units

    @property
    def regions(self) -> Level:
        """Regions of 8 patches per side, the published mask unit."""
        return self._tables.regions

    @property
    def voxel_index(self) -> _IntArray:
        """(P, V) flat C-order place of each patch voxel in the lattice."""
        return self._tables.voxel_index

    @property
    def voxel_mask(self) -> _BoolArray:
        """(P, V) True where the patch voxel is brain."""
        return self._tables.voxel_mask

    @property
    def n_voxels(self) -> int:
        return int(self.voxel_mask.sum())

    @property
    def n_patches(self) -> int:
        return len(self.patches)

    @property
    def n_cells(self) -> int:
        return len(self.cells)

    @property
    def n_units(self) -> int:
        return len(self.units)

    @property
    def voxels_per_patch(self) -> int:
        return self.lattice.patch**3

    @property
    def patch_cell(self) -> _IntArray:
        """(P,) cell of each patch."""
        return self._tables.cells.of_patch

    @property
    def patch_unit(self) -> _IntArray:
        """(P,) unit of each patch."""
        return self._tables.units.of_patch

    @property
    def cell_unit(self) -> _IntArray:
        """(C,) unit of each cell."""
        return self.patch_unit[self.cells.offsets[:-1]]

    @cached_property
    def patch_voxels(self) -> _IntArray:
        """(P,) brain voxels in each patch; at least one."""
        return self.voxel_mask.sum(axis=1)

    @cached_property
    def cell_voxels(self) -> _IntArray:
        """(C,) brain voxels in each cell; at least one."""
        return np.add.reduceat(self.patch_voxels, self.cells.offsets[:-1])

    def pack(self, dense: npt.ArrayLike) -> _FloatArray:
        """Take the brain patches out of dense volumes.

        Parameters
        ----------
        dense : (..., E, E, E) array
            Volumes on the lattice.

        Returns
        -------
        (..., P, V) in grid order, 0 outside the mask, same type.

        Raises
        ------
        InputError
            If the volumes are not on the lattice.
        """
        dense = np.asarray(dense)
        if dense.shape[-3:] != self.mask.shape:
            edge = self.lattice.edge
            raise InputError(f"volume of shape {dense.shape}: lattice {self.lattice.id} needs (..., {edge}, {edge}, {edge}).")
        flat = dense.reshape(*dense.shape[:-3], self.mask.size)
        packed: _FloatArray = np.where(self.voxel_mask, flat[..., self.voxel_index], np.zeros((), dense.dtype))
        # Fancy indexing may leave another memory order than C, which safetensors.numpy would write wrongly.
        return np.ascontiguousarray(packed)

    def unpack(self, packed: npt.ArrayLike, fill: float = 0.0) -> _FloatArray:
        """Put packed patches back into dense volumes.

        Parameters
        ----------
        packed : (..., P, V) array
            In grid order.
        fill : float
            Value outside the mask.

        Returns
        -------
        (..., E, E, E), same type.

        Raises
        ------
        ContractError
            If P or V are not the grid's.
        """
        packed = np.asarray(packed)
        if packed.shape[-2:] != self.voxel_mask.shape:
            raise ContractError(f"packed array of shape {packed.shape}: {self!r} needs (..., {self.n_patches}, {self.voxels_per_patch}).")
        dense: _FloatArray = np.full((*packed.shape[:-2], self.mask.size), fill, dtype=packed.dtype)
        dense[..., self.voxel_index[self.voxel_mask]] = packed[..., self.voxel_mask]
        return dense.reshape(*packed.shape[:-2], *self.mask.shape)

    def coarse(self, packed: npt.ArrayLike) -> _FloatArray:
        """Mean over the brain voxels of each cell.

        Parameters
        ----------
        packed : array
            (..., P, V), 0 outside the mask.

        Returns
        -------
        (..., C) float32.
        """
        patch_sums = np.asarray(packed).sum(axis=-1, dtype=np.float32)
        cell_sums = np.add.reduceat(patch_sums, self.cells.offsets[:-1], axis=-1)
        return np.asarray(cell_sums / self.cell_voxels, dtype=np.float32)

    def to_nifti(self, packed: npt.ArrayLike) -> SpatialImage:
        """Packed values as a NIfTI image in MNI space.

        Parameters
        ----------
        packed : array
            (P, V), or (T, P, V) for an image with time.

        Returns
        -------
        SpatialImage
            3D, or 4D with time last; float32, 0 outside the mask.

        Raises
        ------
        ContractError
            If P or V are not the grid's.
        """
        import nibabel

        dense = self.unpack(np.asarray(packed, dtype=np.float32))
        return nibabel.Nifti1Image(np.moveaxis(dense, 0, -1) if dense.ndim == 4 else dense, self.lattice.affine)


def _lattice_by_resolution(resolution: str) -> Lattice:
    """The lattice called `2mm`, `4mm`, `8mm` or `8mm-p1`."""
    if resolution not in LATTICES:
        raise InputError(f"resolution {resolution}: choose one of {', '.join(LATTICES)}.")
    return LATTICES[resolution]


@dataclass(frozen=True)
class _Tables:
    mask: _BoolArray
    hash: str
    patches: Level
    cells: Level
    units: Level
    regions: Level
    voxel_index: _IntArray
    voxel_mask: _BoolArray


@lru_cache(maxsize=16)
def _build_tables(lattice: Lattice, mask_bits: bytes) -> _Tables:
    size = lattice.edge**3
    mask = np.unpackbits(np.frombuffer(mask_bits, np.uint8), count=size).astype(bool).reshape((lattice.edge,) * 3)
    side, step = lattice.patches, lattice.patch
    occupied = mask.reshape(side, step, side, step, side, step).any(axis=(1, 3, 5))
    patch_index = _grid_order(np.argwhere(occupied))
    sides = (1, _PATCHES_PER_CELL, PATCHES_PER_UNIT, _PATCHES_PER_REGION)
    patches, cells, units, regions = (_level(lattice, patch_index, per_side) for per_side in sides)
    within = np.indices((step, step, step)).reshape(3, -1).T
    voxel = patch_index[:, None, :] * step + within[None]
    voxel_index = np.ravel_multi_index(tuple(np.moveaxis(voxel, -1, 0)), mask.shape).astype(np.int64)
    voxel_mask = mask.reshape(-1)[voxel_index]
    digest = hashlib.sha256(lattice.id.encode() + mask_bits).hexdigest()
    for table in (mask, voxel_index, voxel_mask):
        table.setflags(write=False)
    return _Tables(mask, digest, patches, cells, units, regions, voxel_index, voxel_mask)


def _grid_order(patch_index: _IntArray) -> _IntArray:
    """Sort (P, 3) patch places by region, then unit, then cell, then patch, each in C order."""
    keys: list[_IntArray] = []
    for per_side in (_PATCHES_PER_REGION, PATCHES_PER_UNIT, _PATCHES_PER_CELL, 1):
        keys.extend((patch_index // per_side).T)
    return patch_index[np.lexsort(keys[::-1])]


def _level(lattice: Lattice, patch_index: _IntArray, per_side: int) -> Level:
    element = patch_index // per_side
    first = np.flatnonzero(np.r_[True, (element[1:] != element[:-1]).any(axis=1)])
    index = element[first]
    offsets = np.r_[first, len(patch_index)].astype(np.int64)
    mm = BOX_CORNER_MM + (index + 0.5) * per_side * lattice.patch * lattice.voxel_mm
    for table in (index, offsets, mm):
        table.setflags(write=False)
    return Level(index, offsets, mm)


@lru_cache(maxsize=len(LATTICES))
def _mni152(resolution: str) -> Grid:
    from nilearn.datasets import load_mni152_brain_mask

    return Grid.from_nifti(load_mni152_brain_mask(resolution=2), resolution)


def _load_mask(image: str | PathLike[str] | SpatialImage, name: str) -> SpatialImage:
    import nibabel

    nibabel_errors = nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError
    try:
        opened = nibabel.load(image) if isinstance(image, (str, PathLike)) else image
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, *nibabel_errors) as error:
        raise InputError(f"{name}: cannot be read as a NIfTI mask ({error}); give a 3D mask in MNI space.") from error
    if not isinstance(opened, nibabel.spatialimages.SpatialImage) or len(opened.shape) != 3:
        shape = getattr(opened, "shape", "not an image")
        raise InputError(f"{name}: a mask must be 3D, this is {shape}; give a 3D mask in MNI space.")
    return opened


def _mask_values(image: SpatialImage, name: str) -> _FloatArray:
    try:
        return np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{name}: its voxels cannot be read ({error}); the file is damaged, restore it from where it came.") from error


def _mask_on_lattice(image: SpatialImage, lattice: Lattice, name: str) -> _BoolArray:
    """Probe the mask inside every lattice voxel; a voxel is brain when at least half of its probes are."""
    source = np.nan_to_num(_mask_values(image, name)) > 0.5
    affine = affine_of(name, image)
    _check_inside_box(source, affine, name)
    probes = max(1, round(lattice.voxel_mm / _FINEST_MASK_STEP_MM))
    fine_edge = lattice.edge * probes
    axis = (np.arange(fine_edge) + 0.5) * (BOX_MM / fine_edge)
    inverse = np.linalg.inv(affine)
    hits = np.zeros((lattice.edge,) * 3, dtype=np.int32)
    # Slab by slab along x, so that no index array of the whole fine box is ever held.
    for slab in range(fine_edge):
        world = np.stack(np.meshgrid(axis[slab], axis, axis, indexing="ij"), axis=-1) + BOX_CORNER_MM + _TIE_MM
        voxel = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
        inside = ((voxel >= 0) & (voxel < source.shape)).all(axis=-1)
        probe = np.zeros(inside.shape, dtype=bool)
        probe[inside] = source[tuple(voxel[inside].T)]
        hits[slab // probes] += probe[0].reshape(lattice.edge, probes, lattice.edge, probes).sum(axis=(1, 3))
    return np.asarray(2 * hits >= probes**3)


def _check_inside_box(source: _BoolArray, affine: _FloatArray, name: str) -> None:
    if not source.any():
        raise InputError(f"{name}: the mask has no voxel above 0.5; give a brain mask in MNI space.")
    world = np.argwhere(source) @ affine[:3, :3].T + affine[:3, 3]
    outside = 1.0 - float(((world > BOX_CORNER_MM) & (world < BOX_CORNER_MM + BOX_MM)).all(axis=1).mean())
    if outside > 0.05:
        raise InputError(f"{name}: {outside:.0%} of the mask lies outside the MNI box; check its affine, or give a mask in MNI space.")
