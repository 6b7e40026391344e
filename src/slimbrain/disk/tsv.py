"""Tab-separated tables: read one, write one, put one row into one of thousands without reading the others."""

from __future__ import annotations

import bisect
import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from slimbrain.errors import StoreError

_TAB, _END = "\t", "\n"

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
    header, columns = read_columns(path)
    return [{name: cell for name, cell in zip(header, cells, strict=True) if name != BEYOND} for cells in zip(*columns, strict=True)]


def read_columns(path: Path, one_line: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header of a tab-separated file, and the cells of each of its columns.

    Parameters
    ----------
    path : Path
        File to read.
    one_line : bool
        Refuse cells with a tab or the end of a line, which in most tables are a quote that nobody closed.

    Raises
    ------
    StoreError
        If the file is missing or not UTF-8, has a column twice, cells beyond its columns, or a quote that is not closed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header, columns = _cut(text) or _parse(text, one_line)
        twice = [name for name, count in Counter(header).items() if count > 1 and name != BEYOND]
        if twice:
            raise csv.Error(f"the column {twice[0]} is there twice")
        return header, columns
    except FileNotFoundError as error:
        raise StoreError(f"{path}: cannot be read, it is not there; correct the name, or restore it from where it came.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).replace("unexpected end of data", "a quote is not closed")
        raise StoreError(
            f"{path}: cannot be read as a tab-separated table ({reason}); correct it or restore it from where it came."
        ) from error


def _cut(text: str) -> tuple[list[str], list[list[str]]] | None:
    """Header and columns of a table whose rows are all as long as its header; None if it is of another form.

    Without quotes tabs and lines stay as they are, so the whole can be cut at its tabs at once. The last cell of a row and the first
    of the next then are one piece, with a line end between them, and every other piece has none.
    """
    tabs = text.partition(_END)[0].count(_TAB)
    if '"' in text or "\r" in text or not tabs:
        return None
    pieces = text.split(_TAB)
    pieces[-1] = pieces[-1].removesuffix(_END)
    seams = pieces[tabs::tabs]
    ends = _END.join(seams).split(_END)
    if len(pieces) - 1 != tabs * len(seams) or len(ends) != 2 * len(seams) - 1 or not all(_END in seam for seam in seams[:-1]):
        return None
    if text.count(_END) - text.endswith(_END) != len(seams) - 1:
        return None
    return [*pieces[:tabs], ends[0]], [ends[1::2], *(pieces[tabs + column :: tabs] for column in range(1, tabs)), ends[2::2]]


def _parse(text: str, one_line: bool) -> tuple[list[str], list[list[str]]]:
    lines = enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=_TAB, strict=True), start=1)
    table = [(line, cells) for line, cells in lines if cells not in ([], [""])]
    if not table:
        return [], []
    (_, header), *numbered = table
    for line, cells in numbered:
        if any(cells[len(header) :]):
            raise csv.Error(f"line {line} has more cells than there are columns")
        if one_line and any(sign in cell for cell in cells for sign in (_TAB, _END, "\r")):
            raise csv.Error(f"line {line} has a quote that swallows other cells or lines")
    rows = [cells for _, cells in numbered]
    # Rows typed by hand may lack last cells or have empty ones beyond the last column.
    rows = [(cells + [MISSING] * len(header))[: len(header)] for cells in rows]
    return header, [list(cells) for cells in zip(*rows, strict=True)] or [[] for _ in header]


def format_tsv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as tab-separated text with a header; `n/a` where a row lacks a column."""
    text = _format(columns, rows, csv.QUOTE_MINIMAL)
    # csv reads a bare carriage return as the end of a line, but does not quote it.
    return _format(columns, rows, csv.QUOTE_ALL) if "\r" in text else text


def _format(columns: Sequence[str], rows: Sequence[Mapping[str, object]], quoting: Literal[0, 1]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval=MISSING, delimiter="\t", lineterminator="\n", extrasaction="ignore", quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def insert_row(text: str, key: str, columns: Collection[str], line: Callable[[Sequence[str]], str]) -> str | None:
    """A tab-separated table with one row more, or with the row of that key replaced.

    Rows are found by bisection and left as they stand, so that adding one to 4,000 costs little more than writing the file.

    Parameters
    ----------
    text : str
        The table; rows sorted by their first cell.
    key : str
        First cell of the new row.
    columns : collection of str
        Columns that the new row fills.
    line : callable
        Makes the row, with its end, for the columns that the table has.

    Returns
    -------
    The new text; None if the table must be made anew: it lacks a column, or was edited into another form.
    """
    # Quotes may hide ends of lines and tabs; no table of ours needs them but for odd names.
    if '"' in text or "\r" in text or not text.endswith(_END):
        return None
    header, *rows = text.split(_END)[:-1]
    table_columns = header.split(_TAB)
    if not set(columns) <= set(table_columns):
        return None
    new = line(table_columns)
    place = bisect.bisect_left(rows, key, key=_first_cell)
    if place < len(rows) and _first_cell(rows[place]) == key:
        rows.pop(place)
    elif f"{_END}{key}{_TAB}" in text:
        return None
    return _END.join((header, *rows[:place], new[:-1], *rows[place:], ""))


def _first_cell(row: str) -> str:
    return row.split(_TAB, 1)[0]
