"""Building blocks: correlation matrices, tangent vectors, learnt axes, and two ways to read a parcellation at anchors.

Not a program: the experiments of `run.py` are put together from these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cohorts import Floats, Ints

FLOOR = 1e-6


def map_eigenvalues(matrices: Floats, function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to symmetric matrices (..., C, C) through their eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def log_matrix(matrices: Floats) -> Floats:
    return map_eigenvalues(matrices, lambda values: np.log(np.maximum(values, FLOOR)))


def inverse_root(matrix: Floats) -> Floats:
    return map_eigenvalues(matrix, lambda values: 1 / np.sqrt(np.maximum(values, FLOOR)))


def flatten(symmetric: Floats) -> Floats:
    """(N, C (C + 1) / 2): entries off the diagonal times sqrt(2), which keeps distances."""
    rows, columns = np.tril_indices(symmetric.shape[-1])
    return (symmetric[..., rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2))).astype(np.float32)


def correlations(runs: Sequence[Floats]) -> Floats:
    """(N, C, C) correlation matrices; an empty channel correlates with itself alone."""
    matrices = np.stack([run.T @ run / len(run) for run in runs]).astype(np.float32)
    diagonal = np.arange(matrices.shape[-1])
    matrices[:, diagonal, diagonal] = 1
    return matrices


def ledoit_wolf_stack(runs: Sequence[Floats]) -> Floats:
    from sklearn.covariance import ledoit_wolf

    return np.stack([ledoit_wolf(run, assume_centered=True)[0] for run in runs]).astype(np.float32)


def geometric_mean(matrices: Floats, steps: int = 6) -> Floats:
    """Fréchet mean under the affine-invariant metric: fixed-step gradient descent from the log-Euclidean mean."""
    mean = map_eigenvalues(log_matrix(matrices).mean(0), np.exp)
    for _ in range(steps):
        whitening, root = inverse_root(mean), map_eigenvalues(mean, np.sqrt)
        gradient = log_matrix(whitening @ matrices @ whitening).mean(0)
        mean = root @ map_eigenvalues(gradient, np.exp) @ root
        if np.linalg.norm(gradient) < 1e-2:
            break
    return mean


def tangent(matrices: Floats, whitening: Floats, block: int = 64) -> Floats:
    """(N, C (C + 1) / 2) logarithms of whitened matrices, in blocks."""
    return np.concatenate([flatten(log_matrix(whitening @ matrices[at : at + block] @ whitening)) for at in range(0, len(matrices), block)])


@dataclass(frozen=True)
class Axes:
    """Leading principal axes of tangent vectors of pretraining people.

    Attributes
    ----------
    mean : (D,)
    directions : (D, R)
    variances : (R,)
        of the pretraining people along each axis, descending
    """

    mean: Floats
    directions: Floats
    variances: Floats

    @classmethod
    def fit(cls, vectors: Floats, n_axes: int) -> Axes:
        mean = vectors.mean(0)
        centred = vectors - mean
        values, left = np.linalg.eigh((centred @ centred.T).astype(np.float64) / len(vectors))
        values, left = values[::-1][:n_axes], left[:, ::-1][:, :n_axes]
        kept = values > values[0] * 1e-7
        values, left = values[kept], left[:, kept]
        directions = centred.T @ (left / np.sqrt(values * len(vectors))).astype(np.float32)
        return cls(mean, directions, values)

    def __call__(self, vectors: Floats, n_axes: int | None = None) -> Floats:
        return (vectors - self.mean) @ self.directions[:, :n_axes]


def gaussian_filters(anchors: Floats, coordinates: Floats, width: float) -> Floats:
    """(K, C) Gaussian weights of millimetres `width`, rows summing to 1."""
    squared = ((anchors[:, None] - coordinates[None]) ** 2).sum(-1)
    # Less the row's smallest distance, so that a far anchor takes its nearest channel instead of dividing by nothing.
    weights = np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * width**2))
    return weights / weights.sum(1, keepdims=True)


def k_means_anchors(coordinates: Floats, k: int, seed: int = 0) -> Floats:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=4, random_state=seed).fit(coordinates).cluster_centers_


def split(values: Ints, seed: int) -> tuple[Ints, Ints]:
    order = np.random.default_rng(seed).permutation(values)
    return order[::2], order[1::2]


@dataclass(frozen=True)
class GaussianReader:
    """Latent series as Gaussian averages of the channels around each anchor, z-scored; their correlation matrix."""

    anchors: Floats
    width: float

    def covariances(self, runs: Sequence[Floats], coordinates: Floats) -> Floats:
        made = []
        for run in runs:
            present = run.std(0) > 0
            latent = run[:, present] @ gaussian_filters(self.anchors, coordinates[present], self.width).T.astype(np.float32)
            latent -= latent.mean(0)
            made.append(latent / latent.std(0))
        return correlations(made)


def channel_model(coordinates: Floats, anchors: Floats, mean: Floats, width: float, nugget: float) -> tuple[Floats, Floats]:
    """(K, C) expected products of anchors and channels, and (C, C) expected second moments of the channels."""
    blend = gaussian_filters(coordinates, anchors, width)
    power = np.einsum("ck,kl,cl->c", blend, mean, blend)
    # The average of anchors varies less than any of them; a channel of the same size as an anchor does not.
    blend = blend * np.sqrt(np.minimum(1, (1 - nugget) / power))[:, None]
    cross = mean @ blend.T
    signal = blend @ cross
    expected = signal + np.diag(np.maximum(1 - np.diag(signal), nugget))
    return cross, expected


@dataclass(frozen=True)
class PopulationReader:
    """Second moments at anchors, expected given the channels that there are: one EM step from the population.

    Anchors have a population correlation M (K, K). A channel at a place is x = B y + e: a Gaussian average B of the anchors near it,
    and noise e of its own that fills its variance up to 1, at least `nugget`. Given channels with second moments S, anchors have
    M + W (S - B M B' - R) W', W = M B' (B M B' + R)^-1: what is not observed stays at the population's, whatever the parcellation.

    Attributes
    ----------
    anchors : (K, 3) MNI millimetres
    mean : (K, K) correlation of the pretraining people
    width : millimetres, of the Gaussians
    nugget : smallest share of a channel's variance that is its own
    """

    anchors: Floats
    mean: Floats
    width: float
    nugget: float

    def gain(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """(K, C) W and (C, C) expected second moments of the channels."""
        cross, expected = channel_model(coordinates, self.anchors, self.mean, self.width, self.nugget)
        return np.linalg.solve(expected, cross.T).T, expected

    def covariances(self, runs: Sequence[Floats], coordinates: Floats) -> Floats:
        made, gains = [], {}
        for run in runs:
            present = run.std(0) > 0
            key = present.tobytes()
            if key not in gains:
                gains[key] = self.gain(coordinates[present])
            gain, expected = gains[key]
            second = run[:, present].T @ run[:, present] / len(run)
            made.append((self.mean + gain @ (second - expected) @ gain.T).astype(np.float32))
        return np.stack(made)


def shrunk_tangent(matrices: Floats, mean: Floats, weight: float, block: int = 64) -> Floats:
    """Tangent vectors at `mean` of matrices shrunk towards it by `weight`, rescaled by 1 / (1 - weight)."""
    whitening = inverse_root(mean).astype(np.float32)
    mean = mean.astype(np.float32)
    return tangent((1 - weight) * matrices + weight * mean, whitening, block) / np.float32(1 - weight)
