"""A table of participants that contradicts itself is refused; what matches nobody is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_samples import TR_S

from slimbrain.cli import run_command
from slimbrain.errors import InputError, StoreError
from slimbrain.store import Channels, Store
from slimbrain.store.participants import merge_participants, read_people, unmatched
from slimbrain.store.verify import verify
from slimbrain.store.write import write_roi_session


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store", None, TR_S)
    for subject in ("001", "002", "003"):
        write_roi_session(store, {"sub": subject}, np.ones((9, 2)), Channels(("a", "b"), np.zeros((2, 3))), TR_S)
    return store


CONTRADICTIONS = [
    ("participant_id\tsex\nsub-001\tF\nsub-002\tM\nsub-001\tM\n", "sub-001 has sex 'F' in line 2 and 'M' in line 4"),
    ("participant_id\tsex\nsub-001\tF\n001\tM\n", "sub-001 .*F.*M"),
    ("participant_id\tsex\nsub-001\tF\n sub-001 \tM\n", "sub-001 .*F.*M"),
    ("participant_id\tsex\tage\tsex\nsub-001\tF\t3\tM\n", "column sex is there twice"),
    ("participant_id\tparticipant_id\nsub-001\tsub-002\n", "column participant_id .*twice"),
    ('participant_id\tsex\nsub-001\t"F\nsub-002\tM\nsub-003\tM\n', "quote"),
    ('participant_id\tsex\nsub-001\t"F\nsub-002\tM"\nsub-003\tM\n', "quote"),
    ('participant_id\tsex\tage\nsub-001\t"F\t3"\n', "quote"),
    ("participant_id\tsex\n\tF\n", "line 2 .*names nobody"),
    ("participant_id\tsex\nn/a\tF\n", "line 2 .*names nobody"),
    ("subject\tsex\nsub-001\tF\n", "no column participant_id"),
    ("participant_id\tsex\nsub-001\tF\textra\n", "line 2 .*more cells"),
]


@pytest.mark.parametrize(("text", "words"), CONTRADICTIONS)
def test_a_table_that_contradicts_itself_is_refused_in_one_sentence(text: str, words: str, store: Store) -> None:
    path = store.root / "participants.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as refusal:
        read_people(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(StoreError, match=words):
        _ = Store(store.root).participants
    assert [problem.file for problem in verify(store.root).problems] == ["participants.tsv"]


def test_what_says_the_same_twice_or_is_spelt_with_spaces_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text('participant_id\tsex\tnote\nsub-001\tF\tn/a\n 002\tM\t5" disc\n001\tF\tlate\n')
    assert read_people(path) == {
        "sub-001": {"participant_id": "sub-001", "sex": "F", "note": "late"},
        "sub-002": {"participant_id": "sub-002", "sex": "M", "note": '5" disc'},
    }


def test_rows_of_nobody_and_sessions_without_a_row_are_counted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.root / "participants.tsv").write_text("participant_id\tsex\n1\tF\n2\tM\nsub-003\tM\n")
    nobody, bare = unmatched(Store(store.root).participants, store.sessions.subjects)
    assert nobody.startswith("2 of 3 rows match no session, first sub-1;") and "sub-1 and sub-001 differ in zeros" in nobody
    assert bare == "2 of 3 participants with sessions have no row, first sub-001."
    assert run_command(["store", "verify", str(store.root)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 rows match no session" in printed and "2 of 3 participants with sessions have no row" in printed
    merge_participants(store.root, [{"participant_id": "001", "sex": "F"}, {"participant_id": "sub-002", "sex": "F"}])
    assert unmatched(Store(store.root).participants, {"sub-001", "sub-002", "sub-003", "sub-1", "sub-2"}) == []


def test_a_store_without_a_table_has_nothing_to_count(store: Store) -> None:
    assert unmatched({}, store.sessions.subjects) == []
