"""Channel series of a store's sessions, for all that looks at them before and beside a model.

Screening for participants of the pretraining and for copied recordings needs a signature of each session, which is kept; the baselines need
its channels, which are read again: a session takes a millisecond, and a thousand of them 350 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.stats import Floats
from slimbrain.governance.fingerprint import signature
from slimbrain.store import ROI, Store

_MAX_CHANNELS = 200
"""More channels than this (685 cells at 2 mm) are averaged into their 32 mm units first: 124 of them."""


class ChannelSeries:
    """Sessions of a store by key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._signatures: dict[str, str] = {}

    def signature(self, key: str) -> str:
        """By which a checkpoint remembers the session, and recordings are compared."""
        if key not in self._signatures:
            self._signatures[key] = signature(self.store.coarse(key))
        return self._signatures[key]

    def channels(self, key: str) -> Floats:
        """(T, C) series of one session with a tractable number of channels.

        A session with more than `_MAX_CHANNELS` cells is brought to units: the mean over a unit's voxels, which is the mean
        of its cells weighted by their voxels.
        """
        return self._tractable(key, self.store.coarse(key)).astype(np.float32).astype(np.float64)

    def _tractable(self, key: str, coarse: NDArray[np.float32]) -> NDArray[np.floating]:
        if coarse.shape[1] <= _MAX_CHANNELS or self.store.session(key).space == ROI:
            return coarse
        return coarse @ self._shares

    @cached_property
    def _shares(self) -> Floats:
        """(C, U) share of each cell in its unit."""
        grid = self.store.grid
        weights = np.zeros((grid.n_cells, grid.n_units))
        weights[np.arange(grid.n_cells), grid.cell_unit] = grid.cell_voxels
        shares: Floats = weights / weights.sum(axis=0)
        return shares


@dataclass(frozen=True)
class SessionSeries(Sequence[Floats]):
    """Series (T, C) of sessions, in double precision one at a time; of the frames used alone, if these are given."""

    series: ChannelSeries
    keys: Sequence[str]
    used: Mapping[str, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, number: int) -> Floats: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Floats]: ...

    def __getitem__(self, number: int | slice) -> Floats | Sequence[Floats]:
        if isinstance(number, slice):
            return SessionSeries(self.series, self.keys[number], self.used)
        key = self.keys[number]
        values = self.series.channels(key)
        return values if self.used is None else values[frames_of(self.used, key)]


def frames_of(used: Mapping[str, NDArray[np.int64]], key: str) -> NDArray[np.int64]:
    """The frames of a session that a model used.

    Raises
    ------
    InputError
        If none are given for it.
    """
    if key not in used:
        raise InputError(f"{key}: no window is listed for it; rank windows for the whole store, or leave the window table out.")
    return used[key]
