"""Recognising a recording by its content: a few random projections that noise and new names leave as they are.

Two stores that a model may read share lattice, mask and TR, so the same recording prepared twice gives the same channel series, whatever
its participant is called. Slow drifts are taken off first, since unrelated recordings share them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]

FRAMES = 128
"""Frames from the start that are looked at (92 s at TR 0.72 s); a shorter recording is like itself alone, not like a longer copy."""

_DRIFT_ORDER = 3
"""Polynomials in time up to this order are taken off every channel."""

PROJECTIONS = 256
_SEED = 0x511B
SIGNATURE_DIGITS = PROJECTIONS // 4

SIGNATURE_BITS_APART = 56
"""Signatures at most this far apart are of one recording: 56 of 256 bits stand for a correlation of about 0.77 (Charikar 2002, sign random
projections). The threshold was set on 258 recordings and checked on 1,276 (ABIDE, HCP, rpn122): the three pairs
that stand there under two names are 0, 25 and 34 apart, the closest two others 92 within a cohort (sub-51296 and sub-50479 of ABIDE) and 89
between cohorts. A copy with noise (correlation 0.999) is at most 13 apart."""

_NOTHING = 1e-9
"""Standard deviation of a channel that does not change, in a store whose series are standardised."""

_ROUNDING = 1e-6
"""Of a channel's largest value: what single precision may make of one that does not change."""


def _sketch(series: NDArray[np.floating]) -> _Floats:
    """(K,) random projections of a recording, scaled to unit length; zeros where nothing changes.

    The cosine of two sketches estimates the correlation of the two recordings, each channel detrended and standardised.

    Parameters
    ----------
    series : (T, C) array
        Channel series; the first `FRAMES` frames are used.
    """
    values = standardised(_without_drift(standardised(series[:FRAMES])))
    in_time, over_channels = _directions(FRAMES, 0)[:, : len(values)], _directions(values.shape[1], 1)
    projected: _Floats = ((in_time @ values) * over_channels).sum(axis=1)
    length = float(np.linalg.norm(projected))
    return projected / length if length else projected


def signature(series: NDArray[np.floating]) -> str:
    """The signs of `_sketch` in hex: enough to recognise the recording for who has it, too little to rebuild anything of it.

    Empty for a series that never changes, which is like every other such.
    """
    return _signs(_sketch(series))


def _signs(values: _Floats) -> str:
    """The signature of a recording from its sketch."""
    return np.packbits(values > 0).tobytes().hex() if values.any() else ""


def nearest(signatures: Sequence[str], others: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each of N signatures, the bits (N,) by which it differs from the closest of the others, and which of them that is (N,)."""
    known = _bits(others)
    apart = [np.bitwise_count(row ^ known).sum(axis=1, dtype=np.int64) for row in _bits(signatures)]
    place = np.array([row.argmin() for row in apart], dtype=np.int64)
    return np.array([row.min() for row in apart], dtype=np.int64), place


def close_pairs(signatures: Sequence[str], most: int = SIGNATURE_BITS_APART) -> list[tuple[int, int, int]]:
    """Places of two signatures, the earlier first, and the bits by which they differ, where these are at most `most`.

    An empty signature is close to none.
    """
    places = [place for place, text in enumerate(signatures) if text]
    rows, found = _bits([signatures[place] for place in places]), []
    for number, row in enumerate(rows[:-1]):
        apart = np.bitwise_count(row ^ rows[number + 1 :]).sum(axis=1, dtype=np.int64)
        found += [(places[number], places[number + 1 + int(other)], int(apart[other])) for other in np.flatnonzero(apart <= most)]
    return found


def correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation of two (T, C) series over their common frames, each channel standardised; 0 where they cannot be compared."""
    if first.shape[1] != second.shape[1]:
        return 0.0
    frames = min(len(first), len(second))
    a, b = (standardised(values[:frames]) for values in (first, second))
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def standardised(series: NDArray[np.floating], nothing: float = _NOTHING, rounding: float = _ROUNDING) -> _Floats:
    """(T, C) every channel with mean 0 and standard deviation 1; 0 where it does not change.

    Parameters
    ----------
    nothing, rounding : float
        A channel does not change if its deviation is at most the first and the second of its largest value together.
    """
    values = np.asarray(series, dtype=np.float64)
    values = values - values.mean(axis=0)
    spread = values.std(axis=0)
    changes = spread > nothing + rounding * np.abs(series).max(axis=0, initial=0)
    standard: _Floats = np.divide(values, spread, out=np.zeros_like(values), where=changes)
    return standard


def _without_drift(values: _Floats) -> _Floats:
    order = min(_DRIFT_ORDER, len(values) - 2)
    if order < 1:
        return values
    time = np.linspace(-1, 1, len(values))
    basis, _ = np.linalg.qr(np.stack([time**power for power in range(order + 1)], axis=1))
    cleaned: _Floats = values - basis @ (basis.T @ values)
    return cleaned


def _bits(signatures: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(signatures)), dtype=np.uint8).reshape(len(signatures), PROJECTIONS // 8)


@functools.lru_cache(maxsize=8)
def _directions(size: int, stream: int) -> _Floats:
    """(K, size) fixed Gaussian directions."""
    return np.random.default_rng((_SEED, stream, size)).standard_normal((PROJECTIONS, size))
