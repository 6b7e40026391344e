"""Window scores against a loop that follows the definition word by word, selectors, tables, and planted events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.config import TemporalConfig
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.saliency import (
    WindowRow,
    WindowScores,
    exact_scores,
    rank_store,
    ranks,
    read_window_table,
    select_highest_variance,
    select_random,
    select_top_k,
    select_uniform,
    top_windows,
    window_rows,
    write_window_table,
    z,
)
from slimbrain.store import Store

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


def by_definition(series: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """DESIGN section 7, read aloud, for the Averager."""
    series = (series - series.mean(0)) / series.std(0)
    windows = [series[4 * i : 4 * i + 4] for i in range(len(series) // 4)]

    def error(j: int, visible: list[int]) -> float:
        rebuilt = np.mean([windows[v] for v in visible], axis=0) / 2 if visible else np.full(windows[0].shape, 0.1)
        return float(np.mean(np.abs(rebuilt - windows[j])))

    everything = range(len(windows))
    informativeness = [np.mean([1 - error(j, [i]) / error(j, []) for j in everything if j != i]) for i in everything]
    novelty = [error(i, [j for j in everything if j != i]) / error(i, []) for i in everything]
    return [float(value) for value in informativeness], novelty


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_exact_scores_follow_the_definition(batch: int) -> None:
    series = np.random.default_rng(0).standard_normal((27, 3)) * [1, 2, 5] + 4
    scores = exact_scores(Averager(), torch.from_numpy(series), MM, 0.72, novelty_weight=0.5, batch=batch)
    informativeness, novelty = by_definition(series)
    np.testing.assert_allclose(scores.informativeness, informativeness, atol=1e-12)
    np.testing.assert_allclose(scores.novelty, novelty, atol=1e-12)
    both = [(np.array(part) - np.mean(part)) / np.std(part) for part in (informativeness, novelty)]
    np.testing.assert_allclose(scores.score, both[0] + 0.5 * both[1], atol=1e-9)
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


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_top_k_holds_the_highest_in_order_of_time(values: list[int], k: int) -> None:
    chosen = select_top_k(values, k)
    assert len(chosen) == min(k, len(values))
    assert (np.diff(chosen) > 0).all()
    assert sorted((values[i] for i in chosen), reverse=True) == sorted(values, reverse=True)[:k]


def test_ties_go_to_the_earlier_window() -> None:
    assert ranks([1.0, 2.0, 2.0, 0.0]).tolist() == [3, 1, 2, 4]
    assert select_top_k([1.0, 2.0, 2.0, 2.0], 2).tolist() == [1, 2]


@given(st.integers(0, 200), st.integers(1, 20))
def test_uniform_windows_are_equally_far_apart(n: int, k: int) -> None:
    chosen = select_uniform(n, k)
    assert len(chosen) == min(n, k) == len(set(chosen.tolist()))
    if len(chosen) > 1:
        assert np.ptp(np.diff(chosen)) <= 1
        assert abs(chosen[0] - (n - 1 - chosen[-1])) <= 1


def test_random_windows_are_distinct_sorted_and_equally_likely() -> None:
    rng = np.random.default_rng(0)
    draws = [select_random(10, 3, rng) for _ in range(3000)]
    assert all((np.diff(draw) > 0).all() for draw in draws)
    np.testing.assert_allclose(np.bincount(np.concatenate(draws)) / 3000, 0.3, atol=0.04)
    assert select_random(2, 5, rng).tolist() == [0, 1]


def test_highest_variance_finds_the_loud_windows() -> None:
    series = np.random.default_rng(0).standard_normal((43, 6)) * 0.1 + 5
    series[8:12] += 3
    series[30:31] -= 8
    assert select_highest_variance(series, 4, 2).tolist() == [2, 7]


ROWS = [
    WindowRow("sub-01_task-rest", 0, 0.0, 5.76, 0.1 + 0.2, 1 / 3, -1e-17, 2),
    WindowRow("sub-01_task-rest", 1, 5.76, 5.76, 0.5, 0.25, 1.5, 1),
    WindowRow("sub-02_task-rest", 0, 0.0, 5.76, -0.5, 0.9, 0.0, 1),
]


def test_window_table_reads_back_to_the_bit(tmp_path: Path) -> None:
    path = write_window_table(tmp_path / "windows.tsv", ROWS)
    header = path.read_text().splitlines()[0]
    assert header == "session\twindow\tonset_s\tduration_s\tinformativeness\tnovelty\tscore\trank"
    assert read_window_table(path) == {"sub-01_task-rest": ROWS[:2], "sub-02_task-rest": ROWS[2:]}
    assert [file.name for file in tmp_path.iterdir()] == ["windows.tsv"]


def test_damaged_window_tables_are_refused(tmp_path: Path) -> None:
    path = write_window_table(tmp_path / "windows.tsv", ROWS)
    path.write_text(path.read_text().replace("5.76", "soon", 1))
    with pytest.raises(InputError, match=r"windows.tsv, line 2: .*soon.*slimbrain rank"):
        read_window_table(path)
    path.write_text("session\twindow\nsub-01\t0\n")
    with pytest.raises(InputError, match="onset_s"):
        read_window_table(path)
    with pytest.raises(StoreError, match=r"missing.tsv"):
        read_window_table(tmp_path / "missing.tsv")


def test_rows_carry_rank_and_top_windows_come_in_order_of_time() -> None:
    score = np.array([0.1, 3.0, -1.0, 2.0])
    rows = window_rows("a", WindowScores(np.arange(4) * 2.0, np.full(4, 2.0), score, score, score))
    assert [row.rank for row in rows] == [3, 1, 4, 2]
    assert [row.onset_s for row in rows] == [0, 2, 4, 6]
    assert [row.window for row in top_windows(reversed(rows), 3)] == [0, 1, 3]


def test_rank_store_scores_every_session_at_its_own_places(tmp_path: Path, grid8: Grid) -> None:
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path / "store", grid8, tr=0.72)
    moments = np.ones((2, *grid8.voxel_mask.shape), np.float32)
    for sub in ("01", "02"):
        voxels = rng.standard_normal((18, *grid8.voxel_mask.shape)) * grid8.voxel_mask
        store.write_session({"sub": sub, "task": "rest", "space": "MNI152NLin6Asym"}, voxels, *moments, 0.72)
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4)).eval()
    torch.nn.init.normal_(model.write.weight)
    rows = rank_store(store, model, novelty_weight=0.5)
    assert [row.window for row in rows] == [0, 1, 2, 3] * 2
    for info in store.sessions:
        alone = exact_scores(model, torch.from_numpy(store.coarse(info.key)), torch.tensor(grid8.cells.mm).float(), 0.72, 0.5)
        mine = [row for row in rows if row.session == info.key]
        np.testing.assert_allclose([row.score for row in mine], alone.score, atol=1e-12)
        assert sorted(row.rank for row in mine) == [1, 2, 3, 4]


CHANNELS, FRAMES, TR, WINDOW, EVENTS = 24, 200, 0.72, 8, 5
RESPONSE_S = 10.0
NOVELTY_WEIGHT = 0.25


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
        chosen = select_top_k(exact_scores(model.eval(), series, mm, TR, NOVELTY_WEIGHT).score, EVENTS)
        held.append(np.isin(peaks, chosen).sum())
        by_chance.append(np.mean([np.isin(peaks, select_random(FRAMES // WINDOW, EVENTS, rng)).sum() for _ in range(50)]))
    difference = np.array(held) - np.array(by_chance)
    assert difference.mean() > 3 * difference.std() / np.sqrt(len(difference))
    assert np.mean(held) > 1.5 * np.mean(by_chance)
