"""Samplers: weights met in any stretch of draws, every session once an epoch of its cohort, and nothing to replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import TR_S, make_store, write_run

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.samplers import PERIOD, apportion, cohorts_of, mix, schedule, spread_windows
from slimbrain.store import Store

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
@settings(max_examples=60, deadline=None)
def test_cohorts_are_spread_evenly_from_the_first_draw_on(weights: list[int]) -> None:
    """After any number of draws each cohort has had its share to less than one; counted with fractions."""
    quotas = apportion(weights, PERIOD)
    cohort_at, turn_at = schedule(quotas)
    had = [0] * len(weights)
    for draw, (cohort, turn) in enumerate(zip(cohort_at, turn_at, strict=True)):
        assert turn == had[cohort]
        had[cohort] += 1
        assert all(abs(count - Fraction(quota * (draw + 1), PERIOD)) < 1 for count, quota in zip(had, quotas, strict=True))
    assert tuple(had) == quotas


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
    drawn = [mixture.session(draw) for draw in range(2500)]
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


def test_far_draws_cost_no_replay() -> None:
    mixture = mix(labels_of([3, 5]), 0, {"c0": 2.0, "c1": 1.0})
    far = 10**15 + 1
    assert 0 <= mixture.session(far) < 8
    cohort_at, turn_at = schedule(mixture.quotas)
    cohort, turn = cohort_at[far % PERIOD], far // PERIOD * mixture.quotas[cohort_at[far % PERIOD]] + turn_at[far % PERIOD]
    assert mixture.session(far) in mixture.members[cohort] and turn > 10**14


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


# --- which cohort


def test_cohorts_come_from_the_manifest_or_the_participants(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    write_run(store, frames=16, subject="01", scanner="one")
    write_run(store, frames=16, subject="02", scanner="two")
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\tscanner\nsub-01\tA\tx\nsub-02\tn/a\ty\n")
    store = Store(tmp_path)
    assert cohorts_of(store, store.sessions, None) == ["", ""]
    assert cohorts_of(store, store.sessions, "scanner") == ["one", "two"], "the session's own value counts first"
    assert cohorts_of(store, store.sessions, "task") == ["rest", "rest"]
    with pytest.raises(InputError, match="1 session has no site, first sub-02"):
        cohorts_of(store, store.sessions, "site")
    with pytest.raises(InputError, match="has a column diagnosis"):
        cohorts_of(store, store.sessions, "diagnosis")


def test_cohorts_of_a_store_without_participants(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, subjects=2, frames=16)
    with pytest.raises(InputError, match="has a column site"):
        cohorts_of(store, store.sessions, "site")


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
