"""Parcels of a brain, which a stage 2 model carries and its connectome reads: groups of neighbouring patches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from slimbrain.grid import Grid, Level
from slimbrain.models.temporal import standardise

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Parcels(nn.Module):
    """Which parcel each patch of a grid belongs to.

    Parameters
    ----------
    n_patches : int
        P, of the grid.

    Notes
    -----
    The buffer `of_patch` (P,) int16, which `filled` and a checkpoint set, numbers K parcels from 0.
    """

    of_patch: Tensor

    def __init__(self, n_patches: int) -> None:
        super().__init__()
        self.register_buffer("of_patch", torch.zeros(n_patches, dtype=torch.int16))

    @classmethod
    def filled(cls, of_patch: Tensor) -> Parcels:
        """From the parcel of each patch (P,)."""
        made = cls(len(of_patch))
        made.of_patch.copy_(of_patch)
        return made

    def means(self, patches: Tensor, grid: Grid) -> Tensor:
        """(T, K) means over the voxels of each parcel, from means over those of each patch (T, P)."""
        return patches @ self._shares(grid).to(patches)

    def centres(self, grid: Grid) -> Tensor:
        """(K, 3) MNI mm, means over voxels likewise."""
        return self._shares(grid).T @ torch.tensor(grid.patches.mm, dtype=torch.float32)

    def _shares(self, grid: Grid) -> Tensor:
        """(P, K) share of each patch in each parcel."""
        voxels = nn.functional.one_hot(self.of_patch.long().cpu()) * torch.tensor(grid.patch_voxels)[:, None]
        return voxels / voxels.sum(0).float()


def channels_of(decoded: Tensor, grid: Grid, parcels: Parcels | None) -> tuple[Tensor, Tensor]:
    """Standardised series (T, C), and MNI places (C, 3), of parcels from a series of patches (T, P); without parcels, of cells as given."""
    if parcels is None:
        return standardise(decoded), torch.tensor(grid.cells.mm, dtype=torch.float32)
    return standardise(parcels.means(decoded, grid)), parcels.centres(grid)


def learn_parcels(grid: Grid, series: Iterable[Tensor], count: int) -> Parcels:
    """Divide a brain into parcels by Ward's method, in which only patches that share a face are merged.

    Parameters
    ----------
    grid : Grid
        Of P patches.
    series : iterable of Tensor
        (T, P) of each session, frames of any length; standardised here, so that sessions of one length count alike.
    count : int
        Parcels; no more than patches.

    Notes
    -----
    Ward clusters of many people's voxels agree with each other better than those of other methods do (Thirion et al. 2014,
    doi:10.3389/fnins.2014.00167).
    """
    from sklearn.cluster import AgglomerativeClustering

    together = torch.cat([standardise(one) for one in series]).T.float().numpy()
    ward = AgglomerativeClustering(min(count, len(together)), connectivity=_neighbours(grid.patches), linkage="ward")
    with warnings.catch_warnings():
        # Parts of a mask that do not touch are joined where they are most alike, and that is meant.
        warnings.filterwarnings("ignore", message="the number of connected components")
        return Parcels.filled(torch.from_numpy(ward.fit(together).labels_))


def _neighbours(level: Level) -> csr_matrix:
    """(N, N) which elements share a face."""
    from sklearn.feature_extraction.image import grid_to_graph

    present = np.zeros(level.index.max(0) + 1, bool)
    present[tuple(level.index.T)] = True
    # The library counts elements along the axes, a grid unit by unit.
    order = np.cumsum(present.ravel())[np.ravel_multi_index(tuple(level.index.T), present.shape)] - 1
    return grid_to_graph(*present.shape, mask=present).tocsr()[order][:, order]
