"""Samplers: weights met in any stretch of draws, every session once per epoch of its cohort, and nothing to replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbrain.data.samplers import _PERIOD, Pace, apportion, limited, mix, spread_windows
from slimbrain.errors import InputError

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def labels_of(sizes: Sequence[int]) -> list[str]:
    return [f"c{cohort}" for cohort, size in enumerate(sizes) for _ in range(size)]


# --- how often


@given(WEIGHTS, st.integers(0, 5000), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_any_thousand_draws_hold_the_weights(weights: list[int], start: int, seed: int) -> None:
    labels = labels_of([3] * len(weights))
    mixture = mix(labels, seed, {f"c{cohort}": float(weight) for cohort, weight in enumerate(weights)})
    counts = Counter(labels[mixture.session(draw)] for draw in range(start, start + 1000))
    for cohort, weight in enumerate(weights):
        share = Fraction(weight, sum(weights)) * 1000
        assert share - 1 < counts[f"c{cohort}"] < share + 1
        if share.denominator == 1:
            assert counts[f"c{cohort}"] == share


@given(WEIGHTS)
@settings(max_examples=40, deadline=None)
def test_cohorts_are_spread_evenly_from_the_first_draw_on(weights: list[int]) -> None:
    """After any number of draws each cohort has had its share to less than one; counted in whole numbers."""
    labels = labels_of([2] * len(weights))
    mixture = mix(labels, 0, {f"c{cohort}": float(weight) for cohort, weight in enumerate(weights)})
    quotas = apportion(weights, _PERIOD)
    drawn = np.array([int(labels[mixture.session(draw)][1:]) for draw in range(_PERIOD)])
    # (draws, cohorts) in whole numbers: what each has had after every draw, and what it was to have had.
    had = np.cumsum(drawn[:, None] == np.arange(len(weights)), axis=0)
    due = np.arange(1, _PERIOD + 1)[:, None] * np.array(quotas)
    assert (np.abs(had * _PERIOD - due) < _PERIOD).all()
    assert tuple(had[-1].tolist()) == quotas == mixture.had(_PERIOD)


SCHEDULES = st.lists(st.dictionaries(st.integers(0, 120), st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=6)


@given(SCHEDULES, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_schedule_is_met_to_less_than_one_draw_after_every_draw(schedules: list[dict[int, int]], per_step: int) -> None:
    """Also where weights jump, fall to 0 and rise again; the sum of weights is counted with whole numbers."""
    weights: dict[str, Any] = {f"c{cohort}": schedule for cohort, schedule in enumerate(schedules)} | {"always": 1.0}
    labels = [*labels_of([2] * len(schedules)), "always"]
    steps = 130
    try:
        mixture = mix(labels, 0, weights, Pace(per_step, steps))
    except InputError as error:
        assert "has none" not in str(error)
        return
    had, due = dict.fromkeys(mixture.cohorts, 0), dict.fromkeys(mixture.cohorts, 0)
    for step in range(steps):
        quotas = apportion([interpolated(weights[name], step) for name in mixture.cohorts], _PERIOD)
        for draw in range(step * per_step, (step + 1) * per_step):
            for name, quota in zip(mixture.cohorts, quotas, strict=True):
                due[name] += quota
            had[labels[mixture.session(draw)]] += 1
            assert all(abs(had[name] * _PERIOD - due[name]) < _PERIOD for name in mixture.cohorts)


def interpolated(weight: dict[int, int] | float, step: int) -> float:
    """Straight lines between the points on both sides, by hand."""
    if not isinstance(weight, dict):
        return weight
    before, after = [at for at in weight if at <= step], [at for at in weight if at >= step]
    if not before or not after:
        return float(weight[min(after) if after else max(before)])
    left, right = max(before), min(after)
    return float(weight[left]) if left == right else (weight[right] - weight[left]) / (right - left) * (step - left) + weight[left]


@given(st.lists(st.lists(st.integers(1, 20), min_size=4, max_size=4), min_size=1, max_size=8), st.integers(4, 60))
@settings(max_examples=60, deadline=None)
def test_weights_given_interval_by_interval_are_met_to_less_than_one_draw(intervals: list[list[int]], draws: int) -> None:
    """As of an interval's whole draws after every draw, and of the weights themselves at the end of every interval."""
    labels = labels_of([3, 1, 4, 2])
    mixture = mix(labels, 0, interval=draws)
    owed, due, wanted, had = [0.0] * 4, [0.0] * 4, [0.0] * 4, [0] * 4
    for number, weights in enumerate(intervals):
        # The adaptive floor: at least one draw an interval.
        weights = [weight + sum(weights) / draws * 2 for weight in weights]
        if draws < 2 * len(weights):
            return
        quotas = apportion(weights, draws, owed)
        exact = [weight / sum(weights) * draws for weight in weights]
        owed = [debt + share - quota for debt, share, quota in zip(owed, exact, quotas, strict=True)]
        wanted = [sum(pair) for pair in zip(wanted, exact, strict=True)]
        mixture.extend(draws, quotas)
        for draw in range(number * draws, (number + 1) * draws):
            had[int(labels[mixture.session(draw)][1:])] += 1
            due = [so_far + quota / draws for so_far, quota in zip(due, quotas, strict=True)]
            assert all(abs(count - value) < 1 + 1e-9 for count, value in zip(had, due, strict=True))
        assert all(abs(count - value) < 1 + 1e-9 for count, value in zip(had, wanted, strict=True))


def test_weights_that_are_not_known_yet_are_not_guessed() -> None:
    mixture = mix(labels_of([2, 2]), 0, interval=10)
    mixture.extend(10, (7, 3))
    assert sum(mixture.session(draw) < 2 for draw in range(10)) == 7
    with pytest.raises(InputError, match="draw 10 is asked for before its weights are known"):
        mixture.session(10)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8), st.integers(1, 2000))
def test_shares_are_whole_add_up_and_are_next_to_exact(weights: list[float], total: int) -> None:
    shares = apportion(weights, total)
    exact = [weight / sum(weights) * total for weight in weights]
    assert sum(shares) == total
    assert all(abs(share - value) < 1 + 1e-6 for share, value in zip(shares, exact, strict=True))


def test_largest_remainder_by_hand() -> None:
    # 2/3, 1/6, 1/6 of 10: 6.67, 1.67, 1.67; two are left over, and the first of equal remainders wins.
    assert apportion([4, 1, 1], 10) == (7, 2, 1)
    assert apportion([2, 1], 1000) == (667, 333)


# --- in which order


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
@settings(max_examples=40, deadline=None)
def test_each_cohort_goes_through_its_sessions_epoch_by_epoch(sizes: list[int], data: st.DataObject) -> None:
    weights = {f"c{cohort}": float(data.draw(st.integers(1, 9))) for cohort in range(len(sizes))}
    labels = labels_of(sizes)
    mixture = mix(labels, 5, weights)
    drawn = [mixture.session(draw) for draw in range(1200)]
    for cohort, size in enumerate(sizes):
        own = [number for number in drawn if labels[number] == f"c{cohort}"]
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size])) == size, "a session came twice in one epoch of its cohort"


def test_epochs_have_orders_of_their_own_and_so_have_seeds() -> None:
    labels = labels_of([12, 12])
    first, again, other = (mix(labels, seed) for seed in (0, 0, 1))
    draws = [first.session(draw) for draw in range(240)]
    # Any order of asking.
    assert [again.session(draw) for draw in reversed(range(240))][::-1] == draws
    assert [other.session(draw) for draw in range(240)] != draws
    epochs = {tuple(number for number in draws if number < 12)[start : start + 12] for start in range(0, 120, 12)}
    assert len(epochs) == 10


def test_far_draws_of_fixed_weights_cost_no_replay() -> None:
    """A period later the cohorts come in the same order, so that draws beyond all that could be replayed can be checked."""
    labels = labels_of([3, 5])
    mixture = mix(labels, 0, {"c0": 2.0, "c1": 1.0})
    cohorts = [labels[mixture.session(draw)] for draw in range(_PERIOD)]
    far = [mixture.session(_PERIOD * 10**12 + draw) for draw in range(_PERIOD)]
    assert [labels[number] for number in far] == cohorts
    # 333 of c1 a period: 333 * 10**12 is no multiple of 5, so that a pass was begun before.
    own = [number for number in far if number >= 3][(-333 * 10**12) % 5 :]
    assert all(len(set(own[start : start + 5])) == 5 for start in range(0, 300, 5))
    # And back again.
    assert [labels[mixture.session(draw)] for draw in range(_PERIOD)] == cohorts


def test_without_cohorts_the_order_is_one_shuffle_an_epoch() -> None:
    mixture = mix([""] * 7, 3)
    for epoch in range(4):
        expected = np.random.default_rng((3, 0, epoch)).permutation(7)
        assert [mixture.session(7 * epoch + place) for place in range(7)] == expected.tolist()


def test_another_cohort_leaves_the_order_within_a_cohort() -> None:
    alone, beside = mix(["b"] * 5, 0), mix(["a", *["b"] * 5], 0, {"a": 1, "b": 1})
    own = [number - 1 for number in map(beside.session, range(200)) if number > 0]
    assert own == [alone.session(draw) for draw in range(len(own))]


def test_a_cohort_without_weight_is_left_out() -> None:
    mixture = mix(["a", "b", "b"], 0, {"a": 0, "b": 1})
    assert {mixture.session(draw) for draw in range(50)} == {1, 2}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": 1.0}, "has none for cohort b"),
        ({"a": 1.0, "b": 1.0, "c": 2.0}, "is of cohort c; there are a, b"),
        ({"a": 0.0, "b": 0.0}, "all are 0"),
        ({"a": 1.0, "b": 5000.0}, "a would have under one in 1000"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        mix(["a", "b"], 0, weights)


# --- how often one session


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_session_comes_more_often_in_an_epoch_than_the_cap(cohorts: list[tuple[int, int]], cap: int) -> None:
    """And weights, lowered to what the cap allows, are still met to less than two draws."""
    labels = labels_of([size for size, _ in cohorts])
    mixture = mix(labels, 0, {f"c{number}": float(weight) for number, (_, weight) in enumerate(cohorts)}, cap=cap)
    epoch, had = len(labels), [0] * len(cohorts)
    for start in range(0, 12 * epoch, epoch):
        drawn = [mixture.session(draw) for draw in range(start, start + epoch)]
        assert max(Counter(drawn).values()) <= cap
        for place, number in enumerate(drawn):
            had[int(labels[number][1:])] += 1
            due = [Fraction(quota * (start + place + 1), _PERIOD) for quota in mixture.plan.quotas[0]]
            assert all(abs(count - value) < 2 for count, value in zip(had, due, strict=True))


def test_what_a_cap_takes_goes_to_the_others_by_weight() -> None:
    # 10 of 100 sessions may have 2 * 10 of 100 draws; the other two share 80 as 3 to 1.
    assert limited([0.6, 0.3, 0.1], [10, 45, 45], 2) == pytest.approx([0.2, 0.6, 0.2])
    # The second is over its limit only once it has got what the first lost: 2 * 20 of 100.
    assert limited([0.6, 0.3, 0.1], [10, 20, 70], 2) == pytest.approx([0.2, 0.4, 0.4])
    assert limited([3, 1], [5, 5], None) == [0.75, 0.25]


def test_a_cap_that_leaves_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="most_repeats 1 leaves too few draws where only 5 of 10 sessions have a weight above 0"):
        mix(labels_of([5, 5]), 0, {"c0": 1.0, "c1": {0: 0.0, 10: 1.0}}, Pace(2, 20), cap=1)
    # All of the draws, to the last.
    mixture = mix(labels_of([5, 5]), 0, {"c0": 1.0, "c1": {0: 0.0, 9: 0.0, 10: 1.0}}, Pace(2, 20), cap=2)
    assert [sum(mixture.session(draw) == number for draw in range(10)) for number in range(10)] == [2] * 5 + [0] * 5


def test_a_cap_of_one_is_one_pass_an_epoch() -> None:
    labels = labels_of([2, 5])
    mixture = mix(labels, 0, {"c0": 1.0, "c1": 1.0}, cap=1)
    for start in range(0, 70, 7):
        assert sorted(mixture.session(draw) for draw in range(start, start + 7)) == list(range(7))


# --- which windows


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.data())
def test_spread_windows_lie_at_equal_distances(n_windows: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n_windows))
    chosen = spread_windows(n_windows, k, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == k and chosen[0] >= 0 and chosen[-1] < n_windows
    steps = np.diff(chosen)
    assert ((steps >= n_windows // k) & (steps <= -(-n_windows // k))).all()
    # Also from the last to the first, once round.
    assert n_windows // k <= chosen[0] + n_windows - chosen[-1] <= -(-n_windows // k)


def test_spread_windows_are_all_as_likely() -> None:
    generator = np.random.default_rng(0)
    counts = Counter(int(window) for _ in range(3000) for window in spread_windows(7, 3, generator))
    # Each in 3 of 7 draws: 1286, std 27.
    assert set(counts) == set(range(7)) and all(1170 < count < 1400 for count in counts.values())
