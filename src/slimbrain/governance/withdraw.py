"""A participant takes their consent back: out of the store for good, and a list of what else has something of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from slimbrain.config import RUN_FILE
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.governance.ledger import FINE_TUNED, times_drawn
from slimbrain.governance.provenance import CONFIG_FILE, FOLDS_SUFFIX, PEOPLE_FILE, Person, people_in, trained_on
from slimbrain.store import Store
from slimbrain.store.parts import collect_parts
from slimbrain.store.purge import EXCLUDED_FOLDER, purge
from slimbrain.store.subjects import with_prefix
from slimbrain.store.verify import sweep
from slimbrain.store.withdrawn import WithdrawalRecord, new_record, record_withdrawals, withdrawn

_NPZ_COLUMNS = ("subject", "session", "subjects", "sessions", "keys")
"""Arrays of an npz that name participants or sessions."""

EMBEDDING_SUFFIX = "_embedding.tsv"
"""How the table of one session's embedding ends, in a BIDS derivative; the session's name stands before it."""


@dataclass(frozen=True)
class _Trace:
    """Something outside the store that has to do with the participant.

    Attributes
    ----------
    path : str
        File or folder.
    kind : str
        `model` or `run` (trained on them), `folds` (tuned or scored on them), `table` or `embeddings` (rows of them), `unread`
        (nobody could look into it).
    how : str
        In words.
    """

    path: str
    kind: str
    how: str


@dataclass(frozen=True)
class _Withdrawal:
    """What was done, and what is left to do by hand.

    Attributes
    ----------
    label, cohort : str
        Who.
    sessions : list of str
        Keys that were taken out of the store.
    files : list of str
        What was deleted or rewritten there.
    linked : list of str
        Data files that were hard links: their content lies in another store, too.
    behind : list of str
        Files outside the store, behind symbolic links, that were left.
    followed : list of str
        Such files that were deleted, since that was asked for.
    traces : list of _Trace
        What was found elsewhere.
    notes : list of str
        What the user should know.
    """

    label: str
    cohort: str
    sessions: list[str]
    files: list[str]
    linked: list[str]
    behind: list[str]
    followed: list[str]
    traces: list[_Trace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def withdraw(
    root: str | Path,
    subject: str,
    reason: str = "",
    cohort: str = "",
    folders: Sequence[str | Path] = (),
    follow_links: bool = False,
) -> _Withdrawal:
    """Take a participant out of a store and look for traces; killed anywhere, the same command resumes.

    Parameters
    ----------
    subject : str
        Label, with or without `sub-`.
    reason : str
        Kept in the record; name nobody in it.
    cohort : str
        Needed where one label belongs to participants of several cohorts.
    folders : sequence of str | Path
        Where checkpoints, window tables and embeddings are looked for.
    follow_links : bool
        Also delete what lies outside the store, behind symbolic links in it.

    Raises
    ------
    InputError
        If the store has nothing of that participant, or it is not clear who is meant.
    StoreError
        If a file cannot be deleted.
    """
    collect_parts(Store(root).root)
    store, label = Store(root), with_prefix(subject)
    # What killed processes left may hold something of the participant, too.
    sweep(store.root)
    notes: list[str] = []
    record = _already_recorded(store, label, cohort)
    if record is not None:
        cohort = record.cohort
        notes.append(f"{label} was withdrawn on {record.date} already; what was left is deleted now.")
    else:
        cohort = _whose(store, label, cohort)
        record = new_record(label, cohort, date.today().isoformat(), reason)
    person, keys = _person(store, label, cohort, notes)
    traces = [trace for folder in folders for trace in _traces(Path(folder), store.root, person, keys)]
    record_withdrawals(store.root, [record])
    purged = purge(store.root, record, follow_links)
    return _Withdrawal(label, cohort, **vars(purged), traces=traces, notes=notes)


def _already_recorded(store: Store, label: str, cohort: str) -> WithdrawalRecord | None:
    """The record of a withdrawal that this one finishes."""
    record = withdrawn(store.root).find(label, cohort)
    others = {store.cohort(info) or "unknown" for info in store.sessions if info.subject == label}
    if record is not None and others and not cohort:
        named = ", ".join(sorted(others | {record.cohort or "unknown"}))
        raise InputError(f"{store.root}: {label} is the label of participants of several cohorts ({named}); say which with --cohort.")
    return record


def _whose(store: Store, label: str, cohort: str) -> str:
    """The cohort of the participant who is meant; empty if it is not known."""
    sessions = [info for info in store.sessions if info.subject == label]
    cohorts = {store.cohort(info) for info in sessions}
    if not sessions and any((store.root / EXCLUDED_FOLDER).glob(f"{label}_*.json")):
        return cohort
    if cohort and cohort in cohorts:
        return cohort
    if not sessions or cohort:
        where = f" of cohort {cohort}" if cohort else ""
        raise InputError(f"{store.root}: has no session of {label}{where}; `slimbrain inspect` and sessions.tsv show what there is.")
    if len(cohorts) > 1:
        named = ", ".join(sorted(name or "unknown" for name in cohorts))
        raise InputError(f"{store.root}: {label} is the label of participants of several cohorts ({named}); say which with --cohort.")
    return cohorts.pop()


def _person(store: Store, label: str, cohort: str, notes: list[str]) -> tuple[Person, set[str]]:
    """The participant with the signatures of the recordings, by which models know them under any name, and their keys."""
    mine = [info for info in store.sessions if info.subject == label and (not cohort or store.cohort(info) == cohort)]
    recordings: list[str] = []
    for info in mine:
        try:
            recordings += [known for person in people_in(store, [info]) for known in person.recordings]
        except SlimbrainError as error:
            # Damaged data must not keep a participant in.
            notes.append(f"{info.key} could not be read ({error}), so models were searched for the participant by name alone.")
    return Person(label, cohort, tuple(recordings)), {info.key for info in mine}


def _traces(folder: Path, store: Path, person: Person, keys: set[str]) -> Iterator[_Trace]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give one in which checkpoints lie.")
    for place, below, names in os.walk(folder):
        # The store itself is cleaned, not searched.
        below[:] = sorted(name for name in below if os.path.realpath(os.path.join(place, name)) != os.path.realpath(store))
        for path in (Path(place) / name for name in sorted(names)):
            try:
                found = _trace(path, person, keys)
            except (SlimbrainError, OSError, ValueError, RecursionError, BadZipFile, EOFError) as error:
                found = _Trace(str(path), "unread", f"could not be looked into ({' '.join(str(error).split())})")
            if found is not None:
                yield found
        if place.endswith(FOLDS_SUFFIX) and names and PEOPLE_FILE not in names:
            yield _Trace(place, "unread", "holds folds and does not say of whom; delete it, `slimbrain evaluate` makes it again")


def _trace(path: Path, person: Person, keys: set[str]) -> _Trace | None:
    if path.name == CONFIG_FILE:
        training = _json(path).get("training")
        return _model(path.parent, training if isinstance(training, dict) else {}, person, "model")
    if path.name == RUN_FILE:
        return _model(path.parent, _json(path), person, "run")
    if path.name == PEOPLE_FILE:
        return _Trace(str(path.parent), "folds", "were tuned or scored on them") if trained_on(_json(path), [person]) else None
    if path.name.endswith(EMBEDDING_SUFFIX):
        # A vector by itself names nobody; its file does.
        theirs = _is_theirs(path.name.removesuffix(EMBEDDING_SUFFIX), person.label, keys)
        return _Trace(str(path), "embeddings", "1 rows") if theirs else None
    if path.suffix == ".tsv":
        rows = [row for row in read_tsv(path) if any(_is_theirs(cell or "", person.label, keys) for cell in row.values())]
        return _Trace(str(path), "table", f"{len(rows)} rows") if rows else None
    if path.suffix == ".npz":
        count = _rows_of_npz(path, person.label, keys)
        return _Trace(str(path), "embeddings", f"{count} rows") if count else None
    return None


def _model(folder: Path, training: dict[str, Any], person: Person, kind: str) -> _Trace | None:
    if not trained_on(training, [person]):
        return None
    count = times_drawn(training, person.label, person.cohort)
    if count is None:
        how = "was pretrained or fine-tuned on them" if FINE_TUNED in training else "was trained on them"
    else:
        how = f"drew their recordings {count} times" if count else "held them out, to weigh its mixture by"
    return _Trace(str(folder), kind, how)


def _rows_of_npz(path: Path, label: str, keys: set[str]) -> int:
    with np.load(path, allow_pickle=False) as arrays:
        columns = [arrays[name] for name in _NPZ_COLUMNS if name in arrays.files]
    texts = [column for column in columns if column.ndim == 1 and column.dtype.kind == "U"]
    return max((sum(_is_theirs(str(cell), label, keys) for cell in column) for column in texts), default=0)


def _is_theirs(cell: str, label: str, keys: set[str]) -> bool:
    """Whether a cell is the participant or one of the sessions; of any session, where the store has none left to compare with."""
    return cell == label or cell in keys or (not keys and cell.startswith(f"{label}_"))


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
