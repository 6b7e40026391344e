"""The window table: what is known of each window of each session, in which order to take them, and how many there may be."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_text
from slimbrain.disk.made_by import record_maker
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError
from slimbrain.saliency.scores import WindowScores
from slimbrain.saliency.select import IntArray, ranks_of


@dataclass(frozen=True)
class WindowRow:
    """One line of a window table.

    Attributes
    ----------
    session : str
        Key of a stored session, which is one run.
    rank : int
        Place in the order in which windows of that session should be taken, 1 the first.
    chosen : bool
        False where a budget leaves the window out; who reads the table then does without it.
    """

    session: str
    window: int
    onset_s: float
    duration_s: float
    informativeness: float
    novelty: float
    score: float
    rank: int
    explained: float
    dvars: float
    chosen: bool = True

    def among(self, k: int) -> bool:
        """Whether the window is one of the first k of its session that the budget leaves."""
        return self.chosen and self.rank <= k


COLUMNS = tuple(field.name for field in fields(WindowRow))

_SAME_TIME = 0.01
"""Of a window's duration: times that differ by less are equal but for rounding."""


def window_rows(session: str, scores: WindowScores, order: IntArray) -> list[WindowRow]:
    """The scores of one session as lines of a table, in order of time."""
    names = ("onset_s", "duration_s", "informativeness", "novelty", "score", "explained", "dvars")
    columns = {name: getattr(scores, name).tolist() for name in names} | {"rank": ranks_of(order).tolist()}
    return [WindowRow(session, i, **{name: column[i] for name, column in columns.items()}) for i in range(len(scores))]


def within_budget(
    rows: Sequence[WindowRow], sessions: Mapping[str, str], per_run: int | None = None, per_session: int | None = None
) -> list[WindowRow]:
    """Mark which windows a budget leaves: the first of each run, and of all runs of a scanning session those with the best scores.

    Each run gives one window as long as the budget lasts; then the run whose next window has the highest score gives it. Scores are
    z-scored within their run, so that a score means the same in each.

    Parameters
    ----------
    rows : Sequence[WindowRow]
        Of any number of runs.
    sessions : Mapping[str, str]
        Scanning session of each run, by the key of the run.
    per_run, per_session : int or None
        Most windows of a run, and of all runs of a scanning session; no limit if None.
    """
    first_to_last = sorted(rows, key=lambda row: row.rank)
    queues: dict[str, dict[str, deque[WindowRow]]] = {}
    for row in first_to_last:
        if per_run is None or row.rank <= per_run:
            queues.setdefault(sessions[row.session], {}).setdefault(row.session, deque()).append(row)
    chosen = {(row.session, row.window) for runs in queues.values() for row in _take(list(runs.values()), per_session)}
    return [replace(row, chosen=(row.session, row.window) in chosen) for row in rows]


def _take(runs: list[deque[WindowRow]], count: int | None) -> Iterator[WindowRow]:
    """Windows of the runs of one scanning session, at most `count`."""
    firsts = sorted((run.popleft() for run in runs), key=lambda row: -row.score)
    yield from firsts[:count]
    for _ in range(sum(map(len, runs)) if count is None else max(0, count - len(firsts))):
        waiting = [run for run in runs if run]
        if waiting:
            yield max(waiting, key=lambda run: run[0].score).popleft()


def write_window_table(path: str | Path, rows: Sequence[WindowRow], command: str = "") -> Path:
    """Write rows as TSV, atomically; numbers are written so that they read back to the bit.

    The command line that made them goes into a file beside it, NAME.rank.json.
    """
    path = write_text(path, format_tsv(COLUMNS, [{**asdict(row), "chosen": int(row.chosen)} for row in rows]))
    if command:
        record_maker(path, "rank", command)
    return path


def read_window_table(path: str | Path) -> dict[str, list[WindowRow]]:
    """Read what `slimbrain rank` or `write_window_table` wrote.

    Parameters
    ----------
    path : str or Path
        The TSV file.

    Returns
    -------
    dict of str to list of WindowRow
        Rows by session key, in the order of the file.

    Raises
    ------
    InputError
        If the file lacks a column, holds something that is not a number, or contradicts itself: each session has its windows from the
        first on, each once, where it lies in time, with ranks from 1 on, each once.
    StoreError
        If the file cannot be read.

    Examples
    --------
    >>> from slimbrain.saliency import read_window_table
    >>> {key: [row.rank for row in rows] for key, rows in read_window_table("windows.tsv").items()}
    {'sub-01': [2, 4, 1, 3]}
    """
    sessions: dict[str, list[WindowRow]] = {}
    for line, cells in enumerate(read_tsv(Path(path)), start=2):
        try:
            row = _parse_row(cells)
        except (KeyError, TypeError, ValueError) as error:
            missing = [name for name in COLUMNS if name not in cells]
            reason = f"it has no column {missing[0]}" if missing else f"{type(error).__name__}: {error}"
            raise InputError(f"{path}, line {line}: is no row of a window table ({reason}); run `slimbrain rank` again.") from error
        sessions.setdefault(row.session, []).append(row)
    for session, rows in sessions.items():
        if contradiction := _contradiction(rows):
            raise InputError(f"{path}: {session} {contradiction}; run `slimbrain rank` again.")
    return sessions


def _contradiction(rows: Sequence[WindowRow]) -> str:
    """What cannot be true of the rows of one session; each of these would choose other windows without a word."""
    n, duration_s = len(rows), rows[0].duration_s
    for what, first, numbers in (("window", 0, [row.window for row in rows]), ("rank", 1, [row.rank for row in rows])):
        number, times = Counter(numbers).most_common(1)[0]
        if times > 1:
            return f"has {what} {number} in {times} rows, where each must stand once"
        if missing := sorted(set(range(first, n + first)) - set(numbers)):
            return f"has {n} rows and none of them is {what} {missing[0]}"
    for row in rows:
        values = [value for value in astuple(row) if isinstance(value, float)]
        if not all(map(math.isfinite, values)) or row.duration_s <= 0:
            return f"has a number that is infinite or not defined in window {row.window}"
        if abs(row.duration_s - duration_s) > _SAME_TIME * duration_s:
            return f"has windows of {duration_s:g} s and of {row.duration_s:g} s"
        if abs(row.onset_s - row.window * duration_s) > _SAME_TIME * duration_s:
            return f"has window {row.window} of {duration_s:g} s at {row.onset_s:g} s, not at {row.window * duration_s:g} s"
    return ""


_PARSERS: dict[str, Callable[[str], Any]] = {"session": str, "window": int, "rank": int, "chosen": {"1": True, "0": False}.__getitem__}


def _parse_row(cells: dict[str, str]) -> WindowRow:
    return WindowRow(**{name: _PARSERS.get(name, float)(cells[name]) for name in COLUMNS})
