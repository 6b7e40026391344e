"""Frames that are odd in themselves: with values that are not finite, frozen, or copies of earlier ones; noticed while a run is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.prep.scratch import FrameFile

_FloatArray = npt.NDArray[Any]
_BoolArray = npt.NDArray[np.bool_]

_COMPARED = 30_000
"""Brain voxels by which frames are compared, at least, where there are as many. Of recorded frames no two agree in all of them."""

_DIGEST_BYTES = 16
_MISSING_SHARE = 0.5
"""A frame is missing as a whole if more than this share of the voxels that ever are finite is not finite in it."""


@dataclass(frozen=True)
class FrameRecord:
    """What is odd about the T frames of a run, as far as its N brain voxels show.

    Attributes
    ----------
    lost : ndarray of bool
        (N,) voxels with a value that is not finite in any frame.
    lost_elsewhere : ndarray of bool
        (N,) the same, of frames that are not missing.
    nonfinite : ndarray of bool
        (T,) frames that hold such a value in the brain.
    missing : ndarray of bool
        (T,) frames most of whose voxels are not finite.
    original : ndarray of int
        (T,) the first frame that is the same to the last bit; the frame itself where it is the first.
    """

    lost: _BoolArray
    lost_elsewhere: _BoolArray
    nonfinite: _BoolArray
    missing: _BoolArray
    original: npt.NDArray[np.int64]

    @property
    def frozen(self) -> _BoolArray:
        """(T,) frames that are the same as the one before."""
        return np.concatenate(([False], self.original[1:] == self.original[:-1]))

    @property
    def repeated(self) -> _BoolArray:
        """(T,) frames that are the same as an earlier one, and not merely frozen."""
        return (self.original < np.arange(len(self.original))) & ~self.frozen

    @property
    def warnings(self) -> list[str]:
        """What the user should know about copies."""
        n_frames, frozen, repeated = len(self.original), int(self.frozen.sum()), np.flatnonzero(self.repeated)
        found = [f"{frozen} of {n_frames} frames are the same as the frame before; they are flagged."] if frozen else []
        if len(repeated):
            first = repeated[0]
            copied = f"{len(repeated)} of {n_frames} frames are copies of earlier ones (frame {first} of frame {self.original[first]})"
            found.append(f"{copied}; they are flagged, and the file may hold a part of the recording twice.")
        return found


class FrameWatch:
    """Looks at frames as they are read, block after block.

    Parameters
    ----------
    n_frames : int
        T.
    counted : ndarray of bool
        (U,) which of the values that are read count.
    """

    def __init__(self, n_frames: int, counted: _BoolArray) -> None:
        self._counted, self._n_frames = counted, n_frames
        self._step = max(1, len(counted) // _COMPARED)
        self._per_frame, self._per_voxel = np.zeros(n_frames, np.int64), np.zeros(len(counted), np.int64)
        self._mostly: dict[int, npt.NDArray[np.uint8]] = {}
        self._first: dict[bytes, int] = {}
        self._original: list[int] = []

    def look(self, values: _FloatArray) -> None:
        """Note what is odd about the next frames, (F, U) float32; values that are not finite become 0."""
        finite = np.isfinite(values)
        if not finite.all():
            self._note(~finite & self._counted)
            values[~finite] = 0
        for row in values[:, :: self._step]:
            digest = hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=_DIGEST_BYTES).digest()
            self._original.append(self._first.setdefault(digest, len(self._original)))

    def _note(self, bad: _BoolArray) -> None:
        start = len(self._original)
        self._per_frame[start : start + len(bad)] = bad.sum(axis=1)
        self._per_voxel += bad.sum(axis=0)
        for frame in np.flatnonzero(bad.sum(axis=1) > _MISSING_SHARE * self._counted.sum()):
            self._mostly[start + int(frame)] = np.packbits(bad[frame])

    def record(self, onto_brain: Callable[[_FloatArray], _FloatArray]) -> FrameRecord:
        """What was noted.

        Parameters
        ----------
        onto_brain : callable
            (1, U) float32 values as read to the (1, N) of the brain voxels.
        """
        always = int((self._per_voxel[self._counted] == self._n_frames).sum())
        enough = always + _MISSING_SHARE * (int(self._counted.sum()) - always)
        missing = self._per_frame > enough
        elsewhere = self._per_voxel.copy()
        for frame in np.flatnonzero(missing):
            elsewhere -= np.unpackbits(self._mostly[int(frame)], count=len(elsewhere))
        lost, lost_elsewhere = (onto_brain((count > 0)[None].astype(np.float32))[0] > 0 for count in (self._per_voxel, elsewhere))
        # Nothing is known of what is missing, so it is no copy of anything.
        original = np.where(missing, np.arange(self._n_frames), self._original)
        # Voxels that are never finite are no fault of a frame.
        return FrameRecord(lost, lost_elsewhere, self._per_frame > always, missing, original)


def bridge(series: FrameFile, missing: _BoolArray) -> None:
    """Replace missing frames by straight lines between the frames around them, at the ends by the nearest frame; all missing: nothing."""
    there = np.flatnonzero(~missing)
    if not len(there):
        return
    for frame in np.flatnonzero(missing):
        after = int(np.searchsorted(there, frame))
        before, following = there[max(after - 1, 0)], there[min(after, len(there) - 1)]
        share = np.clip((frame - before) / max(following - before, 1), 0, 1)
        values = (1 - share) * series.frame(before) + share * series.frame(following)
        series.put_frames(int(frame), values[None])


def bridged(values: _FloatArray, missing: _BoolArray) -> _FloatArray:
    """(T, C) series in memory with missing frames replaced as `bridge` does."""
    there, filled = np.flatnonzero(~missing), values.copy()
    for column in range(values.shape[1]) if len(there) else ():
        filled[missing, column] = np.interp(np.flatnonzero(missing), there, values[there, column])
    return filled
