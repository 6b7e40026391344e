"""Labels that no file or table can carry are refused before anything is written; long ones in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ledger_samples import OPEN, make

from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.governance.withdraw import withdraw
from slimbrain.store import Channels, SessionInfo, Store
from slimbrain.store.participants import merge_participants
from slimbrain.store.verify import verify
from slimbrain.store.write import write_roi_session

CHANNELS = Channels(("a", "b"), np.zeros((2, 3)))


def write(store: Store, **entities: str) -> SessionInfo:
    return write_roi_session(store, entities, np.ones((9, 2)), CHANNELS, 0.72)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "a\rb", "a\0b", "a/b", "../x", "a\x1bb", "a\u2028b", "\ud800", ""])
@pytest.mark.parametrize("entity", ["sub", "ses", "task", "run"])
def test_a_label_that_no_file_or_table_can_carry_is_refused(entity: str, label: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", None, 0.72)
    before = tree(tmp_path)
    if not label and entity != "sub":
        # An entity without a label is one that is not there.
        assert write(store, sub="01", **{entity: label}).key == "sub-01_space-roi"
        return
    with pytest.raises(InputError, match=f"{entity}.*label") as refusal:
        write(store, **{"sub": "01", entity: label})
    assert "\n" not in str(refusal.value) and tree(tmp_path) == before


@pytest.mark.parametrize("letter", ["a", "é", "脳"])
def test_a_name_is_written_as_long_as_files_may_be_and_refused_beyond(letter: str, tmp_path: Path) -> None:
    """Of 255 bytes, some are for the temporary name that a file has while it is written."""
    store = Store.create(tmp_path / "store", None, 0.72)
    written: list[int] = []
    for length in range(40, 260, 5):
        task = letter * length
        before = tree(tmp_path)
        try:
            info = write(store, sub="01", task=task)
        except InputError as error:
            assert "bytes" in str(error) and "\n" not in str(error) and tree(tmp_path) == before
            continue
        assert Store(store.root).coarse(info.key).shape == (9, 2)
        written.append(len(Path(info.path).name.encode()))
    assert 200 < max(written) <= 255 and verify(store.root).problems == []


def test_cells_of_several_lines_become_one_line_in_the_table_of_participants(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", None, 0.72)
    merge_participants(store.root, [{"participant_id": "01", "note": 'said "no"\nthen\tyes'}])
    assert Store(store.root).participants["sub-01"]["note"] == 'said "no" then yes'


def test_tables_of_files_with_any_name_are_read_and_cleaned(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN})
    odd = ["sub-01/func/a\nb\tc.nii", "x" * 255 + ".nii", 'sub-02/func/"q\n".nii', "sub-02_\r.nii", "sub-01/" + "é" * 120]
    path = store.root / "failures.tsv"
    path.write_text(format_tsv(["file", "reason"], [{"file": name, "reason": "r"} for name in odd]), newline="")
    assert [row["file"] for row in read_tsv(path)] == odd
    withdraw(store.root, "02")
    assert [row["file"] for row in read_tsv(path)] == [odd[0], odd[1], odd[4]]


@pytest.mark.parametrize("subject", ["02\n", "sub-\0", "../sub-02", "x" * 300, "", "*"])
def test_nobody_is_withdrawn_by_a_name_that_nobody_has(subject: str, tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN})
    before = tree(store.root)
    with pytest.raises(SlimbrainError) as refusal:
        withdraw(store.root, subject)
    assert str(refusal.value).count("\n") == subject.count("\n")
    assert {name for name in tree(store.root) if not name.startswith((".lock", ".claims"))} == before - {".lock", ".claims"}
