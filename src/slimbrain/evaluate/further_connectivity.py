"""Connectivity beyond the four kinds of every table: a population prior with covariance, a matrix power, co-skewness."""

from __future__ import annotations

from typing import Any

import numpy as np
from nilearn.connectome import cov_to_corr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from slimbrain.evaluate.connectivity import CONNECTIVITY, PopulationTangent, eigenvalues_mapped, packed, unpacked
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.stats import Floats
from slimbrain.governance.fingerprint import standardised

_Real = NDArray[Any]

ADJUSTED = "connectivity less confounds"

_POWER = 0.35
"""Of the eigenvalues: between the logarithm (towards 0) and the correlations as they are (1)."""
_EXPLAINED = 0.7
"""Share of the variance between people along the axes that the prior has; the rest is the same in all other directions."""
_DOUBLE_ROUNDING = 1e-12


class PopulationPrior(TransformerMixin, BaseEstimator):
    """Population shrinkage of covariance (PoSCE; Rahim, Thirion and Varoquaux 2019, Medical Image Analysis 54).

    In the tangent space, a session is its person plus estimation noise. People have the training subjects' mean and covariance S, noise
    has the covariance `noise * I`; the estimate is the mean of the person given the session, mean + S (S + noise I)^-1 (session - mean).
    S has the leading axes of the training subjects and one variance in all other directions.

    Parameters
    ----------
    noise : float
        Variance of the noise, as a multiple of the mean variance between training sessions; 1 trusts half of an average direction.
    """

    def __init__(self, noise: float = 1.0) -> None:
        self.noise = noise

    def fit(self, X: _Real, y: object = None) -> PopulationPrior:
        """Learn origin, mean and covariance from X, (N, C, C) or packed, positive definite."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: _Real, y: object = None) -> _Real:
        """`fit`, then `transform` of the same X."""
        # The tangent at the mean without further shrinkage, which is this estimator's own.
        self.tangent_ = PopulationTangent(weight=0.0).fit(X)
        vectors = self.tangent_.transform(X)
        self.mean_ = vectors.mean(axis=0, dtype=np.float64).astype(vectors.dtype)
        vectors -= self.mean_
        self._learn_prior(vectors)
        return self._shrunk(vectors)

    def transform(self, X: _Real) -> _Real:
        """(N, C (C + 1) / 2)."""
        vectors = self.tangent_.transform(X)
        vectors -= self.mean_
        return self._shrunk(vectors)

    def _learn_prior(self, centred: _Real) -> None:
        n, width = centred.shape
        values, along = np.linalg.eigh((centred @ centred.T).astype(np.float64) / n)
        values, along = np.maximum(values[::-1], 0), along[:, ::-1]
        total = float(values.sum())
        count = min(int(np.searchsorted(np.cumsum(values), _EXPLAINED * total)) + 1, n - 1, width)
        elsewhere = float(values[count:].sum()) / max(width - count, 1)
        noise = self.noise * total / width
        axes = (along[:, :count] / np.sqrt(n * np.maximum(values[:count], np.finfo(float).tiny))).T.astype(centred.dtype) @ centred
        gains = [variance / (variance + noise) if total else 1.0 for variance in (*values[:count], elsewhere)]
        self.axes_, self.gain_, self.gain_elsewhere_ = axes, np.array(gains[:-1]).astype(centred.dtype), float(gains[-1])

    def _shrunk(self, centred: _Real) -> _Real:
        along = (centred @ self.axes_.T) * (self.gain_ - centred.dtype.type(self.gain_elsewhere_))
        centred *= self.gain_elsewhere_
        centred += along @ self.axes_
        centred += self.mean_
        return centred


class MatrixPower(TransformerMixin, BaseEstimator):
    """Correlations whose eigenvalues are raised to a power (power Euclidean metric: Dryden, Pennec and Peyrat 2010, arXiv:1009.3045).

    Nothing is fitted. Covariance matrices, (N, C, C) or packed, are brought to correlations first.
    """

    def __init__(self, power: float = _POWER) -> None:
        self.power = power

    def fit(self, X: _Real, y: object = None) -> MatrixPower:
        """Nothing is learnt."""
        return self

    def transform(self, X: _Real) -> _Real:
        """(N, C (C + 1) / 2)."""
        X = np.asarray(X)
        parts = [packed(eigenvalues_mapped(_correlations(block), self._raised)) for _, block in unpacked(X)]
        return np.concatenate(parts)

    def _raised(self, values: _Real) -> _Real:
        raised: _Real = np.maximum(values, 0) ** self.power
        return raised


def _correlations(matrices: _Real) -> _Real:
    return np.stack([cov_to_corr(matrix) for matrix in matrices]).astype(matrices.dtype)


def coskewness(values: Floats) -> dict[str, _Real]:
    """(C C,) means over frames of z_i^2 z_j, the third-order cumulants of two channels (Hindriks et al. 2024, Human Brain Mapping 45)."""
    z = standardised(values, nothing=0, rounding=_DOUBLE_ROUNDING)
    return {"coskewness": ((z**2).T @ z / len(z)).ravel().astype(np.float32)}


def further_sets(vectors: dict[str, _Real], frames: str, confounds: FeatureSet | None) -> list[FeatureSet]:
    """PoSCE, matrix power, co-skewness, and connectivity less what confounds explain, from vectors of N sessions.

    Parameters
    ----------
    vectors : dict[str, ndarray]
        (N, ...) each, of `connectivity_vectors` and `coskewness`.
    confounds : FeatureSet or None
        What is known of each session.
    """
    sets = [
        FeatureSet(CONNECTIVITY, f"PoSCE, {frames}", vectors["covariance"], PopulationPrior(), source="Rahim et al. 2019"),
        FeatureSet(CONNECTIVITY, f"correlation^{_POWER}, {frames}", vectors["covariance"], MatrixPower(), source="Dryden et al. 2010"),
        FeatureSet("co-skewness", frames, vectors["coskewness"], source="Hindriks et al. 2024"),
    ]
    if confounds:
        method = f"tangent towards the population, less {confounds.method}, {frames}"
        sets.append(FeatureSet(ADJUSTED, method, vectors["plain"], PopulationTangent(), confounds, source="Snoek et al. 2019"))
    return sets
