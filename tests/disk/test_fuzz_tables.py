"""Tables with odd bytes and cells: window tables, participants and results read what they mean, or are refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import Mutate, byte_edits, cell_edits, fuzzing, json_edits

from slimbrain.errors import SlimbrainError
from slimbrain.evaluate.result import read_result
from slimbrain.saliency.table import COLUMNS, read_window_table
from slimbrain.store.participants import read_participants

pytestmark = pytest.mark.slow

SESSIONS = ("sub-01_task-rest_space-roi", "sub-02_task-rest_space-roi")
CELLS = {"duration_s": "5.76", "chosen": "1"}


def window_row(session: str, window: int) -> str:
    own = {"session": session, "window": str(window), "onset_s": f"{window * 5.76:.2f}", "rank": str(3 - window), **CELLS}
    return "\t".join(own.get(name, "0.5") for name in COLUMNS)


WINDOWS = "\n".join(["\t".join(COLUMNS), *(window_row(session, window) for session in SESSIONS for window in range(3))])
PEOPLE = 'participant_id\tage\tsex\tsite\nsub-01\t31\tF\tA\nsub-02\tn/a\tM\t"B ""1"""\nsub-03\t5.5\tM\tA\n'
ROW = {"model": "ours", "method": "linear probe", "metric": "auc", "mean": 0.8, "low": 0.7, "high": 0.9, "p": 0.01}
BASELINE = {**{name: ROW[name] for name in ("metric", "mean", "low", "high")}, "model": "majority", "method": "majority class or mean"}
RESULT = {
    "task": "column:sex",
    "cohort": "store",
    "n_subjects": 20,
    "n_sessions": 20,
    "split": "5-fold by subject, 3 seeds",
    "seeds": [0, 1, 2],
    "rows": [ROW, {**BASELINE, "p": None}],
    "best_baseline": BASELINE,
    "differences": [{name: ROW[name] for name in ("model", "method", "metric", "mean", "low", "high")}],
    "classes": {"F": 9, "M": 11},
    "schema_version": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def in_one_sentence(error: SlimbrainError) -> None:
    message = str(error)
    assert message.endswith(".") and "\n" not in message and len(message) < 2000, message


def test_the_tables_are_read_as_they_are(folder: Path) -> None:
    """What the edits below start from is no refusal by itself."""
    (folder / "windows.tsv").write_text(WINDOWS + "\n", encoding="utf-8")
    (folder / "participants.tsv").write_text(PEOPLE, encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(RESULT), encoding="utf-8")
    ranks = {session: [row.rank for row in rows] for session, rows in read_window_table(folder / "windows.tsv").items()}
    assert ranks == {session: [3, 2, 1] for session in SESSIONS}
    assert read_participants(folder)["sub-02"]["site"] == 'B "1"'
    assert read_result(folder / "result.json").classes == {"F": 9, "M": 11}


@given(mutate=byte_edits(200) | cell_edits())
@fuzzing(2500)
def test_window_tables(folder: Path, mutate: Mutate) -> None:
    """Whatever is read has each window and each rank of a session once."""
    path = folder / "windows.tsv"
    path.write_bytes(mutate(WINDOWS.encode() + b"\n"))
    try:
        sessions = read_window_table(path)
    except SlimbrainError as error:
        in_one_sentence(error)
        return
    for rows in sessions.values():
        assert sorted(row.window for row in rows) == list(range(len(rows)))
        assert sorted(row.rank for row in rows) == list(range(1, len(rows) + 1))


@given(mutate=byte_edits(120) | cell_edits())
@fuzzing(2500)
def test_participants(folder: Path, mutate: Mutate) -> None:
    """Whatever is read gives each participant one row with the columns of the table."""
    (folder / "participants.tsv").write_bytes(mutate(PEOPLE.encode()))
    try:
        people = read_participants(folder)
    except SlimbrainError as error:
        in_one_sentence(error)
        return
    assert len({tuple(sorted(row)) for row in people.values()}) <= 1


@given(mutate=st.one_of(json_edits(), byte_edits(400)))
@fuzzing(1500)
def test_results(folder: Path, mutate: Mutate) -> None:
    """Whatever is read can be written and read again as it is."""
    path = folder / "result.json"
    path.write_bytes(mutate(json.dumps(RESULT).encode()))
    try:
        result = read_result(path)
    except SlimbrainError as error:
        in_one_sentence(error)
        return
    path.write_text(json.dumps(result.to_dict()), encoding="utf-8")
    assert read_result(path) == result
