"""Who belongs together stays together: families by any shared parent, parts as equal as families allow, and twins planted as a leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate_samples import evaluate_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from phenotype_samples import write_store

from slimbrain.errors import InputError
from slimbrain.evaluate.compare import compare
from slimbrain.evaluate.groups import bound_together, deal_groups
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.result import Grouping
from slimbrain.evaluate.splits import PredictionProblem, Split, SplitPolicy, inner_splits, outer_splits
from slimbrain.evaluate.stats import score
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import Target, Task, get_task, read_target


def test_whoever_shares_a_mark_with_one_of_a_group_is_of_it() -> None:
    marks = {"a": ["m1", "f1"], "b": ["m1", "f2"], "c": ["m2", "f2"], "d": ["m3"], "e": []}
    assert bound_together(["a", "b", "c", "d", "e", "a"], marks) == ["a", "a", "a", "d", "e", "a"]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=10, max_size=40), n_parts=st.integers(2, 10), seed=st.integers(0, 20))
def test_groups_are_whole_and_parts_about_equal(sizes: list[int], n_parts: int, seed: int) -> None:
    group, rng = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(seed)
    cell = rng.integers(0, 2, len(group))
    part = deal_groups(group, cell, n_parts, rng)
    assert all(len(set(part[group == number])) == 1 for number in range(len(sizes)))
    counts = np.bincount(part, minlength=n_parts)
    assert counts.min() > 0 and counts.max() - counts.min() <= 3 * max(sizes)


def test_classes_are_spread_over_the_parts() -> None:
    """Sixty pairs of one class each: every one of five parts gets six pairs of each."""
    group, cell = np.repeat(np.arange(60), 2), np.repeat(np.arange(60) % 2, 2)
    part = deal_groups(group, cell, 5, np.random.default_rng(0))
    assert np.array_equal(np.stack([np.bincount(part[cell == number]) for number in (0, 1)]), np.full((2, 5), 12))


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(InputError, match="2 groups of subjects that belong together cannot be divided into 3"):
        deal_groups(np.array([0, 0, 1, 1]), np.zeros(4, np.int64), 3, np.random.default_rng(0))


def twins(pairs: int = 40) -> tuple[np.ndarray, np.ndarray, Target]:
    """Features that are noise but alike in twins, and a label that twins share: whoever knows the twin knows the label."""
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(pairs), 2)
    data = rng.normal(size=(pairs, 60))[family] + 0.1 * rng.normal(size=(2 * pairs, 60))
    labels = np.where(rng.permutation(pairs) % 2, "a", "b")[family]
    subjects = np.array([f"sub-{number:02d}" for number in range(2 * pairs)])
    names = subjects[2 * family]
    keys = tuple(subjects.tolist())
    target = Target(keys, subjects, labels, "classification", None, {}, groups=names, bound=Grouping(by="family", count=pairs))
    return data, labels, target


@pytest.mark.parametrize("kind", ["k-fold", "70/10/20"])
def test_a_twin_on_the_other_side_is_a_leak_that_groups_close(kind: str) -> None:
    data, labels, target = twins()
    policy = SplitPolicy(kind, seeds=(0, 1, 2))  # type: ignore[arg-type]
    found = {}
    for name, groups in (("apart", None), ("together", target.groups)):
        said = cross_validate(FeatureSet("x", "y", data), labels, target.subjects, "classification", policy, None, groups)
        found[name] = float(np.mean(score(said, "auc")))
    assert found["apart"] > 0.75 and abs(found["together"] - 0.5) < 0.2


def test_inner_splits_keep_groups_too() -> None:
    _, labels, target = twins()
    problem = PredictionProblem((labels == "a").astype(float), target.subjects, ("b", "a"), target.groups)
    (split, *_) = outer_splits(target.subjects, labels, "classification", SplitPolicy(), 0, None, target.groups)
    assert target.groups is not None
    for fit, held in inner_splits(problem, Split(split.train, split.train[:0], split.test), 0):
        assert not set(target.groups[fit]) & set(target.groups[held])


def test_the_result_says_who_was_kept_together() -> None:
    data, _, target = twins(10)
    sets = [FeatureSet(name, "linear probe", data) for name in ("ours", "theirs")]
    result = compare(Task("t", "t", policy=SplitPolicy(n_splits=2, seeds=(0,))), target, sets[:1], sets[1:], n_resamples=20)
    assert result.groups == Grouping(by="family", count=10)
    assert "Subjects who share family are on one side of every split: 10 groups." in to_markdown(result)
    unknown = result.model_copy(update={"groups": Grouping(by="Family_ID", count=None)})
    assert "Which subjects are relatives is not known (no Family_ID)" in to_markdown(unknown)


def test_a_column_of_participants_binds(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [(f"{number:02d}",) for number in range(24)])
    rows = [f"sub-{number:02d}\t{'ab'[number % 2]}\t{'n/a' if number == 23 else number // 3}" for number in range(24)]
    (store.root / "participants.tsv").write_text("\n".join(["participant_id\tsex\tfamily", *rows]) + "\n")
    task = get_task("column:sex", SplitPolicy(n_splits=2, seeds=(0,)), group="family")
    target = read_target(task, store)
    assert target.bound == Grouping(by="family", count=9)
    vectors = {info.key: np.random.default_rng(0).normal(size=3) for info in store.sessions}
    assert evaluate_vectors(store, task, {"ours": vectors}).groups == target.bound
    with pytest.raises(InputError, match="needs the column house"):
        read_target(get_task("column:sex", group="house"), store)
    for name in ("hcp-sex", "identity"):
        with pytest.raises(InputError, match="takes no --group"):
            get_task(name, group="family")
