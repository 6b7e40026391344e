"""From a 4D image to packed, resampled, z-scored brain voxels, in memory that the length of the run does not set.

The file is read once. Each block of frames is interpolated at the brain voxels alone, by one sparse matrix whose rows
stand in patch order, and goes to a scratch file; then blocks of patches are read back over all frames, cleaned,
brought to the store's TR, z-scored, and put in their place in the float16 result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline, make_interp_spline
from scipy.sparse import coo_matrix, csr_matrix

from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.prep.denoise import Confounds
from slimbrain.prep.source import Source, frame_blocks
from slimbrain.store import NATIVE_TR_BAND_S

FloatArray = npt.NDArray[Any]

TARGET_TR_S = 0.72
"""HCP's TR, to which arXiv 2512.21881 brings every series outside `NATIVE_TR_BAND_S`."""

SPLINE_ORDER = 3
COORDINATE_DECIMALS = 6
"""Source coordinates are rounded to a millionth of a voxel, so that voxels that coincide are copied exactly."""

ANTIALIAS_RATIO = 1.5
"""Lattice voxels this much larger than the source's are averaged over several probes; one probe would alias."""

PATCH_BLOCK_BYTES = 12 * 2**20
"""Float64 series worked on at once; small enough for the cache to help, and for memory not to matter."""


@dataclass(frozen=True)
class Prepared:
    """A run on the grid.

    Attributes
    ----------
    voxels : (T, P, V) float16, z-scored over time; 0 outside the mask and where nothing was recorded.
    mean, std : (P, V) float32, in the image's units; 0 where nothing was recorded.
    tr : seconds a frame.
    covered : (P, V) True at mask voxels with finite data that change over time.
    coverage : share of the mask's voxels that are covered.
    n_nonfinite : mask voxels lost to NaN or infinite values.
    dvars : (T_source - 1,) root mean square over covered voxels of the change of the z-scored series, before denoising and resampling.
    global_signal : (T_source,) mean over covered voxels, in the image's units.
    """

    voxels: FloatArray
    mean: FloatArray
    std: FloatArray
    tr: float
    covered: npt.NDArray[np.bool_]
    coverage: float
    n_nonfinite: int
    dvars: FloatArray
    global_signal: FloatArray


def prepare_image(source: Source, grid: Grid, tr: float, confounds: Confounds | None = None, scratch: Path | None = None) -> Prepared:
    """Read, interpolate, denoise, resample in time and z-score one image.

    Parameters
    ----------
    source : the checked image.
    grid : where to put it.
    tr : seconds a frame of the source.
    confounds : what to regress out, if anything.
    scratch : folder for a temporary file of T * P * V float32; the system's if None.

    Raises
    ------
    InputError
        If the image cannot be read, lies outside the brain, or never changes.
    StoreError
        If the scratch file cannot be written.
    """
    operator = interpolation(grid, tuple(map(tuple, source.affine.tolist())), source.shape[:3])
    if not operator.nnz:
        raise InputError(f"{source.path}: no voxel lies inside the brain mask; check that its affine is in MNI millimetres.")
    times = TimeAxis(source.n_frames, tr)
    with _Scratch(scratch, operator.shape[0]) as series:
        lost = _interpolate(source, operator, series).reshape(grid.voxel_mask.shape)
        result = _standardise(series, grid, times, lost, confounds)
    if not result.coverage:
        raise InputError(f"{source.path}: every brain voxel is constant over time; give the time series, not a mask or a mean image.")
    return result


@lru_cache(maxsize=2)
def interpolation(grid: Grid, affine: tuple[tuple[float, ...], ...], shape: tuple[int, int, int]) -> csr_matrix:
    """Linear interpolation at the brain voxels as a matrix.

    Where the lattice voxel is at least `ANTIALIAS_RATIO` times the source's along an axis, round(ratio) probes along it are
    averaged; probes outside the field of view do not count, and at least half must lie inside. A brain voxel outside the
    field of view has an empty row, so it becomes 0, as in nilearn's resample_img; one exactly on its face lies inside.

    Parameters
    ----------
    grid : lattice and mask.
    affine : (4, 4) of the source, as nested tuples (to be cached by).
    shape : (X, Y, Z) of the source.

    Returns
    -------
    (P * V, X * Y * Z) float32; columns count voxels with X fastest, as on disk.
    """
    matrix = np.asarray(affine)
    # Worked out in the nearest RAS+ frame and mapped back to the file's order last: a file and its mirror image then
    # have the same weights, added in the same order, to the last bit.
    orientation = nibabel.io_orientation(matrix)
    on_disk = np.arange(np.prod(shape)).reshape(shape, order="F")
    column = nibabel.apply_orientation(on_disk, orientation)
    canonical = matrix @ nibabel.orientations.inv_ornt_aff(orientation, shape)
    to_source = np.linalg.inv(canonical)
    slots = np.flatnonzero(grid.voxel_mask)
    voxel = np.stack(np.unravel_index(grid.voxel_index[grid.voxel_mask], grid.mask.shape), axis=1)
    probes = _probes(grid.lattice.voxel_mm / np.linalg.norm(canonical[:3, :3], axis=0))
    total = csr_matrix((len(slots), column.size), dtype=np.float64)
    inside = np.zeros(len(slots))
    for probe in probes:
        mm = grid.lattice.origin_mm + grid.lattice.voxel_mm * (voxel + probe)
        place = np.round(mm @ to_source[:3, :3].T + to_source[:3, 3], COORDINATE_DECIMALS)
        weights, probe_inside = _corner_weights(place, column.shape)
        total, inside = total + weights, inside + probe_inside
    scale = np.divide(1.0, inside, out=np.zeros_like(inside), where=inside >= len(probes) / 2)
    return _rows_to_slots(total, scale, slots, grid.voxel_mask.size, column.ravel())


def _probes(ratio: FloatArray) -> FloatArray:
    """(N, 3) offsets in lattice voxels at which a voxel is sampled, given lattice over source voxel size by axis."""
    counts = [max(1, round(float(axis))) if axis >= ANTIALIAS_RATIO else 1 for axis in ratio]
    return np.array(list(product(*((np.arange(count) + 0.5) / count - 0.5 for count in counts))))


def _corner_weights(place: FloatArray, shape: tuple[int, ...]) -> tuple[csr_matrix, FloatArray]:
    """Trilinear weights (B, N) of the eight corners around each of B places, and which places lie in the field of view."""
    last = np.array(shape) - 1
    inside = ((place >= 0) & (place <= last)).all(axis=1)
    row = np.flatnonzero(inside)
    lower = np.minimum(np.floor(place[row]).astype(np.int64), last - 1)
    upper_share = place[row] - lower
    columns, weights = [], []
    for corner in product((0, 1), repeat=3):
        columns.append(np.ravel_multi_index(tuple((lower + corner).T), shape))
        weights.append(np.where(corner, upper_share, 1 - upper_share).prod(axis=1))
    entries = np.concatenate(weights), (np.tile(row, len(weights)), np.concatenate(columns))
    matrix = coo_matrix(entries, shape=(len(place), int(np.prod(shape)))).tocsr()
    matrix.eliminate_zeros()
    return matrix, np.asarray(inside, np.float64)


def _rows_to_slots(matrix: csr_matrix, scale: FloatArray, slots: FloatArray, n_slots: int, column: FloatArray) -> csr_matrix:
    """Scale row i, move it to row `slots[i]` of `n_slots`, and rename the columns."""
    matrix = csr_matrix(matrix.multiply(scale[:, None]))
    matrix.eliminate_zeros()
    per_slot = np.zeros(n_slots, np.int64)
    per_slot[slots] = np.diff(matrix.indptr)
    indptr = np.concatenate(([0], np.cumsum(per_slot)))
    return csr_matrix((matrix.data.astype(np.float32), column[matrix.indices], indptr), shape=(n_slots, matrix.shape[1]))


def _reciprocal(values: FloatArray, where: npt.NDArray[np.bool_]) -> FloatArray:
    """1 / values, and 0 where not `where`."""
    return np.divide(1, values, out=np.zeros_like(values), where=where)


class TimeAxis:
    """Where the stored frames lie among the recorded ones.

    A TR of 0.7-0.8 s is kept. Another is brought to 0.72 s by the interpolating cubic B-spline through all frames
    (not-a-knot ends), at 0, 0.72, ... up to the time of the last frame recorded.

    Parameters
    ----------
    n_source : frames recorded.
    source_tr : seconds a frame recorded.
    """

    def __init__(self, n_source: int, source_tr: float) -> None:
        self.n_source, self.source_tr = n_source, source_tr
        self.keeps = NATIVE_TR_BAND_S[0] <= source_tr <= NATIVE_TR_BAND_S[1]
        self.tr = source_tr if self.keeps else TARGET_TR_S
        # The slack keeps a frame that the division misses by rounding.
        self.n_frames = n_source if self.keeps else int((n_source - 1) * source_tr / TARGET_TR_S + 1e-6) + 1

    def resample(self, series: FloatArray) -> FloatArray:
        """(T_source, N) float64 -> (T, N) float32, solved in float64, evaluated in float32."""
        if self.keeps:
            return series.astype(np.float32)
        recorded = np.arange(self.n_source) * self.source_tr
        wanted = np.minimum(np.arange(self.n_frames) * self.tr, recorded[-1])
        spline = make_interp_spline(recorded, series, k=SPLINE_ORDER)
        basis = BSpline.design_matrix(wanted, spline.t, SPLINE_ORDER).astype(np.float32)
        return np.asarray(basis @ spline.c.astype(np.float32))


class _Scratch:
    """A nameless temporary file that takes blocks of frames and gives back series of voxels.

    Nameless, so that a killed process leaves nothing behind; a file, so that a long run does not fill the memory.
    """

    def __init__(self, folder: Path | None, n_slots: int) -> None:
        self._folder, self._n_slots = folder, n_slots
        self._widths: list[int] = []

    def __enter__(self) -> _Scratch:
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)
        except OSError as error:
            raise self._refusal(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: FloatArray) -> None:
        """Add F frames as (P * V, F) float32."""
        try:
            self._file.write(np.ascontiguousarray(block).data)
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error
        self._widths.append(block.shape[1])

    def read(self, start: int, stop: int) -> FloatArray:
        """(T, stop - start) float32 series of the slots from `start` to `stop`."""
        series = np.empty((sum(self._widths), stop - start), np.float32)
        frame = 0
        for width in self._widths:
            block = np.empty((stop - start, width), np.float32)
            self._file.seek(4 * (self._n_slots * frame + start * width))
            self._file.readinto(block.data.cast("B"))
            series[frame : frame + width] = block.T
            frame += width
        return series

    def _refusal(self, error: OSError) -> StoreError:
        place = self._folder or tempfile.gettempdir()
        return StoreError(f"{place}: cannot hold a temporary file ({error.strerror or error}); free space or choose another folder.")


def _interpolate(source: Source, operator: csr_matrix, series: _Scratch) -> npt.NDArray[np.bool_]:
    """Fill `series`; return (P * V,) True where a value that is not finite takes part."""
    bad = np.zeros(source.n_voxels, bool)
    for block in frame_blocks(source):
        if source.dtype.kind == "f":
            finite = np.isfinite(block)
            if not finite.all():
                bad |= ~finite.all(axis=0)
                block[~finite] = 0
        series.append(operator @ np.ascontiguousarray(block.T))
    return np.asarray(operator @ bad.astype(np.float32)) > 0


def _patch_blocks(grid: Grid, n_frames: int) -> Iterator[slice]:
    step = max(1, PATCH_BLOCK_BYTES // (8 * grid.voxels_per_patch * n_frames))
    for start in range(0, grid.n_patches, step):
        yield slice(start, min(start + step, grid.n_patches))


def _standardise(series: _Scratch, grid: Grid, times: TimeAxis, lost: npt.NDArray[np.bool_], confounds: Confounds | None) -> Prepared:
    shape, size = grid.voxel_mask.shape, grid.voxels_per_patch
    voxels = np.empty((times.n_frames, *shape), np.float16)
    mean, std, covered = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    change, level = np.zeros(times.n_source - 1), np.zeros(times.n_source)
    for patches in _patch_blocks(grid, max(times.n_frames, times.n_source)):
        raw = series.read(patches.start * size, patches.stop * size)
        usable = (raw.max(axis=0) > raw.min(axis=0)) & np.isfinite(raw).all(axis=0) & ~lost[patches].ravel()
        raw[:, ~usable] = 0
        centre = raw.mean(axis=0, dtype=np.float64)
        recorded = raw - centre
        variance = np.einsum("tv,tv->v", recorded, recorded) / times.n_source
        stored = times.resample(confounds.remove(recorded) if confounds else recorded)
        shift = stored.mean(axis=0)
        stored -= shift
        spread = np.sqrt(np.einsum("tv,tv->v", stored, stored) / times.n_frames)
        # What regression leaves of a voxel that the confounds explain whole is rounding, not signal.
        usable &= spread > np.finfo(np.float32).eps * np.sqrt(variance)
        stored *= _reciprocal(spread, usable)
        voxels[:, patches] = stored.reshape(times.n_frames, -1, size)
        covered[patches] = usable.reshape(-1, size)
        mean[patches] = np.where(usable, centre + shift, 0).reshape(-1, size)
        std[patches] = np.where(usable, spread, 0).reshape(-1, size)
        level += raw @ usable.astype(np.float32)
        steps = np.diff(recorded, axis=0)
        change += np.square(steps, out=steps) @ _reciprocal(variance, usable)
    n_covered = int(covered.sum())
    n_lost = int((lost & grid.voxel_mask).sum())
    per_voxel = max(n_covered, 1)
    dvars, global_signal = np.sqrt(change / per_voxel), level / per_voxel
    return Prepared(voxels, mean, std, times.tr, covered, n_covered / grid.n_voxels, n_lost, dvars, global_signal)
