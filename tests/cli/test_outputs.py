"""No command writes over a store, over a file in one, or over what it reads itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.grid import Grid

COMMANDS = {
    "rank": ["rank", "STORE", "--temporal", "model"],
    "group": ["group", "STORE", "--temporal", "model"],
    "embed": ["embed", "STORE", "--model", "model"],
    "evaluate": ["evaluate", "STORE", "--model", "model", "--task", "column:sex"],
    "predict": ["predict", "STORE", "--model", "model"],
    "explain": ["explain", "STORE", "--model", "model"],
    "pretrain": ["pretrain", "temporal", "STORE"],
    "convert": ["convert", "weights.pth", "--store", "STORE"],
    "report": ["report", "--store", "STORE"],
    "demo": ["demo"],
}
OWN = (
    "sessions.tsv",
    "participants.tsv",
    "dataset_description.json",
    "desc-brain_mask.nii.gz",
    "withdrawn.tsv",
    "failures.tsv",
    "excluded",
)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(grid8: Grid, tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", grid8, frames=12).root


def refused(words: list[str], store: Path, out: Path, capsys: pytest.CaptureFixture[str], option: str = "--out") -> None:
    before = contents(store)
    assert run_command([*(str(store) if word == "STORE" else word for word in words), option, str(out)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"slimbrain: {option} {out}: belongs to the store {store}") and said.endswith(".")
    assert contents(store) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_a_store(command: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = next(store.rglob("*.safetensors"))
    for out in (store, store / "sessions.tsv", data, data.parent / "x.npz"):
        refused(COMMANDS[command], store, out, capsys)


@pytest.mark.parametrize("name", OWN)
def test_every_file_of_a_store_is_its_own(name: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(COMMANDS["rank"], store, store / name, capsys)


def test_detours_and_links_to_a_store_are_seen_through(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.tsv").symlink_to(store / "sessions.tsv")
    (tmp_path / "other").symlink_to(store, target_is_directory=True)
    for out in (tmp_path / "link.tsv", tmp_path / "other" / "sessions.tsv", tmp_path / "other" / ".." / "store" / "sessions.tsv"):
        refused(COMMANDS["rank"], store, out, capsys)
    monkeypatch.chdir(store)
    refused(COMMANDS["rank"], store, Path("sessions.tsv"), capsys)


def test_other_outputs_are_checked_as_well(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMANDS["evaluate"], "--out", str(tmp_path / "x.json")]
    refused(words, store, store / "sub-01", capsys, option="--save")
    before = contents(store)
    assert run_command(["simulate", str(store)]) == 1
    assert run_command(["launch", "--dry-run", *COMMANDS["rank"]]) == 1
    assert run_command(["launch", "--dry-run", "embed", str(store), "--model", "m", "--out", str(store / "sessions.tsv")]) == 1
    assert "belongs to the store" in capsys.readouterr().err and contents(store) == before


def test_a_file_that_the_command_reads_is_not_written_over(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "some.tsv"
    table.write_text("participant_id\nsub-01\n")
    os.link(table, tmp_path / "again.tsv")
    for out in (table, tmp_path / "again.tsv"):
        assert run_command(["group", str(store), "--temporal", "model", "--participants", str(table), "--out", str(out)]) == 1
        assert "is a file that this command reads" in capsys.readouterr().err
    assert table.read_text() == "participant_id\nsub-01\n"


def test_what_cannot_be_written_is_refused_before_the_work(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the folder, if it is there, or of the nearest one above; root may write everywhere, so that the system's answer is given."""
    locked, own = tmp_path / "locked", tmp_path / "locked" / "own"
    own.mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    permitted = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: permitted(path, mode) and Path(path) != locked)
    for out, why in (
        (locked / "new" / "a.npz", f"{locked} cannot be written to"),
        (tmp_path / "file" / "a.npz", "is a file, not a folder"),
    ):
        assert run_command(["embed", str(store), "--model", "nowhere", "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"slimbrain: --out {out}: ") and why in said
    assert run_command(["embed", str(store), "--model", "./nowhere", "--out", str(own)]) == 1
    assert capsys.readouterr().err.startswith("slimbrain: ./nowhere: ")


def test_a_store_may_have_other_files_beside_its_own(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What lies in its folder under another name is nothing that the store reads: here the model is what is missing."""
    for name in ("windows.tsv", "results/windows.tsv"):
        assert run_command(["rank", str(store), "--temporal", "nowhere", "--out", str(store / name)]) == 1
        assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "name"), [("rank", "notes.tsv"), ("embed", "notes.npz"), ("report", "notes.html")])
def test_what_the_command_does_not_write_is_kept(
    command: str, name: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    out.write_text("a\tb\n1\t2\n")
    assert run_command([*(str(store) if word == "STORE" else word for word in COMMANDS[command]), "--out", str(out)]) == 1
    said = f"slimbrain: {out}: exists and is not what slimbrain {command} writes; choose another --out, or delete it."
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert out.read_text() == "a\tb\n1\t2\n"


def test_a_page_may_be_written_again(store: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert run_command(["report", "--store", str(store), "--out", str(tmp_path / "page.html")]) == 0
