"""Linear probes on frozen features, and what cross-validates any predictor: every statistic is fitted on the training subjects alone.

Features are standardised and divided by the square root of their number, so that a sample has a norm near 1 and one
grid of penalties fits an embedding of 64 numbers as well as 7,626 connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from slimbrain.errors import InputError
from slimbrain.evaluate.decision import NAMING_METRICS, tuned_cutoffs, untuned_cutoffs
from slimbrain.evaluate.linear import coordinates, logistic_path, logistic_weights, ridge_path, rotate
from slimbrain.evaluate.result import PROBE
from slimbrain.evaluate.splits import DEFAULT_POLICY, Kind, PredictionProblem, Split, SplitPolicy, inner_parts, outer_splits, pose
from slimbrain.evaluate.stats import Floats, Ints, OutOfFold, ordered_pairs
from slimbrain.progress import track

_Labels = NDArray[Any]

STRENGTHS = tuple(float(value) for value in np.logspace(-2, 3, 6))
"""Inverse penalties tried in the inner split: C of the logistic regression, 1/alpha of the ridge. Tangent connectivity is best between
100 and 1000 (sex from 122 parcels of 117 people: AUC 0.801, 0.814, 0.815 and 0.80 at 10, 100, 1000 and 10000)."""

_UNTUNED_STRENGTH = 1.0
_SHARES = (0.0, 1 / 3, 2 / 3, 1.0)
"""Of the second of two sets of features in the variance of both together."""
_CONSTANT = 1e-9
"""Probabilities that differ by less are the same."""
_TIE = 1e-6
"""Weight of the log-loss among settings of equal AUC."""


@dataclass(frozen=True)
class Fitted:
    """What one split gives.

    Attributes
    ----------
    scores : ndarray of float64
        (test rows, K) class probabilities, or values in the target's own unit.
    scale : float
        Standard deviation of the training targets, 1 for classes.
    loss : float
        Of the chosen setting in the inner split (`ranking_loss`); inf where nothing was tuned.
    cutoffs : Mapping[str, ndarray of float64] or None
        (K,) for each metric of named classes, tuned in the inner split (`decision.tuned_cutoffs`); None where they were not.
    """

    scores: Floats
    scale: float
    loss: float
    cutoffs: Mapping[str, Floats] | None = None


@dataclass(frozen=True)
class LinearRule:
    """A fitted probe as an affine map of raw features.

    Attributes
    ----------
    weight : ndarray of float64
        (K, D).
    bias : ndarray of float64
        (K,). `weight @ features + bias` are the logits of the K classes, or (K = 1) the value in the target's own unit.
    """

    weight: Floats
    bias: Floats


class Predictor(Protocol):
    """One row of the table before it is scored: something that learns from the training rows of a split and predicts the test rows."""

    @property
    def model(self) -> str: ...

    @property
    def method(self) -> str: ...

    def __len__(self) -> int: ...

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Learn from `split.train` (and tune on `split.valid`, or inside the former), then predict `split.test`."""
        ...


@dataclass(frozen=True)
class _Rows:
    """Features (rows, D) and, if they are to be adjusted, confounds (rows, Q)."""

    values: Floats
    known: Floats | None = None

    def at(self, mask: NDArray[np.bool_]) -> _Rows:
        """Some of the rows."""
        return _Rows(self.values[mask], None if self.known is None else self.known[mask])

    def __len__(self) -> int:
        return len(self.values)


def _adjusted(rows: _Rows, held: _Rows) -> tuple[Floats, Floats]:
    """Features of both, less what a regression on confounds, fitted on the first, says."""
    if rows.known is None or held.known is None:
        return rows.values, held.values
    known, known_held = (np.column_stack([np.ones(len(part)), part]).astype(rows.values.dtype) for part in (rows.known, held.known))
    weights = np.linalg.pinv(known) @ rows.values
    return rows.values - known @ weights, held.values - known_held @ weights


@dataclass(frozen=True)
class FeatureSet:
    """One frozen vector per session, for a linear model.

    Attributes
    ----------
    model, method : str
        Names for the table.
    data : ndarray of float64
        (N, ...) one entry per session; (N, D) unless `transform` makes it so.
    transform : BaseEstimator or None
        scikit-learn transformer fitted on the training rows only, or None.
    confounds : FeatureSet or None
        What is regressed out of the features, by a regression fitted on the training rows only, in inner splits anew.
    source : str
        Where the features are from, for the result.
    """

    model: str
    method: str
    data: Floats
    transform: BaseEstimator | None = None
    confounds: FeatureSet | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: Sequence[int]) -> FeatureSet:
        """Those of some sessions, in this order."""
        return replace(self, data=self.data[list(rows)], confounds=self.confounds.take(rows) if self.confounds else None)

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Fit a logistic regression or a ridge, its penalty tuned inside."""
        return _fit_predict([self], problem, split, seed)

    def unfitted(self, train: Ints) -> BaseEstimator:
        """A new `transform`, to be fitted on the training rows."""
        fresh: BaseEstimator = clone(self.transform)
        return fresh

    def fitted(self, split: Split) -> tuple[_Rows, _Rows, _Rows]:
        """Features of the training, validation and test rows, as the training rows make them, and what is to be regressed out."""
        rows = (split.train, split.valid, split.test)
        if self.transform is None:
            train, valid, test = (self.data[part] for part in rows)
        else:
            transform: Any = self.unfitted(split.train)
            train = transform.fit_transform(self.data[split.train])
            valid, test = (transform.transform(self.data[part]) if len(part) else train[:0] for part in rows[1:])
        if self.confounds is None:
            return _Rows(train), _Rows(valid), _Rows(test)
        known = [part.values for part in self.confounds.fitted(split)]
        return _Rows(train, known[0]), _Rows(valid, known[1]), _Rows(test, known[2])


@dataclass(frozen=True)
class Together:
    """Several sets of features in one linear model, their shares of the variance tuned inside with the penalty.

    Attributes
    ----------
    parts : tuple[FeatureSet, FeatureSet]
        Of the same sessions. The shares of the second are those of `_SHARES`: either alone is among them.
    """

    model: str
    method: str
    parts: tuple[FeatureSet, FeatureSet]

    def __len__(self) -> int:
        return len(self.parts[0])

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Fit a logistic regression or a ridge, its penalty and the shares tuned inside."""
        return _fit_predict(self.parts, problem, split, seed)


def embedding_set(model: str, vectors: Mapping[str, NDArray[Any]], keys: Sequence[str], method: str = PROBE) -> FeatureSet:
    """Frozen vectors (D,) of the sessions `keys`, in that order.

    Raises
    ------
    InputError
        If a session has none.
    """
    missing = [key for key in keys if key not in vectors]
    if missing:
        raise InputError(f"{model}: {len(missing)} labelled sessions have no embedding, {missing[0]} among them; embed the whole store.")
    return FeatureSet(model, method, np.stack([np.asarray(vectors[key], dtype=np.float64) for key in keys]))


def cross_validate(
    features: Predictor,
    labels: _Labels,
    subjects: _Labels,
    kind: Kind,
    policy: SplitPolicy = DEFAULT_POLICY,
    strata: _Labels | None = None,
    groups: _Labels | None = None,
    blocks: _Labels | None = None,
    runs: _Labels | None = None,
) -> OutOfFold:
    """Fit and tune on the training subjects of every split, and predict the left-out ones.

    Where all sessions of a subject carry the same label, their predicted probabilities or values are averaged, and
    the subject is one row of the result; where labels differ within a subject (a state, say), sessions stay rows.

    Parameters
    ----------
    features : Predictor
        One entry for each of N sessions; a `FeatureSet`, or another predictor.
    labels : ndarray
        (N,) class names, or numbers for regression.
    subjects : ndarray
        (N,) who each session belongs to; a subject is never on both sides of a split.
    kind : Kind
        Of the labels; a `FeatureSet` gets a logistic regression or a ridge.
    policy : SplitPolicy, default DEFAULT_POLICY
        Folds and seeds.
    strata : ndarray or None
        (N,) further grouping (site, say) that the folds balance, besides the label.
    groups : ndarray or None
        (N,) which subjects stay on one side of every split, inner ones too; each by itself if None.
    blocks : ndarray or None
        As for `outer_splits`.
    runs : ndarray or None
        (N,) the run that each entry is a window of; each by itself if None.

    Raises
    ------
    InputError
        If lengths differ, features are not finite, or there are too few subjects (of a class) to split.
    """
    _check(features, labels, subjects)
    problem = pose(labels, subjects, kind, groups)
    target, classes = problem.target, problem.classes
    shape = (len(policy.seeds), len(target))
    scores = np.full((*shape, problem.n_outputs), np.nan)
    fold, scale, loss = np.full(shape, -1), np.ones(shape), np.full(shape, np.inf)
    cutoffs = {metric: np.ones_like(scores) for metric in NAMING_METRICS} if classes else {}
    splits = [outer_splits(subjects, labels, kind, policy, seed, strata, groups, blocks) for seed in policy.seeds]
    trials = [(place, number, split) for place, divided in enumerate(splits) for number, split in enumerate(divided)]
    # A linear model is done before a line about it could be read.
    for place, number, split in (
        trials
        if isinstance(features, FeatureSet | Together)
        else track(
            trials, f"{features.model}, {features.method}: folds", shorter="fewer folds (--split 70/10/20) or repetitions (--seeds 1)"
        )
    ):
        fitted = features.fit_predict(problem, split, policy.seeds[place])
        scores[place, split.test] = fitted.scores
        fold[place, split.test], scale[place, split.test], loss[place, split.test] = number, fitted.scale, fitted.loss
        if classes:
            counts = np.bincount(target[split.train].astype(np.int64), minlength=len(classes))
            for metric, tuned in (fitted.cutoffs or untuned_cutoffs(counts)).items():
                cutoffs[metric][place, split.test] = tuned
    together, whole = (None if names is None else np.asarray(names, dtype=np.str_) for names in (groups, runs))
    sessions = OutOfFold(np.asarray(subjects, dtype=np.str_), target, scores, fold, scale, loss, classes, group=together, cutoffs=cutoffs)
    return average_sessions(replace(sessions, run=whole, drawn=policy.kind == "labelled"))


def fit_linear(data: Floats, problem: PredictionProblem, split: Split, seed: int) -> LinearRule:
    """The linear model by which a `FeatureSet` predicts the test rows of a split, as one affine map of the features as they are.

    Parameters
    ----------
    data : ndarray of float64
        (N, D) one frozen vector per session.

    Raises
    ------
    InputError
        If a class has no training row.
    """
    rows = data[split.train]
    centre, scale = problem.scaling(split.train)
    y = (problem.target[split.train] - centre) / scale
    strength = _tuned([_Rows(rows)], [_Rows(data[split.valid])], problem, split, seed).strength
    width = rows.shape[1]
    # Standardising and rotating is an affine map; what it makes of the origin and of each axis says which.
    train, (origin, axes) = coordinates(rows, [np.zeros((1, width)), np.eye(width)])
    if problem.kind == "regression":
        (at_origin,), at_axes = (ridge_path(train, y, part, (strength,))[0] * scale for part in (origin, axes))
        return LinearRule((at_axes - at_origin)[None], np.array([at_origin + centre]))
    if len(np.unique(y)) < problem.n_outputs:
        raise InputError(f"Of the classes {', '.join(problem.classes)} one has no session to learn from; leave it out, or give it more.")
    *along, intercept = logistic_weights(train, y.astype(np.int64), (strength,))[0]
    weight, bias = np.transpose((axes - origin) @ along), origin[0] @ along + intercept
    if problem.n_outputs == 2:
        # Two classes have one weight per feature, for the second against none of the first.
        weight, bias = np.concatenate((np.zeros_like(weight), weight)), np.concatenate((np.zeros_like(bias), bias))
    return LinearRule(weight, bias)


def ranking_loss(said: Floats, y: Floats, kind: Kind) -> float:
    """What settings are chosen by: 1 - AUC, or the mean squared error of values (rows, 1); less is better.

    Never accuracy: with 82 % of one class nearly every setting has 82 %. Nor log-loss: it prefers the setting that is calibrated to the
    one that ranks. It breaks ties, with a weight under a pair's share. Several classes: the mean over each against the rest.
    """
    loss = summed_loss(said, y, kind) / len(y)
    if kind == "regression":
        return loss
    # Not scikit-learn's areas: their checks would be most of an evaluation of tens of people.
    once, present = np.ones((1, len(y))), [label for label in range(said.shape[1]) if 0 < np.count_nonzero(y == label) < len(y)]
    areas = [np.divide(*ordered_pairs(y == label, said[:, label], once)) for label in present]
    return 1 - float(np.mean(areas)) + _TIE * loss if areas else loss


def summed_loss(said: Floats, y: Floats, kind: Kind) -> float:
    """Log-loss of probabilities (rows, K), or squared error of values (rows, 1), added up over rows."""
    if kind == "regression":
        return float(((said[:, 0] - y) ** 2).sum())
    chosen = said[np.arange(len(said)), y.astype(np.int64)]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).sum())


def _check(features: Predictor, labels: _Labels, subjects: _Labels) -> None:
    name = f"{features.model} ({features.method})"
    if not len(features) == len(labels) == len(subjects):
        raise InputError(
            f"{name}: {len(features)} feature rows, {len(labels)} labels and {len(subjects)} subjects; give one of each a session."
        )
    if isinstance(features, FeatureSet) and features.transform is None and not np.isfinite(features.data).all():
        raise InputError(f"{name}: features hold NaN or infinity; drop those sessions or embed them again.")


def _fit_predict(features: Sequence[FeatureSet], problem: PredictionProblem, split: Split, seed: int) -> Fitted:
    fit_rows, valid, test = map(list, zip(*(part.fitted(split) for part in features), strict=True))
    centre, scale = problem.scaling(split.train)
    y = (problem.target[split.train] - centre) / scale
    tuned = _tuned(fit_rows, valid, problem, split, seed)
    train, held = list(_views(fit_rows, test))[tuned.view]
    (scores,) = _predict(train, held, (tuned.strength,), y, problem.n_outputs, problem.kind)
    return Fitted(scores * scale + centre, scale, tuned.loss, tuned.cutoffs(problem))


def _views(x: Sequence[_Rows], x_held: Sequence[_Rows]) -> Iterator[tuple[Floats, Floats]]:
    """Coordinates of training and held-out rows: of one set of features, or of two for each of their shares."""
    adjusted = (_adjusted(part, held) for part, held in zip(x, x_held, strict=True))
    along = [coordinates(part, [held]) for part, held in adjusted]
    if len(along) == 1:
        yield along[0][0], along[0][1][0]
        return
    for share in _SHARES:
        weights = np.sqrt([1 - share, share])
        train, held = (np.hstack([weight * part for weight, part in zip(weights, parts, strict=True)]) for parts in _transposed(along))
        rotated, (others,) = rotate(train, [held])
        yield rotated, others


def _transposed(along: Sequence[tuple[Floats, list[Floats]]]) -> tuple[list[Floats], list[Floats]]:
    return [train for train, _ in along], [held for _, (held,) in along]


@dataclass(frozen=True)
class _Tuned:
    """What was chosen on held-out training rows.

    Attributes
    ----------
    view : int
        Which of the shares ranked best (`_views`).
    strength : float
        The inverse penalty that did.
    loss : float
        Its `ranking_loss`; inf if nothing was tuned.
    said : ndarray of float64
        (M, K) what the model of that penalty says of the held-out rows.
    rows : ndarray of int64
        (M,) which these are.
    constant : bool
        Whether everybody of an inner split was told the same, so that there is nothing to tune a cutoff by.
    """

    view: int
    strength: float
    loss: float
    said: Floats
    rows: Ints
    constant: bool

    def cutoffs(self, problem: PredictionProblem) -> dict[str, Floats] | None:
        """Tuned on subjects, as they are scored, where all sessions of a subject have one label; None without classes or held-out rows."""
        if not problem.classes or not len(self.rows):
            return None
        if self.constant:
            return {metric: np.ones(problem.n_outputs) for metric in NAMING_METRICS}
        truth = problem.target[self.rows]
        _, first, row = np.unique(problem.subjects[self.rows], return_index=True, return_inverse=True)
        if not np.array_equal(truth[first][row], truth):
            return tuned_cutoffs(self.said, truth)
        said = np.stack([np.bincount(row, weights=column) for column in self.said.T], axis=1) / np.bincount(row)[:, None]
        return tuned_cutoffs(said, truth[first])


def _tuned(fit_rows: Sequence[_Rows], valid: Sequence[_Rows], problem: PredictionProblem, split: Split, seed: int) -> _Tuned:
    """Choose shares and penalty on the split's validation rows, or in an inner split by subject of the training rows."""
    centre, scale = problem.scaling(split.train)
    target, n_views = (problem.target - centre) / scale, 1 if len(fit_rows) == 1 else len(_SHARES)
    losses = np.zeros((n_views, len(STRENGTHS)))
    said, rows = [np.zeros((n_views, len(STRENGTHS), 0, problem.n_outputs))], [split.train[:0]]
    for fit, x, held, x_held in _inner_rows(fit_rows, valid, problem, split, seed):
        views = _views(x, x_held)
        said.append(np.stack([_predict(*view, STRENGTHS, target[fit], problem.n_outputs, problem.kind) for view in views]))
        losses += len(held) * np.array([[ranking_loss(each, target[held], problem.kind) for each in view] for view in said[-1]])
        rows.append(held)
    best, n_held = np.unravel_index(losses.argmin(), losses.shape), sum(map(len, rows))
    strength, loss = (STRENGTHS[best[1]], float(losses[best]) / n_held) if n_held else (_UNTUNED_STRENGTH, float("inf"))
    constant = all(np.ptp(each[best], axis=0).max() < _CONSTANT for each in said[1:])
    chosen = np.concatenate([each[best] for each in said])
    return _Tuned(int(best[0]), strength, loss, chosen, np.concatenate(rows), constant)


def _inner_rows(
    fit_rows: Sequence[_Rows], valid: Sequence[_Rows], problem: PredictionProblem, split: Split, seed: int
) -> Iterator[tuple[Ints, Sequence[_Rows], Ints, Sequence[_Rows]]]:
    """Rows to learn from and their features, rows to choose by and theirs, one inner split at a time; none if the cohort is tiny."""
    if len(split.valid):
        yield split.train, fit_rows, split.valid, valid
        return
    try:
        part = inner_parts(problem, split.train, seed)
    except InputError:
        # The outer split stood: it is fitted without tuning.
        return
    for number in range(part.max() + 1):
        held = part == number
        yield split.train[~held], [each.at(~held) for each in fit_rows], split.train[held], [each.at(held) for each in fit_rows]


def _predict(train: Floats, held: Floats, strengths: Sequence[float], y: Floats, n_outputs: int, kind: Kind) -> Floats:
    """(strengths, rows, K) predicted probabilities of every class, or (strengths, rows, 1) predicted values, from coordinates."""
    if kind == "regression":
        return ridge_path(train, y, held, strengths)[..., None]
    present, numbers = np.unique(y.astype(np.int64), return_inverse=True)
    said = np.zeros((len(strengths), len(held), n_outputs))
    said[..., present] = 1.0 if len(present) == 1 else logistic_path(train, numbers, held, strengths)
    return said


def average_sessions(sessions: OutOfFold) -> OutOfFold:
    """One row per subject where the label is the subject's; the rows as they are where it is the session's."""
    names, first, row = np.unique(sessions.subject, return_index=True, return_inverse=True)
    if len(names) == len(row) or not np.array_equal(sessions.truth[first][row], sessions.truth):
        return sessions
    counts = np.bincount(row)
    belongs = (np.arange(len(names))[:, None] == row).astype(np.float64)
    # A seed may test some subjects only (70/10/20); the others' scores are nan, which a product with 0 would spread to everybody.
    tested = (sessions.fold >= 0)[..., None]
    scores = (belongs / counts[:, None]) @ np.where(tested, sessions.scores, 0.0)
    return replace(sessions.take(first), scores=np.where(tested[:, first], scores, np.nan), run=None)
