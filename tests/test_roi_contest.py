"""What the embedding benchmark compares: pieces that its conclusions rest on, against closed forms."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from slimbrain.evaluate.baselines import TangentSpace

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("roi_contest")


def correlations(n: int, channels: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([np.corrcoef(rng.standard_normal((50, channels)).T) for _ in range(n)])


def test_without_weight_the_population_does_not_count(contest: ModuleType) -> None:
    matrices = correlations(6)
    ours = contest.PopulationTangent(weight=0.0).fit(matrices).transform(matrices)
    np.testing.assert_allclose(ours, TangentSpace().fit(matrices).transform(matrices))


def test_with_all_the_weight_everybody_is_the_mean(contest: ModuleType) -> None:
    np.testing.assert_allclose(contest.PopulationTangent(weight=1.0).fit(correlations(6)).transform(correlations(3)), 0, atol=1e-6)


def test_a_singular_matrix_has_a_tangent(contest: ModuleType) -> None:
    """Three frames of four channels."""
    short = contest.covariances([np.random.default_rng(1).standard_normal((3, 4))])
    assert np.linalg.eigvalsh(short[0])[0] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(contest.PopulationTangent().fit(correlations(6)).transform(short)).all()


def test_contrast_divides_by_the_deviation_within_runs(contest: ModuleType) -> None:
    """Variances 9 and 1 along the axes, ridge 5: lengths become in proportion to 1/sqrt(14) and 1/sqrt(6)."""
    apart = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * np.sqrt(2)
    moved = contest.Contrast.between(apart)(np.eye(2))
    np.testing.assert_allclose(moved, np.diag([np.sqrt(5 / 14), np.sqrt(5 / 6)]), atol=1e-12)


def test_channels_that_go_together_lie_together(contest: ModuleType) -> None:
    rng = np.random.default_rng(2)
    shared = rng.standard_normal((400, 2))
    runs = [shared[:, [0, 0, 1, 1]] + 0.3 * rng.standard_normal((400, 4)) for _ in range(3)]
    distance = torch.cdist(*[contest.likely_places(runs)] * 2).numpy()
    assert max(distance[0, 1], distance[2, 3]) < distance[:2, 2:].min()


def test_band_power_of_a_sine_lies_in_its_band(contest: ModuleType) -> None:
    run = np.sin(2 * np.pi * 0.08 * np.arange(200))[:, None]
    np.testing.assert_allclose(contest.band_power(run, 1.0), [0, 1, 0], atol=1e-12)
