"""The table of a store's sessions, `sessions.tsv`: one row per recording; and its parts, in which each writer lists its own."""

from __future__ import annotations

import gc
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, overload

from slimbrain.disk.atomic import TEMPORARY_PREFIX, FileVersion, file_version
from slimbrain.disk.tsv import BEYOND, MISSING, format_tsv, insert_row, read_columns
from slimbrain.errors import StoreError
from slimbrain.store.terms import UNKNOWN

MANIFEST_FILE = "sessions.tsv"
PARTS_FOLDER = ".parts"
MANIFEST_COLUMNS = ("session", "participant_id", "session_id", "task", "run", "space", "n_frames", "tr", "path")
_FIELDS = dict(zip(MANIFEST_COLUMNS, ("key", "subject", "session", "task", "run", "space", "n_frames", "tr", "path"), strict=True))
"""Columns of the format, and the fields of `SessionInfo` that they are."""

KEY, SUBJECT, _NEEDED = "session", "participant_id", ("session", "participant_id", "space", "path")
"""The columns that name a session and its participant, and those that must be filled."""

LEDGER_COLUMNS = ("cohort", "licence", "consent", "governance")
"""Columns that say under what terms a session may be used (`slimbrain.store.records`), for filters."""

_KEY_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "space", "chunk")
"""BIDS entities that tell two recordings apart, in BIDS order."""

_DATA_TYPE = ".safetensors"
DATA_SUFFIX = f"_desc-slimbrain_bold{_DATA_TYPE}"
SESSION_ROW = "SessionRow"
"""Field of the sidecar that repeats the row of the manifest, but for the terms, which may change when nothing else does."""


@dataclass(frozen=True)
class SessionInfo:
    """One row of the manifest.

    Attributes
    ----------
    key : str
        Unique name, the file's entities up to the space.
    subject, session, task, run : str
        BIDS entities with their prefix (`sub-01`), empty where there is none.
    space : str
        Template of the source image, or `roi`.
    n_frames : int
        Frames stored.
    tr : float
        Seconds per frame.
    path : str
        Data file, relative to the store.
    qc : mapping
        Further columns of the manifest (coverage, tsnr, ...), as text.

    Examples
    --------
    >>> info = Store("store").sessions[0]
    >>> info.subject, info.task, info.n_frames, info.n_windows(8)
    ('sub-01', 'rest', 28, 3)
    """

    key: str
    subject: str
    session: str
    task: str
    run: str
    space: str
    n_frames: int
    tr: float
    path: str
    qc: Mapping[str, str] = field(default_factory=dict)

    @property
    def cohort(self) -> str:
        """The study that the row names; empty where it names none."""
        named = self.qc.get("cohort", MISSING)
        return "" if named in ("", MISSING, UNKNOWN) else named

    def n_windows(self, frames: int) -> int:
        """Number of whole windows; a shorter tail is dropped.

        Parameters
        ----------
        frames : int
            Per window.

        Returns
        -------
        int
            0 for a session shorter than one window.
        """
        return self.n_frames // frames


def session_key(entities: Mapping[str, str]) -> str:
    """BIDS entities as one name: `sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym`."""
    return "_".join(f"{name}-{entities[name]}" for name in _KEY_ENTITIES if entities.get(name))


def session_path(entities: Mapping[str, str]) -> Path:
    """Where a session's data file lies, relative to the store."""
    folder = Path(f"sub-{entities['sub']}")
    if entities.get("ses"):
        folder /= f"ses-{entities['ses']}"
    return folder / "func" / f"{session_key(entities)}{DATA_SUFFIX}"


def misplaced(info: SessionInfo) -> str:
    """What is wrong with where a row says its data are, in words; empty if it is where its entities put it.

    Whoever writes by a row of another store would otherwise write wherever that store says.
    """
    place = (Path(info.subject) / info.session / "func" / f"{info.key}{DATA_SUFFIX}").as_posix()
    if info.key != info.subject and not info.key.startswith(f"{info.subject}_"):
        return f"is called {info.key} but has the participant_id {info.subject}"
    return "" if info.path == place else f"has the path {info.path} where its entities give {place}"


def _manifest_row(info: SessionInfo) -> dict[str, str]:
    """A session as the manifest writes it, by column name."""
    values = (info.key, info.subject, info.session, info.task, info.run, info.space, str(info.n_frames), repr(info.tr), info.path)
    return {**{name: value or MISSING for name, value in zip(MANIFEST_COLUMNS, values, strict=True)}, **info.qc}


def row_to_repeat(info: SessionInfo) -> dict[str, str]:
    """What the sidecar repeats of a session's row; cells without a value may come from columns that only other sessions have."""
    return {name: value for name, value in _manifest_row(info).items() if value != MISSING and name not in LEDGER_COLUMNS}


def row_differences(info: SessionInfo, sidecar: Mapping[str, Any]) -> list[str]:
    """Columns of the manifest that say other than the session's sidecar, which repeats its row."""
    row, told = _manifest_row(info), sidecar.get(SESSION_ROW, {})
    return [name for name, value in told.items() if row.get(name) != value] if isinstance(told, dict) else ["everything"]


def manifest_text(sessions: Sequence[SessionInfo]) -> str:
    """The whole table; its columns are those that any session has."""
    qc_columns = sorted({name for info in sessions for name in info.qc})
    return format_tsv([*MANIFEST_COLUMNS, *qc_columns], list(map(_manifest_row, sessions)))


def manifest_with(path: Path, info: SessionInfo) -> str:
    """The table in a file with one session more, or with its row replaced; other rows are not read where that can be helped.

    Raises
    ------
    StoreError
        If the file cannot be read, or must be made anew and a row is damaged.
    """
    row = _manifest_row(info)
    text = insert_row(_read_text(path), info.key, row, lambda columns: format_tsv(columns, [row]).split("\n", 1)[1])
    if text is not None:
        return text
    return manifest_text(_parse(path).updated([info]))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for cycles again and again while many objects are made; rows have none, and took half as long again with it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class SessionTable(Sequence[SessionInfo]):
    """Sessions in the order of their keys, kept as columns: one becomes a `SessionInfo` when it is asked for.

    A store of 100,000 sessions is opened, filtered and planned for by its columns, which takes a fraction of making so many objects. Lists
    rather than a pandas frame: to import pandas and read the table takes five times as long, and to write it sixteen times as long as to
    insert a row into its text.

    Parameters
    ----------
    columns : mapping
        Cells of each column, those of `MANIFEST_COLUMNS` as `column` gives them.
    rows : sequence of int, optional
        Which rows of the columns, in this order; all of them if None.
    made : dict, optional
        Sessions that were made already, by row.
    """

    def __init__(
        self, columns: Mapping[str, Sequence[str | None]], rows: Sequence[int] | None = None, made: dict[int, SessionInfo] | None = None
    ) -> None:
        self._columns, self._made = columns, {} if made is None else made
        self._whole, self._rows = rows is None, range(len(columns[KEY])) if rows is None else rows

    @classmethod
    def of(cls, sessions: Iterable[SessionInfo]) -> SessionTable:
        """These sessions, in this order."""
        if isinstance(sessions, SessionTable):
            return sessions
        infos = list(sessions)
        return cls(_Cells(infos), made=dict(enumerate(infos)))

    def updated(self, others: Iterable[SessionInfo]) -> SessionTable:
        """These sessions and others; of two with one name, the other is kept."""
        together = self.by_key() | {info.key: info for info in others}
        return SessionTable.of([together[key] for key in sorted(together)])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> SessionInfo: ...
    @overload
    def __getitem__(self, place: slice) -> SessionTable: ...
    def __getitem__(self, place: int | slice) -> SessionInfo | SessionTable:
        return self.take(range(len(self))[place]) if isinstance(place, slice) else self._session(self._rows[place])

    def __iter__(self) -> Iterator[SessionInfo]:
        with _without_collector():
            self._make(self._rows)
        return map(self._made.__getitem__, self._rows)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (SessionTable, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SessionTable of {len(self)} sessions"

    def take(self, places: Iterable[int]) -> SessionTable:
        """Those at these places."""
        return SessionTable(self._columns, [self._rows[place] for place in places], self._made)

    @cached_property
    def further(self) -> list[str]:
        """Columns that the format does not know: quality, terms, and whatever else."""
        return [name for name in self._columns if name not in _FIELDS]

    def column(self, name: str) -> list[str | None]:
        """Cells of a column as text, as `SessionInfo` has them: empty where a field has no value, None where a session lacks the column.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        cells = self._columns[name]
        return list(cells) if self._whole else [cells[row] for row in self._rows]

    def of_windows(self, frames: int, least: int) -> SessionTable:
        """Those that have at least so many whole windows of `frames` frames."""
        cells = self.column("n_frames")
        short = {cell for cell in set(cells) if int(cell or 0) // frames < least}
        return self.take([place for place, cell in enumerate(cells) if cell not in short]) if short else self

    @property
    def subjects(self) -> set[str]:
        """Labels of all participants."""
        return {cell or "" for cell in set(self.column(SUBJECT))}

    def find(self, key: str) -> SessionInfo | None:
        """The session called `key`, if it is here."""
        row = self._row_of.get(key)
        return None if row is None else self._session(row)

    def by_key(self) -> dict[str, SessionInfo]:
        """All sessions, for whoever writes the table anew."""
        return {info.key: info for info in self}

    @cached_property
    def _row_of(self) -> dict[str | None, int]:
        return dict(zip(self.column(KEY), self._rows, strict=True))

    def _session(self, row: int) -> SessionInfo:
        self._make([row])
        return self._made[row]

    def _make(self, rows: Iterable[int]) -> None:
        lacking = [row for row in rows if row not in self._made]
        if not lacking:
            return
        own, further = ([self._columns[name] for name in names] for names in (MANIFEST_COLUMNS, self.further))
        for row in lacking:
            key, subject, session, task, run, space, n_frames, tr, path = [cells[row] or "" for cells in own]
            qc = dict(zip(self.further, [cells[row] or "" for cells in further], strict=True))
            self._made[row] = SessionInfo(key, subject, session, task, run, space, int(n_frames), float(tr), path, qc)


class _Cells(Mapping[str, Sequence["str | None"]]):
    """Columns of sessions that were made one by one; each is built when it is asked for."""

    def __init__(self, infos: Sequence[SessionInfo]) -> None:
        self._infos = infos

    def __getitem__(self, name: str) -> Sequence[str | None]:
        if name in _FIELDS:
            return [str(getattr(info, _FIELDS[name])) for info in self._infos]
        if name not in self._names:
            raise KeyError(name)
        return [info.qc.get(name) for info in self._infos]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys([*MANIFEST_COLUMNS, *(name for info in self._infos for name in info.qc)])


def read_manifest(path: Path) -> SessionTable:
    """Sessions in the order of their keys; parsed again only once the file was replaced, since a batch opens its store for every run.

    Raises
    ------
    StoreError
        If the table is missing or a row is damaged.
    """
    try:
        version = file_version(path)
    except OSError:
        return _parse(path)
    return _parse_once(path, version)


def part_path(root: Path, name: str) -> Path:
    """The file of a part."""
    return root / PARTS_FOLDER / f"{name}.tsv"


def part_paths(root: Path) -> list[Path]:
    """Files of all parts that were not collected yet."""
    # What a killed process began to write ends in the same letters.
    return sorted(path for path in (root / PARTS_FOLDER).glob("*.tsv") if not path.name.startswith(TEMPORARY_PREFIX))


def read_part(root: Path, name: str) -> SessionTable:
    """Sessions that a part lists; none if it does not exist yet, or no longer."""
    path = part_path(root, name)
    return read_manifest(path) if path.exists() else SessionTable.of(())


def read_parts(root: Path) -> dict[str, SessionInfo]:
    """Sessions by key that any part lists: prepared, and not yet brought into the manifest."""
    return {info.key: info for path in part_paths(root) for info in read_part(root, path.stem)}


@lru_cache(maxsize=4)
def _parse_once(path: Path, version: FileVersion) -> SessionTable:
    return _parse(path)


def _parse(path: Path) -> SessionTable:
    header, cells = read_columns(path, one_line=True)
    in_order = header[: len(MANIFEST_COLUMNS)] == list(MANIFEST_COLUMNS)
    named = {name: column for name, column in zip(header, cells, strict=True) if name != BEYOND}
    own = dict(zip(MANIFEST_COLUMNS, cells, strict=False)) if in_order else {name: named[name] for name in _FIELDS if name in named}
    further = {name: column for name, column in named.items() if name not in _FIELDS}
    n_rows = len(cells[0]) if cells else 0
    if n_rows and (len(own) < len(_FIELDS) or not _surely_whole(own)):
        _require_whole(own, further, n_rows)
    own = {name: _as_fields(name, own.get(name, [])) for name in MANIFEST_COLUMNS}
    keys = own[KEY]
    if all(map(operator.lt, keys, islice(keys, 1, None))):
        return SessionTable({**own, **further})
    # The last of rows of one key counts.
    rows = {key: row for row, key in enumerate(keys)}
    return SessionTable({**own, **further}, [rows[key] for key in sorted(rows)])


def _surely_whole(own: Mapping[str, Sequence[str]]) -> bool:
    """Whether `_info` would take every row, as far as whole columns tell; where they do not, it has to be asked."""
    if any(empty in own[name] for name in _NEEDED for empty in ("", MISSING)):
        return False
    keys, paths = "\n".join(own[KEY]), "\n".join(["", *own["path"]])
    if "/" in keys or "\0" in keys or "\n/" in paths or ".." in paths or "\0" in paths:
        return False
    if not all(path.endswith(_DATA_TYPE) for path in own["path"]):
        return False
    try:
        return min(map(int, set(own["n_frames"]))) >= 1 and all(0 < float(cell) < math.inf for cell in set(own["tr"]))
    except ValueError:
        return False


def _require_whole(own: Mapping[str, Sequence[str]], further: Mapping[str, Sequence[str]], n_rows: int) -> None:
    """Raise at the first row that is damaged."""
    for row in range(n_rows):
        qc = {name: column[row] for name, column in further.items()}
        cells = {name: column[row] for name, column in own.items()}
        if lacking := [name for name in MANIFEST_COLUMNS if name not in own]:
            raise _damaged({**cells, **qc}, KeyError(lacking[0]))
        _info(list(cells.values()), qc)


def _as_fields(name: str, cells: list[str]) -> list[str]:
    """Cells of a column of the format as the fields of a session: one way to write each number, and nothing for `n/a`."""
    if name in ("n_frames", "tr"):
        told = {cell: str(int(cell) if name == "n_frames" else float(cell)) for cell in set(cells)}
    else:
        told = {MISSING: ""} if MISSING in cells else {}
    return [told.get(cell, cell) for cell in cells] if any(cell != written for cell, written in told.items()) else cells


def _read_text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read as a tab-separated table ({error}); restore it from where it came.") from error


def _info(cells: Sequence[str], qc: dict[str, str]) -> SessionInfo:
    """Cells of `MANIFEST_COLUMNS` as a session."""
    try:
        key, subject, session, task, run, space, n_frames, tr, path = ["" if cell == MISSING else cell for cell in cells]
        if not (key and subject and space and path):
            raise ValueError("a cell that must be filled is empty")
        if path[0] == "/" or (".." in path and ".." in Path(path).parts):
            raise ValueError("its path leaves the store")
        if not path.endswith(_DATA_TYPE):
            raise ValueError("its path is not that of a data file")
        if "\0" in path or "/" in key or "\0" in key:
            raise ValueError("its name could not be that of a file")
        frames, seconds = int(n_frames), float(tr)
        if frames < 1 or not 0 < seconds < math.inf:
            raise ValueError("frames and TR must be positive")
        return SessionInfo(key, subject, session, task, run, space, frames, seconds, path, qc)
    except (TypeError, ValueError) as error:
        raise _damaged({**dict(zip(MANIFEST_COLUMNS, cells, strict=True)), **qc}, error) from error


def _damaged(row: Mapping[str, str], error: Exception) -> StoreError:
    return StoreError(f"{MANIFEST_FILE}: row {dict(row)} is damaged ({error}); delete it and run `slimbrain prep` again.")
