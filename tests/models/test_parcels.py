"""Parcels that were planted, against means taken by hand."""

from __future__ import annotations

import numpy as np
import torch

from slimbrain.grid import Grid
from slimbrain.models.parcels import Parcels, channels_of, learn_parcels


def test_parcels_that_were_planted_are_learnt(grid8: Grid) -> None:
    """Eight octants of the brain with a series each, in noise: found as they are, with means and centres over voxels."""
    random, voxels = np.random.default_rng(5), grid8.voxel_mask.sum(1)
    octant = (grid8.patches.mm > np.median(grid8.patches.mm, 0)) @ [4, 2, 1]
    series = [random.standard_normal((40, 8))[:, octant] + 0.5 * random.standard_normal((40, grid8.n_patches)) for _ in range(3)]
    parcels = learn_parcels(grid8, map(torch.from_numpy, series), 8)
    pairs = set(zip(parcels.of_patch.tolist(), octant.tolist(), strict=True))
    assert len(pairs) == 8
    means, centres = parcels.means(torch.from_numpy(series[0]), grid8).numpy(), parcels.centres(grid8).numpy()
    channels, places = channels_of(torch.from_numpy(series[0]), grid8, parcels)
    np.testing.assert_array_equal(places, centres)
    np.testing.assert_allclose(channels, (means - means.mean(0)) / means.std(0), rtol=1e-4, atol=1e-4)
    for parcel, planted in pairs:
        inside = octant == planted
        np.testing.assert_allclose(means[:, parcel], np.average(series[0][:, inside], axis=1, weights=voxels[inside]), atol=1e-5)
        np.testing.assert_allclose(centres[parcel], np.average(grid8.patches.mm[inside], axis=0, weights=voxels[inside]), atol=1e-3)


def test_only_patches_that_share_a_face_are_merged(grid8: Grid) -> None:
    """In noise, where far patches are as alike as near ones, each parcel is in one piece."""
    random = np.random.default_rng(6)
    parcels = learn_parcels(grid8, [torch.from_numpy(random.standard_normal((30, grid8.n_patches)))], 20)
    assert sorted(set(parcels.of_patch.tolist())) == list(range(20))
    for parcel in range(20):
        left = {tuple(place) for place in grid8.patches.index[parcels.of_patch.numpy() == parcel].tolist()}
        front = [left.pop()]
        while front:
            at = np.array(front.pop())
            for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int)):
                if (place := tuple((at + step).tolist())) in left:
                    left.remove(place)
                    front.append(place)
        assert not left


def test_no_more_parcels_than_patches(grid8: Grid) -> None:
    series = torch.randn(9, grid8.n_patches, generator=torch.Generator().manual_seed(0))
    parcels = learn_parcels(grid8, [series], 10**6)
    assert len(set(parcels.of_patch.tolist())) == grid8.n_patches == len(Parcels(grid8.n_patches).of_patch)
