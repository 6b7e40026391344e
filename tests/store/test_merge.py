"""Stores merged and cut out of one another: the same bytes, the right rows, and nothing that was not asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from store_samples import SPACE, TR_S, entities, make_store, write_run

from slimbrain.cli import run_command
from slimbrain.errors import ContractError, InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.store import Channels, Store
from slimbrain.store import merge as gather
from slimbrain.store.merge import merge, subset
from slimbrain.store.participants import merge_participants
from slimbrain.store.records import Governance
from slimbrain.store.select import Choice, choose_sessions
from slimbrain.store.verify import verify
from slimbrain.store.write import assign, write_roi_session


def key(subject: str) -> str:
    return f"sub-{subject}_task-rest_run-1_space-{SPACE}"


def keys(store: Store) -> list[str]:
    return [info.key for info in store.sessions]


def data(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*_bold.*")}


@pytest.fixture
def first(grid8: Grid, tmp_path: Path) -> Store:
    """sub-01 and sub-02, and a table of participants."""
    make_store(tmp_path / "first", grid8, 2, frames=8)
    (tmp_path / "first" / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\t25\tn/a\n")
    return Store(tmp_path / "first")


@pytest.fixture
def second(grid8: Grid, tmp_path: Path) -> Store:
    """sub-03, and a session of regions; its table knows more of sub-02."""
    store = Store.create(tmp_path / "second", grid8, TR_S, ["file:///source/b"])
    write_run(store, 8, "03", seed=3, coverage=0.85)
    write_roi_session(store, entities("04"), np.ones((9, 2)), Channels(("a", "b"), np.zeros((2, 3))), TR_S)
    (tmp_path / "second" / "participants.tsv").write_text("participant_id\tsex\tage\nsub-02\tM\t\nsub-03\tF\t60\n")
    return Store(tmp_path / "second")


# --- terms

FREE = {"cohort": "study", "licence": "CC0-1.0", "consent": ["broad-research"]}
STRICT = {"licence": "CC-BY-NC-4.0", "consent": ["no-commercial"]}


def under(root: Path, copied: Store, **said: object) -> Store:
    """A copy of a store, under other terms."""
    merge(root, [copied])
    assign(root, {info.key: Governance.model_validate({**FREE, **said}) for info in copied.sessions})
    return Store(root)


def licences(root: Path) -> set[str]:
    return {Store(root).governance(info).licence for info in Store(root).sessions}


@pytest.mark.parametrize("strict_first", [True, False])
@pytest.mark.parametrize("into", ["a new store", "one of them"])
def test_the_strictest_terms_hold_in_whatever_order_they_come(strict_first: bool, into: str, first: Store, tmp_path: Path) -> None:
    free, strict = under(tmp_path / "free", first), under(tmp_path / "strict", first, **STRICT)
    one, other = (strict, free) if strict_first else (free, strict)
    out, sources = (tmp_path / "out", [one, other]) if into == "a new store" else (one.root, [other])
    told = merge(out, sources)
    assert licences(out) == {"CC-BY-NC-4.0"} and verify(out).problems == []
    assert told.tightened == ([] if strict_first else keys(first))
    # Of the copy under the looser terms nothing was changed.
    assert licences(free.root) == {"CC-BY-NC-4.0" if free.root == out else "CC0-1.0"}
    again = merge(out, sources)
    assert again.copied == again.tightened == [] and licences(out) == {"CC-BY-NC-4.0"}


def test_what_nobody_knows_is_not_permitted_and_what_one_knows_is_kept(first: Store, tmp_path: Path) -> None:
    known = under(tmp_path / "known", first)
    unknown = under(tmp_path / "unknown", first, cohort="unknown", licence="unknown", source="doi:1")
    merge(unknown.root, [known])
    record = Store(unknown.root).governance(Store(unknown.root).sessions[0])
    assert (record.cohort, record.licence, record.source) == ("study", "unknown", "doi:1")
    merge(known.root, [unknown])
    assert licences(known.root) == {"unknown"}


def test_terms_of_which_none_are_the_strictest_are_for_people_to_settle(first: Store, tmp_path: Path) -> None:
    one, other = under(tmp_path / "one", first, licence="CC-BY-NC-4.0"), under(tmp_path / "other", first, licence="CC-BY-ND-4.0")
    for out, sources in ((tmp_path / "out", [one, other]), (one.root, [other])):
        with pytest.raises(
            InputError, match=r"several terms \(CC-BY-N.*\), none of which are the strictest .* `slimbrain ledger .*--set FILE"
        ):
            merge(out, sources)
    assert licences(one.root) == {"CC-BY-NC-4.0"} and keys(Store(tmp_path / "out")) == []
    # A third that is stricter than both settles it.
    third = under(tmp_path / "third", first, licence="CC-BY-NC-ND-4.0")
    assert merge(tmp_path / "out", [one, other, third]).failures == [] and licences(tmp_path / "out") == {"CC-BY-NC-ND-4.0"}


@pytest.mark.parametrize("cohort", ["study", "another study"])
def test_a_session_that_is_replaced_keeps_its_participants_terms(cohort: str, grid8: Grid, tmp_path: Path) -> None:
    """Prepared anew it is the same person's; of another cohort it is not."""
    make_store(tmp_path / "one", grid8, 1, frames=8)
    strict = under(tmp_path / "strict", Store(tmp_path / "one"), **STRICT)
    make_store(tmp_path / "two", grid8, 1, frames=9)
    free = under(tmp_path / "free", Store(tmp_path / "two"), cohort=cohort)
    assert merge(strict.root, [free], "last").copied == keys(free)
    assert licences(strict.root) == {"CC-BY-NC-4.0" if cohort == "study" else "CC0-1.0"}


def test_a_subset_into_a_store_that_has_them_keeps_the_strictest_terms(first: Store, tmp_path: Path) -> None:
    free, strict = under(tmp_path / "free", first), under(tmp_path / "strict", first, **STRICT)
    assert subset(strict, free.root, strict.sessions[:1]).tightened == keys(first)[:1]
    assert [free.governance(info).licence for info in Store(free.root).sessions] == ["CC-BY-NC-4.0", "CC0-1.0"]


def test_the_command_says_whose_terms_changed(first: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free, strict = under(tmp_path / "free", first), under(tmp_path / "strict", first, **STRICT)
    assert run_command(["store", "merge", str(free.root), str(strict.root)]) == 0
    assert f"under stricter terms, which another store has for the same session: {key('01')} and 1 more" in capsys.readouterr().out


# --- merge


@pytest.mark.parametrize("link", [False, True])
def test_all_sessions_and_participants_come_together(link: bool, first: Store, second: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = merge(out, [first, second], link=link)
    merged = Store(out)
    assert told.copied == keys(merged) == sorted(keys(first) + keys(second)) and told.exit_code == 0
    assert data(out) == {**data(first.root), **data(second.root)}
    assert merged.participants == {
        "sub-01": {"participant_id": "sub-01", "age": "31", "sex": "F"},
        "sub-02": {"participant_id": "sub-02", "age": "25", "sex": "M"},
        "sub-03": {"participant_id": "sub-03", "age": "60", "sex": "F"},
    }
    assert merged.description["SourceDatasets"] == [{"URL": "file:///source/b"}]
    assert merged.session(key("03")).qc["coverage"] == "0.85" and merged.session(key("01")).qc["coverage"] == "n/a"
    assert verify(out).problems == []
    shared = {os.path.samefile(first.root / info.path, out / info.path) for info in first.sessions}
    assert shared == {link}


def test_links_fall_back_to_copies(first: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert len(merge(tmp_path / "out", [first], link=True).copied) == 2
    assert data(tmp_path / "out") == data(first.root)


def test_a_link_leaves_the_permissions_of_its_source(first: Store, tmp_path: Path) -> None:
    path = first.root / first.sessions[0].path
    path.chmod(0o640)
    merge(tmp_path / "out", [first], link=True)
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_same_again_copies_nothing(first: Store, second: Store, tmp_path: Path) -> None:
    merge(tmp_path / "out", [first, second])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_bold.*")}
    told = merge(tmp_path / "out", [first, second])
    assert (told.copied, told.present) == ([], sorted(keys(first) + keys(second)))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_bold.*")}


def test_an_interrupted_merge_goes_on(first: Store, second: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy = gather._copy

    def stop_at_the_third(*arguments: object) -> None:
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append("one more")
        copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gather, "_copy", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "out", [first, second])
    monkeypatch.undo()
    told = merge(tmp_path / "out", [first, second])
    assert (len(told.present), len(told.copied)) == (2, 2)
    assert data(tmp_path / "out") == {**data(first.root), **data(second.root)}


def test_equal_data_under_one_name_are_one_session(first: Store, tmp_path: Path, grid8: Grid) -> None:
    twin = make_store(tmp_path / "twin", grid8, 2, frames=8)
    sidecar = next(twin.root.rglob("sub-01*.json"))
    sidecar.write_text(sidecar.read_text().replace("{", '{"Note": "prepared elsewhere",', 1))
    told = merge(tmp_path / "out", [first, twin])
    assert told.copied == keys(first)
    assert "Note" not in Store(tmp_path / "out").sidecar(key("01"))


@pytest.mark.parametrize("keep", ["first", "last"])
def test_other_data_under_one_name_are_refused_or_chosen(keep: str, first: Store, tmp_path: Path, grid8: Grid) -> None:
    other = Store.create(tmp_path / "other", grid8, TR_S)
    write_run(other, 8, "02", seed=77)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"other data than .*first.* --keep first or --keep last\.$"):
        merge(out, [first, other])
    assert not out.exists()
    for _ in range(2):
        assert merge(out, [first, other], keep=keep).exit_code == 0  # type: ignore[arg-type]
        wanted = first if keep == "first" else other
        assert (out / wanted.session(key("02")).path).read_bytes() == (wanted.root / wanted.session(key("02")).path).read_bytes()
    assert verify(out).problems == []


def test_what_the_store_holds_already_counts_as_first(first: Store, tmp_path: Path, grid8: Grid) -> None:
    out = Store.create(tmp_path / "out", grid8, TR_S)
    write_run(out, 8, "02", seed=77)
    with pytest.raises(InputError, match="--keep"):
        merge(out.root, [first])
    assert keys(Store(out.root)) == [key("02")]
    before = data(out.root)
    assert merge(out.root, [first], keep="first").copied == [key("01")]
    assert before.items() <= data(out.root).items()
    assert merge(out.root, [first], keep="last").copied == [key("02")]
    assert data(out.root) == data(first.root)


def test_a_damaged_session_is_not_copied_and_the_rest_is(first: Store, tmp_path: Path) -> None:
    path = first.root / first.session(key("01")).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for link in (False, True):
        out = tmp_path / f"out{link}"
        told = merge(out, [first], link=link)
        assert told.copied == [key("02")] and told.exit_code == 1
        assert len(told.failures) == 1 and "damaged at their source" in told.failures[0] and "sub-01" in told.failures[0]
        assert [path.name for path in out.rglob("sub-01*_bold*")] == []


def test_stores_of_other_contracts_are_refused(first: Store, grid8: Grid, tmp_path: Path) -> None:
    mask = grid8.mask.copy()
    mask[11, 12, 11] = False
    for number, (grid, tr) in enumerate(((Grid(grid8.lattice, mask), TR_S), (grid8, 2.0), (None, TR_S))):
        other = Store.create(tmp_path / f"other{number}", grid, tr)
        with pytest.raises(ContractError):
            merge(tmp_path / "out", [first, other])
        assert not (tmp_path / "out").exists()
        with pytest.raises(ContractError):
            merge(other.root, [first])


def test_a_store_is_not_merged_into_itself(first: Store) -> None:
    with pytest.raises(InputError, match="choose another folder"):
        merge(first.root, [first])


# --- participants


def test_a_new_value_replaces_an_old_one_and_an_empty_cell_replaces_nothing(first: Store) -> None:
    merge_participants(
        first.root, [{"participant_id": "01", "age": "32", "sex": "n/a", "hand": ""}, {"participant_id": "sub-09", "age": "4"}]
    )
    assert Store(first.root).participants == {
        "sub-01": {"participant_id": "sub-01", "age": "32", "sex": "F", "hand": "n/a"},
        "sub-02": {"participant_id": "sub-02", "age": "25", "sex": "n/a", "hand": "n/a"},
        "sub-09": {"participant_id": "sub-09", "age": "4", "sex": "n/a", "hand": "n/a"},
    }


# --- subset


@pytest.mark.parametrize(
    ("choice", "subjects"),
    [
        (Choice(), "01 02 03 04"),
        (Choice(participants=("01", "sub-03")), "01 03"),
        (Choice(tasks=("rest",), spaces=("roi",)), "04"),
        (Choice(spaces=(SPACE,)), "01 02 03"),
        (Choice(keys=(key("02"),)), "02"),
        (Choice(where=("coverage>=0.8",)), "03"),
        (Choice(where=("age<50",)), "01 02"),
        (Choice(where=("age < 50", "sex == 'F'")), "01"),
        (Choice(where=("age == 31.0",)), "01"),
        (Choice(where=("sex != 'F'",)), "02"),
        (Choice(where=("n_frames>8",)), "01 04"),
        (Choice(where=("participant_id == 'sub-03'",), participants=("01", "03")), "03"),
    ],
)
def test_filters_take_what_they_say(choice: Choice, subjects: str, first: Store, second: Store, tmp_path: Path) -> None:
    merge(tmp_path / "all", [first, second])
    chosen = choose_sessions(Store(tmp_path / "all"), choice)
    assert [info.subject for info in chosen] == [f"sub-{subject}" for subject in subjects.split()]


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [
        (Choice(participants=("77",)), InputError, "sub-77"),
        (Choice(keys=("sub-77",)), StoreError, "no session sub-77"),
        (Choice(tasks=("face",)), InputError, "no session passes"),
        (Choice(where=("weight>3",)), InputError, "no column weight; there are age, "),
        (Choice(where=("age",)), InputError, "is not allowed"),
        (Choice(where=("sex < 3",)), InputError, "compares numbers with texts"),
        (Choice(where=("sex=F",)), InputError, "such as age >= 18, sex == 'F'"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(choice: Choice, error: type[Exception], words: str, first: Store) -> None:
    with pytest.raises(error, match=words) as refusal:
        choose_sessions(first, choice)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_subset_holds_its_sessions_and_their_participants_alone(first: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = subset(first, out, choose_sessions(first, Choice(participants=("02",))))
    assert told.copied == keys(Store(out)) == [key("02")]
    assert list(Store(out).participants) == ["sub-02"]
    assert {name for name in data(out)} == {name for name in data(first.root) if "sub-02" in name}
    assert subset(first, out, first.sessions).present == [key("02")]
    assert data(out) == data(first.root)


# --- commands


def test_the_commands_copy_and_say_so(first: Store, second: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = [str(first.root), str(second.root)]
    assert run_command(["store", "merge", str(tmp_path / "all"), *roots]) == 0
    assert "4 copied, 0 already there, 0 refused" in capsys.readouterr().out
    table = tmp_path / "some.tsv"
    table.write_text(f"session\tscore\n{key('03')}\t1\n{key('01')}\t2\n")
    words = ["store", "subset", str(tmp_path / "all"), str(tmp_path / "some"), "--sessions", str(table), "--where", "sex == 'F'", "--link"]
    assert run_command(words) == 0
    assert keys(Store(tmp_path / "some")) == [key("01"), key("03")]
    capsys.readouterr()
    for wrong in (["--keep", "both"], ["--sessions", str(first.root / "participants.tsv")]):
        name = "merge" if wrong[0] == "--keep" else "subset"
        assert run_command(["store", name, str(tmp_path / "all"), str(tmp_path / "x"), *wrong]) == 1
        assert capsys.readouterr().err.endswith(".\n")


def test_a_refused_session_is_named_and_the_exit_code_is_1(first: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first.root / first.session(key("01")).path).unlink()
    assert run_command(["store", "merge", str(tmp_path / "out"), str(first.root)]) == 1
    captured = capsys.readouterr()
    assert "is gone" in captured.err and "1 copied, 0 already there, 1 refused" in captured.out
    sidecar = json.loads(next((tmp_path / "out").rglob("*.json")).read_text())
    assert sidecar


# --- damaged and hostile sources


def edit_row(root: Path, name: str, **cells: str) -> Store:
    """The store after cells of a row were edited by hand."""
    path = root / "sessions.tsv"
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows:
        if row[0] == name:
            row[:] = [cells.get(column, cell) for column, cell in zip(header, row, strict=True)]
    path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))
    return Store(root)


def gathered(how: str, source: Store, out: Path) -> gather.CopySummary:
    return merge(out, [source]) if how == "merge" else subset(source, out, choose_sessions(source, Choice()))


@pytest.mark.parametrize("how", ["merge", "subset"])
@pytest.mark.parametrize(("column", "value"), [("participant_id", "sub-09"), ("tr", "0.75"), ("n_frames", "7"), ("task", "face")])
def test_a_row_that_disagrees_with_its_sidecar_is_not_copied(how: str, column: str, value: str, first: Store, tmp_path: Path) -> None:
    """It would be sealed in the copy, where nothing could tell any more."""
    told = gathered(how, edit_row(first.root, key("01"), **{column: value}), tmp_path / "out")
    assert told.copied == [key("02")] and told.exit_code == 1
    (failure,) = told.failures
    assert key("01") in failure and column in failure and failure.count("\n") == 0
    assert keys(Store(tmp_path / "out")) == [key("02")] and verify(tmp_path / "out").problems == []
    assert "sub-09" not in (tmp_path / "out" / "participants.tsv").read_text()


@pytest.mark.parametrize(("column", "value"), [("tr", "0.75"), ("n_frames", "7"), ("participant_id", "sub-09"), ("session_id", "ses-9")])
def test_a_session_of_before_rows_were_repeated_is_held_against_its_own_data(column: str, value: str, first: Store, tmp_path: Path) -> None:
    sidecar = first.root / "sub-01" / "func" / f"{key('01')}_desc-slimbrain_bold.json"
    said = json.loads(sidecar.read_text())
    said.pop("SessionRow")
    sidecar.write_text(json.dumps(said))
    assert merge(tmp_path / "whole", [Store(first.root)]).failures == []
    told = merge(tmp_path / "out", [edit_row(first.root, key("01"), **{column: value})])
    assert told.copied == [key("02")] and len(told.failures) == 1 and key("01") in told.failures[0]


@pytest.mark.parametrize(
    "path",
    [
        "dataset_description.json",
        "participants.tsv",
        "sessions.tsv",
        "withdrawn.tsv",
        ".",
        "sub-02",
        f"sub-02/func/{key('02')}_desc-slimbrain_bold.safetensors",
        f"sub-01/func/../{key('01')}_desc-slimbrain_bold.safetensors",
        f"sub-01//func/{key('01')}_desc-slimbrain_bold.safetensors",
        f".claims/{key('01')}_desc-slimbrain_bold.safetensors",
        f"sub-01/{key('01')}_desc-slimbrain_bold.safetensors",
        f"sub-01/func/{key('01')}_desc-slimbrain_bold.json",
    ],
)
@pytest.mark.parametrize("how", ["merge", "subset"])
def test_a_row_may_only_be_written_where_its_entities_say(how: str, path: str, first: Store, second: Store, tmp_path: Path) -> None:
    """The hostile store is consistent in itself: data and a sidecar that vouches for them lie at that path."""
    out = tmp_path / "out"
    merge(out, [second])
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    own = first.root / first.session(key("01")).path
    said = {**first.sidecar(key("01")), "SessionRow": {**first.sidecar(key("01"))["SessionRow"], "path": path}}
    place = first.root / path
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(own.read_bytes())
        place.with_suffix(".json").write_text(json.dumps(said))
    try:
        told = gathered(how, edit_row(first.root, key("01"), path=path), out)
        assert told.exit_code == 1 and key("01") in "".join(told.failures) and key("01") not in told.copied
    except StoreError as error:
        assert key("01") in str(error)
    left = {file: file.read_bytes() for file in before if file.is_file()}
    changed = {file.name for file in before if left.get(file) != before[file]}
    assert changed <= {"sessions.tsv", "participants.tsv"}
    assert {info.subject for info in Store(out).sessions} >= {"sub-03", "sub-04"} and Store(out).participants["sub-03"]["age"] == "60"
    assert verify(out).problems == []
