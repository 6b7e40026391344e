"""The table of participants of a store: one row a participant, one column for each thing known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import MISSING, format_tsv, read_tsv
from slimbrain.errors import StoreError

PARTICIPANTS_FILE = "participants.tsv"
PARTICIPANT = "participant_id"


def read_participants(root: Path) -> dict[str, dict[str, str]]:
    """Columns of `participants.tsv` by participant (`sub-01`); empty if there is none."""
    path = root / PARTICIPANTS_FILE
    rows = read_tsv(path) if path.exists() else []
    if rows and PARTICIPANT not in rows[0]:
        raise StoreError(f"{path}: has no column {PARTICIPANT}; restore it from the source's root folder.")
    return {row[PARTICIPANT]: row for row in rows}


def merge_participants(root: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Add participants and their columns to the store's table; where both have a value, the new one stays.

    Parameters
    ----------
    rows : each with `participant_id`, with or without `sub-`; empty cells and `n/a` say nothing.
    """
    rows = list(rows)
    if not rows:
        return
    with claim(root, PARTICIPANTS_FILE, wait=True):
        merged = dict(read_participants(root))
        for row in rows:
            name = row[PARTICIPANT] if row[PARTICIPANT].startswith("sub-") else f"sub-{row[PARTICIPANT]}"
            known = {column: value for column, value in row.items() if value and value != MISSING}
            merged[name] = {**dict.fromkeys(row, MISSING), **merged.get(name, {}), **known, PARTICIPANT: name}
        columns = list(dict.fromkeys([PARTICIPANT, *(column for row in merged.values() for column in row)]))
        complete = [{column: value or MISSING for column, value in row.items()} for row in merged.values()]
        write_text(root / PARTICIPANTS_FILE, format_tsv(columns, complete))
