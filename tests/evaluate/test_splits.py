"""Divisions by subject: nobody on two sides, classes and sites balanced, the same seed the same folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbrain.errors import InputError
from slimbrain.evaluate.splits import SplitPolicy, outer_splits

QUICK = SplitPolicy(n_splits=3, seeds=(0,))


@settings(max_examples=60, deadline=None)
@given(
    sessions=st.lists(st.integers(1, 4), min_size=10, max_size=40),
    kind=st.sampled_from(["subject class", "session class", "regression"]),
    policy=st.sampled_from(["k-fold", "70/10/20"]),
    seed=st.integers(0, 50),
)
def test_no_subject_is_ever_on_two_sides(sessions: list[int], kind: str, policy: str, seed: int) -> None:
    subjects = np.repeat([f"sub-{number:02d}" for number in range(len(sessions))], sessions)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(subjects))
    number = np.repeat(np.arange(len(sessions)), sessions)
    labels = {
        "subject class": number % 2,
        "session class": np.arange(len(subjects)) % 2,
        "regression": rng.normal(size=len(sessions))[number],
    }[kind]
    if kind == "subject class" and policy == "70/10/20" and len(sessions) < 20:
        policy = "k-fold"
    splits = outer_splits(
        subjects[order], labels[order], "regression" if kind == "regression" else "classification", SplitPolicy(policy, 5), seed
    )
    for split in splits:
        sides = [set(subjects[order][rows]) for rows in (split.train, split.valid, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert sides[0] and sides[2]
        assert len(split.train) + len(split.valid) + len(split.test) == len(subjects)
    if policy == "k-fold":
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(subjects)))


def test_folds_balance_class_and_site() -> None:
    labels, site = np.repeat(["a", "b"], [40, 20]), np.tile(["x", "y"], 30)
    for split in outer_splits(np.arange(60), labels, "classification", SplitPolicy(n_splits=5), 0, site):
        for label, count in (("a", 4), ("b", 2)):
            for place in "xy":
                assert np.sum((labels[split.test] == label) & (site[split.test] == place)) == count


def test_seventy_ten_twenty_of_a_hundred() -> None:
    labels = np.repeat([0, 1], 50)
    (split,) = outer_splits(np.arange(100), labels, "classification", SplitPolicy("70/10/20"), 0)
    assert [np.bincount(labels[rows]).tolist() for rows in (split.train, split.valid, split.test)] == [[35, 35], [5, 5], [10, 10]]


def test_seeds_give_other_folds() -> None:
    first, again, other = (outer_splits(np.arange(30), np.arange(30) % 2, "classification", QUICK, seed)[0].test for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_holdout_of_nine_is_refused() -> None:
    with pytest.raises(InputError, match="Participants: 9, and a 70/10/20 split needs 10"):
        outer_splits(np.arange(9), np.arange(9.0), "regression", SplitPolicy("70/10/20"), 0)


def test_classes_that_are_too_small_are_counted() -> None:
    """By participant, of whom each has two sessions."""
    sex = np.repeat(list("FMMMM"), 2)
    with pytest.raises(InputError, match=r"^Participants per class: F 1, M 4, and at least 2 are needed.*leave that class out\.$"):
        outer_splits(np.repeat(np.arange(5), 2), sex, "classification", QUICK, 0)
    with pytest.raises(InputError, match=r"^Participants per class: F 4, M 6, and a 70/10/20 split needs 10"):
        outer_splits(np.arange(10), np.array(list("FFFFMMMMMM")), "classification", SplitPolicy("70/10/20"), 0)
