"""Taking a withdrawn participant's data out of a store, in an order that may be cut short anywhere.

The tombstone stands first, so nothing is read any more. Then go the rows, then each session's data and, last, the sidecar that says whose
they were; then what else names the participant. Only then is the tombstone marked. Whoever comes next finishes what is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim, locked
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import StoreError
from slimbrain.store.description import cohort_from_sidecar
from slimbrain.store.manifest import MANIFEST_FILE, SessionInfo, manifest_text, read_manifest, read_parts
from slimbrain.store.participants import PARTICIPANTS_FILE
from slimbrain.store.parts import collect_parts
from slimbrain.store.subjects import subject_hash
from slimbrain.store.verify import session_of
from slimbrain.store.withdrawn import WITHDRAWN_FILE, WithdrawalRecord, mark, withdrawn

_REPORT_FILE = "report.html"
"""Shows curves of every session; the next `slimbrain prep` writes it anew."""

EXCLUDED_FOLDER = "excluded"
"""Where `slimbrain prep` keeps what it measured of runs that it left out."""


@dataclass(frozen=True)
class _Purged:
    """What was taken out.

    Attributes
    ----------
    sessions : keys.
    linked : data files that other stores hold, too, as hard links.
    files : everything that was deleted or rewritten, relative to the store.
    """

    sessions: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def finish_withdrawals(root: Path) -> None:
    """Go on with withdrawals that were cut short, and with those whose participant a shard listed when all seemed done."""
    gone = withdrawn(root)
    if not gone:
        return
    collect_parts(root)
    listed = read_manifest(root / MANIFEST_FILE)
    suspects = gone.suspects(listed.subjects)
    late = {gone.find(info.subject, _cohort(root, info)) for info in listed if info.subject in suspects}
    for record in gone.active:
        if not record.removed or record in late:
            purge(root, record)


def purge(root: Path, record: WithdrawalRecord) -> _Purged:
    """Delete everything of a withdrawn participant; again, it goes on where it stopped.

    Raises
    ------
    StoreError
        If a file cannot be deleted.
    """
    purged = _Purged()
    # What a shard listed for itself before the tombstone stood; later ones are refused.
    collect_parts(root)
    try:
        labels = {info.subject for info in _drop_rows(root, record, purged)} | _labels(root, record)
        for label in sorted(labels):
            for path in _files_of(root, label, record):
                _delete(root, path, purged)
        for label in sorted(labels):
            _clean_tables(root, label, purged)
            _remove_empty(root / label)
        if (root / _REPORT_FILE).exists():
            _delete(root, root / _REPORT_FILE, purged)
        mark(root, record.who, removed=date.today().isoformat())
    except OSError as error:
        raise StoreError(
            f"{error.filename or root}: cannot be deleted ({error.strerror}); "
            "nothing of the participant is read any more, free the file and run `slimbrain withdraw` again."
        ) from error
    return purged


def _rows_of(root: Path, record: WithdrawalRecord) -> list[SessionInfo]:
    """Rows of the manifest that are the participant's, hidden from readers or not."""
    return [info for info in read_manifest(root / MANIFEST_FILE) if record.is_of(info.subject, _cohort(root, info))]


def _cohort(root: Path, info: SessionInfo) -> str:
    return info.cohort or cohort_from_sidecar((root / info.path).with_suffix(".json"))


def _drop_rows(root: Path, record: WithdrawalRecord, purged: _Purged) -> list[SessionInfo]:
    with locked(root):
        gone = _rows_of(root, record)
        if gone:
            keys = {info.key for info in gone}
            left = [info for info in read_manifest(root / MANIFEST_FILE) if info.key not in keys]
            write_text(root / MANIFEST_FILE, manifest_text(left))
            purged.sessions.extend(sorted(keys))
            purged.files.append(MANIFEST_FILE)
    return gone


def _labels(root: Path, record: WithdrawalRecord) -> set[str]:
    """Names, padded one way or another, under which something of the participant may lie in the store."""
    names = {path.name for path in root.glob("sub-*") if path.is_dir()}
    names |= {path.name.split("_")[0] for path in (root / EXCLUDED_FOLDER).glob("sub-*.json")}
    names |= {row.get("participant_id", "") for row in _table(root / PARTICIPANTS_FILE)}
    hashes = {record.label, record.person} - {""}
    return {name for name in names if hashes & {subject_hash(name), subject_hash(name, record.cohort)}}


def _files_of(root: Path, label: str, record: WithdrawalRecord) -> Iterator[Path]:
    """Files of the participant that no row speaks for: data before the sidecar that tells whose they are."""
    alive = {root / info.path for info in read_manifest(root / MANIFEST_FILE)}

    def mine(path: Path) -> bool:
        return record.is_of(label, cohort_from_sidecar(path.with_suffix(".json")))

    for path in sorted((root / label).rglob("*"), key=lambda path: (path.suffix == ".json", path)):
        if path.is_file() and session_of(path.name) and path.with_suffix(".safetensors") not in alive and mine(path):
            yield path
    yield from filter(mine, sorted((root / EXCLUDED_FOLDER).glob(f"{label}_*.json")))


def _delete(root: Path, path: Path, purged: _Purged) -> None:
    # Whoever writes this session now finds the tombstone at the end, and takes its files away.
    with claim(root, session_of(path.name) or path.name, wait=True):
        if not path.exists():
            return
        key = session_of(path.name)
        if path.suffix == ".safetensors":
            if path.stat().st_nlink > 1:
                purged.linked.append(path.relative_to(root).as_posix())
            if key not in purged.sessions and path.name.startswith(key):
                purged.sessions.append(key)
        path.unlink()
        purged.files.append(path.relative_to(root).as_posix())


def _clean_tables(root: Path, label: str, purged: _Purged) -> None:
    """Drop rows about the participant from the store's tables, unless somebody of another cohort has the same label there."""
    if any(info.subject == label for info in [*read_manifest(root / MANIFEST_FILE), *read_parts(root).values()]):
        return
    for path in sorted(root.glob("*.tsv")):
        if path.name in (MANIFEST_FILE, WITHDRAWN_FILE):
            continue
        with claim(root, path.name, wait=True):
            rows = _table(path)
            kept = [row for row in rows if not any(_names(cell, label) for cell in row.values())]
            if len(kept) < len(rows):
                write_text(path, format_tsv(list(rows[0]), kept))
                purged.files.append(path.name)


def _names(cell: str, label: str) -> bool:
    """Whether a cell of a table names the participant: the label, a session, or a file."""
    parts = cell.split("/")
    bare = len(parts) > 1 and parts[0] == label.removeprefix("sub-")
    return bare or any(part == label or part.startswith(f"{label}_") for part in parts)


def _table(path: Path) -> list[dict[str, str]]:
    return read_tsv(path) if path.is_file() else []


def _remove_empty(folder: Path) -> None:
    folders: Iterable[Path] = [*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder]
    for path in folders:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
