"""Geometry against plain loops over voxels, against the counts of the design, and against closed forms."""

from __future__ import annotations

import gzip
import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slimbrain.errors import ContractError, InputError
from slimbrain.grid import LATTICES, Grid, Lattice, _lattice_by_id

Array = npt.NDArray[Any]
SIZES = {"patches": 1, "cells": 2, "units": 4, "regions": 8}
"""Patches a side of an element of each level."""


def random_grid(seed: int, density: float, resolution: str = "8mm") -> Grid:
    """Any mask at all: scattered voxels, no brain."""
    edge = LATTICES[resolution].edge
    mask = np.random.default_rng(seed).random((edge,) * 3) < density
    mask[1, 2, 3] = True
    return Grid(LATTICES[resolution], mask)


MASKS = {"seed": st.integers(0, 2**32), "density": st.sampled_from([0.0, 0.001, 0.01, 0.2, 1.0])}


def patches_by_loop(grid: Grid) -> list[tuple[int, int, int]]:
    """Places of the patches in the order the design asks for, found voxel by voxel."""
    places = set()
    for voxel in itertools.product(range(grid.lattice.edge), repeat=3):
        if grid.mask[voxel]:
            places.add((voxel[0] // grid.lattice.patch, voxel[1] // grid.lattice.patch, voxel[2] // grid.lattice.patch))
    return sorted(places, key=lambda place: [tuple(axis // side for axis in place) for side in (8, 4, 2, 1)])


# --- tables


@pytest.mark.parametrize("grid", [random_grid(0, 0.01), random_grid(1, 0.2), random_grid(2, 0.002, "4mm")], ids=repr)
def test_every_table_equals_a_loop_over_voxels(grid: Grid) -> None:
    lattice, edge = grid.lattice, grid.lattice.edge
    patches = patches_by_loop(grid)
    assert [tuple(place) for place in grid.patches.index.tolist()] == patches
    for name, side in SIZES.items():
        level = getattr(grid, name)
        owner = [tuple(axis // side for axis in place) for place in patches]
        elements = list(dict.fromkeys(owner))
        assert [tuple(place) for place in level.index.tolist()] == elements
        assert level.of_patch.tolist() == [elements.index(place) for place in owner]
        for i, place in enumerate(elements):
            assert owner[level.offsets[i] : level.offsets[i + 1]] == [place] * owner.count(place)
            width = side * lattice.patch
            corners = [lattice.affine @ [*(np.array(place) * width + corner), 1] for corner in (0, width - 1)]
            np.testing.assert_allclose(level.mm[i], np.mean(corners, axis=0)[:3], atol=1e-12)
    for i, place in enumerate(patches):
        for j, within in enumerate(itertools.product(range(lattice.patch), repeat=3)):
            x, y, z = (axis * lattice.patch + step for axis, step in zip(place, within, strict=True))
            assert grid.voxel_index[i, j] == (x * edge + y) * edge + z
            assert grid.voxel_mask[i, j] == grid.mask[x, y, z]


@settings(max_examples=25, deadline=None)
@given(**MASKS)
def test_levels_nest_and_are_contiguous(seed: int, density: float) -> None:
    grid = random_grid(seed, density)
    levels = [grid.patches, grid.cells, grid.units, grid.regions]
    for level in levels:
        assert level.offsets[0] == 0 and level.offsets[-1] == grid.n_patches
        assert (level.sizes > 0).all()
        assert len(np.unique(level.index, axis=0)) == len(level)
    for finer, coarser in itertools.pairwise(levels):
        assert set(coarser.offsets) <= set(finer.offsets)
    np.testing.assert_array_equal(grid.cell_unit[grid.patch_cell], grid.patch_unit)
    np.testing.assert_array_equal(grid.cells.index // 2, grid.units.index[grid.cell_unit])


def test_voxels_are_listed_once_and_all_brain_is_listed(grid8: Grid) -> None:
    assert len(np.unique(grid8.voxel_index)) == grid8.voxel_index.size
    np.testing.assert_array_equal(np.sort(grid8.voxel_index[grid8.voxel_mask]), np.flatnonzero(grid8.mask))


def test_tables_cannot_be_changed(grid8: Grid) -> None:
    for table in (grid8.mask, grid8.voxel_index, grid8.voxel_mask, grid8.cells.offsets, grid8.units.mm, grid8.patches.index):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


# --- the brains of the design


def test_counts_of_the_nlin6_template(shared_data: Path) -> None:
    grid = Grid.from_nifti(nlin6_mask(shared_data))
    assert (grid.n_voxels, grid.n_patches, grid.n_cells, grid.n_units) == (228_483, 4_361, 685, 124)
    assert len(grid.regions) == 27
    assert (grid.units.sizes.min(), grid.units.sizes.max()) == (1, 64)


def nlin6_mask(shared_data: Path) -> Path:
    (path,) = (shared_data / "templates").glob("*NLin6Asym*mask.nii.gz")
    return path


def test_nilearns_mask_fits_whole() -> None:
    from nilearn.datasets import load_mni152_brain_mask

    image = load_mni152_brain_mask(resolution=2)
    grid = Grid.mni152()
    assert grid.n_voxels == 235_375 == int(np.asarray(image.dataobj).sum())
    voxels = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)))
    ours = nibabel.affines.apply_affine(grid.lattice.affine, np.argwhere(grid.mask))
    assert set(map(tuple, voxels.round(3))) == set(map(tuple, ours.round(3)))
    assert Grid.mni152() is grid


@pytest.mark.parametrize("resolution", ["4mm", "8mm"])
def test_a_coarse_voxel_is_brain_when_half_of_it_is(resolution: str) -> None:
    fine, coarse = Grid.mni152("2mm"), Grid.mni152(resolution)
    ratio = fine.lattice.edge // coarse.lattice.edge
    share = fine.mask.reshape((coarse.lattice.edge, ratio) * 3).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(coarse.mask, share >= 0.5)


# --- lattices


def test_all_lattices_fill_the_same_box() -> None:
    origins = {"2mm": (-96, -112, -78), "4mm": (-95, -111, -77), "8mm": (-93, -109, -75), "8mm-p1": (-93, -109, -75)}
    for name, lattice in LATTICES.items():
        assert tuple(lattice.affine[:3, 3]) == tuple(lattice.origin_mm) == origins[name]
        faces = [lattice.affine @ [*(corner,) * 3, 1] for corner in (-0.5, lattice.edge - 0.5)]
        np.testing.assert_array_equal(np.array(faces)[:, :3], [(-97, -113, -79), (95, 79, 113)])
    assert LATTICES["2mm"].id == "mni-2mm-96-p4"


@pytest.mark.parametrize(("finer", "coarser"), [("2mm", "4mm"), ("4mm", "8mm"), ("2mm", "8mm")])
def test_a_coarse_voxel_is_centred_on_the_fine_ones_it_holds(finer: str, coarser: str) -> None:
    fine, coarse = LATTICES[finer], LATTICES[coarser]
    ratio = fine.edge // coarse.edge
    held = np.array(list(itertools.product(range(ratio), repeat=3)))
    for place in ((0, 0, 0), (3, 5, 7)):
        centres = nibabel.affines.apply_affine(fine.affine, np.array(place) * ratio + held)
        np.testing.assert_allclose(centres.mean(0), nibabel.affines.apply_affine(coarse.affine, place))


def test_lattices_are_found_by_id_and_others_refused() -> None:
    for lattice in LATTICES.values():
        assert _lattice_by_id(lattice.id) is lattice
    with pytest.raises(ContractError, match=r"mni-3mm-64-p4 is not one of .*mni-2mm-96-p4"):
        _lattice_by_id("mni-3mm-64-p4")
    for wrong in ((96, 3.0, 4), (96, 2.0, 5)):
        with pytest.raises(InputError, match="whole patches"):
            Lattice(*wrong)


# --- dense and packed


@settings(max_examples=25, deadline=None)
@given(
    **MASKS,
    dtype=st.sampled_from(["float16", "float32", "float64", "int16", "bool", "uint8"]),
    leading=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]),
)
def test_packing_takes_each_brain_voxel_and_gives_it_back(seed: int, density: float, dtype: str, leading: tuple[int, ...]) -> None:
    grid = random_grid(seed, density)
    dense = np.random.default_rng(seed).integers(1, 100, (*leading, *grid.mask.shape)).astype(dtype)
    packed = grid.pack(dense)
    assert packed.shape == (*leading, grid.n_patches, grid.voxels_per_patch) and packed.dtype == dense.dtype
    assert packed.flags.c_contiguous
    flat = dense.reshape(*leading, grid.mask.size)
    for patch, voxel in itertools.islice(zip(*np.nonzero(grid.voxel_mask), strict=True), 50):
        np.testing.assert_array_equal(packed[..., patch, voxel], flat[..., grid.voxel_index[patch, voxel]])
    assert not packed[..., ~grid.voxel_mask].any()
    back = grid.unpack(packed)
    assert back.dtype == dense.dtype
    np.testing.assert_array_equal(back, np.where(grid.mask, dense, 0))
    np.testing.assert_array_equal(grid.pack(back), packed)


def test_unpacking_fills_what_is_outside(grid8: Grid) -> None:
    dense = grid8.unpack(np.ones((grid8.n_patches, grid8.voxels_per_patch)), fill=np.nan)
    np.testing.assert_array_equal(np.isnan(dense), ~grid8.mask)


@pytest.mark.parametrize("order", ["C", "F"])
def test_packed_arrays_survive_safetensors(grid8: Grid, tmp_path: Path, order: Any) -> None:
    """safetensors.numpy writes the memory as it lies: an array in any other order than C comes back scrambled."""
    dense = np.asarray(np.random.default_rng(0).normal(size=(5, *grid8.mask.shape)), order=order)
    packed = grid8.pack(np.moveaxis(np.moveaxis(dense, 0, -1), -1, 0))
    save_file({"packed": packed}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(grid8.unpack(load_file(tmp_path / "x.safetensors")["packed"]), np.where(grid8.mask, dense, 0))


@pytest.mark.parametrize(("seed", "density"), [(0, 0.005), (1, 0.3)])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_coarse_is_the_mean_of_each_cells_brain_voxels(seed: int, density: float, dtype: str) -> None:
    grid = random_grid(seed, density)
    dense = np.random.default_rng(seed).normal(size=(3, *grid.mask.shape)).astype(dtype)
    coarse = grid.coarse(grid.pack(dense))
    assert coarse.shape == (3, grid.n_cells) and coarse.dtype == np.float32
    edge = 2 * grid.lattice.patch
    for i, place in enumerate(grid.cells.index):
        box = tuple(slice(axis * edge, (axis + 1) * edge) for axis in place)
        inside = grid.mask[box]
        assert grid.cell_voxels[i] == inside.sum()
        np.testing.assert_allclose(coarse[:, i], dense[(slice(None), *box)][:, inside].astype(float).mean(1), rtol=1e-5, atol=1e-6)


def test_to_nifti_puts_values_at_their_place_in_mni(grid8: Grid) -> None:
    values = np.random.default_rng(0).normal(size=(4, *grid8.voxel_mask.shape)) * grid8.voxel_mask
    image = grid8.to_nifti(values)
    assert image.shape == (*grid8.mask.shape, 4)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    patch, voxel = map(int, np.argwhere(grid8.voxel_mask)[777])
    within = np.array(np.unravel_index(voxel, (grid8.lattice.patch,) * 3))
    mm = grid8.patches.mm[patch] + (within - (grid8.lattice.patch - 1) / 2) * grid8.lattice.voxel_mm
    index = tuple(np.rint(nibabel.affines.apply_affine(np.linalg.inv(image.affine), mm)).astype(int))
    np.testing.assert_allclose(np.asarray(image.dataobj)[index], values[:, patch, voxel], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(grid8.to_nifti(values[0]).dataobj), np.asarray(image.dataobj)[..., 0])


# --- a grid is a value


@settings(max_examples=25, deadline=None)
@given(**MASKS, voxel=st.integers(0, 24**3 - 1))
def test_one_voxel_makes_another_hash(seed: int, density: float, voxel: int) -> None:
    grid = random_grid(seed, density)
    mask = grid.mask.copy()
    assert Grid(grid.lattice, mask.astype(np.uint8)) == grid and hash(Grid(grid.lattice, mask)) == hash(grid)
    mask.reshape(-1)[voxel] ^= True
    if mask.any():
        other = Grid(grid.lattice, mask)
        assert other.hash != grid.hash and other != grid


def test_another_lattice_makes_another_hash() -> None:
    by_patch = [Grid(Lattice(24, 8.0, patch), np.ones((24,) * 3, bool)).hash for patch in (1, 2, 4)]
    assert len(set(by_patch)) == 3


def test_hash_is_the_same_in_another_process(grid8: Grid, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", grid8.mask)
    code = "import sys, numpy; from slimbrain.grid import *; print(Grid(LATTICES['8mm'], numpy.load(sys.argv[1])).hash)"
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "mask.npy")], check=True, capture_output=True, text=True).stdout
    assert out.strip() == grid8.hash


def test_pickling_keeps_the_value_and_sends_no_tables() -> None:
    grid = Grid.mni152("4mm")
    sent = pickle.dumps(grid)
    assert pickle.loads(sent) == grid
    assert len(sent) < grid.mask.size + 2_000


def test_a_changed_source_array_does_not_change_the_grid() -> None:
    mask = np.ones((24,) * 3, bool)
    grid = Grid(LATTICES["8mm"], mask)
    before = grid.hash
    mask[:12] = False
    assert grid.hash == before and grid.n_voxels == 24**3


def test_equal_to_nothing_but_grids(grid8: Grid) -> None:
    assert grid8 != grid8.hash and grid8 != None  # noqa: E711 -- the comparison is what is tested


# --- masks from files


def ellipsoid(step_mm: float, origin_mm: tuple[float, float, float], sign: int = 1) -> nibabel.Nifti1Image:
    """An ellipsoid off centre, sampled at `step_mm`, stored from left to right (sign 1) or from right to left (-1)."""
    edge = int(176 / step_mm)
    affine = np.diag([step_mm] * 3 + [1.0])
    affine[:3, 3] = origin_mm
    mm = nibabel.affines.apply_affine(affine, np.indices((edge,) * 3).reshape(3, -1).T)
    mask = inside_ellipsoid(mm).reshape((edge,) * 3).astype(np.uint8)
    if sign < 0:
        affine[0, 3] += step_mm * (edge - 1)
        affine[0, 0] = -step_mm
    return nibabel.Nifti1Image(mask[::sign], affine)


def inside_ellipsoid(mm: Array, grow_mm: float = 0.0) -> Array:
    radii = np.array([60.0, 70.0, 55.0]) + grow_mm
    return np.asarray((((mm - (1.3, -17.1, 5.2)) / radii) ** 2).sum(-1) < 1)


@pytest.mark.parametrize(
    ("step_mm", "origin_mm"),
    [(1.5, (-87, -103, -69)), (2, (-86, -104, -70)), (2, (-87, -103, -69)), (4, (-88, -104, -72)), (3, (-90, -126, -72))],
)
@pytest.mark.parametrize("resolution", ["2mm", "8mm", "8mm-p1"])
def test_left_handed_files_give_the_same_grid(step_mm: float, origin_mm: tuple[float, float, float], resolution: str) -> None:
    """Also where lattice centres lie midway between two voxels of the file (2 mm at odd places, 4 mm at multiples of 4)."""
    right = Grid.from_nifti(ellipsoid(step_mm, origin_mm), resolution)
    assert Grid.from_nifti(ellipsoid(step_mm, origin_mm, sign=-1), resolution) == right


@pytest.mark.parametrize("resolution", ["2mm", "4mm", "8mm"])
def test_a_known_shape_lands_where_it_is(resolution: str) -> None:
    lattice = LATTICES[resolution]
    grid = Grid.from_nifti(ellipsoid(2, (-87, -103, -69)), resolution)
    mm = nibabel.affines.apply_affine(lattice.affine, np.indices(grid.mask.shape).reshape(3, -1).T)
    margin = 2 + lattice.voxel_mm
    assert grid.mask.reshape(-1)[inside_ellipsoid(mm, -margin)].all()
    assert not grid.mask.reshape(-1)[~inside_ellipsoid(mm, margin)].any()
    volume = grid.n_voxels * lattice.voxel_mm**3
    assert volume == pytest.approx(4 / 3 * np.pi * 60 * 70 * 55, rel=0.02)


def test_an_oblique_file_lands_where_it_is() -> None:
    turn = nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1)
    affine = nibabel.affines.from_matvec(turn * 2.5, -turn @ np.full(3, 125.0) + (0, -17, 5))
    mm = nibabel.affines.apply_affine(affine, np.indices((101,) * 3).reshape(3, -1).T)
    grid = Grid.from_nifti(nibabel.Nifti1Image(inside_ellipsoid(mm).reshape((101,) * 3).astype(np.float32), affine), "8mm")
    assert grid.n_voxels * 512 == pytest.approx(4 / 3 * np.pi * 60 * 70 * 55, rel=0.03)
    centre = nibabel.affines.apply_affine(grid.lattice.affine, np.argwhere(grid.mask)).mean(0)
    np.testing.assert_allclose(centre, (1.3, -17.1, 5.2), atol=0.8)


def test_saved_masks_are_read_back(grid8: Grid, tmp_path: Path) -> None:
    path = grid8.save_mask(tmp_path / "new folder" / "mask.nii.gz")
    assert Grid.load(path, grid8.lattice.id) == grid8
    assert Grid.from_nifti(path, "8mm") == grid8
    assert Grid.from_nifti(nibabel.load(path), "8mm") == grid8


def bad_mask(kind: str, folder: Path) -> Path:
    path = folder / "mask.nii.gz"
    image = ellipsoid(4, (-88, -104, -72))
    if kind == "4D":
        image = nibabel.Nifti1Image(np.ones((9, 9, 9, 2), np.uint8), image.affine)
    elif kind == "empty":
        image = nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    elif kind == "elsewhere":
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), nibabel.affines.from_matvec(np.eye(3) * 4, (0, 0, 0)))
    image.to_filename(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "scrambled":
        path.write_bytes(gzip.compress(b"\0" * 1000))
    elif kind == "flipped bits":
        content = bytearray(path.read_bytes())
        content[-3000:-1000] = b"\xff" * 2000
        path.write_bytes(content)
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize("kind", ["4D", "empty", "elsewhere", "cut", "scrambled", "flipped bits", "missing"])
def test_a_mask_that_cannot_be_used_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = bad_mask(kind, tmp_path)
    with pytest.raises(InputError) as refusal:
        Grid.from_nifti(path, "8mm")
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and message.endswith(".") and "\n" not in message


def test_wrong_shapes_are_refused(grid8: Grid) -> None:
    with pytest.raises(InputError, match=r"\(23, 24, 24\).*\(24, 24, 24\)"):
        Grid(LATTICES["8mm"], np.ones((23, 24, 24), bool))
    with pytest.raises(InputError, match="no voxel"):
        Grid(LATTICES["8mm"], np.zeros((24, 24, 24), bool))
    with pytest.raises(InputError, match=r"\(24, 24\)"):
        grid8.pack(np.ones((24, 24)))
    with pytest.raises(InputError, match="5mm"):
        Grid.mni152("5mm")
    with pytest.raises(ContractError, match=rf"needs \(\.\.\., {grid8.n_patches}, 8\)"):
        grid8.unpack(np.ones((grid8.n_patches + 1, 8)))
