"""Linear probes on frozen features: split by subject, every statistic fitted on the training subjects, tuned inside them.

Features are standardised and divided by the square root of their number, so that a sample has a norm near 1 and one
grid of penalties fits an embedding of 64 numbers as well as 7,626 connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from slimbrain.errors import InputError
from slimbrain.evaluate.groups import deal_groups
from slimbrain.evaluate.linear import coordinates, logistic_path, logistic_weights, ridge_path
from slimbrain.evaluate.result import PROBE
from slimbrain.evaluate.stats import Floats, Ints, OutOfFold
from slimbrain.progress import track

Kind = Literal["classification", "regression"]
_Labels = NDArray[Any]

STRENGTHS = tuple(float(value) for value in np.logspace(-2, 3, 6))
"""Inverse penalties tried in the inner split: C of the logistic regression, 1/alpha of the ridge. Tangent connectivity is best between
100 and 1000 (sex from 122 parcels of 117 people: AUC 0.801, 0.814, 0.815 and 0.80 at 10, 100, 1000 and 10000)."""
_UNTUNED_STRENGTH = 1.0
INNER_SPLITS = 3


@dataclass(frozen=True)
class SplitPolicy:
    """How subjects are divided, once a seed.

    `k-fold`: every subject is tested once a seed, settings are tuned in an inner 3-fold split of the training subjects.
    `70/10/20`: one split a seed; settings are tuned on the 10 %.
    """

    kind: Literal["k-fold", "70/10/20"] = "k-fold"
    n_splits: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)

    def describe(self) -> str:
        """One line for a result file."""
        how = f"{self.n_splits}-fold" if self.kind == "k-fold" else self.kind
        return f"{how} by subject, {len(self.seeds)} seeds"


DEFAULT_POLICY = SplitPolicy()


@dataclass(frozen=True)
class Split:
    """Row numbers of one division: `train` fits, `valid` (may be empty) tunes, `test` is scored once."""

    train: Ints
    valid: Ints
    test: Ints


@dataclass(frozen=True)
class PredictionProblem:
    """What is to be predicted of N sessions.

    Attributes
    ----------
    target : (N,) class numbers or values.
    subjects : (N,) who each session belongs to.
    classes : their names; empty for regression.
    groups : (N,) which subjects must stay together in every split, relatives say; each by itself if None.
    """

    target: Floats
    subjects: _Labels
    classes: tuple[str, ...]
    groups: _Labels | None = None

    @property
    def kind(self) -> Kind:
        return "classification" if self.classes else "regression"

    @property
    def n_outputs(self) -> int:
        """K, probabilities or values a session."""
        return len(self.classes) or 1

    def scaling(self, rows: Ints) -> tuple[float, float]:
        """Mean and standard deviation of a regression's target over the training rows; 0 and 1 for classes."""
        if self.classes:
            return 0.0, 1.0
        y = self.target[rows]
        return float(y.mean()), float(y.std()) or 1.0


@dataclass(frozen=True)
class Fitted:
    """What one split gives.

    Attributes
    ----------
    scores : (test rows, K) class probabilities, or values in the target's own unit.
    scale : standard deviation of the training targets, 1 for classes.
    loss : mean loss of the chosen setting in the inner split; inf where nothing was tuned.
    """

    scores: Floats
    scale: float
    loss: float


@dataclass(frozen=True)
class LinearRule:
    """A fitted probe as an affine map of raw features.

    Attributes
    ----------
    weight : (K, D).
    bias : (K,). `weight @ features + bias` are the logits of the K classes, or (K = 1) the value in the target's own unit.
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
class FeatureSet:
    """A frozen vector a session, for a linear model.

    Attributes
    ----------
    model, method : names for the table.
    data : (N, ...) one entry a session; (N, D) unless `transform` makes it so.
    transform : scikit-learn transformer fitted on the training rows only, or None.
    """

    model: str
    method: str
    data: Floats
    transform: BaseEstimator | None = None

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: Sequence[int]) -> FeatureSet:
        """Those of some sessions, in this order."""
        return replace(self, data=self.data[list(rows)])

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Fit a logistic regression or a ridge, its penalty tuned inside."""
        return _fit_predict(self, problem, split, seed)


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
) -> OutOfFold:
    """Fit and tune on the training subjects of every split, and predict the left-out ones.

    Where all sessions of a subject carry the same label, their predicted probabilities or values are averaged, and
    the subject is one row of the result; where labels differ within a subject (a state, say), sessions stay rows.

    Parameters
    ----------
    features : one entry for each of N sessions; a `FeatureSet`, or another predictor.
    labels : (N,) class names, or numbers for regression.
    subjects : (N,) who each session belongs to; a subject is never on both sides of a split.
    kind : of the labels; a `FeatureSet` gets a logistic regression or a ridge.
    policy : folds and seeds.
    strata : (N,) further grouping (site, say) that the folds balance, besides the label.
    groups : (N,) which subjects stay on one side of every split, inner ones too; each by itself if None.

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
    splits = [outer_splits(subjects, labels, kind, policy, seed, strata, groups) for seed in policy.seeds]
    runs = [(place, number, split) for place, divided in enumerate(splits) for number, split in enumerate(divided)]
    # A linear model is done before a line about it could be read.
    for place, number, split in runs if isinstance(features, FeatureSet) else track(runs, f"{features.model}, {features.method}: folds"):
        fitted = features.fit_predict(problem, split, policy.seeds[place])
        scores[place, split.test] = fitted.scores
        fold[place, split.test], scale[place, split.test], loss[place, split.test] = number, fitted.scale, fitted.loss
    together = None if groups is None else np.asarray(groups, dtype=np.str_)
    sessions = OutOfFold(np.asarray(subjects, dtype=np.str_), target, scores, fold, scale, loss, classes, group=together)
    return average_sessions(sessions)


def outer_splits(
    subjects: _Labels,
    labels: _Labels,
    kind: Kind,
    policy: SplitPolicy,
    seed: int,
    strata: _Labels | None = None,
    groups: _Labels | None = None,
) -> list[Split]:
    """The divisions of one seed, by subject, balanced over label (or rank of the target) and `strata`; `groups` stay whole.

    With fewer subjects in the smallest class than folds, there are as many folds as that class has subjects.
    """
    _, row_subject = np.unique(subjects, return_inverse=True)
    rows = np.arange(len(row_subject))
    if policy.kind == "70/10/20":
        tenth = _deal(row_subject, labels, kind, 10, seed, strata, groups)[row_subject]
        if tenth.max() < 9:
            raise InputError("Too few subjects (of the smallest class) for a 70/10/20 split, which needs ten; use k-fold.")
        return [Split(rows[tenth > 2], rows[tenth == 2], rows[tenth < 2])]
    part = _deal(row_subject, labels, kind, policy.n_splits, seed, strata, groups)[row_subject]
    return [Split(rows[part != number], rows[:0], rows[part == number]) for number in range(part.max() + 1)]


def fit_linear(data: Floats, problem: PredictionProblem, split: Split, seed: int) -> LinearRule:
    """The linear model by which a `FeatureSet` predicts the test rows of a split, as one affine map of the features as they are.

    Parameters
    ----------
    data : (N, D) one frozen vector a session.

    Raises
    ------
    InputError
        If a class has no training row.
    """
    rows = data[split.train]
    centre, scale = problem.scaling(split.train)
    y = (problem.target[split.train] - centre) / scale
    strength, _ = _tuned_strength(rows, data[split.valid], problem, split, seed)
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
        # Two classes have one weight a feature, for the second against none of the first.
        weight, bias = np.concatenate((np.zeros_like(weight), weight)), np.concatenate((np.zeros_like(bias), bias))
    return LinearRule(weight, bias)


def inner_splits(problem: PredictionProblem, split: Split, seed: int) -> list[tuple[Ints, Ints]]:
    """Rows to learn from and rows to stop by: the split's own validation rows, or the training subjects divided by `INNER_SPLITS`.

    Empty where the training subjects are too few to be divided.
    """
    if len(split.valid):
        return [(split.train, split.valid)]
    try:
        part = _inner_parts(problem, split.train, seed)
    except InputError:
        return []
    return [(split.train[part != number], split.train[part == number]) for number in range(part.max() + 1)]


def summed_loss(said: Floats, y: Floats, kind: Kind) -> float:
    """Log-loss of probabilities (rows, K), or squared error of values (rows, 1), added up over rows."""
    if kind == "regression":
        return float(((said[:, 0] - y) ** 2).sum())
    chosen = said[np.arange(len(said)), y.astype(np.int64)]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).sum())


def pose(labels: _Labels, subjects: _Labels, kind: str, groups: _Labels | None = None) -> PredictionProblem:
    """The problem of predicting these labels.

    Raises
    ------
    InputError
        If all are the same class.
    """
    classes, target = _encode(labels, "regression" if kind == "regression" else "classification")
    return PredictionProblem(target, subjects, classes, groups)


def _check(features: Predictor, labels: _Labels, subjects: _Labels) -> None:
    name = f"{features.model} ({features.method})"
    if not len(features) == len(labels) == len(subjects):
        raise InputError(
            f"{name}: {len(features)} feature rows, {len(labels)} labels and {len(subjects)} subjects; give one of each a session."
        )
    if isinstance(features, FeatureSet) and features.transform is None and not np.isfinite(features.data).all():
        raise InputError(f"{name}: features hold NaN or infinity; drop those sessions or embed them again.")


def _encode(labels: _Labels, kind: Kind) -> tuple[tuple[str, ...], Floats]:
    """Class names and class numbers, or no names and the values themselves."""
    if kind == "regression":
        return (), np.asarray(labels, dtype=np.float64)
    names, numbers = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"All labels are {str(names[0])!r}; a classification needs at least two classes.")
    return tuple(str(name) for name in names), numbers.astype(np.float64)


def _deal(
    row_subject: Ints, labels: _Labels, kind: Kind, n_parts: int, seed: int, strata: _Labels | None, groups: _Labels | None = None
) -> Ints:
    """(subjects,) the part each subject falls in: sorted by label, then stratum, then chance, and dealt out like cards.

    So the parts differ by at most one subject, in all and in every class; for regression, every run of `n_parts`
    neighbours in the target is spread over all parts. Where labels differ within subjects there is nothing to balance. Subjects of one
    group fall in one part, and the parts are then as equal as that allows.
    """
    first = np.unique(row_subject, return_index=True)[1]
    labels, n_subjects = np.asarray(labels), len(first)
    group = np.zeros(n_subjects, dtype=np.int64)
    n_parts = min(n_parts, n_subjects)
    if kind == "regression":
        means = np.bincount(row_subject, weights=labels.astype(np.float64)) / np.bincount(row_subject)
        group = means.argsort(kind="stable").argsort(kind="stable") // n_parts
    elif np.array_equal(labels[first][row_subject], labels):
        _, group, counts = np.unique(labels[first], return_inverse=True, return_counts=True)
        n_parts = min(n_parts, int(counts.min()))
    if n_parts < 2:
        raise InputError("A class, or the whole cohort, has one subject, who cannot be both trained on and tested; leave that class out.")
    stratum = np.zeros(n_subjects) if strata is None else np.unique(np.asarray(strata)[first], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    if groups is not None and len(np.unique(groups)) < n_subjects:
        cell = np.unique(np.column_stack([group, stratum]), axis=0, return_inverse=True)[1].reshape(-1)
        return deal_groups(np.unique(np.asarray(groups)[first], return_inverse=True)[1], cell, n_parts, rng)
    order = np.lexsort((rng.random(n_subjects), stratum, group))
    part = np.empty(n_subjects, dtype=np.int64)
    part[order] = (np.arange(n_subjects) + rng.integers(n_parts)) % n_parts
    return part


def _fit_predict(features: FeatureSet, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
    fit_rows, test = features.data[split.train], features.data[split.test]
    valid = features.data[split.valid]
    if features.transform is not None:
        transform: Any = clone(features.transform)
        fit_rows, test = transform.fit_transform(fit_rows), transform.transform(test)
        valid = transform.transform(valid) if len(valid) else valid
    centre, scale = problem.scaling(split.train)
    y = (problem.target[split.train] - centre) / scale
    strength, loss = _tuned_strength(fit_rows, valid, problem, split, seed)
    (scores,) = _predict(fit_rows, y, test, (strength,), problem.n_outputs, problem.kind)
    return Fitted(scores * scale + centre, scale, loss)


def _tuned_strength(fit_rows: Floats, valid: Floats, problem: PredictionProblem, split: Split, seed: int) -> tuple[float, float]:
    """The inverse penalty that did best on the split's validation rows, or in an inner split, and its mean loss there; inf if untuned."""
    centre, scale = problem.scaling(split.train)
    y = (problem.target[split.train] - centre) / scale
    if len(split.valid):
        y_valid = (problem.target[split.valid] - centre) / scale
        losses = _losses(fit_rows, y, valid, y_valid, problem.n_outputs, problem.kind) / len(y_valid)
    else:
        losses = _inner_losses(fit_rows, y, problem, split.train, seed)
    best = int(losses.argmin())
    return STRENGTHS[best] if np.isfinite(losses[best]) else _UNTUNED_STRENGTH, float(losses[best])


def _inner_losses(x: Floats, y: Floats, problem: PredictionProblem, rows: Ints, seed: int) -> Floats:
    """(strengths,) mean loss over an inner split by subject; inf where the subjects are too few to split again."""
    try:
        part = _inner_parts(problem, rows, seed)
    except InputError:
        # The outer split stood, so this is a cohort of a handful: it is fitted untuned.
        return np.full(len(STRENGTHS), np.inf)
    total = np.zeros(len(STRENGTHS))
    for number in range(part.max() + 1):
        held = part == number
        total += _losses(x[~held], y[~held], x[held], y[held], problem.n_outputs, problem.kind)
    return total / len(y)


def _inner_parts(problem: PredictionProblem, rows: Ints, seed: int) -> Ints:
    """(rows,) the part of the inner split that each training row falls in, by subject."""
    _, row_subject = np.unique(problem.subjects[rows], return_inverse=True)
    groups = None if problem.groups is None else problem.groups[rows]
    return _deal(row_subject, problem.target[rows], problem.kind, INNER_SPLITS, seed, None, groups)[row_subject]


def _losses(x: Floats, y: Floats, x_held: Floats, y_held: Floats, n_outputs: int, kind: Kind) -> Floats:
    """(strengths,) summed log-loss or squared error on held-out rows: smooth where accuracy of a few rows would tie."""
    return np.array([summed_loss(said, y_held, kind) for said in _predict(x, y, x_held, STRENGTHS, n_outputs, kind)])


def _predict(x: Floats, y: Floats, x_held: Floats, strengths: Sequence[float], n_outputs: int, kind: Kind) -> Floats:
    """(strengths, rows, K) predicted probabilities of every class, or (strengths, rows, 1) predicted values."""
    train, (held,) = coordinates(x, [x_held])
    if kind == "regression":
        return ridge_path(train, y, held, strengths)[..., None]
    seen, numbers = np.unique(y.astype(np.int64), return_inverse=True)
    said = np.zeros((len(strengths), len(x_held), n_outputs))
    said[..., seen] = 1.0 if len(seen) == 1 else logistic_path(train, numbers, held, strengths)
    return said


def average_sessions(sessions: OutOfFold) -> OutOfFold:
    """One row a subject where the label is the subject's; the rows as they are where it is the session's."""
    names, first, row = np.unique(sessions.subject, return_index=True, return_inverse=True)
    if len(names) == len(row) or not np.array_equal(sessions.truth[first][row], sessions.truth):
        return sessions
    counts = np.bincount(row)
    belongs = (np.arange(len(names))[:, None] == row).astype(np.float64)
    # A seed may test some subjects only (70/10/20); the others' scores are nan, which a product with 0 would spread to everybody.
    tested = (sessions.fold >= 0)[..., None]
    scores = (belongs / counts[:, None]) @ np.where(tested, sessions.scores, 0.0)
    return OutOfFold(
        names,
        sessions.truth[first],
        np.where(tested[:, first], scores, np.nan),
        sessions.fold[:, first],
        sessions.scale[:, first],
        sessions.inner_loss[:, first],
        sessions.classes,
        group=None if sessions.group is None else sessions.group[first],
    )
