"""Splits by subject, no leaks, and predictions against scikit-learn used plainly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from slimbrain.errors import InputError
from slimbrain.evaluate import probes
from slimbrain.evaluate.baselines import majority
from slimbrain.evaluate.probes import FeatureSet, cross_validate, ranking_loss, summed_loss
from slimbrain.evaluate.splits import Split, SplitPolicy, outer_splits, pose
from slimbrain.evaluate.stats import bootstrap, score

QUICK = SplitPolicy(n_splits=3, seeds=(0,))


def features(data: np.ndarray) -> FeatureSet:
    return FeatureSet("test", "probe", np.asarray(data, dtype=float))


@pytest.mark.parametrize("n_features", [4, 300])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_predictions_are_those_of_a_plain_pipeline(monkeypatch: pytest.MonkeyPatch, kind: str, n_features: int) -> None:
    """Standardise, divide by sqrt(D), fit: the rotation used when features outnumber samples must change nothing."""
    strength = 0.7
    monkeypatch.setattr(probes, "STRENGTHS", (strength,))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(36, n_features)) * rng.uniform(0.1, 10, n_features) + 5
    y = (x[:, 0] + x[:, 1] > 10).astype(int) if kind == "classification" else x[:, 0] * 3 + 50
    oof = cross_validate(features(x), y, np.arange(36), kind, QUICK)
    for split in outer_splits(np.arange(36), y, kind, QUICK, 0):
        scale = make_pipeline(StandardScaler(), FunctionTransformer(lambda z: z / np.sqrt(n_features)))
        if kind == "classification":
            plain = make_pipeline(scale, LogisticRegression(C=strength, tol=1e-8, max_iter=5000)).fit(x[split.train], y[split.train])
            assert oof.scores[0, split.test] == pytest.approx(plain.predict_proba(x[split.test]), abs=2e-3)
        else:
            mean, std = y[split.train].mean(), y[split.train].std()
            plain = make_pipeline(scale, Ridge(1 / strength)).fit(x[split.train], (y[split.train] - mean) / std)
            assert oof.scores[0, split.test, 0] == pytest.approx(plain.predict(x[split.test]) * std + mean)
            assert oof.scale[0, split.test] == pytest.approx(std)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_planted_signal_is_found(kind: str) -> None:
    rng = np.random.default_rng(1)
    y = np.tile([0, 1], 25) if kind == "classification" else rng.normal(40, 10, 50)
    x = rng.normal(size=(50, 100))
    x[:, :30] += ((y - np.mean(y)) / np.std(y))[:, None]
    oof = cross_validate(features(x), y, np.arange(50), kind, QUICK)
    assert bootstrap(oof, oof.metrics[0]).low > (0.8 if kind == "classification" else 0.3)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_random_features_score_chance(kind: str) -> None:
    """Nothing to find, many features, two sessions per subject that look alike: any leak between folds would score high."""
    rng = np.random.default_rng(2)
    who = np.repeat(np.arange(60), 2)
    person = rng.normal(size=(60, 80))
    x = person[who] + 0.1 * rng.normal(size=(120, 80))
    labels = (rng.permutation(60) % 2 if kind == "classification" else rng.normal(size=60))[who]
    oof = cross_validate(features(x), labels, who, kind, SplitPolicy(seeds=(0, 1, 2)))
    assert len(oof.truth) == 60
    if kind == "classification":
        interval = bootstrap(oof, "auc")
        assert interval.low < 0.5 < interval.high
    else:
        assert np.mean(score(oof, "r2")) < 0.05


@pytest.mark.parametrize("policy", [SplitPolicy(n_splits=3, seeds=(0,)), SplitPolicy("70/10/20", seeds=(0,))])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_nothing_is_fitted_on_the_test_subjects(kind: str, policy: SplitPolicy) -> None:
    """Make one test subject monstrous, features and label: predictions of the others in its fold must not move by a bit."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 60)), (np.tile([0, 1], 20) if kind == "classification" else rng.normal(size=40))
    before = cross_validate(features(x), y, np.arange(40), kind, policy)
    fold = before.fold[0]
    outlier, *others = np.flatnonzero(fold == 0)
    x[outlier] = 1e6
    after = cross_validate(features(x), y, np.arange(40), kind, policy)
    assert np.array_equal(after.scores[0, others], before.scores[0, others])
    assert not np.allclose(after.scores[0, outlier], before.scores[0, outlier])
    if policy.kind == "k-fold":
        elsewhere = fold > 0
        assert not np.allclose(after.scores[0, elsewhere], before.scores[0, elsewhere])


def test_the_transform_is_fitted_on_training_rows_only() -> None:
    seen: list[set[float]] = []

    class Spy(TransformerMixin, BaseEstimator):
        def fit(self, X: np.ndarray, y: object = None) -> Spy:
            seen.append(set(X[:, 0]))
            return self

        def transform(self, X: np.ndarray) -> np.ndarray:
            return X

    x = np.arange(24.0)[:, None]
    labels = np.arange(24) % 2
    cross_validate(FeatureSet("test", "spy", x, Spy()), labels, np.arange(24), "classification", QUICK)
    expected = [set(split.train.astype(float)) for split in outer_splits(np.arange(24), labels, "classification", QUICK, 0)]
    assert seen == expected


def test_sessions_of_a_subject_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    who = np.array([f"sub-{number}" for number in rng.permutation(np.repeat(np.arange(12), 3))])
    y = np.array([int(name[4:]) % 2 for name in who])
    x = rng.normal(size=(36, 3)) + y[:, None]
    averaged = cross_validate(features(x), y, who, "classification", QUICK)
    monkeypatch.setattr(probes, "average_sessions", lambda sessions: sessions)
    sessions = cross_validate(features(x), y, who, "classification", QUICK)
    assert averaged.subject.tolist() == sorted(set(who))
    for row, name in enumerate(averaged.subject):
        assert averaged.scores[0, row] == pytest.approx(sessions.scores[0, who == name].mean(axis=0))
        assert averaged.truth[row] == int(name[4:]) % 2
        assert set(sessions.fold[0, who == name]) == {averaged.fold[0, row]}


def test_labels_of_sessions_stay_sessions() -> None:
    """Rest or task in each of two sessions: nothing may be averaged over a subject."""
    who, state = np.repeat(np.arange(12), 2), np.tile(["rest", "task"], 12)
    x = np.random.default_rng(5).normal(size=(24, 4)) + 3 * (state == "task")[:, None]
    oof = cross_validate(features(x), state, who, "classification", QUICK)
    assert len(oof.truth) == 24 and oof.classes == ("rest", "task")
    assert score(oof, "accuracy")[0] > 0.9


def test_the_majority_baseline_is_the_majority() -> None:
    labels = np.repeat(["few", "many"], [9, 21])
    oof = cross_validate(majority(30), labels, np.arange(30), "classification", QUICK)
    dummy = DummyClassifier(strategy="prior")
    for split in outer_splits(np.arange(30), labels, "classification", QUICK, 0):
        expected = dummy.fit(split.train[:, None], labels[split.train]).predict_proba(split.test[:, None])
        assert oof.scores[0, split.test] == pytest.approx(expected, abs=1e-3)
    assert score(oof, "accuracy")[0] == 0.7 and score(oof, "balanced_accuracy")[0] == 0.5 and score(oof, "auc")[0] == 0.5
    # Whatever the folds, of which none has the shares of another.
    uneven = cross_validate(majority(31), np.repeat(["few", "many"], [8, 23]), np.arange(31), "classification", QUICK)
    assert score(uneven, "balanced_accuracy")[0] == 0.5 and score(uneven, "accuracy")[0] == 23 / 31


def test_few_subjects_of_a_class_mean_fewer_folds() -> None:
    labels = np.repeat(["a", "b"], [2, 10])
    assert len(outer_splits(np.arange(12), labels, "classification", SplitPolicy(n_splits=5), 0)) == 2
    oof = cross_validate(features(np.random.default_rng(0).normal(size=(12, 5))), labels, np.arange(12), "classification", QUICK)
    assert np.isfinite(oof.scores).all()


@pytest.mark.parametrize(
    ("x", "labels", "subjects", "message"),
    [
        (np.zeros((5, 2)), np.zeros(5), np.arange(5), "at least two classes"),
        (np.zeros((5, 2)), np.array([0, 0, 0, 0, 1]), np.arange(5), "Participants per class: 0 4, 1 1, and at least 2"),
        (np.zeros((5, 2)), np.arange(4) % 2, np.arange(5), "4 labels"),
        (np.full((6, 2), np.nan), np.arange(6) % 2, np.arange(6), "NaN"),
        (np.zeros((6, 2)), np.arange(6) % 2, np.zeros(6), "Participants: 1, and at least 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(x: np.ndarray, labels: np.ndarray, subjects: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cross_validate(features(x), labels, subjects, "classification", QUICK)


def test_sessions_are_averaged_where_a_seed_tests_some_subjects_only() -> None:
    """70/10/20 with two sessions per subject: classes that lie apart are found, and nothing is said of those that were not tested."""
    rng = np.random.default_rng(0)
    subjects = np.repeat([f"sub-{number:02d}" for number in range(40)], 2)
    labels = np.repeat(np.arange(40) % 2, 2)
    data = rng.normal(size=(80, 4)) + 3 * labels[:, None]
    policy = SplitPolicy("70/10/20", seeds=(0, 1))
    found = cross_validate(FeatureSet("x", "y", data), labels.astype(str), subjects, "classification", policy)
    assert found.scores.shape == (2, 40, 2) and (np.isnan(found.scores).any(axis=2) == (found.fold < 0)).all()
    assert score(found, "accuracy").min() > 0.9 and score(found, "auc").min() > 0.9


def test_a_rare_class_is_named_and_settings_are_chosen_by_rank() -> None:
    """17 % of one class, as women in ABIDE: a probe that ranks well must not score what always naming the majority scores."""
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(300) % 6 == 0, "f", "m")
    x = rng.standard_normal((300, 40))
    x[:, 0] += 1.8 * (labels == "f")
    scored = cross_validate(FeatureSet("m", "probe", x), labels, np.arange(300), "classification", SplitPolicy(n_splits=5, seeds=(0,)))
    said = scored.scores[0].argmax(axis=1)
    assert float(score(scored, "auc")[0]) > 0.7
    assert recall_score(scored.truth, said, average="macro") < float(score(scored, "balanced_accuracy")[0]) - 0.03
    assert float(score(scored, "balanced_accuracy")[0]) > 0.63
    for metric, average in (("balanced_accuracy", "macro"), ("accuracy", "micro")):
        named = (scored.scores[0] / scored.cutoffs[metric][0]).argmax(axis=1)
        assert float(score(scored, metric)[0]) == pytest.approx(recall_score(scored.truth, named, average=average))


def test_cutoffs_know_nothing_of_the_test_subjects() -> None:
    """Turn the labels of one fold's subjects round: its cutoffs stay, the others' move."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(60, 5)), (np.arange(60) % 3 == 0).astype(int)
    x[:, 0] += y
    problem, turned = (pose(labels, np.arange(60), "classification") for labels in (y, np.where(np.arange(60) < 20, 1 - y, y)))
    for first, last, alike in ((0, 20, True), (40, 60, False)):
        test = np.arange(first, last)
        split = Split(np.setdiff1d(np.arange(60), test), test[:0], test)
        found, after = (features(x).fit_predict(each, split, 0).cutoffs for each in (problem, turned))
        assert found is not None and after is not None
        # Inner splits are dealt by label, so that turned labels of training subjects change them.
        assert np.array_equal(found["balanced_accuracy"], after["balanced_accuracy"]) == alike


def test_ranking_loss_prefers_what_ranks_to_what_is_calibrated() -> None:
    y = np.array([0, 0, 0, 0, 1])
    ranks = np.column_stack([1 - np.array([0.6, 0.6, 0.6, 0.6, 0.7]), [0.6, 0.6, 0.6, 0.6, 0.7]])
    calibrated = np.column_stack([np.full(5, 0.8), np.full(5, 0.2)])
    assert summed_loss(calibrated, y, "classification") < summed_loss(ranks, y, "classification")
    assert ranking_loss(ranks, y, "classification") < ranking_loss(calibrated, y, "classification") == pytest.approx(0.5, abs=1e-4)
    assert ranking_loss(ranks[:4], y[:4], "classification") == pytest.approx(summed_loss(ranks[:4], y[:4], "classification") / 4)
    values = np.array([[1.0], [2.0]])
    assert ranking_loss(values, np.array([1.0, 4.0]), "regression") == 2.0
    # Many ties, three classes: scikit-learn's areas.
    random = np.random.default_rng(0)
    said, of = random.integers(1, 6, (50, 3)) / 10, random.integers(0, 3, 50)
    areas = [1 - roc_auc_score(of == label, said[:, label]) for label in range(3)]
    assert ranking_loss(said, of.astype(float), "classification") == pytest.approx(np.mean(areas), abs=1e-5)
