"""A map by region: any atlas in MNI space, resampled to the store's lattice by nearest voxel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import PATCHES_PER_UNIT, Grid
from slimbrain.transform import affine_of

COLUMNS = ("region", "voxels", "mean", "share", "peak", "peak_x_mm", "peak_y_mm", "peak_z_mm")
"""Of a region table: `mean` of the map over the region's voxels, `share` of the sum of its absolute values over the brain, the value
that is farthest from zero and where it lies."""


UNITS = "units of"
"""How the name of the regions begins where there is no atlas: they have places and no names."""


@dataclass(frozen=True)
class Atlas:
    """Regions on a lattice.

    Attributes
    ----------
    name : str
        For the record.
    region : array
        (P, V) number of the region each patch voxel lies in; 0 for none, and outside the mask.
    names : dict of int to str
        Of each number.
    """

    name: str
    region: NDArray[np.int64]
    names: dict[int, str]


def unit_atlas(grid: Grid) -> Atlas:
    """The encoder's units as regions, where there is no atlas."""
    edge_mm = PATCHES_PER_UNIT * grid.lattice.patch * grid.lattice.voxel_mm
    region = np.where(grid.voxel_mask, 1 + grid.patch_unit[:, None], 0)
    return Atlas(f"{UNITS} {edge_mm:g} mm", region, {number: _place(mm) for number, mm in enumerate(grid.units.mm, start=1)})


def read_atlas(image: Path, labels: Path | None, grid: Grid) -> Atlas:
    """Read an atlas of numbered regions and their names.

    Parameters
    ----------
    image : Path
        3D NIfTI in MNI space, 0 outside all regions.
    labels : Path or None
        As of `_read_labels`; regions go by their numbers if None.

    Raises
    ------
    InputError
        If it is not readable, not 3D, does not hold whole numbers, has no region inside the mask, or has two transforms that say MNI
        and disagree.
    """
    import nibabel
    from nibabel.affines import apply_affine
    from nibabel.filebasedimages import ImageFileError

    try:
        atlas: Any = nibabel.load(image)
        values = np.asanyarray(atlas.dataobj)
    except (OSError, ImageFileError, ValueError, EOFError) as error:
        raise InputError(f"{image}: cannot be read as NIfTI ({error}); give an atlas in MNI space.") from error
    if values.ndim != 3 or not np.array_equal(values, np.rint(values)):
        raise InputError(f"{image}: must hold one whole number per voxel, in 3D, and has {values.ndim} axes; give a map of labels.")
    edge = grid.lattice.edge
    mm = apply_affine(grid.lattice.affine, np.stack(np.unravel_index(grid.voxel_index, (edge,) * 3), axis=-1))
    near = np.rint(apply_affine(np.linalg.inv(affine_of(image, atlas)), mm)).astype(np.int64)
    inside = grid.voxel_mask & np.all((near >= 0) & (near < values.shape), axis=-1)
    region = np.zeros(grid.voxel_mask.shape, dtype=np.int64)
    region[inside] = values[tuple(near[inside].T)].astype(np.int64)
    if not region.any():
        raise InputError(f"{image}: has no region where the store's mask lies; give an atlas in MNI space.")
    named = _read_labels(labels) if labels else {}
    return Atlas(image.name, region, {number: named.get(number, str(number)) for number in np.unique(region[region > 0]).tolist()})


def _read_labels(path: Path) -> dict[int, str]:
    """Names of regions by number.

    A TSV with the columns `index` and `name` (as BIDS has it), lines of a number and a name, or one name per line from region 1.

    Raises
    ------
    InputError
        If it is none of these.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        rows = read_tsv(path) if lines and {"index", "name"} <= set(lines[0].lower().split("\t")) else None
    except (OSError, UnicodeDecodeError, StoreError) as error:
        raise InputError(f"{path}: cannot be read as a list of regions ({error}); give a TSV with the columns index and name.") from error
    try:
        if rows is not None:
            table = [{key.lower(): value for key, value in row.items()} for row in rows]
            return {int(float(row["index"])): row["name"] for row in table}
        if lines and all(line.split()[0].isdigit() for line in lines):
            return {int(number): name.strip() for number, name in (line.replace("\t", " ").split(maxsplit=1) for line in lines)}
    except ValueError as error:
        raise InputError(f"{path}: has a line that is not a number and a name ({error}); correct it.") from error
    return {number: line.strip() for number, line in enumerate(lines, start=1)}


def region_rows(values: NDArray[Any], atlas: Atlas, grid: Grid) -> list[dict[str, object]]:
    """One row per region with a voxel in the mask, the largest share first; see `COLUMNS`.

    Parameters
    ----------
    values : array
        (P, V).
    """
    inside = grid.voxel_mask
    flat, region = values[inside].astype(np.float64), atlas.region[inside]
    index = np.stack(np.unravel_index(grid.voxel_index[inside], (grid.lattice.edge,) * 3), axis=-1)
    whole = float(np.abs(flat).sum()) or 1.0
    rows: list[dict[str, object]] = []
    for number, name in atlas.names.items():
        members = np.flatnonzero(region == number)
        if len(members):
            own = flat[members]
            peak = int(np.abs(own).argmax())
            place = grid.lattice.voxel_mm * index[members[peak]] + grid.lattice.origin_mm
            numbers = (len(members), float(own.mean()), float(np.abs(own).sum()) / whole, float(own[peak]), *map(float, place))
            rows.append(dict(zip(COLUMNS, (name, *(_rounded(value) for value in numbers)), strict=True)))
    return sorted(rows, key=lambda row: -float(str(row["share"])))


def channel_rows(values: NDArray[Any], names: tuple[str, ...], mm: NDArray[Any]) -> list[dict[str, object]]:
    """The same table for (C,) channels of a parcellation, each a region at its own coordinates."""
    whole = float(np.abs(values).sum()) or 1.0
    rows: list[dict[str, object]] = []
    for name, value, place in zip(names, values.astype(np.float64), mm, strict=True):
        numbers = (1, float(value), abs(float(value)) / whole, float(value), *map(float, place))
        rows.append(dict(zip(COLUMNS, (name, *(_rounded(number) for number in numbers)), strict=True)))
    return sorted(rows, key=lambda row: -float(str(row["share"])))


def _place(mm: NDArray[Any]) -> str:
    return "unit_" + "_".join(f"{value:+g}" for value in mm)


def _rounded(value: float) -> str:
    return f"{value:.6g}"
