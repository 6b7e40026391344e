"""Windows of runs as samples of their own: a store that shows each run as the pieces of so many frames that it holds.

Everything that reads sessions reads windows the same way, with the same baselines, from the same few frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.store import Channels, SessionInfo, SessionTable, Store

_FEWEST_FRAMES = 4
"""Fewer have no correlation worth the name."""
_MOST_WINDOWS = 20
"""Windows per run, evenly spread where there are more: an hour of 10-frame windows is thousands of almost equal samples."""
_EVENTS, _LAG_S, _SHARE = "Events", 5.0, 0.5
"""Field of the sidecar; seconds by which the haemodynamic response follows an event; share of a window that one kind must cover."""


class WindowStore(Store):
    """A store whose sessions are windows without overlap, from frame 0, of the sessions of another; nothing is written.

    Parameters
    ----------
    store : Store
        Whose runs are cut.
    frames : int
        Frames per window; a shorter tail is left out.

    Raises
    ------
    InputError
        If no session has as many frames.
    """

    def __init__(self, store: Store, frames: int) -> None:
        super().__init__(store.root)
        if frames < _FEWEST_FRAMES:
            raise InputError(f"--frames {frames}: is too short a window; give {_FEWEST_FRAMES} frames or more.")
        self._store, self.frames, self._last = store, frames, ("", np.empty((0, 0), np.float32))
        self._origin: dict[str, tuple[str, int]] = {}
        windows: list[SessionInfo] = []
        for info in store.sessions:
            for number in _spread(info.n_windows(frames)):
                key = f"{info.key}_frames-{number * frames:06d}"
                self._origin[key] = (info.key, number * frames)
                windows.append(replace(info, key=key, n_frames=frames))
        if not windows:
            raise InputError(f"{store.root}: no session has {frames} frames; give fewer --frames.")
        self.__dict__["sessions"] = SessionTable.of(sorted(windows, key=lambda info: info.key))

    def origin(self, key: str) -> tuple[str, int]:
        """The session that a window is of, and its first frame there."""
        return self._origin[key]

    def coarse(self, key: str) -> npt.NDArray[Any]:
        """(frames, C) channel series of a window."""
        origin, start = self._origin[key]
        if self._last[0] != origin:
            self._last = origin, self._store.coarse(origin)
        return self._last[1][start : start + self.frames]

    def channels(self, key: str) -> Channels:
        """Those of the session that it is a window of."""
        return self._store.channels(self._origin[key][0])

    def voxels(self, key: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Frames of a window, counted from its first."""
        origin, first = self._origin[key]
        return self._store.voxels(origin, first + start, first + (self.frames if stop is None else stop))

    def windows(self, key: str, starts: Sequence[int], frames: int) -> npt.NDArray[Any]:
        """Stretches of a window, counted from its first frame."""
        origin, first = self._origin[key]
        return self._store.windows(origin, [first + start for start in starts], frames)

    def event_of(self, key: str) -> str:
        """The `trial_type` that covers at least half of a window, shifted by the lag of the response; empty if none does."""
        origin, start = self._origin[key]
        info = self._store.session(origin)
        begin, end = start * info.tr - _LAG_S, (start + self.frames) * info.tr - _LAG_S
        covered: Counter[str] = Counter()
        for event in self._store.sidecar(origin).get(_EVENTS) or ():
            onset, kind = float(event["onset"]), str(event.get("trial_type", ""))
            covered[kind] += max(0.0, min(end, onset + float(event["duration"])) - max(begin, onset))  # type: ignore[assignment]
        kind, seconds = covered.most_common(1)[0] if covered else ("", 0.0)
        return kind if seconds >= _SHARE * (end - begin) else ""


def _spread(n_windows: int) -> list[int]:
    """Numbers of the windows of a run that are taken."""
    if n_windows <= _MOST_WINDOWS:
        return list(range(n_windows))
    return np.unique(np.linspace(0, n_windows - 1, _MOST_WINDOWS).round().astype(int)).tolist()
