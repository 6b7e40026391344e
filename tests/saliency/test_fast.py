"""The fast scores: exact where a window tells only of its neighbours, as many passes for any length, close for a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from slimbrain.config import SaliencyConfig, TemporalConfig
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.saliency import exact_scores, fast_scores

MM = torch.zeros(3, 3)
WINDOW = 4
WEIGHTS = SaliencyConfig(novelty_weight=0.5)


@dataclass(frozen=True)
class Rebuilt:
    reconstruction: Tensor


@dataclass
class Neighbours:
    """Rebuilds a window as half the mean of the visible ones at most `reach` away, as 0.1 if there is none; counts its passes."""

    reach: int = 2
    window_frames: int = WINDOW
    passes: list[int] = field(default_factory=list)

    def __call__(self, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor) -> Rebuilt:
        n = series.shape[1] // WINDOW
        self.passes.append(len(visible))
        windows = series[0, : WINDOW * n].unflatten(0, (n, WINDOW))
        rebuilt = torch.full((len(visible), n, WINDOW, series.shape[2]), 0.1, dtype=series.dtype)
        for pattern, seen in enumerate(visible):
            for j in range(n):
                near = [i for i in range(max(0, j - self.reach), min(n, j + self.reach + 1)) if seen[i]]
                if near:
                    rebuilt[pattern, j] = windows[near].mean(0) / 2
        return Rebuilt(rebuilt)


def series_of(windows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((windows * WINDOW + 2, 3)))


@pytest.mark.parametrize(("windows", "show", "hide"), [(2, 12, 3), (5, 5, 3), (11, 5, 4), (23, 5, 3), (24, 6, 6), (30, 7, 3), (13, 40, 40)])
def test_exact_where_a_window_tells_of_two_neighbours_on_each_side(windows: int, show: int, hide: int) -> None:
    series = series_of(windows)
    exact = exact_scores(Neighbours(), series, MM, 0.72, WEIGHTS)
    fast = fast_scores(Neighbours(), series, MM, 0.72, WEIGHTS, show_every=show, hide_every=hide)
    for name in ("informativeness", "novelty", "explained", "dvars"):
        np.testing.assert_allclose(getattr(fast, name), getattr(exact, name), atol=1e-12)
    np.testing.assert_allclose(fast.score, exact.score, atol=1e-9)
    np.testing.assert_array_equal(fast.onset_s, exact.onset_s)


def test_windows_shown_too_close_to_each_other_are_not_exact() -> None:
    exact = exact_scores(Neighbours(), series_of(23), MM, 0.72)
    fast = fast_scores(Neighbours(), series_of(23), MM, 0.72, show_every=3)
    assert np.abs(fast.informativeness - exact.informativeness).max() > 1e-3


def test_windows_hidden_beside_each_other_are_not_exact() -> None:
    exact = exact_scores(Neighbours(), series_of(23), MM, 0.72)
    fast = fast_scores(Neighbours(), series_of(23), MM, 0.72, hide_every=2)
    assert np.abs(fast.novelty - exact.novelty).max() > 1e-3


def test_a_long_session_takes_as_many_passes_as_a_short_one() -> None:
    counts = []
    for windows in (60, 240):
        model = Neighbours(reach=0)
        fast_scores(model, series_of(windows), MM, 0.72)
        counts.append(sum(model.passes))
    assert counts == [10, 10]
    model = Neighbours(reach=0)
    exact_scores(model, series_of(240), MM, 0.72)
    assert sum(model.passes) >= 10 * counts[1]


def test_close_to_exact_for_a_trained_model() -> None:
    rng = np.random.default_rng(0)
    places = torch.from_numpy(rng.uniform([-65, -85, -50], [65, 60, 65], (12, 3))).float()
    sessions = torch.zeros(9, 240, 12)
    for frame in range(1, 240):
        sessions[:, frame] = 0.9 * sessions[:, frame - 1] + torch.from_numpy(rng.standard_normal((9, 12))).float()
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=32, depth=1, heads=4, groups=4, window_frames=8))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        loss, _ = temporal_loss(model, sessions[torch.arange(4 * step, 4 * step + 4) % 8], places, 0.72, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    exact, fast = (score(model.eval(), sessions[8], places, 0.72, WEIGHTS) for score in (exact_scores, fast_scores))
    assert exact.informativeness.std() > 1e-3
    for name in ("informativeness", "novelty", "explained", "score"):
        assert spearmanr(getattr(fast, name), getattr(exact, name)).statistic > 0.9, name
