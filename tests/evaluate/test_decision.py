"""Cutoffs against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from slimbrain.evaluate import probes
from slimbrain.evaluate.decision import NAMING_METRICS, tuned_cutoffs, untuned_cutoffs
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import SplitPolicy, outer_splits
from slimbrain.evaluate.stats import choose_inside, score

SKLEARN = {
    "balanced_accuracy": balanced_accuracy_score,
    "accuracy": accuracy_score,
    "macro_f1": lambda truth, said: f1_score(truth, said, average="macro"),
}


def overconfident(rng: np.random.Generator, n: int, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A value of n subjects, higher by `shift` in the 17 % of one class, and probabilities four times too sure and off the middle."""
    truth = (np.arange(n) % 6 == 0).astype(float)
    value = rng.normal(size=n) + shift * truth
    second = 1 / (1 + np.exp(-4 * (value - 3)))
    return value, np.column_stack([1 - second, second]), truth


def test_cutoffs_are_those_of_the_closed_form() -> None:
    """Two normal classes: balanced accuracy is best half way between their means, accuracy where the prior tips the scales."""
    value, said, truth = overconfident(np.random.default_rng(0), 6000)
    cutoffs = tuned_cutoffs(said, truth)
    # The accuracy's optimum is flat: 0.2 off it, it is 0.001 lower.
    for metric, at, error in (("balanced_accuracy", 0.75, 0.1), ("accuracy", 0.75 + np.log(5) / 1.5, 0.2)):
        found = value[(said / cutoffs[metric]).argmax(axis=1) == 1].min()
        assert found == pytest.approx(at, abs=error), metric
        assert cutoffs[metric].sum() == pytest.approx(1)
    assert balanced_accuracy_score(truth, said.argmax(axis=1)) < 0.6 < norm.cdf(0.75) - 0.15
    tuned = balanced_accuracy_score(truth, (said / cutoffs["balanced_accuracy"]).argmax(axis=1))
    assert tuned == pytest.approx(norm.cdf(0.75), abs=0.02)


@pytest.mark.parametrize("metric", NAMING_METRICS)
def test_no_cutoff_is_much_better_than_the_tuned_one(metric: str) -> None:
    """Brute force over all cutoffs, scored by scikit-learn; three classes over a grid of two."""
    _, said, truth = overconfident(np.random.default_rng(1), 180)
    grid = [np.array([1 - second, second]) for second in np.unique(said[:, 1])[1:-1] - 1e-9]
    best = max(SKLEARN[metric](truth, (said / each).argmax(axis=1)) for each in grid)
    tuned = SKLEARN[metric](truth, (said / tuned_cutoffs(said, truth)[metric]).argmax(axis=1))
    assert best - 0.03 <= tuned <= best

    rng = np.random.default_rng(2)
    truth = np.repeat([0.0, 1.0, 2.0], [20, 60, 120])
    logits = 2 * (rng.normal(size=(200, 3)) + 1.5 * np.eye(3)[truth.astype(int)]) + np.array([-4.0, 0.0, 4.0])
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    offsets = [np.array([a, b, 0.0]) for a in np.linspace(-16, 4, 21) for b in np.linspace(-10, 4, 15)]
    best = max(SKLEARN[metric](truth, (logits - each).argmax(axis=1)) for each in offsets)
    tuned = SKLEARN[metric](truth, (said / tuned_cutoffs(said, truth)[metric]).argmax(axis=1))
    assert tuned > best - 0.04 and (metric == "accuracy" or tuned > SKLEARN[metric](truth, said.argmax(axis=1)) + 0.05)


def test_probabilities_of_zero_and_one_and_a_class_that_is_absent_have_cutoffs() -> None:
    said, truth = np.eye(3)[[0, 0, 1, 1, 1]], np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    for cutoffs in (tuned_cutoffs(said, truth), tuned_cutoffs(np.full((5, 3), 1 / 3), truth), untuned_cutoffs(np.array([2, 3, 0]))):
        assert set(cutoffs) == set(NAMING_METRICS)
        assert all(np.isfinite(each).all() and (each > 0).all() for each in cutoffs.values())
    assert np.array_equal((said / tuned_cutoffs(said, truth)["accuracy"]).argmax(axis=1), truth)


def test_a_rare_class_is_named_by_an_overconfident_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """17 % of one class, more features than subjects and a weak penalty: as the tangent of ABIDE."""
    strength, n, width = 1000.0, 240, 600
    monkeypatch.setattr(probes, "STRENGTHS", (strength,))
    rng = np.random.default_rng(3)
    labels = (np.arange(n) % 6 == 0).astype(int)
    x = rng.standard_normal((n, width))
    x[:, :100] += 0.2 * labels[:, None]
    policy = SplitPolicy(n_splits=4, seeds=(0,))
    found = cross_validate(FeatureSet("m", "probe", x), labels, np.arange(n), "classification", policy)
    reference, named = np.zeros(n), np.zeros(n)
    for split in outer_splits(np.arange(n), labels, "classification", policy, 0):
        divide = FunctionTransformer(lambda z: z / np.sqrt(width))
        plain = make_pipeline(StandardScaler(), divide, LogisticRegression(C=strength, max_iter=3000))
        inner = StratifiedKFold(3, shuffle=True, random_state=0)
        tuned = TunedThresholdClassifierCV(plain, scoring="balanced_accuracy", cv=inner).fit(x[split.train], labels[split.train])
        reference[split.test] = tuned.predict(x[split.test])
        named[split.test] = tuned.predict_proba(x[split.test]).argmax(axis=1)
    ours = float(score(found, "balanced_accuracy")[0])
    assert float(score(found, "auc")[0]) > 0.78
    assert balanced_accuracy_score(labels, named) < 0.6
    assert ours > 0.68 and ours > balanced_accuracy_score(labels, reference) - 0.04
    # Accuracy has a cutoff of its own, which does not give away what always naming the majority has.
    assert float(score(found, "accuracy")[0]) > 5 / 6 - 0.02
    assert float(score(found, "macro_f1")[0]) > f1_score(labels, named, average="macro") + 0.05


def test_what_is_chosen_inside_brings_its_cutoffs_along() -> None:
    rng = np.random.default_rng(4)
    labels = (np.arange(60) % 4 == 0).astype(int)
    sets = [FeatureSet("m", str(shift), rng.normal(size=(60, 5)) + shift * labels[:, None]) for shift in (0.0, 2.0)]
    noise, signal = (cross_validate(each, labels, np.arange(60), "classification", SplitPolicy(n_splits=3, seeds=(0,))) for each in sets)
    chosen = choose_inside([noise, signal])
    for metric in NAMING_METRICS:
        assert np.array_equal(chosen.cutoffs[metric], signal.cutoffs[metric])
        assert not np.array_equal(chosen.cutoffs[metric], noise.cutoffs[metric])
        assert score(chosen, metric) == score(signal, metric)
