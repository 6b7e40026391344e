"""Participants of a store in parts: by given shares, alike in what matters, relatives together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.store.participants import PARTICIPANT
from slimbrain.store.store import Store

_MOST_CLASSES, _CLASSES = 8, 4
"""A column of numbers with more values than the first is cut at its quantiles into as many classes as the second."""


@dataclass(frozen=True)
class Division:
    """How to divide.

    Attributes
    ----------
    fractions : tuple of float
        Share of each part; they sum to 1.
    stratify : tuple of str
        Columns of participants.tsv in which parts are to be alike, the most important first.
    group : str
        Column of which participants who share a value stay together; each by themselves if empty.
    seed : int
        Of the choice within classes.

    Raises
    ------
    InputError
        If fractions are not shares that sum to 1.
    """

    fractions: tuple[float, ...]
    stratify: tuple[str, ...] = ()
    group: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.fractions) < 2 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            shares = ",".join(f"{share:g}" for share in self.fractions)
            raise InputError(f"--fractions {shares}: are not two or more shares that sum to 1; write 0.5,0.5 or 0.7,0.1,0.2, say.")


def split_participants(store: Store, division: Division) -> list[list[str]]:
    """Participants of a store (`sub-01`), divided.

    People are listed class by class and dealt in turn, each to the part that is furthest below its share of all dealt so far: parts have
    their shares to the person, and of each class to two (without groups). Within a class chance decides.

    Returns
    -------
    list of list of str
        One list per fraction, sorted.

    Raises
    ------
    InputError
        If a column is not in participants.tsv, or a part would be empty.
    """
    people = sorted(store.sessions.subjects)
    columns = {name: _classes(store, name, people) for name in division.stratify}
    families: dict[str, list[str]] = defaultdict(list)
    for who in people:
        family = _cell(store, division.group, who) if division.group else MISSING
        families[who if family == MISSING else f"family {family}"].append(who)
    # Each family counts for the class that most of its members have.
    stratum = {
        name: tuple(Counter(column[who] for who in members).most_common(1)[0][0] for column in columns.values())
        for name, members in families.items()
    }
    chance = np.random.default_rng(division.seed).permutation(len(families))
    order = sorted(zip(families, chance.tolist(), strict=True), key=lambda item: (stratum[item[0]], item[1]))
    parts: list[list[str]] = [[] for _ in division.fractions]
    dealt = 0
    for name, _ in order:
        dealt += len(families[name])
        below = [share * dealt - len(part) for share, part in zip(division.fractions, parts, strict=True)]
        parts[below.index(max(below))] += families[name]
    if not all(parts):
        raise InputError(f"{store.root}: has too few participants ({len(people)}) for {len(parts)} parts; ask for fewer.")
    return [sorted(part) for part in parts]


def rows_of(store: Store, part: Sequence[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """What participants.tsv says of the participants of a part, in the columns asked for."""
    return [{PARTICIPANT: who, **{name: _cell(store, name, who) for name in columns}} for who in part]


def balance(store: Store, parts: Sequence[Sequence[str]], column: str) -> list[Mapping[str, int]]:
    """How many of each class of a column are in each part."""
    people = sorted(who for part in parts for who in part)
    classes = _classes(store, column, people)
    return [dict(sorted(Counter(classes[who] for who in part).items())) for part in parts]


def _cell(store: Store, column: str, who: str) -> str:
    rows = store.participants
    if not any(column in row for row in rows.values()):
        there = ", ".join(name for name in next(iter(rows.values()), {}) if name != PARTICIPANT) or "none"
        raise InputError(f"{store.root}: its participants.tsv has no column {column}; choose one of: {there}.")
    return rows.get(who, {}).get(column, "").strip() or MISSING


def _classes(store: Store, column: str, people: Sequence[str]) -> dict[str, str]:
    """The class of each participant: the cell, or of many numbers the quantile they lie in."""
    cells = {who: _cell(store, column, who) for who in people}
    known = [cell for cell in cells.values() if cell != MISSING]
    try:
        numbers = np.array([float(cell) for cell in known])
    except ValueError:
        return cells
    if len(set(known)) <= _MOST_CLASSES:
        return cells
    edges = np.quantile(numbers, np.arange(1, _CLASSES) / _CLASSES)
    bounds = [f"{edge:g}" for edge in (numbers.min(), *edges, numbers.max())]
    names = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return {who: MISSING if cell == MISSING else names[int(np.searchsorted(edges, float(cell)))] for who, cell in cells.items()}
