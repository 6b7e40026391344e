"""Window scores against a loop that follows the definition word by word, and against planted events."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.config import SaliencyConfig, TemporalConfig
from slimbrain.errors import InputError
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.saliency import exact_scores, order_by_score, z

MM = torch.zeros(3, 3)


@dataclass(frozen=True)
class Rebuilt:
    reconstruction: Tensor


class Averager:
    """Rebuilds every window as half the mean of the visible ones, plus a bias: simple, yet each pattern of windows matters."""

    window_frames = 4

    def __call__(self, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor) -> Rebuilt:
        n = series.shape[1] // 4
        windows = series[0, : 4 * n].unflatten(0, (n, 4))
        rebuilt = [windows[seen].mean(0) / 2 if seen.any() else torch.full((4, series.shape[2]), 0.1) for seen in visible]
        return Rebuilt(torch.stack(rebuilt).to(series.dtype)[:, None].expand(-1, n, -1, -1))


def by_definition(series: NDArray[np.float64]) -> tuple[list[float], list[float], list[float], list[float]]:
    """DESIGN section 7, read aloud, for the Averager."""
    series = (series - series.mean(0)) / series.std(0)
    windows = [series[4 * i : 4 * i + 4] for i in range(len(series) // 4)]

    def off(j: int, visible: list[int]) -> NDArray[np.float64]:
        rebuilt = np.mean([windows[v] for v in visible], axis=0) / 2 if visible else np.full(windows[0].shape, 0.1)
        return np.abs(rebuilt - windows[j])

    def error(j: int, visible: list[int]) -> float:
        return float(np.mean(off(j, visible)))

    def energy(j: int, visible: list[int], channel: int) -> float:
        return float(np.mean(off(j, visible)[:, channel] ** 2))

    everything = range(len(windows))
    informativeness = [np.mean([1 - error(j, [i]) / error(j, []) for j in everything if j != i]) for i in everything]
    novelty = [error(i, [j for j in everything if j != i]) / error(i, []) for i in everything]
    gains = [[energy(i, [], c) - energy(i, [j for j in everything if j != i], c) for c in range(3)] for i in everything]
    explained = [float(np.mean([max(0.0, gain) ** 8 for gain in own]) ** (1 / 8)) for own in gains]
    change = [0.0, *(float(np.sqrt(np.mean((late - early) ** 2))) for early, late in pairwise(series))]
    dvars = [max(change[4 * i : 4 * i + 4]) for i in everything]
    return [float(value) for value in informativeness], novelty, explained, dvars


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_exact_scores_follow_the_definition(batch: int) -> None:
    series = np.random.default_rng(0).standard_normal((27, 3)) * [1, 2, 5] + 4
    weights = SaliencyConfig(novelty_weight=0.5, explained_weight=2.0, dvars_weight=0.25)
    scores = exact_scores(Averager(), torch.from_numpy(series), MM, 0.72, weights, batch=batch)
    expected = 0.0
    for name, values, weight in zip(
        ("informativeness", "novelty", "explained", "dvars"), by_definition(series), (1, 0.5, 2, -0.25), strict=True
    ):
        np.testing.assert_allclose(getattr(scores, name), values, atol=1e-12)
        expected = expected + weight * (np.array(values) - np.mean(values)) / np.std(values)
    np.testing.assert_allclose(scores.score, expected, atol=1e-9)
    np.testing.assert_allclose(scores.onset_s, 2.88 * np.arange(6), atol=1e-12)
    np.testing.assert_allclose(scores.duration_s, 2.88, atol=1e-12)


def test_channels_without_signal_do_not_count() -> None:
    series = torch.from_numpy(np.random.default_rng(1).standard_normal((24, 3)))
    padded = torch.cat((series, torch.full((24, 2), 3.0)), 1)
    with_dead = exact_scores(Averager(), padded, torch.zeros(5, 3), 1.0)
    np.testing.assert_allclose(with_dead.score, exact_scores(Averager(), series, MM, 1.0).score, atol=1e-12)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="two windows"):
        exact_scores(Averager(), torch.randn(7, 3), MM, 1.0)
    with pytest.raises(InputError, match="0 channels that vary"):
        exact_scores(Averager(), torch.ones(24, 3), MM, 1.0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(0.01, 100), st.floats(-10, 10))
def test_z_has_mean_zero_and_ignores_scale(values: list[float], scale: float, shift: float) -> None:
    scored = z(values)
    assert abs(scored.mean()) < 1e-6
    if np.ptp(values) > 1e-3:
        assert scored.std() == pytest.approx(1)
        np.testing.assert_allclose(z(np.array(values) * scale + shift), scored, atol=1e-5)


def test_z_of_equal_values_is_zero() -> None:
    assert z([0.1 + 0.2, 0.3, 0.3]).tolist() == [0, 0, 0]


CHANNELS, FRAMES, TR, WINDOW, EVENTS = 24, 200, 0.72, 8, 5
RESPONSE_S = 10.0


def eventful_session(rng: np.random.Generator, maps: NDArray[np.float64], event: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.int64]]:
    """Network-structured AR(1) noise with events of about 10 s in one spatial pattern: series, windows they peak in."""
    courses, noise = np.zeros((FRAMES, len(maps))), np.zeros((FRAMES, CHANNELS))
    for frame in range(1, FRAMES):
        courses[frame] = 0.5 * courses[frame - 1] + 0.87 * rng.standard_normal(len(maps))
        noise[frame] = 0.4 * noise[frame - 1] + 0.5 * rng.standard_normal(CHANNELS)
    gap = 20.0
    onsets = np.sort(rng.uniform(0, FRAMES * TR - RESPONSE_S - gap * (EVENTS - 1), EVENTS)) + gap * np.arange(EVENTS)
    since = TR * np.arange(FRAMES)[:, None] - onsets
    response = np.where((since > 0) & (since < RESPONSE_S), np.sin(np.pi * since / RESPONSE_S) ** 2, 0).sum(1)
    series = courses @ maps + noise + 3 * np.outer(response, event)
    return torch.from_numpy(series).float(), ((onsets + RESPONSE_S / 2) // (WINDOW * TR)).astype(np.int64)


def test_top_k_holds_more_planted_events_than_random_windows() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform([-65, -85, -50], [65, 60, 65], (CHANNELS, 3))
    maps = np.exp(-((places - places[[0, 5, 10]][:, None]) ** 2).sum(-1) / 2 / 40**2)
    event = np.exp(-((places - places[15]) ** 2).sum(-1) / 2 / 60**2)
    sessions = [eventful_session(rng, maps, event) for _ in range(36)]
    mm = torch.from_numpy(places).float()
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=32, depth=1, heads=4, groups=8, window_frames=WINDOW))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        batch = torch.stack([sessions[(4 * step + i) % 16][0] for i in range(4)])
        loss, _ = temporal_loss(model, batch, mm, TR, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held, by_chance = [], []
    for series, peaks in sessions[16:]:
        chosen = order_by_score(exact_scores(model.eval(), series, mm, TR).score)[:EVENTS]
        held.append(np.isin(peaks, chosen).sum())
        by_chance.append(np.mean([np.isin(peaks, rng.choice(FRAMES // WINDOW, EVENTS, replace=False)).sum() for _ in range(50)]))
    difference = np.array(held) - np.array(by_chance)
    assert difference.mean() > 3 * difference.std() / np.sqrt(len(difference))
    assert np.mean(held) > 1.5 * np.mean(by_chance)
