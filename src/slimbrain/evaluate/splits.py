"""The prediction problem, and how it is divided: always by subject, relatives together, balanced over label and site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.groups import deal_groups
from slimbrain.evaluate.stats import Floats, Ints

Kind = Literal["classification", "regression"]

_Labels = NDArray[Any]

INNER_SPLITS = 3
_FEWEST_TESTED, _FEWEST_OF_A_CLASS = 10, 2
"""Subjects that a draw of labelled ones leaves to be tested, and of each class on both sides."""


@dataclass(frozen=True)
class SplitPolicy:
    """How subjects are divided, once per seed.

    `k-fold`: each subject is tested once per seed; settings are tuned in an inner 3-fold split of the training subjects.
    `70/10/20`: one split per seed; settings are tuned on the 10 %.
    `labelled`: `labelled` subjects drawn per seed are trained on, all others are tested; settings are tuned as in `k-fold`.
    `leave-out`: each value of the participants' `column` (a site, say) is tested once, by models of all others.
    `transfer`: one cohort is trained on, another is tested.
    """

    kind: Literal["k-fold", "70/10/20", "labelled", "leave-out", "transfer"] = "k-fold"
    n_splits: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    labelled: int = 0
    column: str = ""

    def describe(self) -> str:
        """One line for a result file."""
        if self.kind == "leave-out":
            return f"each {self.column} left out in turn"
        how = {"k-fold": f"{self.n_splits}-fold by subject", "labelled": f"{self.labelled} labelled subjects, tested on all others"}
        draws = f"{'draw' if self.kind == 'labelled' else 'seed'}{'s' if len(self.seeds) != 1 else ''}"
        return f"{how.get(self.kind, f'{self.kind} by subject')}, {len(self.seeds)} {draws}"


DEFAULT_POLICY = SplitPolicy()
TRAINED, TESTED = "trained on", "tested on"
"""Blocks of a transfer."""

LABELLED_DRAWS = 5
_NAMED_POLICY = re.compile(r"(?P<folds>\d+)-fold|70/10/20")


def policy_called(name: str) -> SplitPolicy:
    """The policy that `--split` names: `5-fold`, or `70/10/20`, with three seeds.

    Raises
    ------
    InputError
        If there is none.
    """
    found = _NAMED_POLICY.fullmatch(name)
    if found is None or found["folds"] in ("0", "1"):
        raise InputError(f"--split {name}: there is no such split; write N-fold with two folds or more, such as 5-fold, or 70/10/20.")
    return SplitPolicy("k-fold", int(found["folds"])) if found["folds"] else SplitPolicy("70/10/20")


def labelled_policies(numbers: str, draws: int = LABELLED_DRAWS) -> tuple[SplitPolicy, ...]:
    """One policy for each number of labelled subjects in `30,60,120`, in growing order.

    Raises
    ------
    InputError
        If one of them is no number above 1.
    """
    words = [word.strip() for word in numbers.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) > 1 for word in words):
        raise InputError(f"--labelled {numbers}: is no list of numbers of participants; write them as in 30,60,120,250.")
    return tuple(SplitPolicy("labelled", seeds=tuple(range(draws)), labelled=n) for n in sorted(set(map(int, words))))


@dataclass(frozen=True)
class Split:
    """Row numbers of one division: `train` fits, `valid` (may be empty) tunes, `test` is scored once."""

    train: Ints
    valid: Ints
    test: Ints


@dataclass(frozen=True)
class PredictionProblem:
    """What is to be predicted of N sessions.

    Attributes
    ----------
    target : ndarray of float64
        (N,) class numbers or values.
    subjects : ndarray
        (N,) who each session belongs to.
    classes : tuple[str, ...]
        Their names; empty for regression.
    groups : ndarray or None
        (N,) which subjects must stay together in every split, relatives say; each by itself if None.
    """

    target: Floats
    subjects: _Labels
    classes: tuple[str, ...]
    groups: _Labels | None = None

    @property
    def kind(self) -> Kind:
        return "classification" if self.classes else "regression"

    @property
    def n_outputs(self) -> int:
        """K, probabilities or values per session."""
        return len(self.classes) or 1

    def scaling(self, rows: Ints) -> tuple[float, float]:
        """Mean and standard deviation of a regression's target over the training rows; 0 and 1 for classes."""
        if self.classes:
            return 0.0, 1.0
        y = self.target[rows]
        return float(y.mean()), float(y.std()) or 1.0


def outer_splits(
    subjects: _Labels,
    labels: _Labels,
    kind: Kind,
    policy: SplitPolicy,
    seed: int,
    strata: _Labels | None = None,
    groups: _Labels | None = None,
    blocks: _Labels | None = None,
) -> list[Split]:
    """The divisions of one seed, by subject, balanced over label (or rank of the target) and `strata`; `groups` stay whole.

    With fewer subjects in the smallest class than folds, there are as many folds as that class has subjects.

    Parameters
    ----------
    blocks : ndarray or None
        (N,) what a `leave-out` leaves out in turn, or which side of a `transfer` each subject is on.
    """
    _, row_subject = np.unique(subjects, return_inverse=True)
    rows = np.arange(len(row_subject))
    if policy.kind in ("leave-out", "transfer"):
        assert blocks is not None
        tested = [TESTED] if policy.kind == "transfer" else np.unique(blocks).tolist()
        if len(np.unique(blocks)) < 2:
            raise InputError(f"All participants have the same {policy.column}; leave a column out by which they differ.")
        return [_without_relatives(Split(rows[blocks != name], rows[:0], rows[blocks == name]), groups) for name in tested]
    if policy.kind == "labelled":
        drawn = _draw(row_subject, labels, kind, policy.labelled, seed, strata)[row_subject]
        split = Split(rows[drawn], rows[:0], rows[~drawn])
        return [split if groups is None else Split(split.train, split.valid, split.test[~np.isin(groups[split.test], groups[split.train])])]
    if policy.kind == "70/10/20":
        tenth = _deal(row_subject, labels, kind, 10, seed, strata, groups)[row_subject]
        if tenth.max() < 9:
            apart = "" if groups is None else " of different groups"
            raise InputError(f"{_counted(row_subject, labels, kind)}, and a 70/10/20 split needs 10{apart}; use `--split 5-fold`.")
        return [Split(rows[tenth > 2], rows[tenth == 2], rows[tenth < 2])]
    part = _deal(row_subject, labels, kind, policy.n_splits, seed, strata, groups)[row_subject]
    return [Split(rows[part != number], rows[:0], rows[part == number]) for number in range(part.max() + 1)]


def _without_relatives(split: Split, groups: _Labels | None) -> Split:
    """The split, its training subjects those who are in no group with a tested one."""
    if groups is None:
        return split
    return Split(split.train[~np.isin(groups[split.train], groups[split.test])], split.valid, split.test)


def _draw(row_subject: Ints, labels: _Labels, kind: Kind, n: int, seed: int, strata: _Labels | None) -> NDArray[np.bool_]:
    """(subjects,) which n are drawn: every so-manieth of all, sorted by class (or rank of the target), then stratum, then at random.

    So the share of each class among those drawn is that among all, to within one subject.

    Raises
    ------
    InputError
        If too few would be left to test on, or a class would have fewer than two subjects on either side.
    """
    first = np.unique(row_subject, return_index=True)[1]
    n_subjects, labels = len(first), np.asarray(labels)
    if n > n_subjects - _FEWEST_TESTED:
        raise InputError(
            f"--labelled {n}: there are {n_subjects} participants with a label, of whom {_FEWEST_TESTED} at least are tested; "
            f"ask for {max(n_subjects - _FEWEST_TESTED, 0)} at most."
        )
    rng, of_subject = np.random.default_rng(seed), np.array_equal(labels[first][row_subject], labels)
    group = np.zeros(n_subjects, dtype=np.int64)
    if kind == "regression":
        means = np.bincount(row_subject, weights=labels.astype(np.float64)) / np.bincount(row_subject)
        group = means.argsort(kind="stable").argsort(kind="stable") * n // n_subjects
    elif of_subject:
        group = np.unique(labels[first], return_inverse=True)[1]
    stratum = np.zeros(n_subjects) if strata is None else np.unique(np.asarray(strata)[first], return_inverse=True)[1]
    order = np.lexsort((rng.random(n_subjects), stratum, group))
    drawn = np.zeros(n_subjects, dtype=np.bool_)
    drawn[order[((np.arange(n) + rng.random()) * n_subjects / n).astype(np.int64)]] = True
    if kind == "classification" and of_subject:
        for number, name in enumerate(np.unique(labels[first])):
            fewer = min(np.count_nonzero(side[group == number]) for side in (drawn, ~drawn))
            if fewer < _FEWEST_OF_A_CLASS:
                raise InputError(
                    f"--labelled {n}: only {fewer} of class {name} would be on one side of the split; ask for other numbers, or leave that "
                    "class out."
                )
    return drawn


def inner_splits(problem: PredictionProblem, split: Split, seed: int) -> list[tuple[Ints, Ints]]:
    """Rows to learn from and rows to stop by: the split's own validation rows, or the training subjects divided by `INNER_SPLITS`.

    Empty where the training subjects are too few to be divided.
    """
    if len(split.valid):
        return [(split.train, split.valid)]
    try:
        part = inner_parts(problem, split.train, seed)
    except InputError:
        return []
    return [(split.train[part != number], split.train[part == number]) for number in range(part.max() + 1)]


def pose(labels: _Labels, subjects: _Labels, kind: str, groups: _Labels | None = None) -> PredictionProblem:
    """The problem of predicting these labels.

    Raises
    ------
    InputError
        If all are the same class.
    """
    classes, target = _encode(labels, "regression" if kind == "regression" else "classification")
    return PredictionProblem(target, subjects, classes, groups)


def _encode(labels: _Labels, kind: Kind) -> tuple[tuple[str, ...], Floats]:
    """Class names and class numbers, or no names and the values themselves."""
    if kind == "regression":
        return (), np.asarray(labels, dtype=np.float64)
    names, numbers = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"All labels are {str(names[0])!r}; a classification needs at least two classes.")
    return tuple(str(name) for name in names), numbers.astype(np.float64)


def _deal(
    row_subject: Ints, labels: _Labels, kind: Kind, n_parts: int, seed: int, strata: _Labels | None, groups: _Labels | None = None
) -> Ints:
    """(subjects,) the part that each subject falls in: sorted by label, then stratum, then at random, and assigned in turn.

    So the parts differ by at most one subject, in all and in every class; for regression, every run of `n_parts`
    neighbours in the target is spread over all parts. Where labels differ within subjects there is nothing to balance. Subjects of one
    group fall in one part, and the parts are then as equal as that allows.
    """
    first = np.unique(row_subject, return_index=True)[1]
    labels, n_subjects = np.asarray(labels), len(first)
    group = np.zeros(n_subjects, dtype=np.int64)
    n_parts = min(n_parts, n_subjects)
    if kind == "regression":
        means = np.bincount(row_subject, weights=labels.astype(np.float64)) / np.bincount(row_subject)
        group = means.argsort(kind="stable").argsort(kind="stable") // n_parts
    elif np.array_equal(labels[first][row_subject], labels):
        _, group, counts = np.unique(labels[first], return_inverse=True, return_counts=True)
        n_parts = min(n_parts, int(counts.min()))
    if n_parts < 2:
        raise InputError(
            f"{_counted(row_subject, labels, kind)}, and at least 2 are needed, to train on one and test on the other; add participants"
            f"{' or leave that class out' if kind == 'classification' and n_subjects > 1 else ''}."
        )
    stratum = np.zeros(n_subjects) if strata is None else np.unique(np.asarray(strata)[first], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    if groups is not None and len(np.unique(groups)) < n_subjects:
        cell = np.unique(np.column_stack([group, stratum]), axis=0, return_inverse=True)[1].reshape(-1)
        return deal_groups(np.unique(np.asarray(groups)[first], return_inverse=True)[1], cell, n_parts, rng)
    order = np.lexsort((rng.random(n_subjects), stratum, group))
    part = np.empty(n_subjects, dtype=np.int64)
    part[order] = (np.arange(n_subjects) + rng.integers(n_parts)) % n_parts
    return part


def _counted(row_subject: Ints, labels: _Labels, kind: Kind) -> str:
    """How many participants each class has, or all together where there are no classes of participants; begins a sentence."""
    first, labels = np.unique(row_subject, return_index=True)[1], np.asarray(labels)
    if kind == "regression" or not np.array_equal(labels[first][row_subject], labels):
        return f"Participants: {len(first)}"
    names, counts = np.unique(labels[first].astype(np.str_), return_counts=True)
    return f"Participants per class: {', '.join(f'{name} {count}' for name, count in zip(names, counts, strict=True))}"


def inner_parts(problem: PredictionProblem, rows: Ints, seed: int) -> Ints:
    """(rows,) the part of the inner split that each training row falls in, by subject."""
    _, row_subject = np.unique(problem.subjects[rows], return_inverse=True)
    groups = None if problem.groups is None else problem.groups[rows]
    return _deal(row_subject, problem.target[rows], problem.kind, INNER_SPLITS, seed, None, groups)[row_subject]
