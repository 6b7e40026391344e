"""A participant is taken out: all of the data, nobody else's, whenever it is cut short, and not back in by any way round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ledger_samples import CLOSED, OPEN, make, write

from slimbrain.cli import run_command
from slimbrain.cli.ledger import open_ledger
from slimbrain.config import WindowConfig
from slimbrain.errors import InputError, StoreError
from slimbrain.governance.provenance import REMEMBERED, Person, people_in, remember, remember_beside
from slimbrain.governance.query import as_text, contains, set_governance
from slimbrain.governance.withdraw import withdraw
from slimbrain.prep.run import collect
from slimbrain.store import Contract, SessionInfo, Store
from slimbrain.store import write as placing
from slimbrain.store.manifest import PARTS_FOLDER
from slimbrain.store.merge import merge, subset
from slimbrain.store.parts import add_to_part
from slimbrain.store.select import Choice, choose_sessions
from slimbrain.store.subjects import subject_hash
from slimbrain.store.verify import verify
from slimbrain.store.withdrawn import WITHDRAWN_FILE, WithdrawalRecord, Withdrawn, mark, new_record, record_withdrawals, withdrawn

KEY = "sub-02_ses-1_task-rest_space-roi"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three participants, tables that name them, a report, and a run of each that a limit left out."""
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN, "03": CLOSED})
    rows = "".join(f"sub-{n}/func/x.nii\ttoo short\n" for n in ("02", "03"))
    (store.root / "failures.tsv").write_text(f"file\treason\n{rows}")
    (store.root / "excluded.tsv").write_text(
        "file\tsession\n" + "".join(f"sub-{n}/y.nii\tsub-{n}_task-x_space-roi\n" for n in ("01", "02"))
    )
    (store.root / "excluded").mkdir()
    for number in ("01", "02"):
        (store.root / "excluded" / f"sub-{number}_task-x_space-roi.json").write_text('{"Cohort": "open study", "QC": {}}')
    (store.root / "report.html").write_text("<p>curves of sub-02</p>")
    return Store(store.root)


def naming(root: Path, label: str) -> list[str]:
    """Files below a store that name a participant, in their path or in their text."""
    found = [
        path for path in root.rglob("*") if path.is_file() and (label in str(path.relative_to(root)) or label.encode() in path.read_bytes())
    ]
    return [path.relative_to(root).as_posix() for path in found]


def test_nothing_of_them_is_left_and_all_of_the_others(store: Store) -> None:
    others = {info.key: store.coarse(info.key) for info in store.sessions if info.subject != "sub-02"}
    assert len(naming(store.root, "sub-02")) >= 9
    done = withdraw(store.root, "02", "asked to")
    assert done.sessions == [KEY, KEY.replace("ses-1", "ses-2")] and naming(store.root, "sub-02") == []
    assert not (store.root / "sub-02").exists() and not (store.root / "report.html").exists()
    after = Store(store.root)
    assert [info.key for info in after.sessions] == list(others) and after.participants.keys() == {"sub-01", "sub-03"}
    for key, series in others.items():
        np.testing.assert_array_equal(after.coarse(key), series)
    assert "sub-03/func" in (store.root / "failures.tsv").read_text() and "sub-01_task-x" in (store.root / "excluded.tsv").read_text()
    assert (store.root / "excluded" / "sub-01_task-x_space-roi.json").exists()
    assert verify(store.root).problems == []


def test_the_record_says_when_and_why_and_not_who(store: Store) -> None:
    withdraw(store.root, "sub-02", "moved\tabroad")
    (record,) = withdrawn(store.root).active
    assert (record.label, record.person, record.cohort) == (subject_hash("sub-02"), subject_hash("sub-02", "open study"), "open study")
    assert record.reason == "moved abroad" and record.date == record.removed and len(record.date) == 10
    assert "02" not in (store.root / WITHDRAWN_FILE).read_text().replace(record.date, "").replace(record.label, "").replace(
        record.person, ""
    )


def test_whoever_has_the_store_open_is_refused_too(store: Store) -> None:
    opened = Store(store.root)
    assert KEY in {info.key for info in opened.sessions} and len(opened.coarse(KEY)) == 40
    withdraw(store.root, "sub-02", "asked to")
    for look in (opened.coarse, opened.session, Store(store.root).coarse, Store(store.root).sidecar):
        with pytest.raises(StoreError, match=r"sub-02 was withdrawn on \d{4}-\d\d-\d\d \(asked to\); leave the participant out"):
            look(KEY)
    with pytest.raises(StoreError, match="sub-02 was withdrawn on"):
        Store(store.root).select(["sub-02"])
    with pytest.raises(StoreError, match="has no session sub-09"):
        opened.session("sub-09_task-rest_space-roi")


def test_writing_them_again_is_refused_even_while_the_withdrawal_runs(store: Store) -> None:
    record_withdrawals(store.root, [new_record("sub-02", "open study", "2030-01-01", "")])
    with pytest.raises(StoreError, match="sub-02 was withdrawn"):
        write(store, "02", "3", OPEN)
    # Another way to write the number, as another layout has it.
    with pytest.raises(StoreError, match="sub-002 was withdrawn"):
        write(store, "002", "1", OPEN)
    write(store, "02", "4", CLOSED)
    assert [info.key[:12] for info in Store(store.root).sessions if info.subject == "sub-02"] == ["sub-02_ses-4"]


def test_a_session_that_was_being_written_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record comes after the writer looked and before its row."""
    list_it = placing._list

    def late(*arguments: object) -> None:
        record_withdrawals(store.root, [new_record("sub-04", "open study", "2030-01-01", "")])
        list_it(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(placing, "_list", late)
    with pytest.raises(StoreError, match="sub-04 was withdrawn"):
        write(store, "04", "1", OPEN)
    assert not list((store.root / "sub-04").rglob("*_bold.*")) and verify(store.root).problems == []


# --- shards


@pytest.fixture
def sharded(store: Store) -> Store:
    """Two shards, of which nobody collected the sessions: one more of sub-02, and two people who are in no table."""
    for part, subject, session in (("0001-of-0002", "02", "5"), ("0001-of-0002", "06", "1"), ("0002-of-0002", "04", "1")):
        write(Store(store.root, part), subject, session, OPEN)
    return store


def test_what_shards_prepared_and_nobody_collected_goes_as_well(sharded: Store) -> None:
    assert len(naming(sharded.root / PARTS_FOLDER, "sub-02")) == 1
    assert len(withdraw(sharded.root, "02").sessions) == 3 and naming(sharded.root, "sub-02") == []
    # Who is nowhere but in a part can be taken out, too.
    assert len(withdraw(sharded.root, "sub-04").sessions) == 1 and naming(sharded.root, "sub-04") == []
    assert {info.subject for info in Store(sharded.root).sessions} == {"sub-01", "sub-03", "sub-06"} and verify(sharded.root).problems == []


@pytest.mark.parametrize("before", [True, False], ids=["before its row", "after its row"])
def test_a_shard_that_runs_during_a_withdrawal_leaves_nothing(before: bool, sharded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_worst_moment(root: Path, part: str, info: SessionInfo) -> None:
        if before:
            withdraw(root, "sub-02")
        add_to_part(root, part, info)
        if not before:
            withdraw(root, "sub-02")

    monkeypatch.setattr("slimbrain.store.write.add_to_part", at_the_worst_moment)
    with pytest.raises(StoreError, match="sub-02 was withdrawn"):
        write(Store(sharded.root, "0002-of-0002"), "02", "7", OPEN)
    assert naming(sharded.root, "sub-02") == [] and verify(sharded.root).problems == []


def test_a_row_that_a_killed_shard_left_after_all_was_removed_is_removed(sharded: Store, tmp_path: Path) -> None:
    row = Store(sharded.root).session(KEY)
    withdraw(sharded.root, "sub-02")
    add_to_part(sharded.root, "0002-of-0002", row)
    (sharded.root / row.path).parent.mkdir(parents=True)
    (sharded.root / row.path).write_bytes(b"data")
    assert KEY not in {info.key for info in Store(sharded.root, "0002-of-0002").sessions}
    collect(sharded.root)
    assert naming(sharded.root, "sub-02") == [] and verify(sharded.root).problems == []


def test_a_merge_sees_that_a_shard_holds_someone_withdrawn_elsewhere(sharded: Store, tmp_path: Path) -> None:
    other = make(tmp_path / "other", {"04": OPEN})
    withdraw(other.root, "sub-04")
    with pytest.raises(InputError, match=r"holds data of 1 participants who were withdrawn .*, first sub-04; run `slimbrain withdraw"):
        merge(sharded.root, [Store(other.root)])


def test_the_ledger_answers_for_what_shards_prepared(sharded: Store, tmp_path: Path) -> None:
    opened = open_ledger(str(sharded.root))
    assert opened.uncollected == 3 and sum(entry.sessions or 0 for entry in opened.entries) == 9
    assert contains(opened, "sub-04").found and "3 of the sessions were prepared by shards" in as_text(opened)
    (tmp_path / "strict.yaml").write_text("consent: no-commercial\n")
    assert set_governance(sharded.root, tmp_path / "strict.yaml") == 9
    assert {entry.governance.consent for entry in open_ledger(str(sharded.root)).entries} == {("no-commercial",)}
    assert open_ledger(str(sharded.root)).uncollected == 0


# --- one label, two people


def test_of_one_label_in_two_cohorts_the_right_one_goes(store: Store) -> None:
    kept = write(store, "02", "9", CLOSED)
    series = Store(store.root).coarse(kept)
    with pytest.raises(InputError, match=r"sub-02 is the label of participants of several cohorts \(closed study, open study\); say which"):
        withdraw(store.root, "sub-02")
    assert len(withdraw(store.root, "sub-02", cohort="open study").sessions) == 2
    after = Store(store.root)
    assert [info.key for info in after.sessions if info.subject == "sub-02"] == [kept]
    np.testing.assert_array_equal(after.coarse(kept), series)
    assert "sub-02" in after.participants and verify(store.root).problems == []
    # The same words again must not take the other one.
    with pytest.raises(InputError, match="several cohorts"):
        withdraw(store.root, "sub-02")
    assert withdraw(store.root, "sub-02", cohort="open study").sessions == []
    assert withdraw(store.root, "sub-02", cohort="closed study").sessions == [kept]


def test_in_a_store_of_before_another_of_that_label_is_not_hidden(store: Store) -> None:
    """Rows without terms: the cohort stands in the sidecar alone."""
    kept = write(store, "02", "9", CLOSED)
    rows = [line.split("\t") for line in (store.root / "sessions.tsv").read_text().splitlines()]
    plain = ["\t".join(row[:9]) for row in rows]
    (store.root / "sessions.tsv").write_text("\n".join(plain) + "\n")
    assert len(withdraw(store.root, "sub-02", cohort="open study").sessions) == 2
    assert [info.key for info in Store(store.root).sessions if info.subject == "sub-02"] == [kept]
    assert len(Store(store.root).coarse(kept)) == 40


def test_who_is_not_there_is_not_withdrawn(store: Store) -> None:
    for arguments in ({"subject": "sub-07"}, {"subject": "sub-02", "cohort": "closed study"}):
        with pytest.raises(InputError, match=r"has no session of sub-0"):
            withdraw(store.root, **arguments)
    assert not withdrawn(store.root)


def test_where_no_cohort_is_known_equal_labels_count() -> None:
    placed, unplaced = new_record("sub-1", "a", "", ""), new_record("sub-1", "", "", "")
    cases = [
        (placed, "sub-1", "a", True),
        (placed, "sub-01", "a", True),
        (placed, "sub-1", "b", False),
        (placed, "sub-1", "", True),
        (placed, "sub-2", "a", False),
        (unplaced, "sub-1", "a", True),
        (unplaced, "sub-1", "", True),
        (unplaced, "sub-2", "", False),
    ]
    for record, label, cohort, meant in cases:
        assert record.is_of(label, cohort) is meant
        assert (Withdrawn([record]).find(label, cohort) is record) is meant


# --- killed


@pytest.mark.slow
def test_killed_at_any_moment_nothing_else_is_lost_and_it_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "withdraw_victim.py"
    done = subprocess.run(
        [sys.executable, str(program), str(store.root), str(tmp_path / "work")], check=True, capture_output=True, text=True, timeout=280
    )
    told = json.loads(done.stdout)
    assert told["problems"] == []
    # Both sides of the moment at which it holds were met, and most moments are after it.
    assert 0 < told["moments"] - told["recorded"] < told["recorded"] and told["moments"] > 20
    assert not any("sub-02" in file for file in told["files"])


def test_a_withdrawal_that_was_cut_short_is_seen_and_finished_by_others(store: Store, tmp_path: Path) -> None:
    record_withdrawals(store.root, [new_record("sub-02", "open study", "2030-01-01", "")])
    problems = verify(store.root).problems
    assert len(problems) == 4 and all("is of a participant who was withdrawn; run `slimbrain withdraw` again" in p.reason for p in problems)
    merge(store.root, [make(tmp_path / "more", {"05": OPEN})])
    assert naming(store.root, "sub-02") == [] and verify(store.root).problems == []
    assert withdrawn(store.root).active[0].removed


# --- other ways in


def test_merge_and_subset_take_the_record_along_and_the_data_not(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    merge(whole, [store])
    withdraw(store.root, "sub-02", "asked to")
    told = merge(tmp_path / "both", [Store(whole), Store(store.root)])
    assert len(told.failures) == 2 and all("sub-02 was withdrawn" in failure for failure in told.failures) and told.exit_code == 1
    assert naming(tmp_path / "both", "sub-02") == [] and len(Store(tmp_path / "both").sessions) == 4
    assert withdrawn(tmp_path / "both").active[0].reason == "asked to"
    some = Store(store.root)
    subset(some, tmp_path / "some", choose_sessions(some, Choice(participants=["01"])))
    assert withdrawn(tmp_path / "some").find("sub-02", "open study")
    with pytest.raises(StoreError, match="sub-02 was withdrawn"):
        choose_sessions(some, Choice(participants=["02"]))


def test_merge_deletes_nothing_that_nobody_asked_it_to(store: Store, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    merge(whole, [store])
    withdraw(store.root, "sub-02")
    with pytest.raises(InputError, match=r"holds data of 1 participants who were withdrawn .*, first sub-02; run `slimbrain withdraw"):
        merge(whole, [Store(store.root)])
    assert len(Store(whole).coarse(KEY)) == 40


def test_who_was_readmitted_is_read_again(store: Store) -> None:
    withdraw(store.root, "sub-02")
    (record,) = withdrawn(store.root).active
    mark(store.root, record.who, readmitted="2030-01-02")
    assert not withdrawn(store.root) and len(withdrawn(store.root).all) == 1
    write(store, "02", "1", OPEN)
    assert len(Store(store.root).coarse(KEY)) == 40
    withdraw(store.root, "sub-02", "again")
    assert [bool(each.readmitted) for each in withdrawn(store.root).all] == [True, False] and naming(store.root, "sub-02") == []


@pytest.mark.parametrize("row", ["x\tn/a\tn/a", f"{16 * 'a'}\t{16 * 'b'}\tn/a", f"n/a\t{16 * 'b'}\tc", "\t\t"])
def test_a_damaged_record_is_no_leave_to_read(row: str, store: Store) -> None:
    (store.root / WITHDRAWN_FILE).write_text(f"label\tperson\tcohort\n{row}\n")
    with pytest.raises(StoreError, match=r"withdrawn.tsv, line 2: is no record of a withdrawal"):
        Store(store.root).sessions  # noqa: B018 -- looking is what is refused
    assert verify(store.root).problems[0].file == WITHDRAWN_FILE


def test_old_tables_of_withdrawals_are_read(store: Store) -> None:
    (store.root / WITHDRAWN_FILE).write_text(f"label\n{subject_hash('sub-02')}\n")
    assert withdrawn(store.root).active == (WithdrawalRecord(subject_hash("sub-02")),)


# --- what else has something of them


def model(folder: Path, training: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    contract = {**Contract("roi", "", "roi", 1.5).to_dict()}
    config = {"kind": "temporal", "contract": contract, "window": WindowConfig().model_dump(), "training": training, "version": "0"}
    (folder / "config.json").write_text(json.dumps(config))


def test_everything_that_saw_them_is_listed_and_nothing_else(store: Store, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    people = people_in(store)
    theirs, others = [p for p in people if p.label == "sub-02"], [p for p in people if p.label != "sub-02"]
    name = subject_hash("sub-02", "open study")
    model(runs / "a" / "model", {REMEMBERED: remember(people), "times_seen": {name: 7}})
    model(runs / "tuned", {REMEMBERED: remember(people), "times_seen": {name: 0}, "fine_tuned_for": "column:sex"})
    model(runs / "weighed", {REMEMBERED: remember(people), "times_seen": {name: 0}})
    model(runs / "b" / "model", {REMEMBERED: remember(others)})
    # Under another name in another cohort: known by the recording alone.
    model(runs / "c" / "model", {REMEMBERED: remember([Person("sub-77", "elsewhere", theirs[0].recordings)])})
    (runs / "d").mkdir()
    (runs / "d" / "run.json").write_text(json.dumps({REMEMBERED: remember([Person(p.label, p.cohort) for p in people])}))
    (runs / "windows.tsv").write_text(f"session\twindow\n{KEY}\t0\n{KEY}\t1\n{KEY.replace('sub-02', 'sub-01')}\t0\n")
    (runs / "other.tsv").write_text(f"session\twindow\n{KEY.replace('sub-02', 'sub-020')}\t0\n")
    for folds, whose in (("theirs", theirs), ("others", others)):
        remember_beside(runs / f"{folds}.folds", whose)
    # A later evaluation into the same place, of others: what is there of them stays.
    remember_beside(runs / "theirs.folds", others)
    (runs / "old.folds").mkdir()
    (runs / "old.folds" / "0123.npz").touch()
    np.savez(runs / "vectors.npz", session=np.array([KEY, "sub-01_x"]), subject=np.array(["sub-02", "sub-01"]), embedding=np.ones((2, 3)))
    np.savez(runs / "others.npz", session=np.array(["sub-01_x"]), subject=np.array(["sub-01"]), embedding=np.ones((1, 3)))
    (runs / "broken.npz").write_bytes(b"PK")
    traces = withdraw(store.root, "sub-02", folders=[runs]).traces
    assert {(Path(t.path).relative_to(runs).as_posix(), t.kind, t.how) for t in traces if t.kind != "unread"} == {
        ("a/model", "model", "drew their recordings 7 times"),
        ("c/model", "model", "was trained on them"),
        ("tuned", "model", "was pretrained or fine-tuned on them"),
        ("weighed", "model", "held them out, to weigh its mixture by"),
        ("d", "run", "was trained on them"),
        ("windows.tsv", "table", "2 rows"),
        ("vectors.npz", "embeddings", "1 rows"),
        ("theirs.folds", "folds", "were tuned or scored on them"),
    }
    assert {Path(t.path).name for t in traces if t.kind == "unread"} == {"broken.npz", "0123.npz", "old.folds"}
    # Asked again, with nothing left to compare with, those that know the name are still listed.
    again = {Path(t.path).name for t in withdraw(store.root, "sub-02", folders=[runs]).traces}
    assert again == {"model", "d", "windows.tsv", "vectors.npz", "broken.npz", "theirs.folds", "0123.npz", "old.folds", "tuned", "weighed"}


def test_hard_links_elsewhere_are_named(store: Store, tmp_path: Path) -> None:
    merge(tmp_path / "linked", [store], link=True)
    done = withdraw(store.root, "sub-02")
    assert len(done.linked) == 2 and all("sub-02" in path for path in done.linked)
    assert os.path.exists(tmp_path / "linked" / done.linked[0])


def test_the_command_says_what_it_did(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    words = ["withdraw", str(store.root), "02", "--reason", "asked to", "--checkpoints", str(tmp_path / "runs")]
    assert run_command(words) == 0
    said = capsys.readouterr().out
    assert "sub-02: 2 sessions deleted" in said and "nothing of them was found" in said
    assert run_command([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["sessions"] == [] and "was withdrawn on" in again["notes"][0]
    assert run_command(["withdraw", str(store.root), "99"]) == 1
    assert run_command(["withdraw", str(store.root), "02", "--checkpoints", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: is not a folder" in capsys.readouterr().err
