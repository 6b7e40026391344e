"""The contest of window rankings: its learner against scikit-learn's, its statistics against closed forms."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score, roc_auc_score

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def contest() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("window_contest")


def test_the_learner_is_kernel_ridge_regression_with_an_intercept(contest: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 7)), rng.standard_normal((2, 40))
    train, test = np.arange(30), np.arange(30, 40)
    ours = contest._path(x @ x.T, train, test, y)
    centre = x[train].mean(0)
    centred = x - centre
    scale = np.trace(centred[train] @ centred[train].T) / 30
    for penalty, got in zip(contest.PENALTIES, np.moveaxis(ours, 1, 0), strict=True):
        ridge = KernelRidge(alpha=penalty * scale).fit(centred[train], (y[:, train] - y[:, train].mean(1, keepdims=True)).T)
        expected = ridge.predict(centred[test]).T + y[:, train].mean(1, keepdims=True)
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_scores_are_those_of_scikit_learn(contest: ModuleType) -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 6, 50).astype(float), rng.standard_normal(50)
    assert contest.metric(truth, predicted, False) == pytest.approx(r2_score(truth, predicted))
    assert contest.metric((truth > 0).astype(float), predicted, True) == pytest.approx(roc_auc_score(truth > 0, predicted))


def test_a_planted_trait_is_predicted_and_noise_is_not(contest: ModuleType) -> None:
    rng = np.random.default_rng(0)
    features, noise = rng.standard_normal((120, 20)).astype(np.float32), rng.standard_normal(120)
    planted = features[:, 0].astype(float) + 0.1 * rng.standard_normal(120)
    targets = {"planted": (planted, False), "class": ((planted > 0).astype(float), True), "noise": (noise, False)}
    predicted = contest.out_of_fold(features, targets)
    assert contest.metric(planted, predicted["planted"], False) > 0.8
    assert contest.metric(targets["class"][0], predicted["class"], True) > 0.85
    assert contest.metric(noise, predicted["noise"], False) < 0.1


def test_the_share_explained_is_a_squared_rank_correlation(contest: ModuleType) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 200))
    mixed = a + b
    assert contest.explained_by(np.exp(a), [a]) == pytest.approx(1)
    assert contest.explained_by(mixed, [a]) == pytest.approx(0.5, abs=0.1)
    assert contest.explained_by(mixed, [a, b]) > 0.9
    assert contest.explained_by(rng.standard_normal(200), [a, b]) < 0.05
