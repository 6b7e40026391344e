"""The table of participants of a store: one row per participant, one column for each thing known of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import BEYOND, MISSING, format_tsv, read_columns
from slimbrain.errors import InputError, StoreError
from slimbrain.store.subjects import same_label, with_prefix

PARTICIPANTS_FILE = "participants.tsv"
PARTICIPANT = "participant_id"

_NOTHING = ("", MISSING)


def read_people(path: Path) -> dict[str, dict[str, str]]:
    """Columns of a participants.tsv by participant (`sub-01`); ids may lack `sub-` or have spaces around them.

    Raises
    ------
    InputError
        If the table cannot be read, or contradicts itself: one participant with different values, a column twice, a quote that is not
        closed and swallows other cells or rows.
    """
    try:
        header, columns = read_columns(path, one_line=True)
    except StoreError as error:
        raise InputError(str(error)) from error
    if header and PARTICIPANT not in header:
        raise InputError(f"{path}: has no column {PARTICIPANT}; add it, or restore the table from the source's root folder.")
    people: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    for line, cells in enumerate(zip(*columns, strict=True), start=2):
        row = {name: cell for name, cell in zip(header, cells, strict=True) if name != BEYOND}
        label = row[PARTICIPANT].strip()
        if label in _NOTHING:
            raise InputError(f"{path}: line {line} names nobody; fill in its {PARTICIPANT}, or delete it.")
        row[PARTICIPANT] = label = with_prefix(label)
        before = people.get(label, row)
        for name, cell in row.items():
            if cell not in _NOTHING and before[name] not in _NOTHING and cell != before[name]:
                raise InputError(
                    f"{path}: {label} has {name} {before[name]!r} in line {lines[label]} and {cell!r} in line {line}; leave one of them."
                )
        people[label] = {name: row[name] if cell in _NOTHING else cell for name, cell in before.items()}
        lines.setdefault(label, line)
    return people


def read_participants(root: Path) -> dict[str, dict[str, str]]:
    """Columns of a store's `participants.tsv` by participant (`sub-01`); empty if there is none.

    Raises
    ------
    StoreError
        As `read_people`.
    """
    path = root / PARTICIPANTS_FILE
    try:
        return read_people(path) if path.exists() else {}
    except InputError as error:
        raise StoreError(str(error)) from error


def unmatched(people: Collection[str], subjects: Collection[str]) -> list[str]:
    """Which rows match no session and which sessions match no row, counted, in sentences; nothing where all match or there is no table.

    Parameters
    ----------
    people : collection of str
        Participants of the table.
    subjects : collection of str
        Participants who have sessions.
    """
    if not people:
        return []
    nobody, bare = sorted(set(people) - set(subjects)), sorted(set(subjects) - set(people))
    found = []
    if nobody:
        alike = next(((one, other) for one in nobody for other in bare if same_label(one, other)), None)
        hint = f"; {alike[0]} and {alike[1]} differ in zeros in front alone, write labels alike" if alike else ""
        found.append(f"{len(nobody)} of {len(people)} rows match no session, first {nobody[0]}{hint}.")
    if bare:
        found.append(f"{len(bare)} of {len(subjects)} participants with sessions have no row, first {bare[0]}.")
    return found


def merge_participants(root: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Add participants and their columns to the store's table; where both have a value, the new one stays.

    Parameters
    ----------
    rows : iterable of mappings
        Each with `participant_id`, with or without `sub-`; empty cells and `n/a` say nothing.
    """
    rows = list(rows)
    if not rows:
        return
    with claim(root, PARTICIPANTS_FILE, wait=True):
        merged = dict(read_participants(root))
        for row in rows:
            name = with_prefix(row[PARTICIPANT])
            cells = {column: " ".join(value.split()) for column, value in row.items()}
            known = {column: value for column, value in cells.items() if value not in _NOTHING}
            merged[name] = {**dict.fromkeys(row, MISSING), **merged.get(name, {}), **known, PARTICIPANT: name}
        columns = list(dict.fromkeys([PARTICIPANT, *(column for row in merged.values() for column in row)]))
        complete = [{column: value or MISSING for column, value in row.items()} for row in merged.values()]
        write_text(root / PARTICIPANTS_FILE, format_tsv(columns, complete))
