"""The table of sessions, read by columns: what reading it row by row gives, and no session made before it is asked for."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbrain.config import ComponentConfig, MixtureConfig, SamplingConfig
from slimbrain.data.mixture import divide
from slimbrain.data.samplers import mix
from slimbrain.errors import StoreError
from slimbrain.store import SessionTable, Store, manifest
from slimbrain.store.manifest import MANIFEST_COLUMNS

FURTHER = ("cohort", "coverage")
GOOD = ("k{0}", "sub-{0}", "ses-1", "rest", "n/a", "MNI", "300", "0.72", "sub-{0}/k{0}.safetensors", "abc", "0.9{0}")
NASTY = (
    "",
    "n/a",
    "/x",
    "a/../b",
    "a..b",
    "-1",
    "0",
    "1e3",
    "nan",
    "inf",
    "0300",
    " 7",
    "1_0",
    ".720",
    "x\0",
    "é",
    "k1",
    'a "b" c',
    "a\tb",
    "a\nb",
    "a\rb",
)


def truth(text: str) -> list[tuple[Any, ...]] | None:
    """Sessions as the format tells them (docs/store_format.md), row by row; None for a table that has to be refused."""
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t") if row not in ([], [""])]
    found = {}
    if any(sign in cell for row in rows[1:] for cell in row for sign in "\t\n\r"):
        return None
    for row in rows[1:]:
        cells = dict(zip(rows[0], [*row, *["n/a"] * len(rows[0])], strict=False))
        if not cells.keys() >= set(MANIFEST_COLUMNS):
            return None
        own = {name: "" if cells[name] == "n/a" else cells[name] for name in MANIFEST_COLUMNS}
        key, path = own["session"], own["path"]
        try:
            frames, tr = int(own["n_frames"]), float(own["tr"])
        except ValueError:
            return None
        odd = not path.endswith(".safetensors") or frames < 1 or not (math.isfinite(tr) and tr > 0)
        leaves = path.startswith("/") or ".." in path.split("/") or "\0" in key + path or "/" in key
        if odd or leaves or not (key and own["participant_id"] and own["space"] and path):
            return None
        qc = {name: cell for name, cell in cells.items() if name and name not in MANIFEST_COLUMNS}
        found[key] = (*list(own.values())[:6], frames, tr, path, qc)
    return [found[key] for key in sorted(found)]


@st.composite
def tables(draw: st.DrawFn) -> str:
    """A table of up to four rows, most of them with something wrong or odd."""
    columns = [*MANIFEST_COLUMNS, *FURTHER]
    rows = [[cell.format(number) for cell in GOOD] for number in draw(st.lists(st.integers(0, 5), max_size=4))]
    for row in rows:
        for place in draw(st.lists(st.integers(0, len(columns) - 1), max_size=2)):
            row[place] = draw(st.sampled_from(NASTY))
    kind = draw(st.sampled_from(["as it is", "moved", "column lost", "tab at the end", "short row", "blank line"]))
    if kind == "moved":
        order = draw(st.permutations(range(len(columns))))
        columns, rows = [columns[place] for place in order], [[row[place] for place in order] for row in rows]
    if kind == "column lost":
        lost = draw(st.integers(0, len(columns) - 1))
        columns, rows = ([*cells[:lost], *cells[lost + 1 :]] for cells in (columns, [])), [[*row[:lost], *row[lost + 1 :]] for row in rows]
        columns = next(iter(columns))
    if kind == "tab at the end":
        columns = [*columns, ""]
    if kind == "short row" and rows:
        rows[-1] = rows[-1][: draw(st.integers(1, len(columns)))]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t", lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerows([columns, *rows])
    text = buffer.getvalue()
    return f"{text}\n" if kind == "blank line" else text.removesuffix("\n") if draw(st.booleans()) else text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=tables())
def test_columns_give_what_rows_give(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.tsv"
    path.write_bytes(text.encode())
    expected = truth(text)
    if expected is None:
        with pytest.raises(
            StoreError, match=r"sessions.tsv: (row \{.* is damaged \(.*\); delete it and run `sl.* again\.|cannot be read .* swallows .*\.)"
        ):
            manifest._parse(path)
        return
    table = manifest._parse(path)
    # Columns are those of the sessions, whichever way they come.
    plain = SessionTable.of(list(manifest._parse(path)))
    for name in MANIFEST_COLUMNS if expected else ():
        assert table.column(name) == plain.column(name)
    assert [astuple(info) for info in table] == expected == [astuple(table[place]) for place in range(len(table))]
    assert all(table.find(info[0]) == table[place] for place, info in enumerate(expected))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two hundred sessions of which there is nothing but the table."""
    store = Store.create(tmp_path / "store", None, 0.72)
    rows = [
        "\t".join([f"k{number:03d}", f"sub-{number // 2}", *GOOD[2:6], str(5 + number), *GOOD[7:9], "ab"[number % 2], f"0.{number}"])
        for number in range(200)
    ]
    (store.root / "sessions.tsv").write_text("\n".join(["\t".join([*MANIFEST_COLUMNS, *FURTHER]), *rows]) + "\n")
    return Store(store.root)


def test_no_session_is_made_to_filter_and_plan_but_the_one_that_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: ComponentConfig(filter=f"cohort == '{name}' and coverage < 0.5", weight=1.0) for name in "ab"}
    made: list[str] = []
    plain = manifest.SessionInfo
    monkeypatch.setattr(manifest, "SessionInfo", lambda key, *cells: made.append(key) or plain(key, *cells))
    division = divide(store, store.sessions.of_windows(8, 5), SamplingConfig(mixture=MixtureConfig(components=parts)), 0)
    drawn = mix(division.drawn_as, 0, division.weights).session(0)
    # The first of those that no component takes is named to the user.
    assert made == [division.notes[0].split()[-1].removesuffix(".")] and drawn < len(division.trained)
    # Of five windows of eight frames there are those from 40 frames on.
    expected = [info for info in store.sessions if info.n_frames >= 40 and float(info.qc["coverage"]) < 0.5]
    assert list(division.trained) == expected and division.drawn_as == [info.qc["cohort"] for info in expected]
    assert division.trained[drawn] in expected


def test_a_part_of_a_table_is_a_table(store: Store) -> None:
    listed = list(store.sessions)
    some = store.sessions.take([5, 3, 8])
    assert list(some) == [listed[5], listed[3], listed[8]] == list(some[:]) and some[-1] == listed[8] and listed[3] in some
    assert some.column("n_frames") == ["10", "8", "13"] and some.find("k003") == listed[3] and some.find("k004") is None
    assert store.sessions[10:4:-3] == [listed[10], listed[7]] and store.sessions[190:].subjects == {f"sub-{n}" for n in range(95, 100)}
    assert some != listed and len(store.sessions) == 200 and store.sessions.further == list(FURTHER)
