"""Tab-separated tables: read one, write one, put one row into one of thousands without reading the others."""

from __future__ import annotations

import bisect
import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from slimbrain.errors import StoreError

TAB, END = "\t", "\n"

MISSING = "n/a"
"""BIDS' own word for an empty cell."""

BEYOND = ""
"""Name of a column that a tab at the end of the header makes."""


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file by column name.

    Raises
    ------
    StoreError
        If the file is missing or not UTF-8.
    """
    columns, rows = read_columns(path)
    return [{name: cell for name, cell in zip(columns, cells, strict=True) if name != BEYOND} for cells in rows]


def read_columns(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header of a tab-separated file, and the cells of each row, as many as the header has.

    Raises
    ------
    StoreError
        If the file is missing or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            text = handle.read()
            # Without quotes a tab is a tab and a line a line, three times as fast.
            lines = [line.split(TAB) for line in text.split(END)] if '"' not in text and "\r" not in text else None
            table = [cells for cells in (lines or csv.reader(io.StringIO(text, newline=""), delimiter=TAB)) if cells not in ([], [""])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path}: cannot be read as a tab-separated table ({error}); restore it from where it came.") from error
    if not table:
        return [], []
    columns, *rows = table
    # Rows typed by hand may lack last cells or have empty ones beyond the last column.
    return columns, [cells if len(cells) == len(columns) else (cells + [MISSING] * len(columns))[: len(columns)] for cells in rows]


def format_tsv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as tab-separated text with a header; `n/a` where a row lacks a column."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval=MISSING, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def insert_row(text: str, key: str, columns: Collection[str], line: Callable[[Sequence[str]], str]) -> str | None:
    """A tab-separated table with one row more, or with the row of that key replaced.

    Rows are found by bisection and left as they stand, so that adding one to 4,000 costs little more than writing the file.

    Parameters
    ----------
    text : the table; rows sorted by their first cell.
    key : first cell of the new row.
    columns : columns that the new row fills.
    line : makes the row, with its end, for the columns that the table has.

    Returns
    -------
    The new text; None if the table must be made anew: it lacks a column, or was edited into another form.
    """
    # Quotes may hide ends of lines and tabs; no table of ours needs them but for odd names.
    if '"' in text or "\r" in text or not text.endswith(END):
        return None
    header, *rows = text.split(END)[:-1]
    table_columns = header.split(TAB)
    if not set(columns) <= set(table_columns):
        return None
    new = line(table_columns)
    place = bisect.bisect_left(rows, key, key=_first_cell)
    if place < len(rows) and _first_cell(rows[place]) == key:
        rows.pop(place)
    elif f"{END}{key}{TAB}" in text:
        return None
    return END.join((header, *rows[:place], new[:-1], *rows[place:], ""))


def _first_cell(row: str) -> str:
    return row.split(TAB, 1)[0]
