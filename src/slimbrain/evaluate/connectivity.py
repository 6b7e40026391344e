"""Functional connectivity as features of a session, each kind a row of the table.

Symmetric matrices are kept as their lower triangle, row by row, in single precision, and unpacked a few at a time: 877 sessions of 200
channels are 70 MB. Logarithms are taken in the precision of the matrices. In single precision, the tangent of ABIDE is off by 4e-7
(deviation between participants 0.1) and probabilities of a probe by 1e-6, in a third less time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from nilearn.connectome import cov_to_corr, prec_to_partial
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import LedoitWolf

from slimbrain.errors import InputError
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.stats import Floats, Ints
from slimbrain.governance.fingerprint import standardised
from slimbrain.progress import track

_Real = NDArray[Any]
_Indices = NDArray[np.intp]
_Near = tuple[Floats, Floats]

CONNECTIVITY = "connectivity"
_MEAN_STEPS = 50
_MEAN_STEP, _MEAN_STEP_BOUNDS = 0.7, (0.1, 1.5)
"""First step of the descent, and bounds of the others: the cost curves upward faster than a parabola of curvature 1 where matrices are
spread, so the usual step of 1 overshoots (12 iterations against 4 on 94 real sessions of 122 channels)."""
_MEAN_TOLERANCE = 1e-3
"""Root mean square of the log-eigenvalues by which the mean may be off: a tenth of a percent, far under sampling error."""
_EIGENVALUE_FLOOR = 1e-10
_POPULATION_WEIGHT = 0.5
"""Weight of the training subjects' mean correlation; from 0.3 to 0.9 as good as each other on halves of rpn122 (docs/embedding.md)."""
_POPULATION_RIDGE = 1e-3
"""Weight of the identity in that mean, whose average eigenvalue is 1."""
_DOUBLE_ROUNDING = 1e-12
"""A channel whose deviation is under this share of its largest value is constant."""
_BLOCK = 32
"""Matrices that are unpacked at once."""


def connectivity(series: Sequence[Floats], frames: str) -> list[FeatureSet]:
    """Correlation, partial correlation and tangent from one Ledoit-Wolf estimate per session, and the tangent towards the population.

    The last starts from the plain correlations, which it shrinks in its own way. Channels are z-scored first, so that the shrinkage does
    not depend on their units. A channel that is constant (outside the field of view) correlates with nothing; its small shrunk variance
    stays in the plain tangent, as in nilearn's, and may tell people apart.

    Parameters
    ----------
    series : sequence of N arrays
        (T, C) each; T may differ. Each is read once.
    frames : str
        Which frames these are, for the table.

    Raises
    ------
    InputError
        If sessions differ in their number of channels.
    """
    return connectivity_sets(stacked(series, connectivity_vectors), frames)


def connectivity_vectors(values: Floats) -> dict[str, _Real]:
    """What `connectivity_sets` takes of one session (T, C): triangles of its correlations and of its covariance.

    Correlation and partial correlation are without the diagonal.
    """
    scaled = _scaled(values)
    shrunk = LedoitWolf(store_precision=False).fit(scaled).covariance_
    partial = prec_to_partial(np.linalg.inv(shrunk))
    strict = np.tril_indices(len(shrunk), -1)
    triangles = {"correlation": cov_to_corr(shrunk)[strict], "partial": partial[strict]}
    triangles["covariance"] = packed(shrunk)
    return {name: triangle.astype(np.float32) for name, triangle in triangles.items()} | plain_vectors(values)


def plain_vectors(values: Floats) -> dict[str, _Real]:
    """The triangle of the plain correlations of one session (T, C)."""
    return {"plain": packed(correlation_matrix(_scaled(values))).astype(np.float32)}


def _scaled(values: Floats) -> Floats:
    return standardised(values, nothing=0, rounding=_DOUBLE_ROUNDING)


def connectivity_sets(vectors: dict[str, _Real], frames: str) -> list[FeatureSet]:
    """The four kinds of connectivity, from `connectivity_vectors` of N sessions, (N, ...) each."""
    return [
        FeatureSet(CONNECTIVITY, f"correlation, {frames}", vectors["correlation"], source="Biswal et al. 1995"),
        FeatureSet(CONNECTIVITY, f"partial correlation, {frames}", vectors["partial"], source="Marrelec et al. 2006"),
        TangentSet(CONNECTIVITY, f"tangent, {frames}", vectors["covariance"], TangentSpace(), source="Varoquaux et al. 2010"),
        population_tangent(vectors["plain"], frames),
    ]


def population_tangent(plain: _Real, frames: str) -> FeatureSet:
    """The tangent towards the population, from plain correlations of N sessions."""
    source = "after Rahim et al. 2019, with a plain weight"
    return FeatureSet(CONNECTIVITY, f"tangent towards the population, {frames}", plain, PopulationTangent(), source=source)


def stacked(series: Sequence[Floats], read: Callable[[Floats], dict[str, _Real]], label: str = "") -> dict[str, _Real]:
    """(N, ...) arrays of what is read of each of N sessions (T, C), which are looked at once, one after another.

    Shows progress under `label`, if there is one.

    Raises
    ------
    InputError
        If sessions differ in their number of channels.
    """
    found: dict[str, _Real] = {}
    width = 0
    for number, values in enumerate(track(series, label) if label else series):
        width = width or values.shape[1]
        if values.shape[1] != width:
            least, most = sorted((width, values.shape[1]))
            raise InputError(f"Sessions have {least} to {most} channels; connectivity needs one parcellation for all.")
        for name, vector in read(values).items():
            found.setdefault(name, np.empty((len(series), *vector.shape), dtype=vector.dtype))[number] = vector
    return found


def correlation_matrix(scaled: Floats) -> Floats:
    """(C, C) correlations of z-scored series (T, C) as they are, singular where frames are few.

    A channel that is constant, and therefore 0, correlates with itself alone.
    """
    matrix: Floats = scaled.T @ scaled / len(scaled)
    np.fill_diagonal(matrix, 1.0)
    return matrix


class TangentSpace(TransformerMixin, BaseEstimator):
    """Matrices as deviations from the training subjects' geometric mean (Varoquaux et al. 2010, MICCAI).

    nilearn's `ConnectivityMeasure(kind="tangent")` is the same map, but it starts from the series in every fold and
    refuses to place a single session; this one starts from positive definite matrices.

    Parameters
    ----------
    near : tuple of two (C, C) arrays, or None
        A matrix near the mean, and the mean tangent matrix of X there: the search starts there, else from the log-Euclidean mean.
    """

    def __init__(self, near: _Near | None = None) -> None:
        self.near = near

    def fit(self, X: _Real, y: object = None) -> TangentSpace:
        """Find the geometric mean of X, (N, C, C) or packed (N, C (C + 1) / 2)."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: _Real, y: object = None) -> _Real:
        """`fit`, then `transform` of the same X, whose logarithms the search for the mean ends with."""
        self.whitening_, vectors = _whitened_logs(np.asarray(X), self.near)
        return vectors

    def transform(self, X: _Real) -> _Real:
        """(N, C (C + 1) / 2) logarithms of the whitened matrices; entries off the diagonal times sqrt(2), which keeps distances."""
        return _log_vectors(np.asarray(X), self.whitening_)


@dataclass(frozen=True)
class TangentSet(FeatureSet):
    """Tangent connectivity of sessions that many folds are made of: the search for a fold's mean starts from the mean of all.

    That takes two passes over the matrices in place of five, and moves no mean by more than the tolerance of the search: nothing is
    learnt from the sessions that are tested.
    """

    def unfitted(self, train: Ints) -> TangentSpace:
        """Starts one step from the mean of all, towards that of the training rows."""
        mean, vectors = self._everybody
        return TangentSpace((mean, _mean_matrix(vectors[train], len(mean))))

    @cached_property
    def _everybody(self) -> tuple[Floats, _Real]:
        """(C, C) geometric mean of all sessions, and their tangent vectors there, exact enough to start from."""
        whitening, vectors = _whitened_logs(self.data)
        return eigenvalues_mapped(whitening, lambda values: 1 / values**2), vectors.astype(np.float16)


class PopulationTangent(TransformerMixin, BaseEstimator):
    """Tangent connectivity of correlation matrices that are first shrunk towards the training subjects' mean.

    A short series has a singular matrix. Ledoit and Wolf shrink it towards the identity; the mean of other people is nearer to the truth
    (the idea of population shrinkage: Rahim, Thirion and Varoquaux 2019, Medical Image Analysis; theirs has a covariant prior, this
    one a plain weight). Matrices that share half of what they are lie close together, so the arithmetic mean is as good an origin as the
    geometric one, which costs a search (docs/embedding.md).

    Parameters
    ----------
    weight : float
        Of the training subjects' mean, over 0 to 1.
    """

    def __init__(self, weight: float = _POPULATION_WEIGHT) -> None:
        self.weight = weight

    def fit(self, X: _Real, y: object = None) -> PopulationTangent:
        """Learn the mean of X, (N, C, C) or packed, positive semidefinite, and place the tangent there."""
        mean = next(unpacked(np.asarray(X).mean(axis=0, dtype=np.float64)[None]))[1][0]
        # A few short series leave even their mean singular.
        self.mean_ = (1 - _POPULATION_RIDGE) * mean + _POPULATION_RIDGE * np.eye(len(mean))
        self.whitening_ = eigenvalues_mapped(self.mean_, lambda values: 1 / np.sqrt(values))
        return self

    def transform(self, X: _Real) -> _Real:
        """(N, C (C + 1) / 2)."""
        towards = self.weight * self.mean_
        return _log_vectors(np.asarray(X), self.whitening_, lambda matrices: (1 - self.weight) * matrices + towards.astype(matrices.dtype))


def packed(matrices: _Real) -> _Real:
    """(..., C (C + 1) / 2) lower triangles, row by row, of symmetric matrices (..., C, C)."""
    width = matrices.shape[-1]
    triangles: _Real = matrices.reshape(*matrices.shape[:-2], -1)[..., _triangle(width)]
    return triangles


def _whitened_logs(matrices: _Real, near: _Near | None = None) -> tuple[Floats, _Real]:
    """(C, C) inverse root of the geometric mean, and the tangent vectors of the matrices that it whitens.

    Gradient descent (Pennec, Fillard and Ayache 2006) from the log-Euclidean mean, which is close, or from a nearer one. After the first
    step, its length is that of the curvature between the last two gradients (Barzilai and Borwein 1988), which saves one iteration of four.
    """
    if near is None:
        width = next(unpacked(matrices[:1]))[1].shape[-1]
        vectors = _log_vectors(matrices, np.eye(width))
        mean, last = eigenvalues_mapped(_mean_matrix(vectors, width), np.exp), None
    else:
        mean, last = _moved(near[0], _MEAN_STEP * near[1]), near[1]
        vectors = np.empty((len(matrices), len(_entry_scale(len(mean)))), dtype=matrices.dtype)
    step = _MEAN_STEP
    for _ in range(_MEAN_STEPS):
        whitening = eigenvalues_mapped(mean, lambda values: 1 / np.sqrt(values))
        _log_vectors(matrices, whitening, out=vectors)
        gradient = _mean_matrix(vectors, len(mean))
        if np.linalg.norm(gradient) < _MEAN_TOLERANCE * np.sqrt(len(gradient)):
            break
        if last is not None:
            change = last - gradient
            step = float(np.clip(step * (last * change).sum() / (change**2).sum(), *_MEAN_STEP_BOUNDS))
        mean, last = _moved(mean, step * gradient), gradient
    return whitening, vectors


def _moved(mean: Floats, tangent: Floats) -> Floats:
    """(C, C) where a step along a tangent matrix at `mean` ends."""
    root = eigenvalues_mapped(mean, np.sqrt)
    moved: Floats = root @ eigenvalues_mapped(tangent, np.exp) @ root
    return (moved + moved.T) / 2


def _log_vectors(
    matrices: _Real, whitening: Floats, before: Callable[[_Real], _Real] = lambda each: each, out: _Real | None = None
) -> _Real:
    """(N, C (C + 1) / 2) tangent vectors: logarithms of `whitening @ before(matrix) @ whitening`."""
    whitening, scale = whitening.astype(matrices.dtype), _entry_scale(len(whitening)).astype(matrices.dtype)
    vectors = np.empty((len(matrices), len(scale)), dtype=matrices.dtype) if out is None else out
    for at, block in unpacked(matrices):
        vectors[at] = packed(_log(whitening @ before(block) @ whitening)) * scale
    return vectors


def unpacked(matrices: _Real) -> Iterator[tuple[slice, _Real]]:
    """A few matrices (n, C, C) at a time, and which of them, from (N, C, C) or their lower triangles (N, C (C + 1) / 2)."""
    for start in range(0, len(matrices), _BLOCK):
        at = slice(start, start + _BLOCK)
        block = np.asarray(matrices[at])
        if block.ndim == 2:
            width = int((np.sqrt(8 * block.shape[1] + 1) - 1) / 2)
            block = block[:, _places(width)].reshape(len(block), width, width)
        yield at, block


@cache
def _triangle(width: int) -> _Indices:
    """(C (C + 1) / 2,) places of the lower triangle in a flat matrix."""
    rows, columns = np.tril_indices(width)
    return np.asarray(rows * width + columns)


@cache
def _places(width: int) -> _Indices:
    """(C C,) for each entry of a flat matrix its place in the packed lower triangle."""
    places = np.zeros((width, width), dtype=np.intp)
    rows, columns = np.tril_indices(width)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return places.ravel()


def _entry_scale(width: int) -> Floats:
    """(C (C + 1) / 2,) 1 on the diagonal and sqrt(2) off it: vectors are as long as their matrices."""
    rows, columns = np.tril_indices(width)
    return np.where(rows == columns, 1.0, np.sqrt(2))


def _mean_matrix(vectors: _Real, width: int) -> Floats:
    """(C, C) symmetric matrix of the mean of tangent vectors."""
    mean = vectors.mean(axis=0, dtype=np.float64) / _entry_scale(width)
    return np.asarray(mean[_places(width)].reshape(width, width))


def _log(matrices: _Real) -> _Real:
    return eigenvalues_mapped(matrices, lambda values: np.log(np.maximum(values, _EIGENVALUE_FLOOR)))


def eigenvalues_mapped(matrices: _Real, function: Callable[[_Real], _Real]) -> Any:
    """Apply a function to symmetric matrices (..., C, C) through their eigenvalues.

    torch's decomposition is faster than numpy's in single precision and, unlike scipy's, lets other threads run.
    """
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(matrices))))
    return (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
