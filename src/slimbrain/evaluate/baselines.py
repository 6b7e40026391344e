"""What a learned representation has to beat: connectivity, channel statistics, known confounds, the majority class.

Each baseline is a `FeatureSet` and goes through the very same `cross_validate` as an embedding does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from nilearn.connectome import ConnectivityMeasure, cov_to_corr, prec_to_partial
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import LedoitWolf
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slimbrain.errors import InputError
from slimbrain.evaluate.phenotypes import is_missing
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.stats import Floats
from slimbrain.governance.fingerprint import standardised
from slimbrain.progress import track
from slimbrain.store import Store

_NUMERIC_CONFOUNDS = ("age", "fd_mean")
_CATEGORICAL_CONFOUNDS = ("sex", "gender", "site")

CONNECTIVITY = "connectivity"
_GEOMETRIC_MEAN_STEPS = 50
_GEOMETRIC_MEAN_STEP, _GEOMETRIC_MEAN_STEP_BOUNDS = 0.7, (0.1, 1.5)
"""First step of the descent, and bounds of the others: the cost curves upward faster than a parabola of curvature 1 where matrices are
spread, so the usual step of 1 overshoots (12 iterations against 4 on 94 real sessions of 122 channels)."""
_GEOMETRIC_MEAN_TOLERANCE = 1e-3
"""Root mean square of the log-eigenvalues by which the mean may be off: a tenth of a percent, far under sampling error."""
_EIGENVALUE_FLOOR = 1e-10
_POPULATION_WEIGHT = 0.5
"""Weight of the training subjects' mean correlation; from 0.3 to 0.9 as good as each other on halves of rpn122 (docs/embedding.md)."""
_POPULATION_RIDGE = 1e-3
"""Weight of the identity in that mean, whose average eigenvalue is 1."""
_DOUBLE_ROUNDING = 1e-12
"""A channel whose deviation is under this share of its largest value is constant."""


def store_baselines(
    store: Store,
    keys: Sequence[str],
    used: Mapping[str, NDArray[np.int64]] | None = None,
    exclude: Sequence[str] = (),
    known: Sequence[Mapping[str, str]] = (),
    series: ChannelSeries | None = None,
) -> list[FeatureSet]:
    """Every baseline a store allows, for the sessions `keys`, in that order.

    Parameters
    ----------
    used : Mapping[str, ndarray of int64] or None
        Frames of each session that the model used; adds connectivity and channel statistics on these alone.
    exclude : Sequence[str], default ()
        Columns of `participants.tsv` that must not serve as confounds (the label itself).
    known : Sequence[Mapping[str, str]], default ()
        Further cells of each session's participant, from a phenotype file; they win over `participants.tsv`.
    series : ChannelSeries or None
        The store's series, where they were read before.
    """
    series = series or ChannelSeries(store)
    whole = [series.channels(key) for key in track(keys, "read for baselines")]
    sets = [*connectivity(whole, "whole run"), _channel_statistics(whole, "whole run")]
    if used is not None:
        cut = [_frames(values, used, key) for key, values in zip(keys, whole, strict=True)]
        sets += [*connectivity(cut, "frames used"), _channel_statistics(cut, "frames used")]
    rows = _confound_rows(store, keys)
    confounding = _confounds([{**row, **more} for row, more in zip(rows, known, strict=True)] if known else rows, exclude)
    return [*sets, *([confounding] if confounding else []), majority(len(keys))]


def connectivity(series: Sequence[Floats], frames: str) -> list[FeatureSet]:
    """Correlation, partial correlation and tangent from one Ledoit-Wolf estimate a session, and the tangent towards the population.

    The last starts from the plain correlations, which it shrinks in its own way. Channels are z-scored first, so that the shrinkage does
    not depend on their units. A channel that is constant (outside the field of view) correlates with nothing; its small shrunk variance
    stays in the plain tangent, as in nilearn's, and may tell people apart.

    Parameters
    ----------
    series : Sequence[ndarray of float64]
        N arrays (T, C); T may differ.
    frames : str
        Which frames these are, for the table.
    """
    widths = {values.shape[1] for values in series}
    if len(widths) > 1:
        raise InputError(f"Sessions have {min(widths)} to {max(widths)} channels; connectivity needs one parcellation for all.")
    measure = ConnectivityMeasure(LedoitWolf(store_precision=False), kind="covariance", standardize=False)
    scaled = [standardised(values, nothing=0, rounding=_DOUBLE_ROUNDING) for values in series]
    covariances = np.asarray(measure.fit_transform(scaled))
    correlation = np.stack([cov_to_corr(matrix) for matrix in covariances])
    partial = np.stack([prec_to_partial(inverse) for inverse in np.linalg.inv(covariances)])
    return [
        FeatureSet(CONNECTIVITY, f"correlation, {frames}", _lower_triangles(correlation)),
        FeatureSet(CONNECTIVITY, f"partial correlation, {frames}", _lower_triangles(partial)),
        FeatureSet(CONNECTIVITY, f"tangent, {frames}", covariances, TangentSpace()),
        FeatureSet(CONNECTIVITY, f"tangent towards the population, {frames}", correlations(scaled), PopulationTangent()),
    ]


def correlations(scaled: Sequence[Floats]) -> Floats:
    """(N, C, C) correlation matrices of z-scored series (T, C) as they are, singular where frames are few.

    A channel that is constant, and therefore 0, correlates with itself alone.
    """
    matrices = np.stack([values.T @ values / len(values) for values in scaled])
    diagonal = np.arange(matrices.shape[-1])
    matrices[:, diagonal, diagonal] = 1.0
    return matrices


def _channel_statistics(series: Sequence[Floats], frames: str) -> FeatureSet:
    """Mean and standard deviation over frames of every channel."""
    means, stds = (np.stack([statistic(values, axis=0) for values in series]) for statistic in (np.mean, np.std))
    # Over a whole z-scored run the mean is 0 but for rounding, which standardising features would blow up to noise.
    means = np.where(np.abs(means) < 1e-4 * stds, 0.0, means)
    # So is the std 1 of region-of-interest channels, which prep z-scores one by one.
    stds = np.where(np.abs(stds - 1) < 1e-4, 1.0, stds)
    return FeatureSet("channels", f"mean and std, {frames}", np.hstack([means, stds]))


def _confounds(rows: Sequence[Mapping[str, str]], exclude: Sequence[str] = ()) -> FeatureSet | None:
    """Age, sex, site and head motion where they are known; None where none of them varies.

    Categories become one column each; gaps are filled with the training subjects' mean.

    Parameters
    ----------
    rows : Sequence[Mapping[str, str]]
        N rows of text cells; columns are looked up without regard to case.
    exclude : Sequence[str], default ()
        Columns that must not be used.
    """
    table = [{name.lower(): value.strip() for name, value in row.items()} for row in rows]
    left_out = {name.lower() for name in exclude}
    columns: dict[str, list[float]] = {}
    for name in _NUMERIC_CONFOUNDS:
        columns[name] = [_number(row.get(name, "")) for row in table]
    for name in _CATEGORICAL_CONFOUNDS:
        cells = [row.get(name, "") for row in table]
        for level in sorted({cell for cell in cells if not is_missing(cell)}):
            columns[f"{name}={level}"] = [float("nan") if is_missing(cell) else float(cell == level) for cell in cells]
    used = [name for name, values in columns.items() if name.split("=")[0] not in left_out and _varies(values)]
    if not used:
        return None
    data = np.column_stack([columns[name] for name in used])
    label = ", ".join(dict.fromkeys(name.split("=")[0] for name in used))
    return FeatureSet("confounds", label, data, make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()))


def majority(n_sessions: int) -> FeatureSet:
    """A constant: all that a linear model can learn from it is the majority class, or the mean of the target."""
    return FeatureSet("majority", "majority class or mean", np.zeros((n_sessions, 1)))


class TangentSpace(TransformerMixin, BaseEstimator):
    """Matrices as deviations from the training subjects' geometric mean (Varoquaux et al. 2010, MICCAI).

    nilearn's `ConnectivityMeasure(kind="tangent")` is the same map, but it starts from the series in every fold and
    refuses to place a single session; this one starts from (N, C, C) positive definite matrices.
    """

    def fit(self, X: Floats, y: object = None) -> TangentSpace:
        """Find the geometric mean of X (N, C, C)."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Floats, y: object = None) -> Floats:
        """`fit`, then `transform` of the same X, whose logarithms the search for the mean ends with."""
        self.whitening_, logs = _whitened_logs(np.asarray(X, dtype=np.float64))
        return _tangent_vectors(logs)

    def transform(self, X: Floats) -> Floats:
        """(N, C (C + 1) / 2) logarithms of the whitened matrices."""
        return _tangent_vectors(_log(self.whitening_ @ np.asarray(X, dtype=np.float64) @ self.whitening_))


def _whitened_logs(matrices: Floats) -> tuple[Floats, Floats]:
    """(C, C) inverse root of the geometric mean, and (N, C, C) logarithms of the matrices that it whitens.

    Gradient descent (Pennec, Fillard and Ayache 2006) from the log-Euclidean mean, which is close. After the first step, its length is
    that of the curvature between the last two gradients (Barzilai and Borwein 1988), which saves one iteration of four.
    """
    mean = _map_eigenvalues(_log(matrices).mean(axis=0), np.exp)
    step, last = _GEOMETRIC_MEAN_STEP, np.zeros_like(mean)
    for iteration in range(_GEOMETRIC_MEAN_STEPS):
        whitening = _map_eigenvalues(mean, lambda values: 1 / np.sqrt(values))
        logs = _log(whitening @ matrices @ whitening)
        gradient = logs.mean(axis=0)
        if np.linalg.norm(gradient) < _GEOMETRIC_MEAN_TOLERANCE * np.sqrt(len(gradient)):
            break
        if iteration:
            change = last - gradient
            step = float(np.clip(step * (last * change).sum() / (change**2).sum(), *_GEOMETRIC_MEAN_STEP_BOUNDS))
        last, root = gradient, _map_eigenvalues(mean, np.sqrt)
        mean = root @ _map_eigenvalues(step * gradient, np.exp) @ root
        mean = (mean + mean.T) / 2
    return whitening, logs


def _tangent_vectors(logs: Floats) -> Floats:
    """(N, C (C + 1) / 2): entries under and on the diagonal, those under it times sqrt(2), which keeps distances."""
    rows, columns = np.tril_indices(logs.shape[-1])
    vectors: Floats = logs[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2))
    return vectors


def _log(matrices: Floats) -> Floats:
    return _map_eigenvalues(matrices, lambda values: np.log(np.maximum(values, _EIGENVALUE_FLOOR)))


def _map_eigenvalues(matrices: Floats, function: Callable[[Floats], Floats]) -> Floats:
    """Apply a function to symmetric matrices (..., C, C) through their eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    mapped: Floats = (vectors * function(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return mapped


class PopulationTangent(TransformerMixin, BaseEstimator):
    """Tangent connectivity of correlation matrices that are first shrunk towards the training subjects' mean.

    A short series has a singular matrix. Ledoit and Wolf shrink it towards the identity; the mean of other people is nearer to the truth
    (the idea of population shrinkage: Rahim, Thirion and Varoquaux 2019, Medical Image Analysis; theirs has a covariant prior, this
    one a plain weight). Matrices that share half of what they are lie close together, so the arithmetic mean is as good an origin as the
    geometric one, which costs a search (docs/embedding.md).

    Parameters
    ----------
    weight : float, default _POPULATION_WEIGHT
        Of the training subjects' mean, over 0 to 1.
    """

    def __init__(self, weight: float = _POPULATION_WEIGHT) -> None:
        self.weight = weight

    def fit(self, X: Floats, y: object = None) -> PopulationTangent:
        """Learn the mean of X (N, C, C), positive semidefinite, and place the tangent there."""
        mean = np.asarray(X, dtype=np.float64).mean(axis=0)
        # A few short series leave even their mean singular.
        self.mean_ = (1 - _POPULATION_RIDGE) * mean + _POPULATION_RIDGE * np.eye(len(mean))
        self.tangent_ = TangentSpace()
        self.tangent_.whitening_ = _map_eigenvalues(self.mean_, lambda values: 1 / np.sqrt(values))
        return self

    def transform(self, X: Floats) -> Floats:
        """(N, C (C + 1) / 2)."""
        return self.tangent_.transform((1 - self.weight) * np.asarray(X, dtype=np.float64) + self.weight * self.mean_)


def _lower_triangles(matrices: Floats) -> Floats:
    """(N, C (C - 1) / 2) entries under the diagonal."""
    rows, columns = np.tril_indices(matrices.shape[-1], -1)
    return matrices[:, rows, columns]


def _frames(values: Floats, used: Mapping[str, NDArray[np.int64]], key: str) -> Floats:
    if key not in used:
        raise InputError(f"{key}: no window is listed for it; rank windows for the whole store, or leave the window table out.")
    return values[used[key]]


def _confound_rows(store: Store, keys: Sequence[str]) -> list[dict[str, str]]:
    """Each session's QC cells and its subject's phenotype cells; the latter win."""
    sessions = [store.session(key) for key in keys]
    return [{**session.qc, **store.participants.get(session.subject, {})} for session in sessions]


def _number(cell: str) -> float:
    """The cell as a number, nan where it is none (`89+`, the way some releases hide old ages, is one of those)."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _varies(values: Sequence[float]) -> bool:
    known = {value for value in values if np.isfinite(value)}
    return len(known) > 1
