"""A session's files and its row, put in place and taken away: at no moment does one vouch for another that it does not describe.

Data come first, then the sidecar with their size and SHA-256, then the row of the manifest (or of a part); they go the other way round.
A process that is killed in between leaves a session that `Store.is_whole` does not take for one. Nothing of a participant who was withdrawn
is put in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_atomic, write_json, write_text
from slimbrain.disk.locks import locked
from slimbrain.disk.seal import sha256
from slimbrain.disk.tsv import MISSING
from slimbrain.errors import StoreError
from slimbrain.store.description import read_object
from slimbrain.store.manifest import (
    MANIFEST_FILE,
    SESSION_ROW,
    SessionInfo,
    manifest_text,
    manifest_with,
    read_manifest,
    row_to_repeat,
    session_key,
    session_path,
)
from slimbrain.store.parts import add_to_part, take_from_part
from slimbrain.store.terms import UNKNOWN
from slimbrain.store.withdrawn import refusal, withdrawn

DATA_BYTES, DATA_SHA256 = "DataBytes", "DataSha256"
"""Fields of the sidecar that tell whether the data file is still what was written."""

COHORT = "Cohort"
"""Field of the sidecar that says which study a participant is one of: `sub-01` of another is another person."""


def put_in_place(root: Path, info: SessionInfo, write: Callable[[Path], object], sidecar: Mapping[str, Any], part: str = "") -> None:
    """Put a session's data in place, then the sidecar that vouches for them, then the row of the manifest.

    Parameters
    ----------
    root : of the store.
    info : the row to add or replace.
    write : fills the file it is given with the data.
    sidecar : what to record; the row, and size and SHA-256 of the data, are added. If it brings these two, they must hold.
    part : name of the part that lists the session (`slimbrain.store.parts`); empty for the manifest itself.

    Raises
    ------
    StoreError
        If something cannot be written, the data are not those of the sidecar, or the participant was withdrawn.
    """
    path = root / info.path
    beside = path.with_suffix(".json")
    cohort = cohort_from_row(info) or str(sidecar.get(COHORT) or "")
    refuse_withdrawn(root, info.subject, cohort)
    seal: dict[str, Any] = {}

    def write_alone(temporary: Path) -> None:
        write(temporary)
        seal.update({DATA_BYTES: temporary.stat().st_size, DATA_SHA256: sha256(temporary)})
        if any(sidecar.get(name, value) != value for name, value in seal.items()):
            raise StoreError(f"{path}: would not be what was written once, the data are damaged at their source; prepare them again.")
        # Not before: a full disk is found while writing, and the old session then stays whole.
        beside.unlink(missing_ok=True)

    try:
        write_atomic(path, write_alone)
        write_json(beside, {**sidecar, **seal, SESSION_ROW: row_to_repeat(info)})
        _list(root, info, cohort, part)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder, then run the same command again."
        ) from error


def _list(root: Path, info: SessionInfo, cohort: str, part: str) -> None:
    if part:
        # Outside the lock, which whoever collects the parts takes after them. A withdrawal that begins after this finds the row.
        add_to_part(root, part, info)
    with locked(root):
        # One that began meanwhile did not find what was not there yet.
        record = withdrawn(root).find(info.subject, cohort)
        if record is None:
            if not part:
                write_text(root / MANIFEST_FILE, manifest_with(root / MANIFEST_FILE, info))
            return
    _take_out(root, info.key, info.path, part)
    raise StoreError(refusal(root, info.subject, record))


def take_out(root: Path, entities: Mapping[str, str], part: str = "") -> None:
    """Take a session out, its row before its files, so that no row is left without data; nothing happens if there is none.

    Parameters
    ----------
    root : of the store.
    entities : as it was written with.
    part : name of a part that may list it, too.

    Raises
    ------
    StoreError
        If its files cannot be deleted.
    """
    _take_out(root, session_key(entities), session_path(entities), part)


def _take_out(root: Path, key: str, place: str | Path, part: str) -> None:
    path = root / place
    if part:
        take_from_part(root, part, key)
    with locked(root):
        listed = read_manifest(root / MANIFEST_FILE).by_key()
        if listed.pop(key, None) is not None:
            write_text(root / MANIFEST_FILE, manifest_text(list(listed.values())))
    try:
        for file in (path, path.with_suffix(".json")):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be deleted ({error.strerror}); delete it and its .json, no table lists them.") from error


def refuse_withdrawn(root: Path, subject: str, cohort: str) -> None:
    """Raise the StoreError of a participant who was withdrawn; of anybody else, nothing."""
    if record := withdrawn(root).find(subject, cohort):
        raise StoreError(refusal(root, subject, record))


def cohort_from_row(info: SessionInfo) -> str:
    """The cohort that a session's row names; empty where it names none."""
    told = info.qc.get("cohort", MISSING)
    return "" if told in ("", MISSING, UNKNOWN) else told


def cohort_from_sidecar(sidecar: Path) -> str:
    """The cohort that a sidecar names; empty where it names none, or is not there."""
    try:
        return str(read_object(sidecar).get(COHORT) or "")
    except StoreError:
        return ""
