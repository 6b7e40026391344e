"""From a 4D image to packed, resampled, z-scored brain voxels, in memory that the length of the run does not set.

The file is read once. Of each block of frames the brain voxels alone are copied, or interpolated by one sparse matrix, straight into
patch order, and go to a temporary file; then blocks of patches are read back over all frames, cleaned, brought to the store's TR,
z-scored, and put in their place in a second file, from which the store takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from threadpoolctl import threadpool_limits

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.denoise import Confounds
from slimbrain.prep.frames import FrameRecord, FrameWatch, bridge
from slimbrain.prep.scratch import FrameFile
from slimbrain.prep.source import Source, ahead
from slimbrain.prep.timing import TimeAxis

_FloatArray = npt.NDArray[Any]

_COORDINATE_DECIMALS = 6
"""Source coordinates are rounded to a millionth of a voxel, so that voxels that coincide are copied exactly."""

_ANTIALIAS_RATIO = 1.5
"""Lattice voxels this much larger than the source's are averaged over several probes; one probe would alias."""

_THREADS = 2
"""Blocks of series worked on at once: one thread's reading and writing fills the other's waits, and most machines have two cores."""

_SERIES_BLOCK_BYTES = 16 * 2**20
"""Float32 series in a block. A frame's share of them is read and written by one call each, so smaller blocks would cost more calls."""


@dataclass(frozen=True)
class Prepared:
    """A run on the grid.

    Attributes
    ----------
    voxels : ndarray
        (T, P, V) float16, z-scored over time; 0 outside the mask and where nothing was recorded. Mapped from a file, so that they fill no
        memory until they are looked at.
    mean, std : ndarray
        (P, V) float32, in the image's units; 0 where nothing was recorded.
    tr : float
        Seconds per frame.
    covered : ndarray of bool
        (P, V) True at mask voxels with finite data that change over time.
    coverage : float
        Share of the mask's voxels that are covered.
    n_nonfinite : int
        Mask voxels lost to NaN or infinite values.
    frames : FrameRecord
        What is odd about single recorded frames.
    bridged : ndarray of bool
        (T_source,) True at missing frames that were replaced by straight lines between their neighbours.
    dvars : ndarray
        (T_source - 1,) root mean square over covered voxels of the change of the z-scored series, before denoising and resampling.
    global_signal : ndarray
        (T_source,) mean over covered voxels, in the image's units.
    """

    voxels: _FloatArray
    mean: _FloatArray
    std: _FloatArray
    tr: float
    covered: npt.NDArray[np.bool_]
    coverage: float
    n_nonfinite: int
    dvars: _FloatArray
    global_signal: _FloatArray
    frames: FrameRecord
    bridged: npt.NDArray[np.bool_]


def prepare_image(
    source: Source, grid: Grid, tr: float, confounds: Confounds | None = None, scratch: Path | None = None, flag_nonfinite: bool = False
) -> Prepared:
    """Read, interpolate, denoise, resample in time and z-score one image.

    Parameters
    ----------
    source : Source
        The checked image.
    grid : Grid
        Where to put it.
    tr : float
        Seconds per frame of the source.
    confounds : Confounds or None
        What to regress out, if anything.
    flag_nonfinite : bool
        Whether frames most of whose voxels are not finite are bridged, and do not cost the voxels.
    scratch : Path or None
        Folder for two nameless temporary files, of T_source * N float32 and T * P * V float16; the system's if None.

    Returns
    -------
    Prepared
        The run; its `voxels` are mapped from the second file, which lives as long as they do.

    Raises
    ------
    InputError
        If the image cannot be read, lies outside the brain, or never changes.
    StoreError
        If a temporary file cannot be written.
    """
    sampling = Sampling.of(grid, source)
    if not sampling.filled.any():
        raise InputError(f"{source.path}: no voxel lies inside the brain mask; check that its affine is in MNI millimetres.")
    with FrameFile(scratch, (source.n_frames, grid.n_voxels), np.float32) as series:
        frames = interpolate(source, sampling, series.put_frames)
        bridged = frames.missing & (flag_nonfinite and not frames.missing.all())
        if bridged.any():
            bridge(series, bridged)
            confounds = replace(confounds, kept=confounds.kept & ~bridged) if confounds else None
        result = _standardise(series, grid, TimeAxis(source.n_frames, tr), frames, bridged, confounds, scratch)
    if not result.coverage:
        raise InputError(f"{source.path}: {_why_nothing(result)}")
    return result


def _why_nothing(prepared: Prepared) -> str:
    """Why no brain voxel could be used, and the way out."""
    frames = prepared.frames
    if not prepared.n_nonfinite:
        return "every brain voxel is constant over time; give the time series, not a mask or a mean image."
    where = f"{int(frames.nonfinite.sum())} of {len(frames.nonfinite)} frames" if frames.nonfinite.any() else "all frames"
    way_out = "restore it"
    if frames.missing.any() and not prepared.bridged.any() and not frames.missing.all():
        way_out += ", or have such frames bridged and flagged with --flag-nonfinite"
    return (
        f"{prepared.n_nonfinite} of {len(frames.lost)} brain voxels hold values that are not finite (NaN, infinite, or beyond float32), "
        f"in {where}, and no other voxel changes over time; {way_out}."
    )


@dataclass(frozen=True)
class Sampling:
    """What the N brain voxels, in patch order, take from a frame: a copy each where the voxel grids coincide, else weighted sums.

    Attributes
    ----------
    taken : ndarray of int
        (U,) voxels of the image that take part, counted with X fastest; one a brain voxel (U = N) where voxels are copied.
    weights : csr_matrix or None
        (N, U) weights, None where voxels are copied.
    filled : ndarray of bool
        (N,) False where a brain voxel lies outside the image, so that it becomes 0.
    """

    taken: npt.NDArray[np.int64]
    weights: csr_matrix | None
    filled: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, grid: Grid, source: Source) -> Sampling:
        """How an image comes to the brain voxels of a grid."""
        return _sampling(grid, tuple(map(tuple, source.affine.tolist())), source.shape[:3])

    def __call__(self, values: _FloatArray) -> _FloatArray:
        """(F, U) float32 values of `taken` -> (F, N) float32; may overwrite them."""
        if self.weights is not None:
            return np.ascontiguousarray((self.weights @ np.ascontiguousarray(values.T)).T)
        if not self.filled.all():
            values[:, ~self.filled] = 0
        return values


def interpolate(source: Source, sampling: Sampling, put: Callable[[int, _FloatArray], object]) -> FrameRecord:
    """Read the image once and hand on what the N brain voxels, in patch order, take from it.

    Parameters
    ----------
    put : callable
        Called with the number of the first of F frames and their (F, N) float32 values, block after block; not finite counts as 0.

    Returns
    -------
    FrameRecord
        Which voxels and frames hold values that are not finite, and which frames are copies.

    Raises
    ------
    InputError
        If the file ends early, is damaged, or vanishes.
    """
    # Where voxels are copied, those outside the image have a stand-in.
    watch = FrameWatch(source.n_frames, sampling.filled if sampling.weights is None else np.ones(len(sampling.taken), bool))
    frame = 0
    for raw in ahead(source.raw_blocks()):
        values = source.scaled(np.take(raw, sampling.taken, axis=1))
        watch.look(values)
        put(frame, sampling(values))
        frame += len(raw)
    return watch.record(sampling)


@lru_cache(maxsize=2)
def _sampling(grid: Grid, affine: tuple[tuple[float, ...], ...], shape: tuple[int, int, int]) -> Sampling:
    operator = interpolation(grid, affine, shape)[grid.voxel_mask.ravel()]
    sources = np.diff(operator.indptr)
    if (sources <= 1).all() and (operator.data == 1).all():
        taken = np.zeros(grid.n_voxels, np.int64)
        taken[sources == 1] = operator.indices
        return Sampling(taken, None, sources > 0)
    taken, column = np.unique(operator.indices, return_inverse=True)
    weights = csr_matrix((operator.data, column, operator.indptr), shape=(grid.n_voxels, len(taken)))
    return Sampling(taken.astype(np.int64), weights, sources > 0)


def interpolation(grid: Grid, affine: tuple[tuple[float, ...], ...], shape: tuple[int, int, int]) -> csr_matrix:
    """Linear interpolation at the brain voxels as a matrix.

    Where the lattice voxel is at least `_ANTIALIAS_RATIO` times the source's along an axis, round(ratio) probes along it are
    averaged; probes outside the field of view do not count, and at least half must lie inside. A brain voxel outside the
    field of view has an empty row, so it becomes 0, as in nilearn's resample_img; one exactly on its face lies inside.

    Parameters
    ----------
    grid : Grid
        Lattice and mask.
    affine : tuple of tuple of float
        (4, 4) of the source, as nested tuples.
    shape : tuple of int
        (X, Y, Z) of the source.

    Returns
    -------
    csr_matrix
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
        place = np.round(mm @ to_source[:3, :3].T + to_source[:3, 3], _COORDINATE_DECIMALS)
        weights, probe_inside = _corner_weights(place, column.shape)
        total, inside = total + weights, inside + probe_inside
    scale = np.divide(1.0, inside, out=np.zeros_like(inside), where=inside >= len(probes) / 2)
    return _rows_to_slots(total, scale, slots, grid.voxel_mask.size, column.ravel())


def _probes(ratio: _FloatArray) -> _FloatArray:
    """(N, 3) offsets in lattice voxels at which a voxel is sampled, given lattice over source voxel size by axis."""
    counts = [max(1, round(float(axis))) if axis >= _ANTIALIAS_RATIO else 1 for axis in ratio]
    return np.array(list(product(*((np.arange(count) + 0.5) / count - 0.5 for count in counts))))


def _corner_weights(place: _FloatArray, shape: tuple[int, ...]) -> tuple[csr_matrix, _FloatArray]:
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


def _rows_to_slots(matrix: csr_matrix, scale: _FloatArray, slots: _FloatArray, n_slots: int, column: _FloatArray) -> csr_matrix:
    """Scale row i, move it to row `slots[i]` of `n_slots`, and rename the columns."""
    matrix = csr_matrix(matrix.multiply(scale[:, None]))
    matrix.eliminate_zeros()
    per_slot = np.zeros(n_slots, np.int64)
    per_slot[slots] = np.diff(matrix.indptr)
    indptr = np.concatenate(([0], np.cumsum(per_slot)))
    return csr_matrix((matrix.data.astype(np.float32), column[matrix.indices], indptr), shape=(n_slots, matrix.shape[1]))


def _reciprocal(values: _FloatArray, where: npt.NDArray[np.bool_]) -> _FloatArray:
    """1 / values, and 0 where not `where`."""
    return np.divide(1, values, out=np.zeros_like(values), where=where)


def _patch_blocks(grid: Grid, n_frames: int) -> Iterator[slice]:
    step = max(1, _SERIES_BLOCK_BYTES // (4 * grid.voxels_per_patch * n_frames))
    for start in range(0, grid.n_patches, step):
        yield slice(start, min(start + step, grid.n_patches))


def _standardise(
    series: FrameFile,
    grid: Grid,
    times: TimeAxis,
    frames: FrameRecord,
    bridged: npt.NDArray[np.bool_],
    confounds: Confounds | None,
    scratch: Path | None,
) -> Prepared:
    shape, size, lost = grid.voxel_mask.shape, grid.voxels_per_patch, frames.lost_elsewhere if bridged.any() else frames.lost
    mean, std, covered = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    level, change = np.zeros(times.n_source), np.zeros(times.n_source - 1)
    first = np.concatenate(([0], np.cumsum(grid.patch_voxels)))

    def work(patches: slice) -> tuple[_FloatArray, _FloatArray]:
        columns, inside = slice(first[patches.start], first[patches.stop]), grid.voxel_mask[patches]
        block = _SeriesBlock(series.columns(columns.start, columns.stop), lost[columns])
        sums = block.level(), block.change()
        voxels.put_columns(patches.start * size, _with_gaps(block.stored(times, confounds), inside.ravel()))
        for table, row in ((mean, block.mean), (std, block.std), (covered, block.usable)):
            table[patches][inside] = row
        return sums

    with FrameFile(scratch, (times.n_frames, grid.voxel_mask.size), np.float16) as voxels:
        # One thread of BLAS each: more would wait for each other in products this small, and a sum would depend on their number.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(_THREADS) as pool:
            for part_level, part_change in pool.map(work, _patch_blocks(grid, max(times.n_frames, times.n_source))):
                level += part_level
                change += part_change
        result = voxels.mapped((times.n_frames, *shape))
    n_covered = int(covered.sum())
    dvars, global_signal = np.sqrt(change / max(n_covered, 1)), level / max(n_covered, 1)
    coverage, n_lost = n_covered / grid.n_voxels, int(lost.sum())
    return Prepared(result, mean, std, times.tr, covered, coverage, n_lost, dvars, global_signal, frames, bridged)


def _with_gaps(values: _FloatArray, inside: npt.NDArray[np.bool_]) -> _FloatArray:
    """(T, n) columns of the brain voxels -> (T, N) float16 of all voxels of their patches, 0 outside the brain."""
    padded = np.zeros((len(values), values.shape[1] + 1), np.float16)
    padded[:, :-1] = values
    return np.take(padded, np.where(inside, np.cumsum(inside) - 1, values.shape[1]), axis=1)


class _SeriesBlock:
    """(T_source, n) series of some voxels, z-scored in place.

    The first frame is taken off, and the rest divided by the largest change, before anything is squared or summed: float32 then loses
    nothing to the brightness of the image, and neither overflows nor vanishes whatever the image's unit.

    Parameters
    ----------
    series : ndarray
        Float32, overwritten.
    lost : ndarray of bool
        (n,) voxels not to use.
    """

    def __init__(self, series: _FloatArray, lost: npt.NDArray[np.bool_]) -> None:
        base = series[0].copy()
        with np.errstate(invalid="ignore", over="ignore"):
            series -= base
            largest = np.maximum(series.max(axis=0), -series.min(axis=0))
            usable = (largest > 0) & np.isfinite(largest) & ~lost
        if not usable.all():
            series[:, ~usable] = 0
        series *= _reciprocal(largest, usable)
        centre = series.mean(axis=0)
        series -= centre
        spread = np.sqrt(np.einsum("tv,tv->v", series, series) / len(series))
        series *= _reciprocal(spread, usable)
        self.series, self.usable = series, usable
        scale = np.where(usable, largest, 0).astype(np.float64)
        self.mean, self.std = np.where(usable, base, 0) + scale * centre, scale * spread

    def level(self) -> _FloatArray:
        """(T_source,) sum over voxels in the image's units."""
        return self.series @ self.std.astype(np.float32) + self.mean.sum()

    def change(self) -> _FloatArray:
        """(T_source - 1,) sum over voxels of the squared change of the z-scored series."""
        steps = self.series[1:] - self.series[:-1]
        return np.einsum("tv,tv->t", steps, steps)

    def stored(self, times: TimeAxis, confounds: Confounds | None) -> _FloatArray:
        """(T, n) float32 z-scored series to keep; `mean`, `std` and `usable` then are those of what was kept before the z-score."""
        if times.keeps and confounds is None:
            return self.series
        stored = times.resample(confounds.remove(self.series.astype(np.float64)) if confounds else self.series)
        shift = stored.mean(axis=0)
        stored -= shift
        spread = np.sqrt(np.einsum("tv,tv->v", stored, stored) / len(stored))
        # What regression leaves of a voxel that the confounds explain whole is rounding, not signal.
        self.usable = self.usable & (spread > np.finfo(np.float32).eps)
        stored *= _reciprocal(spread, self.usable)
        self.mean, self.std = np.where(self.usable, self.mean + shift * self.std, 0), np.where(self.usable, spread * self.std, 0)
        return stored
