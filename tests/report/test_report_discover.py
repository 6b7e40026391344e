"""`slimbrain report FOLDER`: what is found, what is not taken, and where the page goes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from report_samples import SECTIONS, Page

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.report import ReportInputs
from slimbrain.report.discover import discover, only


@pytest.fixture
def run_folder(inputs: ReportInputs, tmp_path: Path) -> Path:
    """Everything in one folder, as `slimbrain demo` leaves it, beside things that are not for the report."""
    assert inputs.store is not None and inputs.windows is not None and inputs.truth is not None
    root = tmp_path / "run"
    shutil.copytree(inputs.store.root, root / "store")
    for run, name in zip(inputs.runs, ("a-stage-one", "0-stage-two"), strict=True):
        shutil.copytree(run, root / name)
    for path in (inputs.windows, *inputs.evaluations, *inputs.maps):
        shutil.copy(path, root)
    shutil.copytree(inputs.explained[0], root / "maps" / "group")
    (root / "cohort").mkdir()
    shutil.copy(inputs.truth, root / "cohort" / "truth.json")
    (root / "demo.json").write_text('{"seed": 0}')
    (root / "broken.json").write_text("{")
    (root / "participants.tsv").write_text("participant_id\nsub-001\n")
    (root / "embeddings.npz").write_bytes(b"")
    return root


def test_a_folder_is_looked_through_and_runs_come_by_stage(run_folder: Path) -> None:
    found = discover([run_folder])
    assert found.stores == (run_folder / "store",) and found.windows == (run_folder / "windows.tsv",)
    assert [run.name for run in found.runs] == ["a-stage-one", "0-stage-two"]
    assert [path.name for path in (*found.evaluations, *found.truths, *found.maps)] == ["group.json", "truth.json", "planted.nii.gz"]
    assert found.explained == (run_folder / "maps" / "group",) == discover([run_folder / "maps"]).explained
    assert discover([run_folder / "maps" / "group"]).maps == (), "averages are no further maps"
    assert found.lines()[0] == f"found 1 store: {run_folder / 'store'}" and len(found.lines()) == 7
    assert found.lines()[-1] == f"found 1 folder of slimbrain explain: {run_folder / 'maps' / 'group'}"


def test_runs_are_found_where_they_are_kept_several_in_a_folder(run_folder: Path) -> None:
    (run_folder / "runs").mkdir()
    (run_folder / "0-stage-two").rename(run_folder / "runs" / "voxel")
    assert [run.name for run in discover([run_folder]).runs] == ["a-stage-one", "voxel"]


def test_what_is_named_twice_is_taken_once(run_folder: Path) -> None:
    assert discover([run_folder, run_folder / "store", run_folder / "group.json"]) == discover([run_folder])


def test_the_command_says_what_it_found_and_writes_beside_it(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(run_folder)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(run_folder / "report.html")
    assert "found 2 runs: " in said.err and "found 1 store: " in said.err
    shown = ("carpet plots", "maps of windows", "scores of windows", "mean of chosen windows", "tSNR and coverage")
    assert [line.split(": 3 done in")[0] for line in said.err.splitlines()[-len(shown) :]] == [f"report: {what}" for what in shown]
    page = Page((run_folder / "report.html").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.named("section")] == SECTIONS
    assert not [one for one in page.named("p") if one.get("class") == "absent" and not one.get("id")]
    assert page.words.count("planted.nii.gz") >= 2 and "group: Gradient x input, JEPA surprise of 3 sessions, averaged" in page.words


def test_an_option_says_which_of_two_is_meant(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run_folder / "store", run_folder / "store-2")
    assert run_command(["report", str(run_folder)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("slimbrain: ") and "are two stores" in message and message.endswith("name it with --store.")
    out = tmp_path / "page.html"
    assert run_command(["report", str(run_folder / "group.json"), "--store", str(run_folder / "store"), "--out", str(out)]) == 0
    assert str(run_folder / "store") in out.read_text(encoding="utf-8")


def test_what_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        discover([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="holds no store"):
        discover([tmp_path])
    (tmp_path / "other.json").write_text(json.dumps({"task": 1}))
    with pytest.raises(InputError, match="holds no store"):
        discover([tmp_path / "other.json"])
    assert only([], "stores", "--store") is None


@pytest.mark.parametrize("words", [[], ["--out", "page.html"], ["--truth", "truth.json", "--out", "page.html"]])
def test_without_anything_to_show_there_is_no_page(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["report", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("slimbrain: report: there is nothing to report on; name a folder") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_files_alone_needs_a_place(inputs: ReportInputs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(inputs.evaluations[0])]) == 1
    assert "does not know where to write" in capsys.readouterr().err


def test_what_cannot_be_reported_on_is_refused_before_torch_is_loaded(inputs: ReportInputs, tmp_path: Path) -> None:
    assert inputs.store is not None
    mine, empty, table, away = tmp_path / "mine.html", tmp_path / "empty", tmp_path / "table.tsv", str(tmp_path / "away")
    mine.write_text("<p>not of slimbrain</p>")
    empty.mkdir()
    table.write_text("subject\nsub-001\n")
    others = tmp_path / "others"
    (others / "func" / "sessions").mkdir(parents=True)
    for name in ("notes.json", "func/sub-001_desc-preproc_bold.json", "func/sessions/sub-001_desc-brain_mask.json"):
        (others / name).write_text("{}")
    (others / "groups.tsv").write_text("session\tgroup\nsub-001\tgroup-1\n")
    store, page = str(inputs.store.root), ["--out", str(tmp_path / "page.html")]
    commands = {
        "away: does not exist; name a folder": [store, away],
        "is not a store": ["--store", str(empty), *page],
        "away: does not exist; correct --store.": ["--store", away, *page],
        "away: does not exist; correct --run.": ["--run", away, *page],
        "away: does not exist; correct --evaluation.": ["--evaluation", away, *page],
        f"does not exist, the nearest name is {table}; correct --windows.": ["--windows", str(tmp_path / "tabel.tsv"), *page],
        f"does not exist, the nearest name is {empty}; name a folder": [str(tmp_path / "emty")],
        "cannot be read as a pretraining run": ["--run", str(empty), *page],
        "is no result of": ["--evaluation", str(inputs.truth), *page],
        "away: does not exist; correct --windows.": ["--windows", away, *page],
        "away: does not exist; correct --truth.": [store, "--truth", away],
        "away: does not exist; correct --map.": ["--map", away, *page],
        "away: does not exist; correct --explained.": ["--explained", away, *page],
        "empty: holds no store, run": [str(empty)],
        "others: holds no store, run": [str(others)],
        "has no column participant_id": [store, "--participants", str(table), *page],
        "mine.html: exists and is not what slimbrain report writes": [store, "--out", str(mine)],
        "does not know where to write": [str(inputs.truth)],
        "there is nothing to report on": [],
    }
    code = (
        "import json, sys\nfrom slimbrain.cli import run_command\n"
        "for words in json.loads(sys.argv[1]):\n    assert run_command(['report', *words]) == 1\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(list(commands.values()))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("slimbrain: ")]
    assert len(said) == len(commands) and all(words in line for words, line in zip(commands, said, strict=True)), done.stderr
    assert mine.read_text() == "<p>not of slimbrain</p>" and not (tmp_path / "page.html").exists()
