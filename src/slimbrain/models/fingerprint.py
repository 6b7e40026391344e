"""Recognising a recording by its content: a few random projections that noise and new names leave as they are.

Two stores that a model may read share lattice, mask and TR, so the same recording prepared twice gives the same channel series, whatever
its participant is called. Changes from frame to frame are compared, not the series: slow drifts, which unrelated recordings share,
would make strangers alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FRAMES = 64
"""Frames from the start that are looked at (46 s at TR 0.72 s); nearly every recording has as many."""

PROJECTIONS = 256
SEED = 0x511B

SIGNATURE_BITS_APART = 32
"""Signatures at most this far apart are of one recording: 32 of 256 bits stand for a correlation of changes of about 0.92 (Charikar 2002,
sign random projections). Strangers differ by 128 +- 8."""


def sketch(series: NDArray[np.floating]) -> Floats:
    """(K,) random projections of how a recording's channels change, scaled to unit length; zeros where nothing changes.

    Parameters
    ----------
    series : (T, C) channel series; the first `FRAMES` frames are used.
    """
    changes = np.diff(np.asarray(series[:FRAMES], dtype=np.float64), axis=0)
    if not changes.size:
        return np.zeros(PROJECTIONS)
    changes -= changes.mean(axis=0)
    spread = changes.std(axis=0)
    changes = np.divide(changes, spread, out=np.zeros_like(changes), where=spread > 1e-12)
    in_time, over_channels = _directions(FRAMES - 1, 0)[:, : len(changes)], _directions(changes.shape[1], 1)
    values: Floats = ((in_time @ changes) * over_channels).sum(axis=1)
    length = float(np.linalg.norm(values))
    return values / length if length else values


def signature(series: NDArray[np.floating]) -> str:
    """The signs of `sketch` in hex: enough to recognise the recording for who has it, too little to rebuild anything of it.

    Empty for a series that never changes, which is like every other such.
    """
    values = sketch(series)
    return np.packbits(values > 0).tobytes().hex() if values.any() else ""


def nearest(signatures: Sequence[str], others: Sequence[str]) -> NDArray[np.int64]:
    """(N,) bits by which each of N signatures differs from the closest of the others."""
    known = _bits(others)
    return np.array([np.bitwise_count(row ^ known).sum(axis=1, dtype=np.int64).min() for row in _bits(signatures)], dtype=np.int64)


def _bits(signatures: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(signatures)), dtype=np.uint8).reshape(len(signatures), PROJECTIONS // 8)


@functools.lru_cache(maxsize=8)
def _directions(size: int, stream: int) -> Floats:
    """(K, size) fixed Gaussian directions."""
    return np.random.default_rng((SEED, stream, size)).standard_normal((PROJECTIONS, size))
