"""Paths of penalties against scikit-learn's models fitted one by one, to a tight tolerance, on the features as they are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from slimbrain.evaluate.linear import coordinates, logistic_path, ridge_path
from slimbrain.evaluate.probes import STRENGTHS

N, HELD = 30, 12


def samples(width: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of very unlike size, one of them constant and two of them alike, some of which know the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N + HELD) % classes
    x = rng.normal(size=(N + HELD, width)) + 0.7 * labels[:, None] * (rng.uniform(size=width) < 0.3)
    x = x * (0.01 + rng.exponential(size=width) ** 3) + 5
    x[:, 0] = 3.0
    x[:, 2] = x[:, 1]
    return x[:N], x[N:], labels[:N], labels[N:]


def plainly(x: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaler = StandardScaler().fit(x)
    return scaler.transform(x) / np.sqrt(x.shape[1]), scaler.transform(held) / np.sqrt(x.shape[1])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("width", [4, 120])
def test_probabilities_are_those_of_scikit_learn_at_every_penalty(width: int, classes: int) -> None:
    x, held, y, _ = samples(width, classes)
    train, (test,) = coordinates(x, [held])
    assert train.shape[1] == test.shape[1] <= min(width, N)
    path = logistic_path(train, y, test, STRENGTHS)
    plain, plain_held = plainly(x, held)
    for strength, said in zip(STRENGTHS, path, strict=True):
        model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-9, max_iter=500).fit(plain, y)
        assert said == pytest.approx(model.predict_proba(plain_held), abs=1e-5), strength


@pytest.mark.parametrize("width", [4, 400])
def test_values_are_those_of_scikit_learn_at_every_penalty(width: int) -> None:
    x, held, _, _ = samples(width)
    y = np.random.default_rng(1).normal(40, 10, N)
    train, (test,) = coordinates(x, [held])
    plain, plain_held = plainly(x, held)
    for strength, said in zip(STRENGTHS, ridge_path(train, y, test, STRENGTHS), strict=True):
        assert said == pytest.approx(Ridge(1 / strength).fit(plain, y).predict(plain_held), abs=1e-8)


@pytest.mark.parametrize("width", [4, 400])
def test_coordinates_keep_every_inner_product(width: int) -> None:
    x, held, _, _ = samples(width)
    train, (test,) = coordinates(x, [held])
    plain, plain_held = plainly(x, held)
    assert train @ train.T == pytest.approx(plain @ plain.T, abs=1e-10)
    assert test @ train.T == pytest.approx(plain_held @ plain.T, abs=1e-10)
    between = train.T @ train
    assert between - np.diag(np.diag(between)) == pytest.approx(0 * between, abs=1e-10)


def test_a_path_does_not_depend_on_where_it_starts() -> None:
    x, held, y, _ = samples(400)
    train, (test,) = coordinates(x, [held])
    assert logistic_path(train, y, test, STRENGTHS)[-1] == pytest.approx(logistic_path(train, y, test, STRENGTHS[-1:])[0], abs=1e-5)


def test_features_that_say_nothing_leave_the_share_of_each_class() -> None:
    y = np.array([0, 0, 0, 1])
    train, (test,) = coordinates(np.full((4, 3), 7.0), [np.full((2, 3), 7.0)])
    assert logistic_path(train, y, test, (1.0,))[0] == pytest.approx(np.tile([0.75, 0.25], (2, 1)), abs=1e-6)
    assert ridge_path(train, y, test, (1.0,))[0] == pytest.approx(0.25)
