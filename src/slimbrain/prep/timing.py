"""When frames were recorded and when the stored ones are: the TR and who states it, and the way from one time axis to the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from scipy.interpolate import make_interp_spline

from slimbrain.errors import InputError
from slimbrain.store.contract import NATIVE_TR_BAND_S

_FloatArray = npt.NDArray[Any]

TARGET_TR_S = 0.72
"""HCP's TR, to which arXiv 2512.21881 brings every series outside `NATIVE_TR_BAND_S`."""

TR_S = (0.05, 30.0)
"""TRs that can be one; outside, the unit is wrong (milliseconds called seconds) or the value is not a TR."""

TR_TOLERANCE_S = 1e-3
"""Two statements of one TR may differ by rounding to the millisecond."""

_SPLINE_ORDER = 3

_SPLINE_REACH = 24
"""Frames beyond which a recorded frame does not bear on a stored one: the cubic B-spline's filter falls by 2 - sqrt(3) per frame
(Unser 1999), to 2e-14 over so many."""

_SPLINE_BLOCK_FRAMES = 64


class Timed(Protocol):
    """A recording that may know its TR."""

    @property
    def path(self) -> Path: ...

    @property
    def header_tr(self) -> float | None: ...


def repetition_time(
    source: Timed, sidecar: Mapping[str, Any], given: float | None, said_by: str = "sidecar", option: str = "--tr", column: str = ""
) -> tuple[float, str]:
    """The TR, and who says so: the sidecar, else the header, else the user.

    A header value of 0 or of exactly 1 counts as missing, which software writes when no TR was set.

    Parameters
    ----------
    sidecar : mapping
        BIDS metadata of the recording.
    given : float or None
        The user's value in seconds; may fill a gap, never contradict.
    said_by : str
        Where the metadata come from.
    option : str
        What the user gives it with.
    column : str
        Where else the user may state it; empty if nowhere.

    Returns
    -------
    tuple of float, str
        Seconds per frame, and `said_by`, `header` or `option`.

    Raises
    ------
    InputError
        If neither is known, or two disagree.
    """
    path, stated = source.path, stated_time(source.path, sidecar, said_by)
    tr, origin = (stated, said_by) if stated is not None else (source.header_tr, "header")
    if tr is None and given is None:
        ways = f"{option}, or in {column}" if column else option
        raise InputError(f"{path}: has no TR in a JSON sidecar or the header (0 or 1 counts as none); give it in seconds with {ways}.")
    if tr is None:
        return cast(float, given), option
    if given is not None and abs(given - tr) > TR_TOLERANCE_S:
        raise InputError(f"{path}: its {origin} gives TR {tr:g} s but {option} says {given:g} s; drop {option} or correct the {origin}.")
    return tr, origin


def stated_time(path: Path, sidecar: Mapping[str, Any], said_by: str = "sidecar") -> float | None:
    """The TR that the metadata of a recording give, in seconds; None where they give none.

    Raises
    ------
    InputError
        If they give something else than a number within `TR_S`.
    """
    stated = sidecar.get("RepetitionTime")
    if stated is None:
        return None
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not TR_S[0] <= stated <= TR_S[1]:
        raise InputError(f"{path}: its {said_by} gives RepetitionTime {stated!r}, which is not a TR in seconds; correct the {said_by}.")
    return float(stated)


class TimeAxis:
    """Where the stored frames lie among the recorded ones.

    A TR of 0.7-0.8 s is kept. Another is brought to 0.72 s by the interpolating cubic B-spline through all frames
    (not-a-knot ends), at 0, 0.72, ... up to the time of the last frame recorded.

    Parameters
    ----------
    n_source : int
        Frames recorded.
    source_tr : float
        Seconds per frame recorded.
    """

    def __init__(self, n_source: int, source_tr: float) -> None:
        self.n_source, self.source_tr = n_source, source_tr
        self.keeps = NATIVE_TR_BAND_S[0] <= source_tr <= NATIVE_TR_BAND_S[1]
        self.tr = source_tr if self.keeps else TARGET_TR_S
        # The slack keeps a frame that the division misses by rounding.
        self.n_frames = n_source if self.keeps else int((n_source - 1) * source_tr / TARGET_TR_S + 1e-6) + 1

    def resample(self, series: _FloatArray) -> _FloatArray:
        """(T_source, N) -> (T, N) float32, by weights that were solved for in float64; series that are kept may be the same array."""
        series = series.astype(np.float32, copy=False)
        if self.keeps:
            return series
        stored = np.empty((self.n_frames, series.shape[1]), np.float32)
        for frames, recorded, weights in self._weights:
            np.matmul(weights, series[recorded], out=stored[frames])
        return stored

    @cached_property
    def _weights(self) -> list[tuple[slice, slice, _FloatArray]]:
        """Blocks of F stored frames, the R recorded frames that bear on them, and the (F, R) float32 weights between both.

        The spline is linear in its data, so that the weights are the splines through frames that are 1 at one time and 0 at all others.
        """
        recorded = np.arange(self.n_source) * self.source_tr
        wanted = np.minimum(np.arange(self.n_frames) * self.tr, recorded[-1])
        blocks = []
        for start in range(0, self.n_frames, _SPLINE_BLOCK_FRAMES):
            frames = slice(start, min(start + _SPLINE_BLOCK_FRAMES, self.n_frames))
            low = max(0, int(wanted[start] / self.source_tr) - _SPLINE_REACH)
            high = min(self.n_source, int(wanted[frames.stop - 1] / self.source_tr) + 2 + _SPLINE_REACH)
            spline = make_interp_spline(recorded[low:high], np.eye(high - low), k=_SPLINE_ORDER)
            blocks.append((frames, slice(low, high), spline(wanted[frames]).astype(np.float32)))
        return blocks


def require_length(path: Path, times: TimeAxis, window_frames: int) -> None:
    """Refuse a run that has no whole window, or too few frames to be interpolated.

    Raises
    ------
    InputError
        Then.
    """
    if times.n_frames < window_frames:
        raise InputError(f"{path}: gives {times.n_frames} frames of {times.tr:g} s, under a window ({window_frames}); leave it out.")
    if times.n_source <= _SPLINE_ORDER:
        raise InputError(f"{path}: has {times.n_source} frames, a cubic spline needs {_SPLINE_ORDER + 1}; leave it out.")
