"""Ridge and logistic regression over a whole path of penalties, in coordinates that make both of them easy.

A penalised linear model sees samples only through their inner products, so that features which outnumber N samples may be replaced
by N coordinates, found from the (N, N) matrix of these products; a rotation, which changes no prediction. The axes are the
principal ones: along them a ridge is a division, and the curvature of a logistic loss is known well enough beforehand to be scaled
to about one, so that a quasi-Newton method needs a dozen steps. Each penalty starts where the one before ended.

Beside scikit-learn's `LogisticRegression`, refitted at every penalty in the coordinates as they are: about a seventh of the time for 38
sessions and half of it for 400, and a ten-thousandth of the error that its default tolerance leaves (`benchmarks/probe.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.preprocessing import StandardScaler

from slimbrain.evaluate.stats import Floats

_SMALLEST_POWER = 1e-12
"""Share of the largest eigenvalue under which an axis is rounding: centring alone leaves one, which would stretch held-out samples."""

_CURVATURE = 0.25
"""Of a logistic loss where it knows nothing, per sample and unit of squared coordinate; nowhere is it higher for two classes."""

_GRADIENT_TOLERANCE = 1e-7
"""In scaled coordinates: probabilities are then right to about 1e-6, at the weakest penalty too."""
_MOST_STEPS = 2000
_REMEMBERED_STEPS = 20
_BLOCK_FEATURES = 4096
"""Features whose inner products are added at once: 700 sessions of them are 23 MB."""


def coordinates(x: Floats, others: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """Standardise by what `x` (N, D) alone shows, divide by the square root of D, and rotate onto its principal axes.

    Inner products are of the features' own precision within a block of them, and added up in double precision.

    Returns
    -------
    x (N, R), whose columns are orthogonal, and the others (M, R) along the same axes; R is the rank of x, at least 1.
    """
    if x.shape[1] <= len(x):
        train, *held = (part.astype(np.float64) for part in _standardised(x, others, x.shape[1]))
        return rotate(train, held)
    # Through inner products, to which each block of features adds its share: standardised copies of all features would not fit.
    products = [np.zeros((len(part), len(x))) for part in (x, *others)]
    for start in range(0, x.shape[1], _BLOCK_FEATURES):
        block = slice(start, start + _BLOCK_FEATURES)
        train, *held = _standardised(x[:, block], [part[:, block] for part in others], x.shape[1])
        for total, part in zip(products, (train, *held), strict=True):
            total += part @ train.T
    values, vectors = _spectrum(products[0])
    axes = vectors / np.sqrt(values)
    gram, *across = products
    return gram @ axes, [part @ axes for part in across]


def rotate(x: Floats, others: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """x (N, D), whose columns are brought to be orthogonal, and the others (M, D) along the same axes: (N, R) and (M, R), R the rank."""
    if x.shape[1] <= len(x):
        _, axes = _spectrum(x.T @ x)
    else:
        values, vectors = _spectrum(x @ x.T)
        axes = x.T @ vectors / np.sqrt(values)
    return x @ axes, [part @ axes for part in others]


def _standardised(x: Floats, others: Sequence[Floats], width: int) -> list[Floats]:
    """x and the others in units of x's standard deviations around its means, over the square root of `width`."""
    scaler = StandardScaler().fit(x)
    # A Python float leaves single precision as it is.
    root = float(np.sqrt(width))
    return [scaler.transform(part) / root for part in (x, *others)]


def ridge_path(x: Floats, y: Floats, x_held: Floats, strengths: Sequence[float]) -> Floats:
    """(S, M) values that a ridge with penalty 1 / strength predicts, for each of S strengths.

    Parameters
    ----------
    x : ndarray of float64
        (N, R) from `coordinates`; `x_held` (M, R) along the same axes.
    y : ndarray of float64
        (N,) values.
    """
    mean = y.mean()
    along, power = x.T @ (y - mean), (x**2).sum(axis=0)
    return np.stack([x_held @ (along / (power + 1 / strength)) + mean for strength in strengths])


def logistic_path(x: Floats, y: NDArray[np.int64], x_held: Floats, strengths: Sequence[float]) -> Floats:
    """(S, M, K) class probabilities of a logistic regression with C = strength, for each of S strengths, which should grow.

    Parameters
    ----------
    x : ndarray of float64
        (N, R) from `coordinates`; `x_held` (M, R) along the same axes.
    y : ndarray of int64
        (N,) class numbers, of which 0 to K - 1 all occur.
    """
    held = np.column_stack([x_held, np.ones(len(x_held))])
    return np.exp([_log_shares(held @ weights) for weights in logistic_weights(x, y, strengths)])


def logistic_weights(x: Floats, y: NDArray[np.int64], strengths: Sequence[float]) -> list[Floats]:
    """(R + 1, J) weights, the intercept last, of the model of `logistic_path`, for each strength.

    The model is scikit-learn's: an intercept that is not penalised; for more than two classes a softmax, of which every class has
    penalised weights (J = K); two classes share one weight per feature, that of the second against none of the first (J = 1).
    """
    truth = np.eye(int(y.max()) + 1)[y]
    power, design = np.append((x**2).sum(axis=0), len(x)), np.column_stack([x, np.ones(len(x))])
    weights, found = np.zeros((len(power), truth.shape[1] if truth.shape[1] > 2 else 1)), []
    for strength in strengths:
        penalty = np.append(np.full(len(power) - 1, 1 / strength), 0.0)
        scale = 1 / np.sqrt(_CURVATURE * power + penalty)[:, None]
        weights = scale * _minimise(design * scale.T, truth, penalty[:, None] * scale**2, weights / scale)
        found.append(weights)
    return found


def _minimise(design: Floats, truth: Floats, penalty: Floats, start: Floats) -> Floats:
    """(R, J) weights with the least sum of log-loss, against (N, K) indicators, and half the penalised squares."""
    outputs = start.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(start.shape)
        shares = _log_shares(design @ weights)
        slope = (np.exp(shares) - truth)[:, -outputs:]
        value = 0.5 * float((penalty * weights**2).sum()) - float((shares * truth).sum())
        return value, (design.T @ slope + penalty * weights).ravel()

    options = {"gtol": _GRADIENT_TOLERANCE, "ftol": 0.0, "maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "maxcor": _REMEMBERED_STEPS}
    found: Floats = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options).x
    return found.reshape(start.shape)


def _log_shares(logits: Floats) -> Floats:
    """(N, K) log-probabilities of (N, K) logits, or of the (N, 1) logit of the second of two classes."""
    if logits.shape[1] == 1:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    shares: Floats = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return shares


def _spectrum(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues above rounding, and their vectors, of a symmetric matrix; one of 1 where there are none."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > values[-1] * _SMALLEST_POWER
    if not kept.any():
        return np.ones(1), vectors[:, -1:]
    return values[kept], vectors[:, kept]
