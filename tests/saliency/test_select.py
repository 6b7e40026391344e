"""Orders and selectors of windows, against plain loops and planted windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbrain.saliency import (
    order_apart,
    order_by_score,
    order_diverse,
    order_spread,
    ranks_of,
    select_uniform,
)


def test_ties_go_to_the_earlier_window() -> None:
    order = order_by_score([1.0, 2.0, 2.0, 0.0])
    assert order.tolist() == [1, 2, 0, 3] and ranks_of(order).tolist() == [3, 1, 2, 4]


@given(st.integers(0, 200), st.integers(1, 20))
def test_uniform_windows_are_equally_far_apart(n: int, k: int) -> None:
    chosen = select_uniform(n, k)
    assert len(chosen) == min(n, k) == len(set(chosen.tolist()))
    if len(chosen) > 1:
        assert np.ptp(np.diff(chosen)) <= 1
        assert abs(chosen[0] - (n - 1 - chosen[-1])) <= 1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_an_order_holds_every_window_once_and_agrees_with_its_ranks(scores: list[int]) -> None:
    for order in (
        order_by_score(scores),
        order_apart(scores, np.arange(len(scores)) * 0.72, 2.0),
        order_diverse(scores, np.eye(len(scores)), 1.0),
    ):
        assert sorted(order.tolist()) == list(range(len(scores)))
        assert [order[rank - 1] for rank in ranks_of(order)] == list(range(len(scores)))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 12))
def test_spread_windows_are_the_calmest_of_their_stretches(motion: list[int], k: int) -> None:
    order = order_spread(motion, k).tolist()
    n, count = len(motion), min(k, len(motion))
    assert sorted(order) == list(range(n))
    first = sorted(order[:count])
    edges = np.cumsum([0] + [n // count + (i < n % count) for i in range(count)])
    assert first == [min(range(low, high), key=lambda i: (motion[i], i)) for low, high in pairwise(edges)]
    for part in (order[:count], order[count:]):
        assert part == sorted(part, key=lambda i: (motion[i], i))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(0, 6))
def test_windows_apart_are_the_best_that_keep_their_distance(scores: list[int], steps: int) -> None:
    onset = np.arange(len(scores)) * 5.76
    order = order_apart(scores, onset, steps * 5.76).tolist()
    left, taken = sorted(range(len(scores)), key=lambda i: (-scores[i], i)), []
    while left:  # greedily, by the definition
        taken.append(left[0])
        left = [i for i in left if abs(i - taken[-1]) >= max(steps, 1)]
    assert order[: len(taken)] == taken
    rest = order[len(taken) :]
    assert rest == sorted(rest, key=lambda i: (-scores[i], i))


def test_diverse_order_follows_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    scores, embeddings = rng.standard_normal(12), rng.standard_normal((12, 5)) + 3
    centred = embeddings - embeddings.mean(0)
    worth = (scores - scores.mean()) / scores.std()
    taken: list[int] = []
    while len(taken) < 12:

        def value(i: int) -> float:
            alike = [centred[i] @ centred[j] / np.linalg.norm(centred[i]) / np.linalg.norm(centred[j]) for j in taken]
            return float(worth[i] - 0.7 * max(alike, default=-1.0))

        taken.append(max((i for i in range(12) if i not in taken), key=value))
    assert order_diverse(scores, embeddings, 0.7).tolist() == taken


def test_a_diverse_choice_takes_one_window_of_each_kind() -> None:
    """Three kinds of windows; the best scores are all of one kind."""
    kinds = np.repeat([0, 1, 2], 4)
    scores = np.array([9, 8.9, 8.8, 8.7, 5, 4, 3, 2, 4.5, 3.5, 2.5, 1.5])
    embeddings = np.eye(3)[kinds] + 0.01 * np.random.default_rng(0).standard_normal((12, 3))
    assert set(kinds[order_diverse(scores, embeddings, 3.0)[:3]]) == {0, 1, 2}
    assert set(kinds[order_diverse(scores, embeddings, 0.0)[:3]]) == {0}


def test_windows_that_are_all_alike_go_by_score() -> None:
    assert order_diverse([1.0, 3.0, 2.0], np.ones((3, 4)), 1.0).tolist() == [1, 2, 0]


@pytest.mark.parametrize("distance", [0.0, 1e9])
def test_distances_that_decide_nothing_leave_the_order_by_score(distance: float) -> None:
    scores = [0.1, 0.5, 0.3, 0.4]
    assert order_apart(scores, np.arange(4) * 5.76, distance).tolist() == order_by_score(scores).tolist()
