"""Parcels learnt from voxels without labels: neighbouring patches that go together, by which a stage 2 model's tokens are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from slimbrain.grid import Grid, Level

Floats = NDArray[Any]


def learn_parcels(grid: Grid, series: Iterable[Floats], count: int) -> NDArray[np.int64]:
    """Divide a grid into parcels by Ward's method, in which only neighbours are merged.

    Parameters
    ----------
    grid : Grid
        Of P patches.
    series : iterable of ndarray
        (T, P) of each session, frames of any length; standardised here, so that sessions of one length count alike.
    count : int
        Parcels.

    Returns
    -------
    ndarray
        (P,) parcel of each patch.

    Notes
    -----
    Ward clusters of many people's voxels agree with each other better than those of other methods do (Thirion et al. 2014,
    doi:10.3389/fnins.2014.00167).
    """
    from sklearn.cluster import AgglomerativeClustering

    together = np.concatenate([_standardised(one) for one in series]).T
    ward = AgglomerativeClustering(min(count, len(together)), connectivity=_neighbours(grid.patches), linkage="ward")
    return np.asarray(ward.fit(together).labels_, np.int64)


def parcel_means(patches: Floats, parcel: NDArray[np.int64]) -> Floats:
    """(T, P) series of patches -> (T, K) means over those of each parcel."""
    members = np.eye(int(parcel.max()) + 1, dtype=np.float32)[parcel]
    return np.asarray(patches @ (members / members.sum(0)))


def parcel_centres(grid: Grid, parcel: NDArray[np.int64]) -> Floats:
    """(K, 3) centres of parcels in MNI mm."""
    return parcel_means(grid.patches.mm.T, parcel).T


def _standardised(series: Floats) -> Floats:
    centred = series - series.mean(0)
    return np.asarray(centred / np.maximum(centred.std(0), 1e-3), np.float32)


def _neighbours(level: Level) -> coo_matrix:
    """(N, N) which elements share a face."""
    place = np.full(tuple(level.index.max(0) + 2), -1)
    place[tuple(level.index.T)] = np.arange(len(level))
    pairs = []
    for step in np.eye(3, dtype=int):
        other = place[tuple((level.index + step).T)]
        pairs.append(np.stack((np.flatnonzero(other >= 0), other[other >= 0])))
    one, two = np.concatenate(pairs, axis=1)
    return coo_matrix((np.ones(2 * len(one)), (np.r_[one, two], np.r_[two, one])), shape=(len(level),) * 2)
