"""Space and time: against nilearn, scipy, closed forms, and the same brain stored in another order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nilearn.image import resample_img
from prep_samples import Array, affine, brain_series, save
from scipy.interpolate import CubicSpline
from store_samples import PEAK_KIB

from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.prep import volume
from slimbrain.prep.denoise import Confounds
from slimbrain.prep.source import open_source
from slimbrain.prep.timing import TimeAxis
from slimbrain.prep.volume import Sampling, interpolate, interpolation, prepare_image


def packed(grid: Grid, data: Array, matrix: Array) -> Array:
    """(T, P, V) what the interpolation makes of (X, Y, Z, T)."""
    operator = interpolation(grid, tuple(map(tuple, matrix.tolist())), data.shape[:3])
    return (operator @ data.reshape(-1, data.shape[3], order="F")).T.reshape(-1, *grid.voxel_mask.shape)


def moments(series: Array) -> tuple[Array, Array, Array]:
    mean, std = series.mean(axis=0, dtype=np.float64), series.std(axis=0, dtype=np.float64)
    return mean, std, np.divide(series - mean, std, out=np.zeros_like(series, np.float64), where=std > 1e-3)


def oblique() -> Array:
    rotation = nibabel.eulerangles.euler2mat(0.1, -0.07, 0.2)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag((-9.0, 8.5, 10.0))
    matrix[:3, 3] = (85.0, -105.0, -60.0)
    return matrix


def turned(matrix: Array, shape: tuple[int, ...], codes: str) -> tuple[Array, tuple[int, ...]]:
    """The affine and shape of the same box when the file's axes run as `codes` say, counted from the nearest RAS+ order."""
    image = nibabel.Nifti1Image(np.zeros(shape, np.float32), matrix)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(matrix), wanted))
    return image.affine, image.shape


def read_out(grid: Grid, path: Path) -> Array:
    """(T, P, V) what `interpolate` hands on, 0 outside the mask."""
    source = open_source(path)
    result = np.zeros((source.n_frames, *grid.voxel_mask.shape), np.float32)
    blocks: dict[int, Array] = {}
    interpolate(source, Sampling.of(grid, source), blocks.__setitem__)
    result[:, grid.voxel_mask] = np.concatenate([blocks[start] for start in sorted(blocks)])
    return result


def nilearns(grid: Grid, path: Path) -> Array:
    reference = resample_img(
        nibabel.load(path),
        grid.lattice.affine,
        grid.mask.shape,
        interpolation="linear",
        fill_value=0,
        force_resample=True,
        copy_header=True,
    )
    return grid.pack(np.moveaxis(reference.get_fdata(), -1, 0))


@pytest.mark.parametrize("codes", ["RAS", "LAS", "RPI", "SAL", "PIR"])
@pytest.mark.parametrize("matrix", [affine(9.0, (-90.0, -110.0, -50.0)), oblique()], ids=["cut field of view", "oblique"])
def test_equals_nilearn_at_brain_voxels(tmp_path: Path, grid8: Grid, matrix: Array, codes: str) -> None:
    matrix, shape = turned(matrix, (19, 22, 15), codes)
    data = np.random.default_rng(1).standard_normal((*shape, 3)).astype(np.float32)
    path = save(tmp_path / "image.nii.gz", data, matrix)
    expected = nilearns(grid8, path)
    np.testing.assert_allclose(read_out(grid8, path), expected, atol=1e-4)
    np.testing.assert_allclose(packed(grid8, data, matrix), expected, atol=1e-4)
    assert (expected[:, grid8.voxel_mask] == 0).any(), "part of the brain must lie outside for this to test the rim"


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPI", "SAR"])
@pytest.mark.parametrize("first", [(-3, 2, -1), (4, 5, 3)], ids=["whole", "cut"])
def test_grids_that_differ_by_whole_voxels_are_copied_and_equal_nilearn(
    tmp_path: Path, grid8: Grid, codes: str, first: tuple[int, int, int]
) -> None:
    matrix, shape = turned(affine(8.0, tuple(grid8.lattice.origin_mm + 8.0 * np.array(first))), (29, 25, 27), codes)
    path = save(tmp_path / "image.nii", np.random.default_rng(8).standard_normal((*shape, 2)).astype(np.float32), matrix)
    sampling = Sampling.of(grid8, open_source(path))
    assert sampling.weights is None and sampling.filled.all() == (first[0] < 0)
    result = read_out(grid8, path)
    np.testing.assert_allclose(result, nilearns(grid8, path), atol=1e-5)
    on_disk = np.asarray(nibabel.load(path).dataobj)
    assert np.isin(result[result != 0], on_disk).all(), "a copy is the same number to the last bit"


def test_equals_nilearn_on_the_real_lattice(tmp_path: Path) -> None:
    grid = Grid.mni152("2mm")
    # A lattice plane exactly on the image's face would be inside for us and, by rounding, outside for nilearn.
    matrix = affine(3.0, (-78.5, -111.5, -49.5))
    data = np.random.default_rng(2).standard_normal((53, 63, 46, 1)).astype(np.float32)
    path = save(tmp_path / "image.nii", data, matrix)
    np.testing.assert_allclose(read_out(grid, path), nilearns(grid, path), atol=1e-4)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 3)])
def test_voxels_that_coincide_are_copied(grid8: Grid, shift: tuple[int, int, int]) -> None:
    lattice = grid8.lattice
    origin = lattice.origin_mm + 8.0 * np.array(shift)
    data = np.random.default_rng(3).standard_normal((lattice.edge,) * 3 + (2,)).astype(np.float32)
    on_lattice = np.moveaxis(np.roll(data, shift, axis=(0, 1, 2)), -1, 0)
    operator = interpolation(grid8, tuple(map(tuple, affine(8.0, tuple(origin)).tolist())), data.shape[:3])
    assert (operator.data == 1).all()
    np.testing.assert_array_equal(packed(grid8, data, affine(8.0, tuple(origin))), grid8.pack(on_lattice))


@pytest.mark.parametrize("codes", ["LAS", "LPI", "RSA", "AIL", "SPR"])
@pytest.mark.parametrize("voxel_mm", [3.5, 7.3, 8.0])
def test_storage_order_makes_no_difference_to_the_last_bit(grid8: Grid, codes: str, voxel_mm: float) -> None:
    matrix = affine(voxel_mm, (-97.25, -113.5, -79.125))
    edge = int(200 / voxel_mm)
    image = nibabel.Nifti1Image(np.random.default_rng(4).standard_normal((edge, edge, edge, 2)).astype(np.float32), matrix)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(matrix), wanted))
    assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
    expected = packed(grid8, np.asarray(image.dataobj), image.affine)
    np.testing.assert_array_equal(packed(grid8, np.asarray(turned.dataobj), turned.affine), expected)


def test_linear_fields_come_through_unchanged_also_when_averaged(grid8: Grid) -> None:
    matrix = affine(3.0, (-110.0, -125.0, -90.0))
    index = np.indices((75, 75, 75)).reshape(3, -1)
    field = (np.array((0.5, -2.0, 1.5)) @ (3.0 * index + matrix[:3, 3:])).reshape(75, 75, 75, 1)
    lattice_mm = grid8.lattice.affine[:3, :3] @ np.indices(grid8.mask.shape).reshape(3, -1) + grid8.lattice.origin_mm[:, None]
    expected = (np.array((0.5, -2.0, 1.5)) @ lattice_mm).reshape(grid8.mask.shape)
    np.testing.assert_allclose(packed(grid8, field, matrix)[0], grid8.pack(expected), atol=2e-4)


def test_a_checkerboard_finer_than_the_lattice_averages_out(grid8: Grid) -> None:
    index = np.indices((56, 56, 56)).sum(axis=0)
    data = np.where(index % 2, 1.0, -1.0)[..., None]
    result = packed(grid8, data, affine(4.0, (-111.0, -127.0, -93.0)))
    # One probe would land on voxel centres and return only ones.
    np.testing.assert_allclose(result, 0, atol=1e-6)


@pytest.mark.parametrize(("tr", "frames"), [(2.0, 30), (0.4, 41), (0.81, 12), (3.0, 5), (2.0, 4), (2.0, 200), (0.3, 900)])
def test_resampling_is_scipys_cubic_spline(tr: float, frames: int) -> None:
    series = np.random.default_rng(5).standard_normal((frames, 4))
    times = TimeAxis(frames, tr)
    wanted = np.arange(0, (frames - 1) * tr + 1e-9, 0.72)
    assert times.tr == 0.72
    assert times.n_frames == len(wanted)
    np.testing.assert_allclose(times.resample(series), CubicSpline(np.arange(frames) * tr, series)(wanted), atol=2e-5)


@pytest.mark.parametrize("tr", [0.7, 0.72, 0.735, 0.8])
def test_trs_near_the_target_are_kept(tr: float) -> None:
    series = np.random.default_rng(6).standard_normal((11, 3)).astype(np.float32)
    times = TimeAxis(11, tr)
    assert (times.tr, times.n_frames) == (tr, 11)
    np.testing.assert_array_equal(times.resample(series), series)


@pytest.mark.parametrize("small_blocks", [False, True])
@pytest.mark.parametrize("tr", [0.72, 2.0])
def test_prepared_run_equals_the_direct_computation(
    tmp_path: Path, grid8: Grid, monkeypatch: pytest.MonkeyPatch, small_blocks: bool, tr: float
) -> None:
    if small_blocks:
        monkeypatch.setattr(volume, "_SERIES_BLOCK_BYTES", 1)
        monkeypatch.setattr("slimbrain.prep.source._MAX_BLOCK_FRAMES", 3)
    data, matrix = brain_series((14, 14, 14), 25), affine(16.0)
    result = prepare_image(open_source(save(tmp_path / "image.nii.gz", data, matrix)), grid8, tr, scratch=tmp_path)
    recorded = packed(grid8, data, matrix).astype(np.float64)
    wanted = np.arange(0, 24 * tr + 1e-9, 0.72)
    stored = recorded if tr == 0.72 else CubicSpline(np.arange(25) * tr, recorded)(wanted)
    mean, std, z = moments(stored)
    assert result.coverage == 1
    np.testing.assert_allclose(result.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(result.std, std, rtol=1e-4)
    np.testing.assert_allclose(result.voxels, z, atol=4e-3)
    assert result.voxels.dtype == np.float16
    brain = recorded[:, grid8.voxel_mask]
    np.testing.assert_allclose(result.global_signal, brain.mean(axis=1), rtol=1e-6)
    change = np.diff((brain - brain.mean(axis=0)) / brain.std(axis=0), axis=0)
    np.testing.assert_allclose(result.dvars, np.sqrt((change**2).mean(axis=1)), rtol=1e-5)
    assert not list(tmp_path.glob("tmp*")), "the scratch file must leave nothing behind"


@pytest.mark.parametrize("unit", [1e-30, 1e-15, 1.0, 1e30])
def test_the_unit_of_the_image_makes_no_difference(tmp_path: Path, grid8: Grid, unit: float) -> None:
    """Squares of such numbers leave the range of float32; one voxel of another order must not hurt its neighbours either."""
    data = brain_series((14, 14, 14), 20) - 900
    data[3, 3, 3] *= 1e-7
    results = []
    for number, factor in enumerate((1.0, unit)):
        path = save(tmp_path / f"{number}.nii", (data * factor).astype(np.float32), affine(16.0))
        results.append(prepare_image(open_source(path), grid8, 2.0))
    assert results[1].coverage == 1
    np.testing.assert_allclose(results[1].voxels, results[0].voxels, atol=4e-3)
    np.testing.assert_allclose(results[1].std / unit, results[0].std, rtol=1e-3)
    np.testing.assert_allclose(results[1].dvars, results[0].dvars, rtol=1e-4)


def test_memory_does_not_grow_with_the_run(tmp_path: Path, grid8: Grid) -> None:
    """A run four times as long as another, prepared and written in a process of its own, takes no more than half of what it gives."""
    frames = 16_000
    generator = np.random.default_rng(0)
    image = nibabel.Nifti1Image(generator.integers(500, 1500, (14, 14, 14, frames), np.int16), affine(16.0))
    image.to_filename(tmp_path / "image.nii")
    del image
    mask = grid8.save_mask(tmp_path / "mask.nii.gz")
    code = (
        "import sys; from pathlib import Path\n"
        "from slimbrain.grid import Grid; from slimbrain.prep.source import open_source; from slimbrain.prep.volume import prepare_image\n"
        "from slimbrain.store import Store; from slimbrain.store.write import write_session\n"
        "folder = Path(sys.argv[1]); grid = Grid.load(sys.argv[2], 'mni-8mm-24-p2'); store = Store.create(folder / 'store', grid, 0.72)\n"
        f"{PEAK_KIB}\n"
        "def run(source):\n"
        "    result = prepare_image(source, grid, 0.72, scratch=folder)\n"
        "    entities = {'sub': '1', 'space': 'MNI152Lin'}\n"
        "    write_session(store, entities, result.voxels, result.mean, result.std, 0.72)\n"
        "    return result.voxels.nbytes / 2**20\n"
        "source = open_source(folder / 'image.nii')\n"
        "from dataclasses import replace\n"
        "run(replace(source, shape=(14, 14, 14, 4000))); before = peak(); size = run(source); print(size, (peak() - before) / 1024)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(mask)]
    size, grown = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert size > 100
    assert grown < 0.5 * size


def test_bad_values_cost_exactly_the_voxels_they_touch(tmp_path: Path, grid8: Grid) -> None:
    data, matrix = brain_series((14, 14, 14), 12), affine(16.0)
    data[6, 7, 6, 3], data[5, 5, 5, 0] = np.nan, np.inf
    data[8, 8, 8] = 1000.0
    result = prepare_image(open_source(save(tmp_path / "image.nii", data, matrix)), grid8, 0.72)
    bad = ~np.isfinite(data).all(axis=3, keepdims=True)
    touched = (packed(grid8, bad.astype(np.float32), matrix)[0] > 0) & grid8.voxel_mask
    assert touched.any()
    np.testing.assert_array_equal(result.covered, grid8.voxel_mask & ~touched)
    assert result.n_nonfinite == touched.sum()
    assert not result.voxels[:, ~result.covered].any()
    assert not result.std[~result.covered].any()
    assert np.isfinite(result.voxels).all()


def test_constant_voxels_are_zero_and_not_covered(tmp_path: Path, grid8: Grid) -> None:
    lattice = grid8.lattice
    data = brain_series((lattice.edge,) * 3, 10)
    data[:, :, :12] = 1234.5678
    result = prepare_image(open_source(save(tmp_path / "image.nii", data, lattice.affine)), grid8, 0.72)
    upper = np.zeros(grid8.mask.shape, bool)
    upper[:, :, 12:] = True
    np.testing.assert_array_equal(result.covered, grid8.voxel_mask & grid8.pack(upper))
    assert result.coverage == pytest.approx((grid8.mask & upper).sum() / grid8.n_voxels)


def test_images_that_never_change_or_miss_the_brain_are_refused(tmp_path: Path, grid8: Grid) -> None:
    still = save(tmp_path / "still.nii", np.full((14, 14, 14, 9), 7.0, np.float32), affine(16.0))
    with pytest.raises(InputError, match=r"still\.nii: every brain voxel is constant"):
        prepare_image(open_source(still), grid8, 0.72)
    away = save(tmp_path / "away.nii", brain_series((14, 14, 14), 9), affine(16.0, (2000.0, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"away\.nii: no voxel lies inside the brain mask"):
        prepare_image(open_source(away), grid8, 0.72)


def test_a_scratch_folder_that_cannot_be_written_is_named(tmp_path: Path, grid8: Grid) -> None:
    source = open_source(save(tmp_path / "image.nii", brain_series((14, 14, 14), 9), affine(16.0)))
    with pytest.raises(StoreError, match="nowhere"):
        prepare_image(source, grid8, 0.72, scratch=tmp_path / "nowhere")


def test_denoising_happens_before_resampling(tmp_path: Path, grid8: Grid) -> None:
    rng = np.random.default_rng(7)
    nuisance = rng.standard_normal((40, 2))
    data, matrix = brain_series((14, 14, 14), 40), affine(16.0)
    dirty = data + 300 * (rng.standard_normal((14, 14, 14, 2)) @ nuisance.T).astype(np.float32)
    confounds = Confounds(nuisance, np.ones(40, bool), ("a", "b"))
    result = prepare_image(open_source(save(tmp_path / "image.nii", dirty, matrix)), grid8, 2.0, confounds)
    design = np.column_stack([np.ones(40), nuisance])
    brain = packed(grid8, dirty, matrix).reshape(40, -1).astype(np.float64)
    residual = brain - design @ np.linalg.lstsq(design, brain, rcond=None)[0] + brain.mean(axis=0)
    stored = CubicSpline(np.arange(40) * 2.0, residual)(np.arange(result.voxels.shape[0]) * 0.72)
    mean, _, z = moments(stored)
    np.testing.assert_allclose(result.voxels.reshape(len(z), -1), z, atol=5e-3)
    np.testing.assert_allclose(result.mean.ravel(), mean, rtol=1e-4)
