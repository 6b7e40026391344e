"""What the page's script shows of a window under the pointer: scores, framewise displacement, events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.report.figures import time_axis_span
from slimbrain.saliency import WindowRow

_FloatArray = npt.NDArray[Any]

_SCORES = ("score", "informativeness", "novelty", "explained", "dvars")


@dataclass(frozen=True)
class Happened:
    """What is known of a session besides its scores.

    Attributes
    ----------
    times, fd : array
        (N,) seconds and framewise displacement in mm of recorded frames, NaN where undefined; empty where motion is unknown.
    flagged : array
        (M,) seconds of flagged frames.
    events : sequence of (float, str)
        Onset in seconds, and name.
    """

    times: _FloatArray
    fd: _FloatArray
    flagged: _FloatArray
    events: Sequence[tuple[float, str]] = ()


def describe(label: str, rows: Sequence[WindowRow], k: int, happened: Happened) -> dict[str, Any]:
    """Columns over windows, as JSON; the script puts them into words."""
    spans = [(row.onset_s, row.onset_s + row.duration_s) for row in rows]
    left, right = time_axis_span()
    columns: dict[str, list[Any]] = {
        "onset": [round(start, 2) for start, _ in spans],
        "end": [round(stop, 2) for _, stop in spans],
        "rank": [row.rank for row in rows],
        "chosen": [int(row.among(k)) for row in rows],
        "flagged": [int(np.count_nonzero(_within(happened.flagged, span))) for span in spans],
        "events": [_events_in(happened.events, span) for span in spans],
    }
    columns |= {name: [_short(getattr(row, name)) for row in rows] for name in _SCORES}
    if len(happened.fd):
        moved = [happened.fd[_within(happened.times, span)] for span in spans]
        columns |= {"fd_mean": [_of(np.nanmean, values) for values in moved], "fd_max": [_of(np.nanmax, values) for values in moved]}
    return {"label": label, "axis": {"left": left, "right": right}, "windows": columns}


def _within(seconds: _FloatArray, span: tuple[float, float]) -> npt.NDArray[np.bool_]:
    return (seconds >= span[0]) & (seconds < span[1])


def _events_in(events: Sequence[tuple[float, str]], span: tuple[float, float]) -> str:
    return "; ".join(f"{name} at {onset:.1f} s" for onset, name in sorted(events) if span[0] <= onset < span[1])


def _of(measure: Any, values: _FloatArray) -> float | None:
    return _short(measure(values)) if np.isfinite(values).any() else None


def _short(value: float) -> float | None:
    """Three digits; None for NaN, which JSON lacks."""
    return float(f"{value:.3g}") if np.isfinite(value) else None
