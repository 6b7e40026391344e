"""Functional connectivity as features of a session, each kind a row of the table.

Symmetric matrices are kept as their lower triangle, row by row, and unpacked a few at a time: 877 sessions of 200 channels are 141 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from nilearn.connectome import cov_to_corr, prec_to_partial
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import LedoitWolf

from slimbrain.errors import InputError
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.stats import Floats
from slimbrain.governance.fingerprint import standardised

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
        (T, C) each; T may differ. Read one at a time.
    frames : str
        Which frames these are, for the table.

    Raises
    ------
    InputError
        If sessions differ in their number of channels.
    """
    widths = {values.shape[1] for values in series}
    if len(widths) > 1:
        raise InputError(f"Sessions have {min(widths)} to {max(widths)} channels; connectivity needs one parcellation for all.")
    (width,) = widths
    full, strict = np.tril_indices(width), np.tril_indices(width, -1)
    correlation, partial = (np.empty((len(series), len(strict[0]))) for _ in range(2))
    covariance, plain = (np.empty((len(series), len(full[0]))) for _ in range(2))
    for number, values in enumerate(series):
        scaled = standardised(values, nothing=0, rounding=_DOUBLE_ROUNDING)
        shrunk = LedoitWolf(store_precision=False).fit(scaled).covariance_
        covariance[number], plain[number] = shrunk[full], correlation_matrix(scaled)[full]
        correlation[number] = cov_to_corr(shrunk)[strict]
        partial[number] = prec_to_partial(np.linalg.inv(shrunk))[strict]
    return [
        FeatureSet(CONNECTIVITY, f"correlation, {frames}", correlation),
        FeatureSet(CONNECTIVITY, f"partial correlation, {frames}", partial),
        FeatureSet(CONNECTIVITY, f"tangent, {frames}", covariance, TangentSpace()),
        FeatureSet(CONNECTIVITY, f"tangent towards the population, {frames}", plain, PopulationTangent()),
    ]


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
    """

    def fit(self, X: Floats, y: object = None) -> TangentSpace:
        """Find the geometric mean of X, (N, C, C) or packed (N, C (C + 1) / 2)."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Floats, y: object = None) -> Floats:
        """`fit`, then `transform` of the same X, whose logarithms the search for the mean ends with."""
        self.whitening_, vectors = _whitened_logs(np.asarray(X))
        return vectors

    def transform(self, X: Floats) -> Floats:
        """(N, C (C + 1) / 2) logarithms of the whitened matrices; entries off the diagonal times sqrt(2), which keeps distances."""
        return _log_vectors(np.asarray(X), self.whitening_)


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

    def fit(self, X: Floats, y: object = None) -> PopulationTangent:
        """Learn the mean of X, (N, C, C) or packed, positive semidefinite, and place the tangent there."""
        mean = next(_unpacked(np.asarray(X).mean(axis=0)[None]))[1][0]
        # A few short series leave even their mean singular.
        self.mean_ = (1 - _POPULATION_RIDGE) * mean + _POPULATION_RIDGE * np.eye(len(mean))
        self.whitening_ = _map_eigenvalues(self.mean_, lambda values: 1 / np.sqrt(values))
        return self

    def transform(self, X: Floats) -> Floats:
        """(N, C (C + 1) / 2)."""
        return _log_vectors(np.asarray(X), self.whitening_, lambda matrices: (1 - self.weight) * matrices + self.weight * self.mean_)


def _whitened_logs(matrices: Floats) -> tuple[Floats, Floats]:
    """(C, C) inverse root of the geometric mean, and the tangent vectors of the matrices that it whitens.

    Gradient descent (Pennec, Fillard and Ayache 2006) from the log-Euclidean mean, which is close. After the first step, its length is
    that of the curvature between the last two gradients (Barzilai and Borwein 1988), which saves one iteration of four.
    """
    width = next(_unpacked(matrices[:1]))[1].shape[-1]
    mean = _map_eigenvalues(_as_matrix(_log_vectors(matrices, np.eye(width)).mean(axis=0), width), np.exp)
    step, last = _MEAN_STEP, np.zeros_like(mean)
    for iteration in range(_MEAN_STEPS):
        whitening = _map_eigenvalues(mean, lambda values: 1 / np.sqrt(values))
        vectors = _log_vectors(matrices, whitening)
        gradient = _as_matrix(vectors.mean(axis=0), len(mean))
        if np.linalg.norm(gradient) < _MEAN_TOLERANCE * np.sqrt(len(gradient)):
            break
        if iteration:
            change = last - gradient
            step = float(np.clip(step * (last * change).sum() / (change**2).sum(), *_MEAN_STEP_BOUNDS))
        last, root = gradient, _map_eigenvalues(mean, np.sqrt)
        mean = root @ _map_eigenvalues(step * gradient, np.exp) @ root
        mean = (mean + mean.T) / 2
    return whitening, vectors


def _log_vectors(matrices: Floats, whitening: Floats, before: Callable[[Floats], Floats] = lambda each: each) -> Floats:
    """(N, C (C + 1) / 2) tangent vectors: logarithms of `whitening @ before(matrix) @ whitening`."""
    rows, columns = np.tril_indices(len(whitening))
    scale = np.where(rows == columns, 1.0, np.sqrt(2))
    vectors = np.empty((len(matrices), len(rows)))
    for at, block in _unpacked(matrices):
        vectors[at] = _log(whitening @ before(block) @ whitening)[:, rows, columns] * scale
    return vectors


def _unpacked(matrices: Floats) -> Iterator[tuple[slice, Floats]]:
    """A few matrices (n, C, C) at a time, and which of them, from (N, C, C) or their lower triangles (N, C (C + 1) / 2)."""
    for start in range(0, len(matrices), _BLOCK):
        at = slice(start, start + _BLOCK)
        block = np.asarray(matrices[at], dtype=np.float64)
        if block.ndim == 2:
            width = int((np.sqrt(8 * block.shape[1] + 1) - 1) / 2)
            rows, columns = np.tril_indices(width)
            whole = np.empty((len(block), width, width))
            whole[:, rows, columns] = whole[:, columns, rows] = block
            block = whole
        yield at, block


def _as_matrix(vector: Floats, width: int) -> Floats:
    """(C, C) symmetric matrix of a tangent vector."""
    rows, columns = np.tril_indices(width)
    matrix = np.empty((width, width))
    matrix[rows, columns] = matrix[columns, rows] = vector / np.where(rows == columns, 1.0, np.sqrt(2))
    return matrix


def _log(matrices: Floats) -> Floats:
    return _map_eigenvalues(matrices, lambda values: np.log(np.maximum(values, _EIGENVALUE_FLOOR)))


def _map_eigenvalues(matrices: Floats, function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to symmetric matrices (..., C, C) through their eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    mapped: Floats = (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return mapped
