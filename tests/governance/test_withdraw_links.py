"""Withdrawing where a store has symbolic links: nothing outside is deleted unasked, what lies there is said, and it comes to an end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ledger_samples import OPEN, make

from slimbrain.cli import run_command
from slimbrain.governance.withdraw import withdraw
from slimbrain.store import Store
from slimbrain.store.merge import merge
from slimbrain.store.purge import finish_withdrawals
from slimbrain.store.verify import verify
from slimbrain.store.withdrawn import new_record, record_withdrawals, withdrawn

SESSIONS = ["sub-02_ses-1_task-rest_space-roi", "sub-02_ses-2_task-rest_space-roi"]


def names(session: str) -> list[str]:
    return [f"{session}_desc-slimbrain_bold{suffix}" for suffix in (".safetensors", ".json")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(tmp_path / "store", {"01": OPEN, "02": OPEN})


def move(path: Path, outside: Path) -> Path:
    """The file or folder moved out of the store, with a link in its place."""
    outside.mkdir(exist_ok=True)
    target = path.rename(outside / path.name)
    path.symlink_to(target)
    return target


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


LINKS = {
    "a data file": ["sub-02/ses-1/func/sub-02_ses-1_task-rest_space-roi_desc-slimbrain_bold.safetensors"],
    "data and sidecar": [f"sub-02/ses-1/func/{name}" for name in names(SESSIONS[0])],
    "a func folder": ["sub-02/ses-1/func"],
    "a session's folder": ["sub-02/ses-2"],
    "the participant's folder": ["sub-02"],
    "a link behind a link": ["sub-02/ses-1/func", "sub-02/ses-1"],
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("follow", [False, True])
def test_what_lies_behind_links_is_left_and_said_or_deleted_when_told_to(
    links: list[str], follow: bool, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for link in links:
        move(store.root / link, tmp_path / "outside")
    bystander = tmp_path / "outside" / "sub-99_task-rest_space-roi_desc-slimbrain_bold.json"
    bystander.write_text('{"Cohort": "open study"}')
    (tmp_path / "outside" / "notes.txt").write_text("somebody's")
    before = files(tmp_path / "outside")
    behind = before & {name for session in SESSIONS for name in names(session)}
    assert behind and len(store.coarse(SESSIONS[0])) == 40
    command = ["withdraw", str(store.root), "02", *(["--follow-links"] if follow else [])]
    assert run_command(command) == 0
    printed = capsys.readouterr().out
    # The withdrawal is complete: nothing of them in the store, by name or by link, and the record says so.
    assert not os.path.lexists(store.root / "sub-02") and verify(store.root).problems == []
    assert withdrawn(store.root).active[0].removed and "sub-01" in {info.subject for info in Store(store.root).sessions}
    after = files(tmp_path / "outside")
    if follow:
        assert after == before - behind and printed.count("behind a symbolic link, deleted") == len(behind)
    else:
        assert after == before
        assert all(str(next((tmp_path / "outside").rglob(name)).resolve()) in printed for name in behind)
        assert "--follow-links" in printed
    # Again, nothing is left to do; and the participant may come back.
    assert run_command(command) == 0


def test_a_link_to_nowhere_and_one_in_a_circle_do_not_stop_it(store: Store) -> None:
    func = store.root / "sub-02" / "ses-1" / "func"
    (func / names(SESSIONS[0])[0]).unlink()
    (func / names(SESSIONS[0])[0]).symlink_to(store.root / "nowhere")
    (func / "around").symlink_to(store.root / "sub-02")
    withdraw(store.root, "02")
    assert not os.path.lexists(store.root / "sub-02") and verify(store.root).problems == []
    assert files(store.root / "sub-01") == {name.replace("sub-02", "sub-01") for session in SESSIONS for name in names(session)}


def test_a_link_into_the_store_itself_deletes_nobody_else(store: Store) -> None:
    (store.root / "sub-02" / "ses-3").symlink_to(store.root / "sub-01" / "ses-1")
    before = files(store.root / "sub-01")
    done = withdraw(store.root, "02", follow_links=True)
    assert files(store.root / "sub-01") == before and done.behind == [] and not os.path.lexists(store.root / "sub-02")


@pytest.mark.parametrize("name", ["participants.tsv", "failures.tsv", "report.html", "excluded"])
def test_tables_and_reports_that_are_links_lose_the_name_in_the_store_alone(name: str, store: Store, tmp_path: Path) -> None:
    (store.root / "failures.tsv").write_text("file\treason\nsub-02/x.nii\tshort\nsub-01/x.nii\tshort\n")
    (store.root / "report.html").write_text("<p>sub-02</p>")
    (store.root / "excluded").mkdir()
    (store.root / "excluded" / "sub-02_task-x_space-roi.json").write_text('{"Cohort": "open study"}')
    target = move(store.root / name, tmp_path / "outside")
    before = {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}
    done = withdraw(store.root, "02")
    assert {path: path.read_bytes() for path in before} == before
    assert done.behind == [str(path.resolve()) for path in sorted(before)]
    kept = store.root / name
    assert not kept.is_file() or "sub-02" not in kept.read_text()
    assert verify(store.root).problems == []


def test_a_withdrawal_that_others_finish_says_it_too(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = move(store.root / "sub-02", tmp_path / "outside")
    record_withdrawals(store.root, [new_record("sub-02", "open study", "2030-01-01", "")])
    finish_withdrawals(store.root)
    told = capsys.readouterr().err
    assert str(target.resolve()) in told and len(files(target)) == 4 and withdrawn(store.root).active[0].removed
    finish_withdrawals(store.root)
    assert capsys.readouterr().err == ""


def test_a_store_that_is_reached_by_a_link_is_no_store_of_links(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root)
    done = withdraw(tmp_path / "link", "02")
    assert done.behind == [] and done.sessions == SESSIONS and not (store.root / "sub-02").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_merge_copies_what_links_lead_to_and_not_the_links(link: bool, store: Store, tmp_path: Path) -> None:
    """A hard link to a symbolic link would be one more symbolic link."""
    for name in names(SESSIONS[0]):
        move(store.root / "sub-02" / "ses-1" / "func" / name, tmp_path / "outside")
    assert merge(tmp_path / "out", [Store(store.root)], link=link).failures == []
    assert Store(tmp_path / "out").coarse(SESSIONS[0]).shape == (40, 4)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    done = withdraw(tmp_path / "out", "02")
    assert done.behind == [] and len(files(tmp_path / "outside")) == 2
