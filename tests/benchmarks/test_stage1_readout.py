"""The readout of benchmarks/stage1/checkpoint.py against closed forms and a planted signal."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

STAGE1 = Path(__file__).resolve().parents[2] / "benchmarks" / "stage1"
Floats = NDArray[np.floating]


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as its programs import it: benchmarks/stage1 is no package."""
    monkeypatch.syspath_prepend(str(STAGE1))
    return __import__("checkpoint")


def grid(n: int, spacing: float = 20.0) -> Floats:
    """(n, 3) places in MNI millimetres, none closer than `spacing`."""
    return np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)[:n] * spacing


def population(n: int) -> Floats:
    """(n, n) a correlation matrix whose eigenvalues differ."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n, 2 * n)) + rng.normal(size=(n, 1))
    return np.corrcoef(mixing)


def draw(covariance: Floats, frames: int, rng: np.random.Generator) -> Floats:
    """(frames, C) z-scored series."""
    run = rng.normal(size=(frames, len(covariance))) @ np.linalg.cholesky(covariance).T
    return ((run - run.mean(0)) / run.std(0)).astype(np.float32)


def test_channels_at_the_anchors_give_their_own_covariance(checkpoint: ModuleType) -> None:
    n, rng = 12, np.random.default_rng(1)
    runs = [draw(population(n), 150, rng) for _ in range(20)]
    readout = checkpoint.ConnectomeReadout.fit_population(runs, grid(n), n, width=0.1, nugget=1e-7)

    mean = 0.999 * np.mean([np.corrcoef(run.T) for run in runs], axis=0) + 0.001 * np.eye(n)
    np.testing.assert_allclose(readout.mean, mean, atol=1e-5)
    deviations = readout.deviations(runs, grid(n))
    for run, deviation in zip(runs, deviations, strict=True):
        plain = np.corrcoef(run.T)
        np.testing.assert_allclose(deviation, readout.modes.T @ (plain - mean) @ readout.modes, atol=2e-3)
        # Whatever the basis: the eigenvalues of the covariance relative to the population's.
        relative = scipy.linalg.eigh(plain, mean, eigvals_only=True)
        np.testing.assert_allclose(np.linalg.eigvalsh(deviation + np.eye(n)), relative, atol=2e-3)


@pytest.mark.parametrize("dropped", [0, 3])
def test_a_planted_axis_is_recovered(checkpoint: ModuleType, dropped: int) -> None:
    """People differ in one coupling; others are read on the axis learnt from them, also where channels are missing."""
    n, rng = 12, np.random.default_rng(2)
    places, mean = grid(n), population(n)
    root = scipy.linalg.sqrtm(mean).real
    direction = rng.normal(size=n)
    pattern = np.outer(direction, direction) / (direction @ direction)
    amounts = rng.normal(size=90)
    runs = [draw(root @ scipy.linalg.expm(0.7 * amount * pattern) @ root, 300, rng) for amount in amounts]
    first, others = slice(0, 60), slice(60, None)

    readout = checkpoint.ConnectomeReadout.fit_population(runs[first], places, n, width=0.1, nugget=0.01)
    readout.fit_axes(readout.vectors(runs[first], places), 5, 0.5)
    scores = readout.embed([run[:, dropped:] for run in runs[others]], places[dropped:])
    assert scores.shape == (30, 5)
    found = abs(np.corrcoef(scores[:, 0], amounts[others])[0, 1])
    chance = max(abs(np.corrcoef(scores[:, axis], amounts[others])[0, 1]) for axis in range(1, 5))
    assert found > 0.85 and found > chance + 0.3


def test_what_no_channel_observes_stays_at_the_population(checkpoint: ModuleType) -> None:
    """Two groups of anchors that have nothing to do with each other, and channels in one of them only."""
    half, rng = 6, np.random.default_rng(3)
    places = np.concatenate((grid(half), grid(half) + 5000))
    mean = scipy.linalg.block_diag(population(half), population(half))
    modes = scipy.linalg.block_diag(*[np.linalg.inv(np.linalg.cholesky(population(half))).T] * 2)
    readout = checkpoint.ConnectomeReadout(places, mean, modes, width=5.0, nugget=0.1)
    runs = [draw(mean, 80, rng) for _ in range(3)]

    deviations = readout.deviations([run[:, :half] for run in runs], places[:half])
    assert np.abs(deviations[:, :half, :half]).max() > 0.1
    assert not deviations[:, half:].any() and not deviations[:, :, half:].any()
    np.testing.assert_allclose(readout.vectors([run[:, :half] for run in runs], places[:half])[:, -1], 0, atol=1e-6)
    # A constant channel is a missing one.
    emptied = [np.where(np.arange(2 * half) < half, run, 0).astype(np.float32) for run in runs]
    np.testing.assert_array_equal(readout.deviations(emptied, places), deviations)
