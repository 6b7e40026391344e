"""Put one row into a table of thousands without reading the others."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Sequence

TAB, END = "\t", "\n"


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
