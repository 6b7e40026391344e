"""Subjects who must stay on one side of every split: relatives, or whatever else a column of participants binds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slimbrain.errors import InputError
from slimbrain.evaluate.stats import Ints


def bound_together(subjects: Sequence[str], marks: Mapping[str, Sequence[str]]) -> list[str]:
    """The group of each of N subjects, named after its first member.

    Two subjects who share a mark are in one group, and so is whoever shares another with either: half-siblings by the mother and by
    the father are one family.

    Parameters
    ----------
    marks : Mapping[str, Sequence[str]]
        Of each subject, such as its mother's and its father's identifier; none for one who is alone.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for subject in subjects:
        for mark in marks.get(subject, ()):
            leader[find(f"mark {mark}")] = find(f"subject {subject}")
    first: dict[str, str] = {}
    return [first.setdefault(find(f"subject {subject}"), subject) for subject in subjects]


def deal_groups(group: Ints, cell: Ints, n_parts: int, rng: np.random.Generator) -> Ints:
    """(subjects,) the part that each falls in: groups whole, largest first, each where it makes the parts least unequal.

    Unequal is the sum over cells of squared counts of the parts, as shares of the cell, and over all subjects as well.

    Parameters
    ----------
    group : ndarray of int64
        (subjects,) number of each subject's group.
    cell : ndarray of int64
        (subjects,) number of what the parts should have alike: class and site, say.
    n_parts : int
        As many groups are needed.

    Raises
    ------
    InputError
        If there are fewer groups.
    """
    _, group = np.unique(group, return_inverse=True)
    n_groups = int(group.max()) + 1
    if n_groups < n_parts:
        raise InputError(
            f"{n_groups} groups of subjects that belong together cannot be divided into {n_parts} parts; bind fewer of them, or none."
        )
    counts = np.zeros((n_groups, int(cell.max()) + 2))
    np.add.at(counts, (group, cell), 1)
    counts[:, -1] = counts[:, :-1].sum(axis=1)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    filled, part = np.zeros((n_parts, counts.shape[1])), np.empty(n_groups, dtype=np.int64)
    for number in np.lexsort((rng.random(n_groups), -counts[:, -1])):
        # (a + b)^2 - a^2 = b (2 a + b), of which b^2 is the same wherever the group goes.
        order, cost = rng.permutation(n_parts), filled @ shares[number]
        part[number] = order[cost[order].argmin()]
        filled[part[number]] += shares[number]
    dealt: Ints = part[group]
    return dealt
