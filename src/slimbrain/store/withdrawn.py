"""Who was withdrawn from a store: a hash in place of a name, since when, and why.

The line in `withdrawn.tsv` is written before anything is deleted. From then on nothing of the participant is read, whatever still lies in
the folder, and what is unfinished can be finished by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from slimbrain.disk.atomic import FileVersion, file_version, write_text
from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import MISSING, format_tsv, read_tsv
from slimbrain.errors import StoreError
from slimbrain.store.subjects import is_hash, subject_hash

WITHDRAWN_FILE = "withdrawn.tsv"


@dataclass(frozen=True)
class WithdrawalRecord:
    """One participant who was withdrawn.

    Attributes
    ----------
    label : str
        Hash of the label alone.
    person : str
        Hash of cohort and label; empty where the cohort is not known.
    cohort : str
        Study, in clear; empty if not known.
    date : str
        Day of the withdrawal, ISO 8601.
    reason : str
        Why, in the words of whoever withdrew.
    removed : str
        Day on which the last file was gone; empty while there may be some.
    readmitted : str
        Day on which `slimbrain prep --readmit` took the participant in again; such a record has no effect.
    """

    label: str
    person: str = ""
    cohort: str = ""
    date: str = ""
    reason: str = ""
    removed: str = ""
    readmitted: str = ""

    @property
    def who(self) -> tuple[str, str]:
        return (self.label, self.person)

    def is_of(self, label: str, cohort: str) -> bool:
        """Whether this is the participant; where a cohort is not known on one of the sides, equal labels count."""
        if cohort and self.cohort:
            return self.person == subject_hash(label, cohort)
        return self.label == subject_hash(label)


_COLUMNS = tuple(field.name for field in fields(WithdrawalRecord))


class Withdrawn:
    """The records of a store's withdrawals."""

    def __init__(self, records: Iterable[WithdrawalRecord] = ()) -> None:
        self.all = tuple(records)
        self.active = tuple(record for record in self.all if not record.readmitted)
        self._persons = {record.person: record for record in self.active if record.person}
        self._unplaced = {record.label: record for record in self.active if not record.person}
        self._labels = {record.label: record for record in self.active}

    def __bool__(self) -> bool:
        return bool(self.active)

    def suspects(self, labels: Iterable[str]) -> set[str]:
        """Labels that are a withdrawn participant's in one cohort or another; of all others `find` finds nothing."""
        cohorts = {record.cohort for record in self.active if record.person}
        return {
            label
            for label in labels
            if subject_hash(label) in self._labels or any(subject_hash(label, cohort) in self._persons for cohort in cohorts)
        }

    def find(self, label: str, cohort: str) -> WithdrawalRecord | None:
        """The record of a participant, as `WithdrawalRecord.is_of` says; by look-up, for many."""
        plain = subject_hash(label)
        if not cohort:
            return self._labels.get(plain)
        return self._persons.get(subject_hash(label, cohort)) or self._unplaced.get(plain)


def refusal(root: Path, label: str, record: WithdrawalRecord) -> str:
    """Why nothing of a participant is read or written."""
    why = f" ({record.reason})" if record.reason else ""
    return (
        f"{root}: {label} was withdrawn on {record.date}{why}; leave the participant out, or take them in again with "
        f"`slimbrain prep --readmit {label.removeprefix('sub-')}` if they agreed."
    )


def refuse_withdrawn(root: Path, label: str, cohort: str) -> None:
    """Raise a StoreError if the participant was withdrawn from the store."""
    if record := withdrawn(root).find(label, cohort):
        raise StoreError(refusal(root, label, record))


def new_record(label: str, cohort: str, date: str, reason: str) -> WithdrawalRecord:
    """What is kept of a participant: no name."""
    return WithdrawalRecord(subject_hash(label), subject_hash(label, cohort) if cohort else "", cohort, date, " ".join(reason.split()))


def withdrawn(root: Path) -> Withdrawn:
    """Who was withdrawn from a store; read again only once the table was replaced.

    Raises
    ------
    StoreError
        If the table is damaged: without it nobody knows whom to leave out.
    """
    path = root / WITHDRAWN_FILE
    try:
        version = file_version(path)
    except FileNotFoundError:
        return _NONE
    return _read_once(path, version)


_NONE = Withdrawn()


@lru_cache(maxsize=8)
def _read_once(path: Path, version: FileVersion) -> Withdrawn:
    records = []
    for line, row in enumerate(read_tsv(path), start=2):
        cells = {name: "" if row.get(name, MISSING) == MISSING else row[name] for name in _COLUMNS}
        record = WithdrawalRecord(**cells)
        if not is_hash(record.label) or not (record.person == "" or is_hash(record.person)) or bool(record.person) != bool(record.cohort):
            raise StoreError(
                f"{path}, line {line}: is no record of a withdrawal; restore the file from a copy, since it says whom to leave out."
            )
        records.append(record)
    return Withdrawn(records)


def record_withdrawals(root: Path, new: Iterable[WithdrawalRecord]) -> None:
    """Add records; one that is in force already stays as it is."""

    def add(records: list[WithdrawalRecord]) -> list[WithdrawalRecord]:
        there = {record.who for record in records if not record.readmitted}
        return [*records, *(record for record in new if record.who not in there)]

    _rewrite(root, add)


def mark(root: Path, who: tuple[str, str], **changes: str) -> None:
    """Change the record in force of a participant."""
    _rewrite(
        root, lambda records: [replace(record, **changes) if record.who == who and not record.readmitted else record for record in records]
    )


def _rewrite(root: Path, change: Callable[[list[WithdrawalRecord]], list[WithdrawalRecord]]) -> None:
    with claim(root, WITHDRAWN_FILE, wait=True):
        before = list(withdrawn(root).all)
        after = change(before)
        if after != before:
            rows = [{name: value or MISSING for name, value in vars(record).items()} for record in after]
            write_text(root / WITHDRAWN_FILE, format_tsv(_COLUMNS, rows))
