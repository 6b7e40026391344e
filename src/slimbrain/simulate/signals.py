"""From truth to series: the brain's voxels, a person's networks, a site's noise, and their sum frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from slimbrain.errors import InputError
from slimbrain.simulate.cohort import (
    GROUP_NETWORKS,
    LAYOUT,
    OTHER_CUTOFF_HZ,
    PERSON,
    SCORE_NETWORKS,
    SIGNAL,
    CohortSpec,
    Place,
    SessionTruth,
    SubjectTruth,
    Truth,
    response,
    stream,
)
from slimbrain.transform import affine_of

_FloatArray = npt.NDArray[Any]
_BoolArray = npt.NDArray[np.bool_]

_FIRST_MM = np.array([-90.0, -126.0, -72.0])
_LAST_MM = np.array([90.0, 90.0, 108.0])
"""Centres of the outermost voxels of the MNI152 templates' 2 mm box."""

_POPULATION_SEED = 152
"""The average coupling and the mean image's texture are drawn from this, whatever the cohort's own seed."""

_HIGH_PASS_HZ = 0.01
_GLOBAL_SD = 0.2
_GLOBAL_CUTOFF_HZ = 0.08
_LOCAL_SHARE = 0.75
"""Share of the noise variance that is smooth and autocorrelated; the rest is thermal."""
_LOCAL_SECONDS = 1.2
_LOCAL_FWHM_MM = 10.0
_MEAN_INTENSITY = 10000.0
_FWHM_PER_SIGMA = 2.3548
_CHUNK_VALUES = 4_000_000
"""Values drawn at a time: bounds the memory at 2 mm, where a session holds 180 million."""


@dataclass(frozen=True)
class Brain:
    """The image grid of a cohort: `mask` (X, Y, Z) in RAS order, `affine` (4, 4), `mm` (V, 3) centres of the mask's voxels."""

    mask: _BoolArray
    affine: _FloatArray
    mm: _FloatArray


@dataclass(frozen=True)
class SimulatedPerson:
    """What a person's sessions have in common.

    maps : (K, V) network maps. coupling : (K, K) correlation of their courses. cutoffs : (K,) in Hz.
    texture : (V,) mean image, around 1. restless : scale of the head's motion.
    """

    maps: _FloatArray
    coupling: _FloatArray
    cutoffs: _FloatArray
    texture: _FloatArray
    restless: float


@dataclass(frozen=True)
class _Scanner:
    """What a site does to the data: smoothness in mm, noise (a factor), mean intensity and its slope from left to right."""

    fwhm_mm: float
    noise: float
    intensity: float
    slope: float


def load_brain(spec: CohortSpec, mask: str | PathLike[str] | None = None) -> Brain:
    """Brain mask on the cohort's grid, by nearest voxel; from a NIfTI file, or nilearn's bundled MNI152 mask.

    Raises
    ------
    InputError
        If the file cannot be read, is not 3D, or holds no voxel of the box.
    """
    import nibabel as nib

    shape = np.floor((_LAST_MM - _FIRST_MM) / spec.voxel_mm).astype(int) + 1
    affine = np.diag([spec.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = _FIRST_MM
    source, source_affine = _mask_source(mask)
    index = np.indices(shape).reshape(3, -1).T
    mm = nib.affines.apply_affine(affine, index)
    near = np.rint(nib.affines.apply_affine(np.linalg.inv(source_affine), mm)).astype(int)
    inside = np.all((near >= 0) & (near < source.shape), axis=1)
    flat = np.zeros(len(index), dtype=bool)
    flat[inside] = source[tuple(near[inside].T)]
    if not flat.any():
        raise InputError(f"{mask}: has no voxel inside the MNI box; use a brain mask in MNI152 space.")
    return Brain(mask=flat.reshape(tuple(shape)), affine=affine, mm=mm[flat])


def _mask_source(mask: str | PathLike[str] | None) -> tuple[_BoolArray, _FloatArray]:
    import nibabel as nib

    if mask is None:
        from nilearn.datasets import load_mni152_brain_mask

        image = load_mni152_brain_mask()
    else:
        try:
            image = nib.load(mask)
        except (OSError, nib.filebasedimages.ImageFileError) as error:
            raise InputError(f"{mask}: cannot be read as NIfTI ({error}); name a brain mask in MNI152 space.") from error
    values = np.asanyarray(image.dataobj)
    if values.ndim != 3:
        raise InputError(f"{mask}: has {values.ndim} dimensions; a brain mask has 3.")
    return values > 0, affine_of(str(mask or "mask"), image)


def place_map(place: Place, mm: _FloatArray, gains: _FloatArray | None = None, shifts_mm: _FloatArray | None = None) -> _FloatArray:
    """Sum of a place's blobs at points `mm` (V, 3), each with its own gain (N,) and shift (N, 3): (V,) float32."""
    centres = np.array(place.centres_mm) + (0.0 if shifts_mm is None else shifts_mm)
    weights = np.ones(len(centres)) if gains is None else gains
    total = np.zeros(len(mm))
    for centre, weight in zip(centres, weights, strict=True):
        total += weight * np.exp(-np.sum((mm - centre) ** 2, axis=1) / (2 * place.sigma_mm**2))
    return total.astype(np.float32)


def event_map(place: Place, mm: _FloatArray) -> _FloatArray:
    """Where an event acts: the place's blobs, overlaps capped at the blobs' own peak of 1: (V,) float32."""
    return np.minimum(place_map(place, mm), np.float32(1.0))


def draw_person(truth: Truth, number: int, brain: Brain) -> SimulatedPerson:
    """The lasting traits of person `number` (from 0), drawn from the cohort's seed and that number alone."""
    spec, subject = truth.spec, truth.subjects[number]
    rng = stream(spec.seed, PERSON, number, LAYOUT)
    strength = spec.identity_strength
    coupling = _draw_coupling(truth, subject, rng)
    cutoffs = _draw_cutoffs(truth, subject, rng)
    maps = [
        place_map(
            network,
            brain.mm,
            gains=np.exp(0.3 * strength * rng.standard_normal(len(network.centres_mm))),
            shifts_mm=3.0 * strength * rng.standard_normal((len(network.centres_mm), 3)),
        )
        for network in truth.networks
    ]
    common = _texture(brain, stream(_POPULATION_SEED, LAYOUT))
    own = _texture(brain, rng)
    return SimulatedPerson(np.stack(maps), coupling, cutoffs, 1.0 + 0.1 * common + 0.04 * own, restless=float(rng.uniform(0.7, 1.4)))


def _draw_coupling(truth: Truth, subject: SubjectTruth, rng: np.random.Generator) -> _FloatArray:
    """The nearest correlation matrix, by clipped eigenvalues, to average coupling + own deviations, planted pairs set."""
    count, names = len(truth.networks), [network.name for network in truth.networks]
    average = 0.15 * stream(_POPULATION_SEED).standard_normal((count, count))
    own = 0.25 * truth.spec.identity_strength * rng.standard_normal((count, count))
    wish = np.clip(np.triu(average + own, 1), -0.7, 0.7)
    for (first, second), planted in ((GROUP_NETWORKS, subject.group_coupling), (SCORE_NETWORKS, subject.score_coupling)):
        low, high = sorted((names.index(first), names.index(second)))
        wish[low, high] = planted
    values, vectors = np.linalg.eigh(wish + wish.T + np.eye(count))
    nearest = (vectors * np.maximum(values, 0.05)) @ vectors.T
    scale = np.sqrt(np.diag(nearest))
    return nearest / np.outer(scale, scale)


def _draw_cutoffs(truth: Truth, subject: SubjectTruth, rng: np.random.Generator) -> _FloatArray:
    planted = dict.fromkeys(GROUP_NETWORKS, subject.group_cutoff_hz) | dict.fromkeys(SCORE_NETWORKS, subject.score_cutoff_hz)
    own = 2.0 ** (0.15 * truth.spec.identity_strength * rng.standard_normal(len(truth.networks)))
    return np.array([planted.get(network.name, OTHER_CUTOFF_HZ) for network in truth.networks]) * own


def _texture(brain: Brain, rng: np.random.Generator) -> _FloatArray:
    """Smooth noise of unit spread over the mask, 12 mm wide: (V,)."""
    voxel_mm = abs(brain.affine[0, 0])
    values = gaussian_filter(rng.standard_normal(brain.mask.shape), 12.0 / voxel_mm)[brain.mask]
    return np.clip((values - values.mean()) / values.std(), -3, 3)


def _scanner_of(spec: CohortSpec, site: str) -> _Scanner:
    """Each site after the first is smoother, noisier, brighter and more uneven than the one before."""
    step = spec.site_strength * (int(site.removeprefix("site")) - 1)
    return _Scanner(fwhm_mm=_LOCAL_FWHM_MM * (1 + 0.3 * step), noise=1 + 0.2 * step, intensity=1 + 0.08 * step, slope=0.04 * step)


def _coloured(white: _FloatArray, cutoffs_hz: _FloatArray, tr: float) -> _FloatArray:
    """Filter white courses (K, 2T) to power f^2 / (f^2 + 0.01^2) / (1 + (f / cutoff)^4) and unit variance: (K, T).

    The filter wraps around, so half of the padded course is thrown away: its ends would otherwise be alike.
    """
    length = white.shape[1]
    frequency = np.fft.rfftfreq(length, tr)
    power = frequency**2 / (frequency**2 + _HIGH_PASS_HZ**2) / (1 + (frequency / cutoffs_hz[:, None]) ** 4)
    both_sides = np.concatenate([power, power[:, 1 : length - power.shape[1] + 1]], axis=1)
    gain = np.sqrt(power / both_sides.mean(axis=1, keepdims=True))
    courses: _FloatArray = np.fft.irfft(gain * np.fft.rfft(white, axis=1), length, axis=1)[:, : length // 2]
    return courses


@dataclass(frozen=True)
class Session:
    """One session, ready to be summed: percent change = `courses` (T, R) @ `maps` (R, V) + noise, plus `spikes` (V,) by frame.

    R counts the networks, the global signal and the kinds of event; `mean` (V,) turns change into intensity.
    """

    courses: _FloatArray
    maps: _FloatArray
    noise_sd: float
    scanner: _Scanner
    mean: _FloatArray
    spikes: dict[int, _FloatArray]
    rng: np.random.Generator


def compose(
    truth: Truth, person: SimulatedPerson, subject: SubjectTruth, session: SessionTruth, brain: Brain, place: tuple[int, int]
) -> Session:
    """Assemble the components of a session; `place` (person's number, visit) fixes its random numbers."""
    spec, scanner = truth.spec, _scanner_of(truth.spec, subject.site)
    rng = stream(spec.seed, SIGNAL, *place)
    white = np.linalg.cholesky(person.coupling) @ rng.standard_normal((len(person.cutoffs), 2 * spec.frames))
    networks = _coloured(white, person.cutoffs, spec.tr)
    whole = _GLOBAL_SD * _coloured(rng.standard_normal((1, 2 * spec.frames)), np.array([_GLOBAL_CUTOFF_HZ]), spec.tr)
    noise_sd = scanner.noise / spec.snr
    spread = np.sqrt(np.einsum("kv,kl,lv->v", person.maps, person.coupling, person.maps, optimize=True) + _GLOBAL_SD**2 + noise_sd**2)
    events = np.zeros((len(truth.event_places), spec.frames))
    kinds = [where.name for where in truth.event_places]
    times = spec.tr * np.arange(spec.frames)
    for event in session.events:
        events[kinds.index(event.kind)] += event.amplitude * response(times - event.onset_s)
    event_maps = [spread * event_map(where, brain.mm) for where in truth.event_places]
    bias = 1 + scanner.slope * brain.mm[:, 0] / 70.0
    return Session(
        courses=np.concatenate([networks, whole, events]).T.astype(np.float32),
        maps=np.concatenate([person.maps, np.ones((1, len(brain.mm))), np.stack(event_maps)]).astype(np.float32),
        noise_sd=noise_sd,
        scanner=scanner,
        mean=(_MEAN_INTENSITY * scanner.intensity * person.texture * bias).astype(np.float32),
        spikes={frame: _spike(brain, rng) for frame in session.spikes},
        rng=rng,
    )


def _spike(brain: Brain, rng: np.random.Generator) -> _FloatArray:
    """Relative change of one spoilt frame, some per cent: overall, tilted along a random direction, strongest at the rim: (V,)."""
    inside = gaussian_filter(brain.mask.astype(float), 8.0 / abs(brain.affine[0, 0]))[brain.mask]
    direction = rng.standard_normal(3)
    tilt = brain.mm @ (direction / np.linalg.norm(direction)) / 70.0
    size = rng.uniform(0.025, 0.035) * rng.choice([-1.0, 1.0])
    return (size * (0.5 + 0.6 * tilt + (1 - inside))).astype(np.float32)


def frames(session: Session, spec: CohortSpec, brain: Brain) -> Iterator[_FloatArray]:
    """The session's frames in order, some at a time: (frames, V) float32 intensities of the mask's voxels."""
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(brain.mask))
    inside = np.flatnonzero(brain.mask[box])
    shape = brain.mask[box].shape
    kernels = [_smoother(edge, session.scanner.fwhm_mm / _FWHM_PER_SIGMA / spec.voxel_mm) for edge in shape]
    carry = float(np.exp(-spec.tr / _LOCAL_SECONDS))
    local_sd, thermal_sd = session.noise_sd * np.sqrt([_LOCAL_SHARE, 1 - _LOCAL_SHARE], dtype=np.float32)
    step = max(1, _CHUNK_VALUES // int(np.prod(shape)))
    last = _smooth(session.rng.standard_normal((1, *shape), dtype=np.float32), kernels).reshape(1, -1)[:, inside]
    for start in range(0, spec.frames, step):
        count = min(step, spec.frames - start)
        fresh = _smooth(session.rng.standard_normal((count, *shape), dtype=np.float32), kernels).reshape(count, -1)[:, inside]
        local = _autoregress(fresh, last, carry)
        last = local[-1:]
        change = session.courses[start : start + count] @ session.maps + local_sd * local
        change += thermal_sd * session.rng.standard_normal(change.shape, dtype=np.float32)
        change *= np.float32(0.01)
        for frame, spike in session.spikes.items():
            if start <= frame < start + count:
                change[frame - start] += spike
        yield session.mean * (1 + change)


def _autoregress(fresh: _FloatArray, last: _FloatArray, carry: float) -> _FloatArray:
    """n_t = carry * n_{t-1} + sqrt(1 - carry^2) fresh_t, going on from `last` (1, V): unit variance stays unit variance."""
    weights = np.array([np.sqrt(1 - carry**2)], dtype=np.float32), np.array([1.0, -carry], dtype=np.float32)
    values, _ = lfilter(*weights, fresh, axis=0, zi=np.float32(carry) * last)
    return np.asarray(values, dtype=np.float32)


def _smoother(edge: int, sigma: float) -> _FloatArray:
    """Gaussian smoothing along one axis as a matrix (edge, edge) whose rows have unit length: white noise keeps unit variance."""
    distance = np.arange(edge)[:, None] - np.arange(edge)[None, :]
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)


def _smooth(values: _FloatArray, kernels: list[_FloatArray]) -> _FloatArray:
    """Apply one kernel to each of the last three axes of (frames, X, Y, Z)."""
    count, x, y, z = values.shape
    values = values @ kernels[2].T
    values = kernels[1] @ values
    return (kernels[0] @ values.reshape(count, x, y * z)).reshape(count, x, y, z)
