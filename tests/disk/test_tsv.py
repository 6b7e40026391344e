"""A row put into a table of text gives the table that would have been made from all rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbrain.disk.tsv import format_tsv, insert_row, read_columns, read_tsv
from slimbrain.errors import StoreError

COLUMNS = ("key", "a", "b")
Row = dict[str, str]
KEY = st.text("abzABZé019_-", min_size=1, max_size=6)
CELL = st.sampled_from(["1", "x y", "n/a"])
ROWS = st.dictionaries(KEY, st.tuples(CELL, CELL), max_size=12)


def table(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="n/a", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["key"]))
    return buffer.getvalue()


def insert(text: str, row: Row) -> str | None:
    return insert_row(text, row["key"], row, lambda columns: table([row], columns).split("\n", 1)[1])


@given(values=ROWS, new=KEY)
def test_the_table_is_the_one_made_from_all_rows(values: dict[str, tuple[str, str]], new: str) -> None:
    rows = {key: {"key": key, "a": a, "b": b} for key, (a, b) in values.items()}
    row = {"key": new, "a": "7", "b": "8"}
    result = insert(table(list(rows.values())), row)
    assert result == table(list((rows | {new: row}).values()))


def test_a_row_without_a_value_gets_the_word_for_it() -> None:
    text = table([{"key": "m", "a": "1", "b": "2"}])
    assert insert(text, {"key": "n", "b": "3"}) == "key\ta\tb\nm\t1\t2\nn\tn/a\t3\n"


@pytest.mark.parametrize(
    "text",
    [
        "key\ta\nm\t1\n",
        "key\ta\tb\nm\t1\t2",
        "key\ta\tb\r\nm\t1\t2\r\n",
        'key\ta\tb\nm\t"1\n"\t2\n',
        "key\ta\tb\nz\t1\t2\nn\t1\t2\na\t1\t2\n",
        "\ufeffkey\ta\tb\nm\t1\t2\n",
        "",
    ],
    ids=["column missing", "no end", "carriage returns", "quotes", "not sorted, and there", "byte order mark", "empty"],
)
def test_tables_of_another_form_are_left_to_be_made_anew(text: str) -> None:
    assert insert(text, {"key": "n", "a": "1", "b": "2"}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a\tb\n1\t"x\n2\ty\n', "a quote is not closed"),
        ("a\tb\ta\n1\t2\t3\n", "the column a is there twice"),
        ("a\tb\n1\t2\t3\n", "line 2 has more cells than there are columns"),
    ],
)
def test_a_table_that_would_lose_cells_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(StoreError, match=words):
        read_tsv(tmp_path / "x.tsv")


def test_a_table_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing.tsv: cannot be read, it is not there; correct the name"):
        read_tsv(tmp_path / "nothing.tsv")


def test_cells_of_several_lines_are_read_where_they_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(format_tsv(["file", "reason"], [{"file": "a\nb.nii", "reason": "c\td"}]))
    assert read_tsv(tmp_path / "x.tsv") == [{"file": "a\nb.nii", "reason": "c\td"}]
    with pytest.raises(StoreError, match="line 2 has a quote that swallows other cells or lines"):
        read_columns(tmp_path / "x.tsv", one_line=True)
