"""Delete a withdrawn participant's data from a store, in an order that may be interrupted anywhere.

The record of the withdrawal is written first, so nothing is read any more. Then go the rows, then each session's data and, last, the
sidecar that says whose they were; then what else names the participant. Only then is the record marked as done. Whoever comes next
finishes what is not. Symbolic links are deleted; what lies behind them outside the store is reported, and deleted only when asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
    sessions : list of str
        Keys.
    linked : list of str
        Data files that other stores hold, too, as hard links.
    files : list of str
        Everything that was deleted or rewritten, relative to the store.
    behind : list of str
        Files outside the store, behind symbolic links, that hold something of the participant and were left.
    followed : list of str
        Such files that were deleted or rewritten, since that was asked for.
    """

    sessions: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)


def finish_withdrawals(root: Path) -> None:
    """Finish withdrawals that were interrupted, and those whose participant a shard listed when all seemed done.

    What lies behind symbolic links is left, and reported on standard error.
    """
    gone = withdrawn(root)
    if not gone:
        return
    collect_parts(root)
    listed = read_manifest(root / MANIFEST_FILE)
    suspects = gone.suspects(listed.subjects)
    late = {gone.find(info.subject, _cohort(root, info)) for info in listed if info.subject in suspects}
    for record in gone.active:
        if not record.removed or record in late:
            for path in purge(root, record).behind:
                print(f"{root}: a symbolic link led to data of a withdrawn participant, which were left; delete {path}.", file=sys.stderr)


def purge(root: Path, record: WithdrawalRecord, follow_links: bool = False) -> _Purged:
    """Delete everything of a withdrawn participant; run again, it resumes.

    Parameters
    ----------
    root : Path
        Of the store.
    record : WithdrawalRecord
        Of the withdrawal.
    follow_links : bool
        Delete what lies behind symbolic links outside the store as well.

    Raises
    ------
    StoreError
        If a file cannot be deleted.
    """
    purged = _Purged()
    # What a shard listed for itself before the record was written; later ones are refused.
    collect_parts(root)
    try:
        labels = {info.subject for info in _drop_rows(root, record, purged, follow_links)} | _labels(root, record)
        for label in sorted(labels):
            for path in list(_files_of(root, label, record)):
                _delete(root, path, purged, follow_links)
        for label in sorted(labels):
            _clean_tables(root, label, purged, follow_links)
            _remove_links(root, label, purged)
            _remove_empty(root / label)
        if os.path.lexists(root / _REPORT_FILE):
            _delete(root, root / _REPORT_FILE, purged, follow_links)
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


def _drop_rows(root: Path, record: WithdrawalRecord, purged: _Purged, follow_links: bool) -> list[SessionInfo]:
    with locked(root):
        gone = _rows_of(root, record)
        if gone:
            keys = {info.key for info in gone}
            left = [info for info in read_manifest(root / MANIFEST_FILE) if info.key not in keys]
            _rewrite(root, MANIFEST_FILE, manifest_text(left), purged, follow_links)
            purged.sessions.extend(sorted(keys))
    return gone


def _labels(root: Path, record: WithdrawalRecord) -> set[str]:
    """Names, padded one way or another, under which something of the participant may lie in the store."""
    names = {path.name for path in root.glob("sub-*") if path.is_dir() or path.is_symlink()}
    names |= {path.name.split("_")[0] for path in (root / EXCLUDED_FOLDER).glob("sub-*.json")}
    names |= {row.get("participant_id", "") for row in _table(root / PARTICIPANTS_FILE)}
    hashes = {record.label, record.person} - {""}
    return {name for name in names if hashes & {subject_hash(name), subject_hash(name, record.cohort)}}


def _files_of(root: Path, label: str, record: WithdrawalRecord) -> Iterator[Path]:
    """Files of the participant that no row speaks for: data before the sidecar that tells whose they are."""
    alive = {os.path.realpath(root / info.path) for info in read_manifest(root / MANIFEST_FILE)}
    home = os.path.realpath(root)

    def mine(path: Path) -> bool:
        return record.is_of(label, cohort_from_sidecar(path.with_suffix(".json")))

    def theirs_by_place(path: Path) -> bool:
        """In their folder; behind a link, which may lead to anything, the name has to be theirs, too."""
        folder = os.path.realpath(path.parent)
        if folder == os.path.join(home, path.parent.relative_to(root)):
            return True
        return not _is_within(folder, home) and path.name.startswith(f"{label}_")

    for path in sorted(_below(root / label, set()), key=lambda path: (path.suffix == ".json", path)):
        held = os.path.realpath(path.with_suffix(".safetensors")) in alive
        if session_of(path.name) and not held and theirs_by_place(path) and mine(path):
            yield path
    yield from filter(mine, sorted((root / EXCLUDED_FOLDER).glob(f"{label}_*.json")))


def _below(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Files, and links to files or nowhere, below a folder; through links to folders, into each folder once."""
    real = os.path.realpath(folder)
    if real in visited or not folder.is_dir():
        return
    visited.add(real)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _below(path, visited)
        else:
            yield path


def _is_within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _delete(root: Path, path: Path, purged: _Purged, follow_links: bool) -> None:
    # Whoever writes this session now finds the record at the end, and takes its files away.
    with claim(root, session_of(path.name) or path.name, wait=True):
        if not os.path.lexists(path):
            return
        key = session_of(path.name)
        if path.suffix == ".safetensors":
            if path.exists() and path.stat().st_nlink > 1:
                purged.linked.append(path.relative_to(root).as_posix())
            if key not in purged.sessions and path.name.startswith(key):
                purged.sessions.append(key)
        real, home = Path(os.path.realpath(path)), os.path.realpath(root)
        if not _is_within(str(real), home) and real.exists():
            (purged.followed if follow_links else purged.behind).append(str(real))
            if follow_links:
                # Before the link, by which it is found again if this is interrupted.
                real.unlink()
        if _is_within(os.path.realpath(path.parent), home):
            path.unlink(missing_ok=True)
            purged.files.append(path.relative_to(root).as_posix())


def _rewrite(root: Path, name: str, text: str, purged: _Purged, follow_links: bool) -> None:
    """Write a table of the store anew; a link to one outside becomes a file, unless links are followed."""
    path, real = root / name, os.path.realpath(root / name)
    outside = not _is_within(real, os.path.realpath(root))
    write_text(real if outside and follow_links else path, text)
    purged.files.append(name)
    if outside:
        (purged.followed if follow_links else purged.behind).append(real)


def _clean_tables(root: Path, label: str, purged: _Purged, follow_links: bool) -> None:
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
                _rewrite(root, path.name, format_tsv(list(rows[0]), kept), purged, follow_links)


def _names(cell: str, label: str) -> bool:
    """Whether a cell of a table names the participant: the label, a session, or a file."""
    parts = cell.split("/")
    bare = len(parts) > 1 and parts[0] == label.removeprefix("sub-")
    return bare or any(part == label or part.startswith(f"{label}_") for part in parts)


def _table(path: Path) -> list[dict[str, str]]:
    return read_tsv(path) if path.is_file() else []


def _remove_links(root: Path, label: str, purged: _Purged) -> None:
    """Delete links to folders that lie in the participant's folder, or in its place, unless a row still goes through one."""
    folder = root / label
    alive = [root / info.path for info in read_manifest(root / MANIFEST_FILE)]
    found = [folder, *(Path(place) / name for place, below, _ in os.walk(folder) for name in below)]
    for path in found:
        if path.is_symlink() and not any(data.is_relative_to(path) for data in alive):
            path.unlink()
            purged.files.append(path.relative_to(root).as_posix())


def _remove_empty(folder: Path) -> None:
    for place, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(place):
            os.rmdir(place)
