"""Times of files say nothing: a clock that jumps, or a copy that keeps times, changes no answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ledger_samples import CLOSED, OPEN, make, write

from slimbrain.disk.atomic import TEMPORARY_PREFIX
from slimbrain.governance.withdraw import withdraw
from slimbrain.store import Store
from slimbrain.store.merge import merge
from slimbrain.store.records import RECORDS_FILE, records
from slimbrain.store.verify import sweep, verify
from slimbrain.store.withdrawn import WITHDRAWN_FILE, withdrawn


def change_in_place(path: Path, before: str, after: str) -> None:
    """Other text of the same length in the same file, with the times that it had."""
    status, text = path.stat(), path.read_text()
    assert len(before) == len(after) and before in text
    with open(path, "r+") as handle:
        handle.write(text.replace(before, after))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) == (status.st_ino, status.st_size, status.st_mtime_ns)


def test_a_table_that_changed_is_read_again_whatever_its_times_say(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN})
    assert {info.task for info in store.sessions} == {"rest"}
    change_in_place(store.root / "sessions.tsv", "\trest\t", "\tface\t")
    assert {info.task for info in Store(store.root).sessions} == {"face"}


def test_a_record_of_a_withdrawal_that_changed_is_read_again(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN})
    withdraw(store.root, "02")
    (record,) = withdrawn(store.root).active
    change_in_place(store.root / WITHDRAWN_FILE, record.date, "1999-01-01")
    assert withdrawn(store.root).active[0].date == "1999-01-01"


def test_terms_that_changed_are_read_again(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": CLOSED})
    assert len(records(store.root)) == 2
    change_in_place(store.root / RECORDS_FILE, "insurers", "employer")
    with pytest.raises(Exception, match="is not what was written"):
        records(store.root)


@pytest.mark.parametrize("seconds", [-2_000_000_000, 2_000_000_000])
def test_a_clock_that_jumped_changes_nothing(seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN, "03": OPEN})
    (left := store.root / "sub-01" / f"{TEMPORARY_PREFIX}999999-x").write_text("left by a killed process")
    now = time.time()
    for path in store.root.rglob("*"):
        os.utime(path, (max(0, now + seconds),) * 2)
    monkeypatch.setattr(time, "time", lambda: now - seconds)
    sweep(store.root)
    assert not left.exists() and verify(store.root).problems == []
    write(store, "04", "1", OPEN)
    withdraw(store.root, "02")
    assert Store(store.root).sessions.subjects == {"sub-01", "sub-03", "sub-04"}
    assert merge(tmp_path / "out", [Store(store.root)]).failures == [] and verify(tmp_path / "out").problems == []
