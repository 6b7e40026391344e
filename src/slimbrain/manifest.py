"""The table of a store's sessions, `sessions.tsv`: one row, one recording."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from slimbrain.errors import StoreError
from slimbrain.tsv import BEYOND, MISSING, format_tsv, insert_row, read_columns, read_tsv

MANIFEST_FILE = "sessions.tsv"
MANIFEST_COLUMNS = ("session", "participant_id", "session_id", "task", "run", "space", "n_frames", "tr", "path")
LEDGER_COLUMNS = ("cohort", "licence", "consent", "governance")
"""Columns that say under what terms a session may be used (`slimbrain.governance`), for filters; stores of before have none of them."""

KEY_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "space", "chunk")
"""BIDS entities that tell two recordings apart, in BIDS order."""

DATA_SUFFIX = "_desc-slimbrain_bold.safetensors"
SESSION_ROW = "SessionRow"
"""Field of the sidecar that repeats the row of the manifest, but for the terms, which may change when nothing else does."""


@dataclass(frozen=True)
class SessionInfo:
    """One row of the manifest.

    Attributes
    ----------
    key : unique name, the file's entities up to the space.
    subject, session, task, run : BIDS entities with their prefix (`sub-01`), empty where there is none.
    space : template of the source image, or `roi`.
    n_frames : frames stored.
    tr : seconds a frame.
    path : data file, relative to the store.
    qc : further columns of the manifest (coverage, tsnr, ...), as text.
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

    def n_windows(self, frames: int) -> int:
        """Whole windows of `frames` frames (DESIGN section 7: the shorter tail is dropped)."""
        return self.n_frames // frames


def session_key(entities: Mapping[str, str]) -> str:
    """BIDS entities as one name: `sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym`."""
    return "_".join(f"{name}-{entities[name]}" for name in KEY_ENTITIES if entities.get(name))


def session_path(entities: Mapping[str, str]) -> Path:
    """Where a session's data file lies, relative to the store."""
    folder = Path(f"sub-{entities['sub']}")
    if entities.get("ses"):
        folder /= f"ses-{entities['ses']}"
    return folder / "func" / f"{session_key(entities)}{DATA_SUFFIX}"


def manifest_row(info: SessionInfo) -> dict[str, str]:
    """A session as the manifest writes it, by column name."""
    values = (info.key, info.subject, info.session, info.task, info.run, info.space, str(info.n_frames), repr(info.tr), info.path)
    return {**{name: value or MISSING for name, value in zip(MANIFEST_COLUMNS, values, strict=True)}, **info.qc}


def row_to_repeat(info: SessionInfo) -> dict[str, str]:
    """What the sidecar repeats of a session's row; cells without a value may come from columns that only other sessions have."""
    return {name: value for name, value in manifest_row(info).items() if value != MISSING and name not in LEDGER_COLUMNS}


def row_differences(info: SessionInfo, sidecar: Mapping[str, Any]) -> list[str]:
    """Columns of the manifest that say other than the session's sidecar, which repeats its row."""
    row, told = manifest_row(info), sidecar.get(SESSION_ROW, {})
    return [name for name, value in told.items() if row.get(name) != value] if isinstance(told, dict) else ["everything"]


def manifest_text(sessions: Sequence[SessionInfo]) -> str:
    """The whole table; its columns are those that any session has."""
    qc_columns = sorted({name for info in sessions for name in info.qc})
    return format_tsv([*MANIFEST_COLUMNS, *qc_columns], list(map(manifest_row, sessions)))


def manifest_with(path: Path, info: SessionInfo) -> str:
    """The table in a file with one session more, or with its row replaced; other rows are not read where that can be helped.

    Raises
    ------
    StoreError
        If the file cannot be read, or must be made anew and a row is damaged.
    """
    row = manifest_row(info)
    text = insert_row(_read_text(path), info.key, row, lambda columns: format_tsv(columns, [row]).split("\n", 1)[1])
    if text is not None:
        return text
    listed = _parse(path) | {info.key: info}
    return manifest_text([listed[key] for key in sorted(listed)])


def read_manifest(path: Path) -> dict[str, SessionInfo]:
    """Sessions by key; parsed again only once the file was replaced, since a batch opens its store for every run.

    Raises
    ------
    StoreError
        If the table is missing or a row is damaged.
    """
    try:
        status = path.stat()
    except OSError:
        return _parse(path)
    return dict(_parse_once(path, (status.st_ino, status.st_size, status.st_mtime_ns)))


@lru_cache(maxsize=4)
def _parse_once(path: Path, signature: tuple[int, int, int]) -> dict[str, SessionInfo]:
    return _parse(path)


def _parse(path: Path) -> dict[str, SessionInfo]:
    columns, rows = read_columns(path)
    further = columns[len(MANIFEST_COLUMNS) :]
    if columns[: len(MANIFEST_COLUMNS)] != list(MANIFEST_COLUMNS) or BEYOND in further:
        return {info.key: info for info in map(_info_from_row, read_tsv(path))}
    own = len(MANIFEST_COLUMNS)
    with _without_collector():
        infos = (_info(cells[:own], dict(zip(further, cells[own:], strict=True))) for cells in rows)
        return {info.key: info for info in infos}


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


def _read_text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read as a tab-separated table ({error}); restore it from where it came.") from error


def _info_from_row(row: Mapping[str, str]) -> SessionInfo:
    """A row of a table whose columns were moved, or are not all there."""
    try:
        cells = [row[name] for name in MANIFEST_COLUMNS]
    except KeyError as error:
        raise _damaged(dict(row), error) from error
    return _info(cells, {name: value for name, value in row.items() if name not in MANIFEST_COLUMNS})


def _info(cells: Sequence[str], qc: dict[str, str]) -> SessionInfo:
    """Cells of `MANIFEST_COLUMNS` as a session; a store of 100,000 asks for each of these lines 100,000 times."""
    try:
        key, subject, session, task, run, space, n_frames, tr, path = ["" if cell == MISSING else cell for cell in cells]
        if not (key and subject and space and path):
            raise ValueError("a cell that must be filled is empty")
        if path[0] == "/" or (".." in path and ".." in Path(path).parts):
            raise ValueError("its path leaves the store")
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
