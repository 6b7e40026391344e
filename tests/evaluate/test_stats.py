"""Metrics against scikit-learn and scipy, intervals against what they promise, by simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm, pearsonr
from sklearn import metrics as reference
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import permutation_test_score

from slimbrain.errors import InputError
from slimbrain.evaluate.stats import OutOfFold, bootstrap, bootstrap_difference, choose_inside, permutation_p, score


def classified(truth, scores, subject=None, fold=None) -> OutOfFold:
    """Predictions of one seed, or of several where `scores` is (S, N, K)."""
    scores = np.asarray(scores, dtype=float)
    scores = scores[None] if scores.ndim == 2 else scores
    shape = scores.shape[:2]
    subject = np.arange(shape[1]).astype(str) if subject is None else np.asarray(subject)
    fold = np.zeros(shape, dtype=int) if fold is None else np.broadcast_to(fold, shape)
    classes = tuple(str(number) for number in range(scores.shape[2])) if scores.shape[2] > 1 else ()
    return OutOfFold(subject, np.asarray(truth, dtype=float), scores, fold, np.ones(shape), np.zeros(shape), classes)


def random_classes(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that go with them a little, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    scores = rng.dirichlet(np.ones(k), size=n) + 0.3 * np.eye(k)[truth]
    return truth, np.round(scores / scores.sum(1, keepdims=True), 1)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_classification_metrics_are_those_of_scikit_learn(k: int, seed: int) -> None:
    truth, scores = random_classes(seed, 60, k)
    said = scores.argmax(1)
    against_rest = [reference.roc_auc_score(truth == label, scores[:, label]) for label in range(k)]
    area = against_rest[1] if k == 2 else np.mean(against_rest)
    expected = {
        "accuracy": reference.accuracy_score(truth, said),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
        "macro_f1": reference.f1_score(truth, said, average="macro"),
        "auc": area,
    }
    for name, value in expected.items():
        assert score(classified(truth, scores), name)[0] == pytest.approx(value, abs=1e-12), name


def test_a_resample_draws_relatives_together() -> None:
    """Twins who are alike in everything add nothing: the interval is that of one of each pair."""
    truth, scores = random_classes(0, 30, 2)
    alone = classified(truth, scores)
    twins = classified(np.repeat(truth, 2), np.repeat(scores, 2, axis=0))
    family = replace(twins, group=np.repeat(np.arange(30).astype(str), 2))
    for metric in alone.metrics:
        assert bootstrap(family, metric) == bootstrap(alone, metric)
        assert bootstrap_difference(family, family, metric).high == 0
        narrow, wide = bootstrap(twins, metric), bootstrap(family, metric)
        assert narrow.high - narrow.low < 0.9 * (wide.high - wide.low)


def test_regression_metrics_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(30, 8, 50)
    said = truth + rng.normal(0, 6, 50)
    oof = classified(truth, said[:, None])
    assert score(oof, "mse")[0] == pytest.approx(reference.mean_squared_error(truth, said))
    assert score(oof, "mae")[0] == pytest.approx(reference.mean_absolute_error(truth, said))
    assert score(oof, "r2")[0] == pytest.approx(reference.r2_score(truth, said))
    assert score(oof, "r")[0] == pytest.approx(pearsonr(truth, said).statistic)


@pytest.mark.parametrize("metric", ["auc", "accuracy", "balanced_accuracy", "macro_f1"])
def test_bootstrap_weights_do_what_repeating_the_rows_does(metric: str) -> None:
    """Brute force: draw the same subjects, copy out their rows, and let scikit-learn score them."""
    truth, scores = random_classes(5, 40, 2)
    subject = np.repeat(np.arange(20), 2).astype(str)
    n_resamples, seed = 200, 3
    interval = bootstrap(classified(truth, scores, subject), metric, n_resamples, seed)
    names, draws = np.unique(subject), np.random.default_rng(seed).multinomial(20, np.full(20, 0.05), size=n_resamples)
    values = []
    for counts in draws:
        rows = np.concatenate([np.flatnonzero(subject == name) for name, count in zip(names, counts, strict=True) for _ in range(count)])
        said = scores[rows].argmax(1)
        values.append(
            {
                "auc": lambda rows=rows: reference.roc_auc_score(truth[rows], scores[rows, 1]),
                "accuracy": lambda rows=rows, said=said: reference.accuracy_score(truth[rows], said),
                "balanced_accuracy": lambda rows=rows, said=said: reference.balanced_accuracy_score(truth[rows], said),
                "macro_f1": lambda rows=rows, said=said: reference.f1_score(truth[rows], said, average="macro"),
            }[metric]()
        )
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)


def test_auc_compares_within_folds() -> None:
    """A fold-wise offset, such as another intercept, must not move a ranking metric; brute force over pairs."""
    truth, scores = random_classes(1, 30, 2)
    fold = np.arange(30) // 2 % 3
    pairs = [(i, j) for i in range(30) for j in range(30) if truth[i] > truth[j] and fold[i] == fold[j]]
    expected = np.mean([(scores[i, 1] > scores[j, 1]) + 0.5 * (scores[i, 1] == scores[j, 1]) for i, j in pairs])
    shifted = scores + fold[:, None] * np.array([-10, 10])
    assert score(classified(truth, scores, fold=fold), "auc")[0] == pytest.approx(expected, abs=1e-12)
    assert score(classified(truth, shifted, fold=fold), "auc")[0] == pytest.approx(expected, abs=1e-12)
    rng = np.random.default_rng(0)
    target, said = rng.normal(size=30), rng.normal(size=30)
    centred = [values - np.array([values[fold == number].mean() for number in range(3)])[fold] for values in (target, said)]
    assert score(classified(target, (said + 9 * fold)[:, None], fold=fold), "r")[0] == pytest.approx(pearsonr(*centred).statistic)


def test_interval_covers_the_true_accuracy_though_sessions_of_a_subject_agree() -> None:
    """40 subjects right with probability 0.7, four sessions each, all alike: 95 % of intervals must hold 0.7.

    Resampling sessions instead of subjects makes intervals half as wide, which then miss in a third of the cases.
    """
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(40), 4).astype(str)
    n_cohorts, hits = 200, {"subjects": 0, "sessions": 0}
    for cohort in range(n_cohorts):
        right = np.repeat(rng.random(40) < 0.7, 4)
        for resampled, names in (("subjects", subject), ("sessions", None)):
            interval = bootstrap(classified(np.ones(160), np.column_stack([~right, right]), names), "accuracy", 300, cohort)
            assert interval.mean == pytest.approx(right.mean())
            hits[resampled] += interval.low <= 0.7 <= interval.high
    # Percentile intervals of 40 subjects cover a little under 95 %; the upper bound is that of chance at 95 %.
    assert 0.90 * n_cohorts <= hits["subjects"] <= binom.ppf(0.999, n_cohorts, 0.95)
    assert hits["sessions"] < 0.8 * n_cohorts


def cross_validated(rng: np.random.Generator, kind: str, effect: float) -> OutOfFold:
    """60 subjects, 30 features of which 5 matter, ridge in five folds, by the normal equations."""
    data = rng.normal(size=(60, 30))
    truth = data[:, :5].sum(1) * effect + rng.normal(size=60)
    truth = truth if kind == "regression" else (truth > 0).astype(float)
    fold, said = rng.permutation(60) % 5, np.zeros(60)
    for number in range(5):
        train, test = fold != number, fold == number
        x, centre = data[train] - data[train].mean(0), truth[train].mean()
        weights = np.linalg.solve(x.T @ x + 20 * np.eye(30), x.T @ (truth[train] - centre))
        said[test] = (data[test] - data[train].mean(0)) @ weights + centre
    return classified(truth, said[:, None] if kind == "regression" else np.column_stack([-said, said]), fold=fold)


@pytest.mark.parametrize("effect", [0.0, 0.4])
@pytest.mark.parametrize(("kind", "metric"), [("regression", "r"), ("regression", "mse"), ("classes", "auc")])
def test_intervals_of_a_cross_validation_cover_what_other_cohorts_score(kind: str, metric: str, effect: float) -> None:
    """Resampling the tested alone, as if they had taught nobody, misses too often."""
    cohorts = [cross_validated(np.random.default_rng(cohort), kind, effect) for cohort in range(150)]
    found = [bootstrap(cohort, metric, 199) for cohort in cohorts]
    # As if each had been drawn to be tested by models that others had taught: the resampled scores themselves.
    fixed = [bootstrap(replace(cohort, drawn=True), metric, 199) for cohort in cohorts]
    truth = np.mean([interval.mean for interval in found])
    covered, uncovered = (np.mean([each.low <= truth <= each.high for each in intervals]) for intervals in (found, fixed))
    assert covered > 0.90 and uncovered < min(0.93, covered - 0.05)


def test_a_stretched_interval_stays_within_what_the_metric_can_be() -> None:
    truth = np.arange(40) % 2
    oof = classified(truth, np.eye(2)[np.where(np.arange(40) < 2, 1 - truth, truth)], fold=np.arange(40) // 2 % 5)
    assert bootstrap(oof, "accuracy").high == 1


def binormal(rng: np.random.Generator, shift: float, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """80 subjects, those of class 1 `shift` higher; who lies above the threshold is said to be of class 1."""
    truth = np.arange(80) % 2
    values = shift * truth + rng.normal(size=80) - threshold
    return truth, np.column_stack([-values, values])


def correlated(rng: np.random.Generator, r: float) -> tuple[np.ndarray, np.ndarray]:
    """80 subjects, predictions that correlate with the target."""
    truth = rng.normal(size=80)
    return truth, (r * truth + np.sqrt(1 - r**2) * rng.normal(size=80))[:, None]


@pytest.mark.parametrize(
    ("metric", "draw", "value"),
    [
        ("auc", lambda rng: binormal(rng, 1.0), norm.cdf(1 / np.sqrt(2))),
        ("balanced_accuracy", lambda rng: binormal(rng, 1.0, 0.5), norm.cdf(0.5)),
        ("r", lambda rng: correlated(rng, 0.5), 0.5),
        ("mae", lambda rng: correlated(rng, 0.5), np.sqrt(2 / np.pi)),
    ],
)
def test_intervals_cover_the_closed_form(metric: str, draw: Callable, value: float) -> None:
    """As often as promised, to within what 300 cohorts of 80 can tell; intervals a third narrower would be caught."""
    n_cohorts, whole, narrower = 300, 0, 0
    for cohort in range(n_cohorts):
        interval = bootstrap(classified(*draw(np.random.default_rng(cohort))), metric, 300, cohort)
        whole += interval.low <= value <= interval.high
        middle = interval.mean
        narrower += middle - (middle - interval.low) * 2 / 3 <= value <= middle + (interval.high - middle) * 2 / 3
    least, most = 0.91 * n_cohorts, binom.ppf(0.999, n_cohorts, 0.95)
    assert least <= whole <= most
    assert narrower < least


def test_paired_differences_cover_the_closed_form() -> None:
    """Two predictors with a common part: the difference of their AUCs is known, and far surer than either."""
    n_cohorts, whole, narrower = 300, 0, 0
    value = norm.cdf(1.5 / np.sqrt(2 * 1.25)) - norm.cdf(1 / np.sqrt(2 * 1.25))
    for cohort in range(n_cohorts):
        rng = np.random.default_rng(cohort)
        truth = np.arange(80) % 2
        common = rng.normal(size=80)
        ours, theirs = (shift * truth + common + 0.5 * rng.normal(size=80) for shift in (1.5, 1.0))
        sides = [classified(truth, np.column_stack([-said, said])) for said in (ours, theirs)]
        gap = bootstrap_difference(*sides, "auc", 300, cohort)
        whole += gap.low <= value <= gap.high
        narrower += gap.mean - (gap.mean - gap.low) * 2 / 3 <= value <= gap.mean + (gap.high - gap.mean) * 2 / 3
    least, most = 0.91 * n_cohorts, binom.ppf(0.999, n_cohorts, 0.95)
    assert least <= whole <= most
    assert narrower < least


def test_permutation_p_is_that_of_scikit_learn() -> None:
    """scikit-learn permutes labels and fits again; with a model that learns nothing from them, that is the same test."""

    class Reads(ClassifierMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray) -> Reads:
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return X[:, 0]

    truth, scores = binormal(np.random.default_rng(1), 0.25)
    fit, test = np.arange(40), np.arange(80)
    *_, p = permutation_test_score(Reads(), scores[:, 1:], truth, cv=[(fit, test)], scoring="roc_auc", n_permutations=500, random_state=0)
    assert 0.005 < p < 0.5
    assert permutation_p(classified(truth, scores), "auc", 2000) == pytest.approx(p, abs=0.06)


def test_intervals_and_p_values_repeat_with_the_seed() -> None:
    oof = classified(*random_classes(2, 40, 2))
    assert bootstrap(oof, "auc", seed=4) == bootstrap(oof, "auc", seed=4) != bootstrap(oof, "auc", seed=5)
    assert permutation_p(oof, "auc", seed=4) == permutation_p(oof, "auc", seed=4)


def test_paired_difference_of_identical_predictors_is_exactly_zero() -> None:
    oof = classified(*random_classes(3, 40, 2))
    gap = bootstrap_difference(oof, oof, "auc")
    assert (gap.mean, gap.low, gap.high) == (0, 0, 0)


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    """Ours is right where theirs is, and on five more subjects: the pairing must see that no resample ever favours theirs."""
    rng = np.random.default_rng(0)
    truth = np.tile([0, 1], 30)
    wrong = rng.permutation(60)[:20]
    theirs, ours = np.eye(2)[truth], np.eye(2)[truth]
    theirs[wrong] = theirs[wrong, ::-1]
    ours[wrong[5:]] = ours[wrong[5:], ::-1]
    ours, theirs = classified(truth, ours), classified(truth, theirs)
    gap = bootstrap_difference(ours, theirs, "accuracy")
    assert gap.mean == pytest.approx(5 / 60) and gap.low > 0
    assert bootstrap(ours, "accuracy").low < bootstrap(theirs, "accuracy").high


def test_paired_difference_refuses_different_rows() -> None:
    with pytest.raises(InputError, match="same subjects"):
        bootstrap_difference(classified(*random_classes(0, 40, 2)), classified(*random_classes(0, 42, 2)), "auc")


def test_permutation_p_is_uniform_without_signal_and_least_with_it() -> None:
    rng = np.random.default_rng(0)
    values = [permutation_p(classified(rng.normal(size=30), rng.normal(size=(30, 1))), "r", 199, seed) for seed in range(200)]
    assert kstest(values, "uniform").pvalue > 0.01
    truth = rng.normal(size=30)
    assert permutation_p(classified(truth, truth[:, None] + 0.1), "mse", 199) == 1 / 200


def test_permutations_without_a_score_are_not_counted() -> None:
    """Two of six subjects in three folds: a fifth of the 15 ways to place them leaves no fold with both classes. All are enumerated."""
    truth, fold = np.array([0, 1, 0, 1, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    constant = classified(truth, np.full((6, 2), 0.5), fold=fold)
    assert permutation_p(constant, "auc", 500) == 1
    said, values = truth.astype(float), []
    for pair in combinations(range(6), 2):
        labels = np.isin(np.arange(6), pair)
        folds = [np.flatnonzero(fold == number) for number in range(3) if labels[fold == number].sum() == 1]
        won = [(1 + np.sign(said[rows][labels[rows]] - said[rows][~labels[rows]])[0]) / 2 for rows in folds]
        values += [np.mean(won)] if won else []
    stretched = np.mean(values) + np.sqrt(2) * (np.array(values) - np.mean(values))
    assert len(values) == 12
    right = classified(truth, np.eye(2)[truth], fold=fold)
    assert permutation_p(right, "auc", 4000) == pytest.approx(np.mean(stretched >= 1), abs=0.02)


def test_a_difference_is_no_larger_than_the_metric_allows() -> None:
    truth, fold = np.arange(12) % 2, np.arange(12) % 3
    right, wrong = (classified(truth, np.eye(2)[labels], fold=fold) for labels in (truth, np.where(np.arange(12) < 4, truth, 1 - truth)))
    assert bootstrap_difference(right, wrong, "accuracy").high <= 1


def test_permutation_p_of_an_exact_small_case() -> None:
    """Three against three, ranked perfectly: one labelling in twenty is as good."""
    oof = classified([0, 0, 0, 1, 1, 1], np.column_stack([np.arange(6)[::-1], np.arange(6)]) / 5)
    assert permutation_p(oof, "auc", 4000) == pytest.approx(0.05, abs=0.012)


def test_labels_that_differ_within_a_subject_are_shuffled_within_it() -> None:
    """Each subject has one session of each state and its two scores; 2^-4 of the labellings are as good as the true one."""
    subject = np.repeat(list("abcd"), 2)
    truth = np.tile([0, 1], 4)
    p = permutation_p(classified(truth, np.eye(2)[truth], subject), "accuracy", 4000)
    assert p == pytest.approx(1 / 16, abs=0.015)


def test_a_constant_predictor_scores_chance_or_nothing() -> None:
    oof = classified(np.tile([0, 1], 10), np.full((20, 2), 0.5))
    assert score(oof, "auc")[0] == 0.5 and permutation_p(oof, "auc", 99) == 1
    oof = classified(np.arange(20.0), np.full((20, 1), 9.5))
    assert np.isnan(score(oof, "r")[0]) and np.isnan(bootstrap(oof, "r").low) and np.isnan(permutation_p(oof, "r"))
    assert score(oof, "r2")[0] == 0


def test_rows_that_a_seed_did_not_test_do_not_count() -> None:
    truth, scores = random_classes(0, 20, 2)
    fold = np.full((2, 20), -1)
    fold[0, :8], fold[1, 8:16] = 0, 0
    both = np.stack([scores, scores])
    both[fold < 0] = np.nan
    expected = [reference.accuracy_score(truth[rows], scores[rows].argmax(1)) for rows in (slice(0, 8), slice(8, 16))]
    oof = classified(truth, both, fold=fold)
    assert score(oof, "accuracy") == pytest.approx(expected)
    assert bootstrap(oof, "accuracy", 50).mean == pytest.approx(np.mean(expected))


def test_choosing_inside_takes_the_least_inner_loss_of_each_fold() -> None:
    truth, scores = random_classes(0, 20, 2)
    good, bad = classified(truth, np.eye(2)[truth]), classified(truth, 1 - np.eye(2)[truth])
    good.inner_loss[0, 10:] = 2.0
    bad.inner_loss[0] = 1.0
    chosen = choose_inside([bad, good])
    assert np.array_equal(chosen.scores[0, :10], good.scores[0, :10])
    assert np.array_equal(chosen.scores[0, 10:], bad.scores[0, 10:])
    with pytest.raises(InputError, match="different splits"):
        choose_inside([good, classified(truth, scores, fold=np.arange(20) % 2)])


def test_a_metric_of_the_other_kind_is_refused() -> None:
    with pytest.raises(InputError, match="auc is not a metric of this task"):
        score(classified(np.arange(5.0), np.zeros((5, 1))), "auc")


def noise_predictions(way: str, cohort: int) -> OutOfFold:
    """40 subjects, 50 features and a target of noise: five folds of a learner that sums all features, or keeps the best of them."""
    rng, n = np.random.default_rng(cohort), 40
    x, y, fold, said = rng.normal(size=(n, 50)), rng.normal(size=n), np.arange(n) % 5, np.empty(n)
    for number in range(5):
        train = fold != number
        z, target = x - x[train].mean(0), y[train] - y[train].mean()
        along, power = z[train].T @ target, (z[train] ** 2).sum(0)
        best = np.abs(along / np.sqrt(power)).argmax()
        said[~train] = z[~train] @ along if way == "all" else z[~train, best] * along[best] / power[best]
    return classified(y, said[:, None], fold=fold)


@pytest.mark.parametrize("way", ["all", "best"])
def test_a_choice_among_noise_is_not_significant_more_often_than_promised(way: str) -> None:
    """As labels move around fixed predictions, a p of 0.05 comes twice as often as it should: each pair of subjects counts twice."""
    n_cohorts, small, fixed = 300, 0, 0
    for cohort in range(n_cohorts):
        predictions = noise_predictions(way, cohort)
        small += permutation_p(predictions, "r", 199, cohort) <= 0.05
        fixed += permutation_p(replace(predictions, fold=np.zeros((1, 40), dtype=int)), "r", 199, cohort) <= 0.05
    assert small <= binom.ppf(0.99, n_cohorts, 0.05) < fixed


def test_scores_of_a_cross_validation_vary_twice_as_much_as_around_fixed_predictions() -> None:
    """The closed form that the p-value uses: a learner linear in its labels, its score summed over pairs in different folds."""
    rng, n = np.random.default_rng(0), 30
    x, apart = rng.normal(size=(n, 40)), np.arange(n)[:, None] % 5 != np.arange(n) % 5
    kernel = x @ x.T * apart
    labels = rng.choice([-1.0, 1.0], size=(20_000, n))
    said = labels @ kernel
    assert np.var((labels * said).sum(axis=1)) == pytest.approx(2 * np.mean((said**2).sum(axis=1)), rel=0.05)


def test_which_predictions_taught_each_other() -> None:
    truth, scores = random_classes(0, 12, 2)
    both = np.stack([scores, scores])
    assert not classified(truth, scores).taught_each_other
    assert classified(truth, scores, fold=np.arange(12) % 3).taught_each_other
    half = np.where(np.arange(12) < 6, 0, -1)
    assert not classified(truth, both, fold=half).taught_each_other
    assert classified(truth, both, fold=np.stack([half, half[::-1]])).taught_each_other


def test_labels_of_families_move_whole() -> None:
    """Three pairs of twins, ranked perfectly, and two who are alone: the pairs' labels can be dealt in three ways, the others' in two."""
    truth = np.array([1, 1, 0, 0, 0, 0, 1, 0])
    family = np.array(list("aabbccde"))
    alone = classified(truth, np.eye(2)[truth])
    found = permutation_p(replace(alone, group=family), "accuracy", 6000)
    assert found == pytest.approx(1 / 6, abs=0.02)
    assert permutation_p(alone, "accuracy", 6000) == pytest.approx(1 / 56, abs=0.01)
