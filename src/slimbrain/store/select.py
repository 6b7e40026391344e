"""Which sessions of a store: by label, by key, and by filters on the columns of its tables (`slimbrain.store.filters`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.store.filters import Cells, rows_that
from slimbrain.store.manifest import KEY, SUBJECT, SessionInfo, SessionTable
from slimbrain.store.store import Store

_ROW = ("session", "participant_id", "session_id", "task", "run", "space", "n_frames", "tr")
"""Columns of the format that filters may name."""


class Columns(Mapping[str, Sequence["str | None"]]):
    """Columns that filters and cohorts may name, each with a cell for every session.

    A column of the further table hides one of the same name; else a session's own value in `sessions.tsv` counts first, then its
    participant's in `participants.tsv`.

    Parameters
    ----------
    store : Store
        Whose `participants.tsv` is read.
    sessions : sequence of SessionInfo
        Some or all sessions of the store.
    table : str, optional
        Path of a TSV with a column `session`.
    """

    def __init__(self, store: Store, sessions: Sequence[SessionInfo], table: str | None = None) -> None:
        self.store, self.sessions = store, SessionTable.of(sessions)
        self._own = set(self.sessions.further)
        self._of_participants = {name for row in store.participants.values() for name in row}
        self._rows = {} if table is None else _rows_by_session(Path(table))
        self._further = {name for row in self._rows.values() for name in row} - {KEY}

    def __getitem__(self, name: str) -> Sequence[str | None]:
        if name in self._further:
            return [self._rows.get(key or "", {}).get(name) for key in self.sessions.column(KEY)]
        if name in _ROW or (name in self._own and name not in self._of_participants):
            return self.sessions.column(name)
        if name not in self._of_participants:
            raise KeyError(name)
        told = [self.store.participants.get(subject or "", {}).get(name) for subject in self.sessions.column(SUBJECT)]
        if name not in self._own:
            return told
        return [own if own is not None else other for own, other in zip(self.sessions.column(name), told, strict=True)]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*_ROW, *sorted(self._own | self._of_participants | self._further)]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _rows_by_session(path: Path) -> dict[str, dict[str, str]]:
    rows = read_tsv(path)
    if not rows or KEY not in rows[0]:
        raise InputError(f"{path}: has no column session; give a table with one, such as `slimbrain group` writes.")
    return {row[KEY]: row for row in rows}


@dataclass(frozen=True)
class Choice:
    """Which sessions of a store; empty means all. Labels may carry their prefix (`sub-01`) or not.

    Attributes
    ----------
    participants, sessions, tasks, spaces : sequence of str
        Labels.
    keys : sequence of str, optional
        Names of sessions, as the manifest has them.
    where : sequence of str
        Filters on columns of `sessions.tsv` or `participants.tsv`, such as `coverage >= 0.9 and sex == 'F'`
        (`slimbrain.store.filters.rows_that`); all must hold.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    tasks: Sequence[str] = ()
    spaces: Sequence[str] = ()
    keys: Sequence[str] | None = None
    where: Sequence[str] = ()


def choose_sessions(store: Store, choice: Choice) -> list[SessionInfo]:
    """The sessions that pass, sorted by key.

    Raises
    ------
    InputError
        If a participant or session is not there, a filter cannot be read, or nothing passes.
    """
    if choice.participants:
        store = store.select({f"sub-{label.removeprefix('sub-')}" for label in choice.participants})
    for key in choice.keys or ():
        store.session(key)
    columns = Columns(store, store.sessions)
    passes = np.ones(len(store.sessions), dtype=bool)
    if choice.keys is not None:
        keys = set(choice.keys)
        passes &= np.array([key in keys for key in columns[KEY]], dtype=bool)
    labels = {"session_id": ("ses-", choice.sessions), "task": ("task-", choice.tasks), "space": ("space-", choice.spaces)}
    for name, (prefix, asked) in labels.items():
        if asked:
            wanted = {label.removeprefix(prefix) for label in asked}
            passes &= np.array([(cell or "").removeprefix(prefix) in wanted for cell in columns[name]], dtype=bool)
    known: dict[str, Cells] = {}
    for expression in choice.where:
        passes &= rows_that(expression, columns, len(passes), known)
    if not passes.any():
        raise InputError(f"{store.root}: no session passes these filters; `slimbrain inspect` and sessions.tsv show what there is.")
    return list(store.sessions.take(np.flatnonzero(passes).tolist()))
