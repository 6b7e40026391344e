"""Parcels learnt from voxels without labels: neighbouring patches that go together, by which a stage 2 model's tokens are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.image import grid_to_graph

from slimbrain.grid import Grid, Level
from slimbrain.models.temporal import standardise

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
    together = torch.cat([standardise(torch.from_numpy(one)) for one in series]).T.float().numpy()
    ward = AgglomerativeClustering(min(count, len(together)), connectivity=_neighbours(grid.patches), linkage="ward")
    return np.asarray(ward.fit(together).labels_, np.int64)


def parcel_means(patches: Floats, parcel: NDArray[np.int64]) -> Floats:
    """(T, P) series of patches -> (T, K) means over those of each parcel."""
    members = np.eye(int(parcel.max()) + 1, dtype=np.float32)[parcel]
    return np.asarray(patches @ (members / members.sum(0)))


def parcel_centres(grid: Grid, parcel: NDArray[np.int64]) -> Floats:
    """(K, 3) centres of parcels in MNI mm."""
    return parcel_means(grid.patches.mm.T, parcel).T


def _neighbours(level: Level) -> csr_matrix:
    """(N, N) which elements share a face."""
    present = np.zeros(level.index.max(0) + 1, bool)
    present[tuple(level.index.T)] = True
    # The library counts elements along the axes, a grid unit by unit.
    order = np.cumsum(present.ravel())[np.ravel_multi_index(tuple(level.index.T), present.shape)] - 1
    return grid_to_graph(*present.shape, mask=present).tocsr()[order][:, order]
