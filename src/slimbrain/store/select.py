"""Which sessions of a store: by label, by key, and by conditions on the columns of its tables."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.store.manifest import MANIFEST_COLUMNS, SessionInfo, manifest_row
from slimbrain.store.store import Store

_CONDITION = re.compile(r"\s*(?P<column>[^<>=!]*[^<>=!\s])\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_SIGNS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Choice:
    """Which sessions of a store; empty means all. Labels may carry their prefix (`sub-01`) or not.

    Attributes
    ----------
    participants, sessions, tasks, spaces : labels.
    keys : names of sessions, as the manifest has them.
    where : conditions `COLUMN SIGN VALUE` on columns of `sessions.tsv` or `participants.tsv`, all of which must hold; signs
        are = != < <= > >=. A cell without a value meets none.
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
        If a participant or session is not there, a condition cannot be read, or nothing passes.
    """
    if choice.participants:
        store = store.select({f"sub-{label.removeprefix('sub-')}" for label in choice.participants})
    conditions = [_Condition.parse(text) for text in choice.where]
    labels = {"session_id": ("ses-", choice.sessions), "task": ("task-", choice.tasks), "space": ("space-", choice.spaces)}
    for key in choice.keys or ():
        store.session(key)
    _require_columns(store, conditions)
    chosen = []
    for info in store.sessions:
        row = {**store.participants.get(info.subject, {}), **manifest_row(info)}
        named = choice.keys is None or info.key in choice.keys
        labelled = all(
            not asked or row[column].removeprefix(prefix) in {label.removeprefix(prefix) for label in asked}
            for column, (prefix, asked) in labels.items()
        )
        if named and labelled and all(condition.holds(row) for condition in conditions):
            chosen.append(info)
    if not chosen:
        raise InputError(f"{store.root}: no session passes these filters; `slimbrain inspect` and sessions.tsv show what there is.")
    return chosen


def _require_columns(store: Store, conditions: Iterable[_Condition]) -> None:
    columns = {*MANIFEST_COLUMNS, *(column for table in store.participants.values() for column in table)}
    columns |= {column for info in store.sessions for column in info.qc}
    for condition in conditions:
        if condition.column not in columns:
            raise InputError(f"{store.root}: has no column {condition.column}; there are {', '.join(sorted(columns))}.")


@dataclass(frozen=True)
class _Condition:
    column: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> _Condition:
        matched = _CONDITION.fullmatch(text)
        if not matched:
            raise InputError(f"--where {text!r}: is no condition; write one such as 'coverage>=0.9' or 'sex=F'.")
        condition = cls(matched["column"], matched["sign"], matched["value"])
        if condition.sign not in ("=", "!=") and _number(condition.value) is None:
            raise InputError(f"--where {text!r}: {condition.value!r} is no number to compare with; use = or !=.")
        return condition

    def holds(self, row: Mapping[str, str]) -> bool:
        cell = row.get(self.column, MISSING)
        if cell in ("", MISSING):
            return False
        left, right = _number(cell), _number(self.value)
        if left is not None and right is not None:
            return bool(_SIGNS[self.sign](left, right))
        return self.sign in ("=", "!=") and bool(_SIGNS[self.sign](cell, self.value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
