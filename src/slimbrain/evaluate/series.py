"""Channel series of a store's sessions, each read once, for all that looks at them before and beside a model.

Screening for participants of the pretraining and for copied recordings needs a signature of each session; the baselines need its channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slimbrain.evaluate.stats import Floats
from slimbrain.governance.fingerprint import signature
from slimbrain.store import ROI, Store

_MAX_CHANNELS = 200
"""More channels than this (685 cells at 2 mm) are averaged into their 32 mm units first: 124 of them."""


@dataclass(frozen=True)
class _SessionSeries:
    """What is kept of a session.

    Attributes
    ----------
    signature : str
        By which recordings are compared.
    channels : ndarray of float32
        (T, C) float32, a tractable number of channels.
    """

    signature: str
    channels: NDArray[np.float32]


class ChannelSeries:
    """Sessions of a store by key, read when they are first asked for and kept."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: dict[str, _SessionSeries] = {}

    def __getitem__(self, key: str) -> _SessionSeries:
        if key not in self._read:
            coarse = self.store.coarse(key)
            self._read[key] = _SessionSeries(signature(coarse), self._tractable(key, coarse).astype(np.float32))
        return self._read[key]

    def signature(self, key: str) -> str:
        """By which a checkpoint remembers the session."""
        return self[key].signature

    def channels(self, key: str) -> Floats:
        """(T, C) series of one session with a tractable number of channels.

        A session with more than `_MAX_CHANNELS` cells is brought to units: the mean over a unit's voxels, which is the mean
        of its cells weighted by their voxels.
        """
        return self[key].channels.astype(np.float64)

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
