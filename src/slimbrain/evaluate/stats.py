"""Scores, subject-level bootstrap intervals, permutation p-values and paired differences.

Every metric is written once, as a weighted one over many resamples at a time: a bootstrap resample of subjects is
a row of integer weights, a permutation is a row of shuffled labels, the plain score is one row of ones.

Ranking metrics (`auc`, `r`) compare predictions only within the same test fold. Each fold has its own fitted
intercept, and a fold whose training set holds more of one class holds fewer of it in the test set: pooled over folds,
even a constant predictor would score below chance (Parker, Guenter and Bedo 2007, stratified against pooled AUC).
With a single test set they are the usual AUC and Pearson correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASSIFICATION_METRICS = ("auc", "balanced_accuracy", "accuracy", "macro_f1")
REGRESSION_METRICS = ("r2", "r", "mae", "mse", "mse_z")
IDENTIFICATION_METRICS = ("top1", "mrr")
LOWER_IS_BETTER = frozenset({"mae", "mse", "mse_z"})

_WORDS = {
    "auc": "AUC",
    "r2": "R²",
    "mae": "MAE",
    "mse": "MSE",
    "mse_z": "MSE (z)",
    "macro_f1": "macro F1",
    "top1": "top-1",
    "mrr": "MRR",
}

_MEANINGS = {
    "auc": "share of pairs with one subject of each class, both of the same test fold, that are in the right order",
    "balanced_accuracy": "share predicted right, averaged over classes and not over subjects",
    "macro_f1": "mean of the classes' F1",
    "mse_z": "in squared standard deviations of the training subjects",
    "top1": "share of sessions whose best match is their own subject",
    "mrr": "mean of 1 / rank of the own subject",
}

N_RESAMPLES = 1000
_CONFIDENCE = 0.95
_BOUNDS: dict[str, tuple[float, float]] = {"r2": (-np.inf, 1), "r": (-1, 1), "mae": (0, np.inf), "mse": (0, np.inf), "mse_z": (0, np.inf)}
"""Least and largest value of a metric; of those that are not named, 0 and 1."""


def metric_words(metric: str) -> str:
    """A metric's name as people write it; what stands after a comma (`macro_f1, frozen`) stays."""
    name, comma, setting = metric.partition(",")
    return _WORDS.get(name, name.replace("_", " ")) + comma + setting


def metric_meanings(metrics: Iterable[str]) -> str:
    """What metrics are, in a sentence; empty if their names say it."""
    said = "; ".join(f"{metric_words(metric)}: {_MEANINGS[metric]}" for metric in metrics if metric in _MEANINGS)
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def better_sign(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return -1.0 if metric in LOWER_IS_BETTER else 1.0


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of models that never saw the subject they predict.

    One row is a subject (its sessions averaged) where the label belongs to the subject, else a session.

    Attributes
    ----------
    subject : ndarray of str
        (N,) str.
    truth : ndarray of float64
        (N,) class number (place in `classes`) or target value, in the target's own unit; in identification, whose session of the
        gallery is the query's own.
    scores : ndarray of float64
        (S, N, K) class probabilities of the S seeds, or (S, N, 1) predicted values, or (1, N, K) likeness to the gallery's K.
    fold : ndarray of int64
        (S, N) int, the test fold the row was in (in identification, the direction); -1 where that seed did not test the row.
    scale : ndarray of float64
        (S, N) standard deviation of the training targets of that fold (1 for classes), for `mse_z`.
    inner_loss : ndarray of float64
        (S, N) loss of the chosen setting in the inner split of that fold's training set; inf where not tuned.
    cutoffs : Mapping[str, ndarray of float64]
        For metrics that count named classes, (S, N, K): named is the class whose probability is the largest multiple of its cutoff, which
        was tuned for the metric on the fold's training set (`decision.tuned_cutoffs`); the likeliest class where there are none.
    classes : tuple[str, ...]
        Names of the classes; empty for regression and identification.
    gallery : bool
        Whether rows are queries of an identification.
    group : ndarray of str or None
        (N,) str, subjects who belong together, such as a family; each by itself if None.
    run : ndarray of str or None
        (N,) str, the run that a row is a window of; each row by itself if None.
    drawn : bool
        Whether each seed has a training set of its own draw, so that an interval is over draws as well.
    """

    subject: NDArray[np.str_]
    truth: Floats
    scores: Floats
    fold: Ints
    scale: Floats
    inner_loss: Floats
    classes: tuple[str, ...]
    gallery: bool = False
    group: NDArray[np.str_] | None = None
    cutoffs: Mapping[str, Floats] = field(default_factory=dict)
    run: NDArray[np.str_] | None = None
    drawn: bool = False

    @property
    def drawn_together(self) -> NDArray[np.str_]:
        """(N,) what a resample draws as one: relatives are alike, so that each is less than one more observation."""
        return self.subject if self.group is None else self.group

    def take(self, rows: Ints | NDArray[np.bool_]) -> OutOfFold:
        """Some rows alone."""
        group, run = (None if names is None else names[rows] for names in (self.group, self.run))
        return replace(
            self,
            subject=self.subject[rows],
            truth=self.truth[rows],
            scores=self.scores[:, rows],
            fold=self.fold[:, rows],
            scale=self.scale[:, rows],
            inner_loss=self.inner_loss[:, rows],
            cutoffs={metric: values[:, rows] for metric, values in self.cutoffs.items()},
            group=group,
            run=run,
        )

    @property
    def taught_each_other(self) -> bool:
        """Whether labels of tested rows also taught the models that predict other tested rows: in all but a single test set."""
        tested = self.fold >= 0
        one_set = (tested == tested[0]).all() and all(len(np.unique(fold[fold >= 0])) <= 1 for fold in self.fold)
        return not (self.gallery or one_set)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that apply, most important first."""
        if self.gallery:
            return IDENTIFICATION_METRICS
        return CLASSIFICATION_METRICS if self.classes else REGRESSION_METRICS


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its bootstrap percentile interval."""

    mean: float
    low: float
    high: float


def choose_inside(candidates: list[OutOfFold]) -> OutOfFold:
    """In every test fold take the candidate with the least inner loss, so that the choice never sees the test fold.

    Raises
    ------
    InputError
        If the candidates were not run on the same rows and folds.
    """
    first = candidates[0]
    for other in candidates[1:]:
        if not (np.array_equal(first.fold, other.fold) and np.array_equal(first.subject, other.subject)):
            raise InputError("Candidates to choose from come from different splits; run them with the same subjects, policy and seeds.")
    losses = np.stack([candidate.inner_loss for candidate in candidates])
    best = losses.argmin(axis=0)
    seed, row = np.indices(best.shape)

    def chosen(parts: list[Floats]) -> Floats:
        return np.asarray(np.stack(parts)[best, seed, row])

    cutoffs = {metric: chosen([candidate.cutoffs[metric] for candidate in candidates]) for metric in first.cutoffs}
    return replace(first, scores=chosen([candidate.scores for candidate in candidates]), inner_loss=losses.min(axis=0), cutoffs=cutoffs)


def score(predictions: OutOfFold, metric: str) -> Floats:
    """(S,) the metric of each seed, nan where it is not defined (a correlation with a constant)."""
    ones = np.ones((1, len(predictions.truth)))
    return _per_seed(predictions, metric, predictions.truth[None], ones)[:, 0]


def bootstrap(predictions: OutOfFold, metric: str, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Interval:
    """Mean of the metric over seeds, with a percentile interval over resampled subjects, or groups of them.

    All rows of a subject, and all subjects of a group, go along with it; the fitted models stay as they are. In a cross-validation each
    subject is tested and also teaches, so that scores of resampled tests vary too little, and their distances from the mean are stretched
    by sqrt(2), as in `permutation_p`. Intervals of 400 simulated cohorts then hold what others score in 94 %, else in 84 %
    (`benchmarks/null_choice.py`, squared error; Bates, Hastie and Tibshirani 2024, JASA 119, on the same fault).
    With one test set the interval speaks of other tested subjects alone; where each seed drew its training subjects (`drawn`), seeds are
    resampled in place of the stretch. Of a nested choice these are the predictions of the choice as a whole, tuned and chosen without
    the test fold (Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107, resample pooled out-of-fold predictions likewise).
    Resamples in which the metric is not defined are left out.
    """
    values = _resampled(predictions, metric, _resample_weights(predictions, n_resamples, seed), seed)
    return _interval(float(np.mean(score(predictions, metric))), _as_uncertain(predictions, values), *_bounds(metric))


def bootstrap_difference(ours: OutOfFold, theirs: OutOfFold, metric: str, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Interval:
    """Ours minus theirs, the same resampled subjects, or groups of them, for both (a paired bootstrap).

    Raises
    ------
    InputError
        If the two did not predict the same rows.
    """
    if not (np.array_equal(ours.subject, theirs.subject) and np.array_equal(ours.truth, theirs.truth)):
        raise InputError("A paired difference needs the same subjects and labels on both sides; run both on the same sessions.")
    weights = _resample_weights(ours, n_resamples, seed)
    values = [_resampled(side, metric, weights, seed) for side in (ours, theirs)]
    point = float(np.mean(score(ours, metric)) - np.mean(score(theirs, metric)))
    least, largest = _bounds(metric)
    return _interval(point, _as_uncertain(ours, values[0] - values[1]), least - largest, largest - least)


def permutation_p(
    predictions: OutOfFold, metric: str, n_permutations: int = N_RESAMPLES, seed: int = 0, permuted: Floats | None = None
) -> float:
    """Probability of a score at least as good under permuted labels: (1 + hits) / (1 + permutations), of those that have a score.

    Labels move between subjects, or between groups of as many subjects, whole, where relatives are bound together (Winkler et al. 2015,
    NeuroImage 123: multi-level block permutation); where a subject's sessions carry different labels, they move within the subject,
    those of windows of one run together; in identification, each subject's queries are given another subject of the gallery to find.

    The predictions stay as they are (no refitting), which is exact with one test set. In a cross-validation each label also taught the
    models that predict the others, so that a chance agreement of two subjects counts twice, once in each one's prediction: with learners
    that are linear in their labels the score then varies at most twice as much as when labels are permuted around fixed predictions,
    since (a + b)^2 <= 2 (a^2 + b^2), whatever the folds. (Nadeau and Bengio 2003, Machine Learning 52, correct for the same by 1 + k
    n_test / n_train, 2.25 for five folds.) The permuted scores' distances from their mean are therefore stretched by sqrt(2). What is
    tuned or chosen inside, too, is part of the predictions; `benchmarks/null_choice.py` counts how often that p is small without a signal.

    Parameters
    ----------
    permuted : array (R, N) of float64, optional
        What `permuted_truth` gives for the same predictions, where several metrics share it.
    """
    observed = float(np.mean(score(predictions, metric)))
    if np.isnan(observed):
        return float("nan")
    if permuted is None:
        permuted = permuted_truth(predictions, n_permutations, seed)
    values = _mean_over_seeds(predictions, metric, permuted, np.ones((1, permuted.shape[1])))
    # Of few subjects, a permutation may leave no fold with both classes, and an area undefined.
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan")
    if predictions.taught_each_other:
        values = _stretched(values)
    sign = better_sign(metric)
    rounding = 1e-12 * max(1.0, abs(observed))
    hits = int(np.count_nonzero(sign * values >= sign * observed - rounding))
    return (1 + hits) / (1 + len(values))


def _as_uncertain(predictions: OutOfFold, values: Floats) -> Floats:
    """Scores of resampled tests, finite ones, with the spread that they have when training sets vary, too."""
    values = values[np.isfinite(values)]
    return _stretched(values) if predictions.taught_each_other and not predictions.drawn else values


def _bounds(metric: str) -> tuple[float, float]:
    return _BOUNDS.get(metric, (0.0, 1.0))


def _stretched(values: Floats) -> Floats:
    """Twice the variance about the same mean: of a sum of two equal parts of which one alone was seen to vary."""
    if not len(values):
        return values
    stretched: Floats = values.mean() + np.sqrt(2) * (values - values.mean())
    return stretched


def _interval(point: float, values: Floats, least: float, largest: float) -> Interval:
    if np.isnan(point) or not len(values):
        return Interval(point, float("nan"), float("nan"))
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(point, max(float(low), least), min(float(high), largest))


def _resample_weights(predictions: OutOfFold, n_resamples: int, seed: int) -> Floats:
    """(R, N) how often each row's subject, or group, was drawn in each of R resamples of them."""
    names, row_name = np.unique(predictions.drawn_together, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    return draws[:, row_name].astype(np.float64)


def permuted_truth(predictions: OutOfFold, n_permutations: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """(R, N) permuted labels: between rows or groups of them or, where subjects have several rows, within each subject."""
    rng = np.random.default_rng(seed)
    if predictions.gallery:
        own = predictions.truth.astype(np.int64)
        others = rng.permuted(np.tile(np.arange(predictions.scores.shape[2]), (n_permutations, 1)), axis=1)
        return others[:, own].astype(np.float64)
    if predictions.run is not None:
        _, first, row_run = np.unique(predictions.run, return_index=True, return_inverse=True)
        if len(first) < len(row_run) and np.array_equal(predictions.truth[first][row_run], predictions.truth):
            return permuted_truth(replace(predictions.take(first), run=None), n_permutations, seed)[:, row_run]
    truth = np.tile(predictions.truth, (n_permutations, 1))
    names, row_subject = np.unique(predictions.subject, return_inverse=True)
    if len(names) == len(row_subject):
        return _shuffled_between_groups(truth, predictions.drawn_together, rng)
    for subject in range(len(names)):
        rows = np.flatnonzero(row_subject == subject)
        truth[:, rows] = rng.permuted(truth[:, rows], axis=1)
    return truth


def _shuffled_between_groups(truth: Floats, group: NDArray[np.str_], rng: np.random.Generator) -> Floats:
    """(R, N) labels of whole groups moved to other groups of the same size, and mixed within each."""
    _, row_group, row_size = np.unique(group, return_inverse=True, return_counts=True)
    for size in np.unique(row_size):
        # (groups of this size, size) row numbers.
        rows = np.argsort(row_group, kind="stable")[np.isin(np.sort(row_group), np.flatnonzero(row_size == size))].reshape(-1, size)
        for labels in truth:
            labels[rows] = rng.permuted(labels[rows][rng.permutation(len(rows))], axis=1)
    return truth


def _resampled(predictions: OutOfFold, metric: str, weights: Floats, seed: int) -> Floats:
    """(R,) mean of the metric over seeds, or over as many of them drawn with replacement, for each of R resamples of subjects."""
    values = _per_seed(predictions, metric, predictions.truth[None], weights)
    if not predictions.drawn:
        return values.mean(axis=0)
    n_seeds, n_resamples = values.shape
    # The same draws for whoever is compared.
    picked = np.random.default_rng(seed + 1).integers(n_seeds, size=(n_seeds, n_resamples))
    mean: Floats = np.take_along_axis(values, picked, axis=0).mean(axis=0)
    return mean


def _mean_over_seeds(predictions: OutOfFold, metric: str, truth: Floats, weights: Floats) -> Floats:
    return _per_seed(predictions, metric, truth, weights).mean(axis=0)


def _per_seed(predictions: OutOfFold, metric: str, truth: Floats, weights: Floats) -> Floats:
    """(S, R) the metric for S seeds and R rows of `truth` (R or 1, N) and `weights` (R or 1, N)."""
    if metric not in predictions.metrics:
        raise InputError(f"{metric} is not a metric of this task; choose from {', '.join(predictions.metrics)}.")
    values = []
    cutoffs = predictions.cutoffs.get(metric, np.ones_like(predictions.scores))
    for scores, cutoff, fold, scale in zip(predictions.scores, cutoffs, predictions.fold, predictions.scale, strict=True):
        tested = fold >= 0
        case = _Case(truth[:, tested], scores[tested], weights[:, tested], fold[tested], scale[tested], cutoff[tested])
        with np.errstate(invalid="ignore", divide="ignore"):
            values.append(_METRICS[metric](case))
    return np.stack(values)


@dataclass(frozen=True)
class _Case:
    """What one metric looks at: `truth` and `weights` (R or 1, N), `scores` and `cutoff` (N, K), `fold` and `scale` (N,)."""

    truth: Floats
    scores: Floats
    weights: Floats
    fold: Ints
    scale: Floats
    cutoff: Floats

    @property
    def named_class(self) -> NDArray[Any]:
        return (self.scores / self.cutoff).argmax(axis=1)

    def average(self, values: Floats) -> Floats:
        """(R,) weighted mean over rows."""
        return _total(self.weights * values) / _total(self.weights)

    def by_fold(self) -> list[_Case]:
        picks = [self.fold == number for number in np.unique(self.fold)]
        return [
            _Case(self.truth[:, at], self.scores[at], self.weights[:, at], self.fold[at], self.scale[at], self.cutoff[at]) for at in picks
        ]


def _total(values: Floats) -> Floats:
    total: Floats = values.sum(axis=1)
    return total


def _accuracy(case: _Case) -> Floats:
    return case.average((case.truth == case.named_class).astype(np.float64))


def _balanced_accuracy(case: _Case) -> Floats:
    """Mean recall of the classes that are present, as scikit-learn defines it."""
    recalls, said = [], case.named_class
    for label in range(case.scores.shape[1]):
        true = case.truth == label
        recalls.append(_total(case.weights * (true & (said == label))) / _total(case.weights * true))
    return _mean_of_defined(np.stack(recalls))


def _macro_f1(case: _Case) -> Floats:
    """Mean F1 of the classes that are present or predicted."""
    values, chosen = [], case.named_class
    for label in range(case.scores.shape[1]):
        true, said = case.truth == label, chosen == label
        both = _total(case.weights * (true & said))
        values.append(2 * both / (_total(case.weights * true) + _total(case.weights * said)))
    return _mean_of_defined(np.stack(values))


def _mean_of_defined(values: Floats) -> Floats:
    """(R,) mean over the classes (axis 0) for which a value exists."""
    defined = np.isfinite(values)
    mean: Floats = np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)
    return mean


def _auc(case: _Case) -> Floats:
    """Share of (positive, negative) pairs of the same fold in the right order; more than two classes: mean of one against the rest."""
    labels = [1] if case.scores.shape[1] == 2 else range(case.scores.shape[1])
    folds = case.by_fold()
    areas = []
    for label in labels:
        parts = [ordered_pairs(fold.truth == label, fold.scores[:, label], fold.weights) for fold in folds]
        right, pairs = (sum(column) for column in zip(*parts, strict=True))
        areas.append(right / pairs)
    mean: Floats = np.mean(areas, axis=0)
    return mean


def ordered_pairs(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(R,) weight of the pairs in the right order (ties count half), and of all pairs."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    above = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    below = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    right = above * (np.cumsum(below, axis=1) - below / 2)
    return _total(right), _total(above) * _total(below)


def _mse(case: _Case) -> Floats:
    return case.average((case.truth - case.scores[:, 0]) ** 2)


def _mse_z(case: _Case) -> Floats:
    """Squared error in units of the training set's standard deviation (the published regressions are z-scored)."""
    return case.average(((case.truth - case.scores[:, 0]) / case.scale) ** 2)


def _mae(case: _Case) -> Floats:
    return case.average(np.abs(case.truth - case.scores[:, 0]))


def _r2(case: _Case) -> Floats:
    spread = case.average((case.truth - case.average(case.truth)[:, None]) ** 2)
    return 1 - _mse(case) / spread


def _r(case: _Case) -> Floats:
    """Pearson correlation after each fold's own mean is taken off both sides."""
    parts = [_co_moments(fold) for fold in case.by_fold()]
    covariance, var_truth, var_said = (sum(column) for column in zip(*parts, strict=True))
    negligible = var_said <= 1e-20 * np.mean(case.scores**2)
    r: Floats = np.where(negligible, np.nan, covariance / np.sqrt(var_truth * var_said))
    return r


def _co_moments(case: _Case) -> tuple[Floats, Floats, Floats]:
    said = np.broadcast_to(case.scores[:, 0], case.truth.shape)
    truth = case.truth - case.average(case.truth)[:, None]
    said = said - case.average(said)[:, None]
    # A resample may hold no subject of a small fold; its mean is then 0/0 and the fold adds nothing.
    moments = [np.nan_to_num(_total(case.weights * product)) for product in (truth * said, truth**2, said**2)]
    return moments[0], moments[1], moments[2]


def _top1(case: _Case) -> Floats:
    """Share of queries whose own subject is the likest of the gallery; of several that are equally so, one is taken at random."""
    likest = case.scores == case.scores.max(axis=1, keepdims=True)
    return case.average(_of_truth(likest / likest.sum(axis=1, keepdims=True), case.truth))


def _mrr(case: _Case) -> Floats:
    """Mean reciprocal rank of the query's own subject; equals are in random order, so theirs is the mean over the ranks they share."""
    ordered = np.sort(case.scores, axis=1)
    n = ordered.shape[1]
    first = np.stack([n - np.searchsorted(row, said, "right") for row, said in zip(ordered, case.scores, strict=True)])
    last = np.stack([n - np.searchsorted(row, said, "left") for row, said in zip(ordered, case.scores, strict=True)])
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    return case.average(_of_truth((harmonic[last] - harmonic[first]) / (last - first), case.truth))


def _of_truth(values: Floats, truth: Floats) -> Floats:
    """(R or 1, N) of each row of values (N, K), the entry that truth (R or 1, N) points to."""
    picked: Floats = values[np.arange(len(values)), truth.astype(np.int64)]
    return picked


_METRICS: dict[str, Callable[[_Case], Floats]] = {
    "auc": _auc,
    "balanced_accuracy": _balanced_accuracy,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "r2": _r2,
    "r": _r,
    "mae": _mae,
    "mse": _mse,
    "mse_z": _mse_z,
    "top1": _top1,
    "mrr": _mrr,
}
