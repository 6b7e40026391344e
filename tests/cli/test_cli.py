"""The command line: help, lists, exit codes, one sentence an error, and what `inspect` says of each kind of thing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import typer
from store_samples import make_store

from slimbrain import __version__
from slimbrain.cli import _spread_lists, app, run_command
from slimbrain.cli.options import require_model_there
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.store.description import commands_in

COMMANDS = (
    "demo",
    "run",
    "simulate",
    "datasets",
    "prep",
    "split",
    "pretrain",
    "connectome",
    "convert",
    "plan",
    "rank",
    "embed",
    "group",
    "evaluate",
    "predict",
    "explain",
    "report",
    "ledger",
    "withdraw",
    "inspect",
    "doctor",
    "launch",
    "store",
)
STORE_COMMANDS = ("verify", "duplicates", "collect", "merge", "subset")
SETTINGS = (
    *("window.frames=4", "window.k=2", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2"),
    *("temporal.groups=4", "train_temporal.steps=2", "train_temporal.batch=1", "train_temporal.log_every=1"),
)


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from slimbrain.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, env=environment)


def plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture(scope="module")
def things(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of thing that there is to inspect, made by the commands themselves where they are fast."""
    root = tmp_path_factory.mktemp("things")
    store = make_store(root / "store", grid8, frames=16)
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    commands = (
        ("pretrain", "temporal", str(root / "store"), "--preset", "tiny", "--out", str(root / "run"), *overrides),
        ("rank", str(root / "store"), "--temporal", str(root / "run" / "model"), "--out", str(root / "windows.tsv")),
        ("embed", str(root / "store"), "--model", str(root / "run" / "model"), "--out", str(root / "embeddings.npz")),
    )
    for command in commands:
        assert run_command(command) == 0
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 7), np.float32), np.diag([-3.0, 3, 3, 1])), root / "image.nii.gz")
    (root / "session.safetensors").symlink_to(store.root / store.sessions[0].path)
    return root


# --- help


def test_help_answers_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom slimbrain.cli import run_command\ncode = run_command(sys.argv[1:])\n"
        "heavy = {'torch', 'nilearn', 'nibabel', 'sklearn', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("HEAVY [] CODE 0") and done.stderr == ""
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", done.stdout)


def test_the_commands_are_those_listed() -> None:
    parser: Any = typer.main.get_command(app)
    assert set(parser.commands) == set(COMMANDS)
    assert set(parser.commands["store"].commands) == set(STORE_COMMANDS)


@pytest.mark.parametrize("command", [*(name for name in COMMANDS if name != "store"), *(f"store {name}" for name in STORE_COMMANDS)])
def test_every_command_shows_an_example_that_its_parser_takes(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run_command([*command.split(), "--help"]) == 0
    assert f"Example: slimbrain {command}" in plain(capsys.readouterr().out).replace("`", "")
    parser: Any = typer.main.get_command(app)
    for name in command.split():
        parser = parser.commands[name]
    example = re.search(rf"\n\nExample: `slimbrain {command}(.*?)`", parser.help, flags=re.DOTALL)
    assert example is not None, "a paragraph of its own"
    # What `--out` will hold differs from command to command.
    assert all(parameter.help != "Output file or folder." for parameter in parser.params if parameter.name == "out")
    parser.make_context(command, _spread_lists(shlex.split(example.group(1))))


def test_no_words_are_answered_with_help() -> None:
    done = program()
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Usage: slimbrain" in plain(done.stdout + done.stderr)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0 and capsys.readouterr().out == f"{__version__}\n"


# --- lists


def test_labels_may_follow_one_option(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def remember(bids_dir: Path, out: Path, options: Any) -> None:
        asked.append(options)
        raise InputError("enough.")

    monkeypatch.setattr("slimbrain.prep.run.prepare", remember)
    for words in (["--participant-label", "01", "02"], ["--participant-label", "01", "--participant-label", "02"]):
        assert run_command(["prep", "in", "out", "participant", *words, "--task-id", "rest", "face", "--tr", "2", "--session-id", "1"]) == 1
        assert (list(asked[-1].participant_label), list(asked[-1].task_id), list(asked[-1].session_id)) == (
            ["01", "02"],
            ["rest", "face"],
            ["1"],
        )
        assert asked[-1].tr == 2


def test_lists_end_at_the_next_option_and_other_words_stay() -> None:
    words = ["prep", "in", "out", "--task-id", "a", "b", "--nprocs", "2", "--force"]
    assert _spread_lists(words) == ["prep", "in", "out", "--task-id", "a", "--task-id", "b", "--nprocs", "2", "--force"]
    assert _spread_lists(["prep", "--task-id=a", "out"]) == ["prep", "--task-id=a", "out"]


@pytest.mark.parametrize("words", [["--participant-label"], ["--participant-label", "--nprocs", "2"]])
def test_a_list_without_a_label_is_not_everybody(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimbrain.prep.run.prepare", lambda *_: pytest.fail("was run for all participants"))
    assert run_command(["prep", "in", "out", "participant", *words]) == 2


# --- errors


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "nowhere"],
        ["prep", "nowhere", "OUT", "participant"],
        ["prep", "nowhere", "OUT", "group"],
        ["prep", "nowhere", "OUT", "participant", "--resolution", "3mm"],
        ["prep", "nowhere", "OUT", "participant", "--denoise", "fourier"],
        ["pretrain", "spectral", "STORE", "--out", "OUT"],
        ["pretrain", "temporal", "nowhere", "--out", "OUT"],
        ["pretrain", "temporal", "STORE", "--out", "OUT", "--preset", "huge"],
        ["pretrain", "temporal", "STORE", "--out", "OUT", "--set", "train_temporal.step=3"],
        ["pretrain", "temporal", "STORE", "--out", "OUT", "--resume", "perhaps"],
        ["pretrain", "temporal", "STORE", "--out", "OUT", "--participants", "nowhere.tsv"],
        ["pretrain", "voxel", "STORE", "--out", "OUT", "--windows", "nowhere.tsv"],
        ["rank", "STORE", "--temporal", "nowhere", "--out", "OUT"],
        ["rank", "STORE", "--temporal", "STORE", "--out", "OUT"],
        ["embed", "STORE", "--model", "nowhere", "--out", "OUT"],
        ["evaluate", "STORE", "--model", "MODEL", "--task", "sex", "--out", "OUT"],
        ["evaluate", "STORE", "--model", "MODEL", "--task", "column:sex", "--out", "OUT"],
        ["report", "--store", "nowhere", "--out", "OUT"],
        ["simulate", "OUT", "--orientation", "XYZ"],
        ["simulate", "OUT", "--tr", "-1"],
    ],
    ids=" ".join,
)
def test_an_error_is_one_sentence_on_standard_error(
    words: list[str], things: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"STORE": things / "store", "MODEL": things / "run" / "model", "OUT": tmp_path / "out"}
    assert run_command([str(places.get(word, word)) for word in words]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("slimbrain: ")]
    assert captured.err.splitlines()[-1:] == lines and captured.out == ""
    assert lines[0].endswith(".") and "Traceback" not in captured.err


@pytest.mark.parametrize(
    "words",
    [
        ["rank", "nowhere", "--out", "out.tsv", "--temporal"],
        ["embed", "nowhere", "--out", "out.npz", "--model"],
        ["connectome", "nowhere", "--out", "out", "--model"],
        ["evaluate", "nowhere", "--task", "column:sex", "--out", "out.json", "--model"],
        ["predict", "nowhere", "--out", "out.tsv", "--model"],
        ["explain", "nowhere", "--out", "out", "--model"],
        ["run", "nowhere", "--task", "column:sex", "--out", "out", "--model"],
    ],
)
def test_a_model_missing_from_a_folder_that_is_there_is_not_sought_on_the_hub(
    words: list[str], things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(things)
    assert run_command([*words, "run/modle"]) == 1
    way = "give run/model, which is the nearest name."
    assert capsys.readouterr().err == f"slimbrain: run/modle: is not in the folder run, and not looked for on the hub; {way}\n"


@pytest.mark.parametrize("name", ["lab/model", "run/model", "./run/modle", "slimbrain-temporal", None])
def test_other_names_of_models_are_left_to_who_reads_them(name: str | None, things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(things)
    assert require_model_there(name) == name


def test_the_program_prints_no_traceback_but_with_debug() -> None:
    refused = program("inspect", "nowhere")
    sentence = f"slimbrain: nowhere: does not exist, {Path.cwd()} does; check the path.\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", sentence)
    shown = program("--debug", "inspect", "nowhere")
    assert shown.returncode == 1 and "Traceback" in shown.stderr and "InputError: nowhere" in shown.stderr
    with pytest.raises(InputError, match="nowhere"):
        run_command(["inspect", "nowhere", "--debug"])


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["prep"],
        ["inspect"],
        ["inspect", ".", "--no-such-option"],
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "--help" in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (["simulate", "x", "--frames", "7"], "--frames", "7"),
        (["simulate", "x", "--subjects", "many"], "--subjects", "'many'"),
        (["simulate", "x", "--subjects", "0"], "--subjects", "0"),
        (["plan", "--frames", "0"], "--frames", "0"),
        (["prep", "in", "x", "--window-frames", "7.5"], "--window-frames", "'7.5'"),
        (["embed", "store", "--k", "0", "--out", "x"], "--k", "0"),
        (["rank", "nowhere", "--per-run", "0", "--out", "x"], "--per-run", "0"),
    ],
)
def test_a_value_that_an_option_cannot_take_is_one_sentence(
    words: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, value, way out; and the exit code of wrong usage."""
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"slimbrain: {option}: ") and value in said and said.count("\n") == 1
    assert said.endswith(f"; see `slimbrain {words[0]} --help`.\n") and "Input" not in said and "parse" not in said


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--method", "x", "must be 'exact' or 'fast', not 'x'"),
        ("--order", "best", "must be 'score', 'apart' or 'diverse', not 'best'"),
        ("--min-distance", "-1", "must be at least 0, not -1.0"),
    ],
)
def test_rank_refuses_what_it_cannot_choose_by_before_it_opens_anything(
    option: str, value: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["rank", "nowhere", "--out", "windows.tsv", option, value]) == 1
    assert capsys.readouterr().err == f"slimbrain: {option}: {reason}; see `slimbrain rank --help`.\n"


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slimbrain.doctor.inspect_path", interrupt)
    assert run_command(["inspect", "."]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    monkeypatch.setattr("slimbrain.config.load_preset", interrupt)
    words = ["pretrain", "temporal", "store", "--out", "run"]
    assert run_command(words) == 130
    assert "run the same command again with --resume auto to resume" in capsys.readouterr().err
    assert run_command([*words, "--resume", "auto"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_want_of_memory_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("slimbrain.doctor.inspect_path", fail)
    assert run_command(["inspect", "."]) == 1
    said = capsys.readouterr().err
    assert "needs more memory" in said and "slimbrain plan" in said and said.count("\n") == 1


def test_other_faults_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("slimbrain.doctor.inspect_path", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        run_command(["inspect", "."])


def test_a_place_one_may_not_write_to_is_named(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = things / "windows.tsv" / "x.tsv"
    words = ["rank", str(things / "store"), "--temporal", str(things / "run" / "model"), "--out", str(blocked)]
    assert run_command(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("slimbrain: ") and str(things / "windows.tsv") in last and last.endswith(".")


# --- what commands leave


def test_a_run_knows_the_command_that_made_it(things: Path) -> None:
    (command,) = json.loads((things / "run" / "run.json").read_text())["commands"]
    assert command.startswith("slimbrain pretrain temporal ") and command.endswith("--set train_temporal.log_every=1")


def test_pretraining_again_needs_resume(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "pretrain",
        "temporal",
        str(things / "store"),
        "--preset",
        "tiny",
        "--out",
        str(things / "run"),
        *[w for s in SETTINGS for w in ("--set", s)],
    ]
    assert run_command(words) == 1 and "--resume auto" in capsys.readouterr().err
    assert run_command([*words, "--resume", "auto"]) == 0 and "loss" in capsys.readouterr().out


def test_participants_choose_sessions(things: Path, tmp_path: Path) -> None:
    table = tmp_path / "some.tsv"
    table.write_text("participant_id\nsub-01\nsub-03\n")
    words = ["embed", str(things / "store"), "--model", str(things / "run" / "model"), "--out", str(tmp_path / "x.npz")]
    assert run_command([*words, "--participants", str(table)]) == 0
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["subject"].tolist() == ["sub-01", "sub-03"]
        assert arrays["embedding"].shape[0] == 2 and json.loads(str(arrays["contract"]))["lattice"] == "mni-8mm-24-p2"
    table.write_text("name\nsub-01\n")
    assert run_command([*words, "--participants", str(table)]) == 1


def test_thresholds_leave_runs_out_and_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort, store = str(tmp_path / "cohort"), tmp_path / "store"
    assert run_command(["simulate", cohort, "--subjects", "2", "--sessions", "1", "--frames", "150"]) == 0
    words = ["prep", cohort, str(store), "participant", "--resolution", "8mm"]
    capsys.readouterr()
    assert run_command([*words, "--max-fd-mean", "0.01"]) == 0
    assert "0 prepared, 0 already there, 2 excluded, 0 refused" in capsys.readouterr().out
    page = (store / "report.html").read_text(encoding="utf-8")
    assert "2 runs excluded from the store by a quality threshold" in page and "fd_mean" in page
    assert run_command(words) == 0
    assert "2 prepared, 0 already there, 0 excluded, 0 refused" in capsys.readouterr().out
    assert [line.split()[1] for line in commands_in(store)] == ["simulate", "prep", "prep"]
    assert run_command([*words, "--min-template-overlap", "2"]) == 1
    assert "--min-template-overlap: must be at most 1, not 2.0; see" in capsys.readouterr().err
    table = tmp_path / "one.tsv"
    table.write_text("participant_id\nsub-002\n")
    assert run_command(["report", "--store", str(store), "--participants", str(table), "--out", str(tmp_path / "one.html")]) == 0
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "Carpet plot of sub-002" in page and "sub-001" not in page


# --- inspect

KINDS: dict[str, dict[str, Any]] = {
    "store": {"kind": "store", "sessions": 3, "participants": 3, "frames": 56, "lattice": "mni-8mm-24-p2", "tr": 0.72},
    "run": {"kind": "pretraining run", "stage": "temporal", "preset": "tiny", "seed": 0},
    "run/model": {"kind": "model (TemporalExtractor)", "lattice": "mni-8mm-24-p2", "steps": 2, "subjects": 3},
    "image.nii.gz": {"kind": "NIfTI", "shape": [4, 5, 6, 7], "voxel mm": [3, 3, 3], "orientation": "LAS"},
    "session.safetensors": {"kind": "session of a store", "voxels": "F16 (20, 468, 8)", "coarse": "F32 (20, 87)"},
    "windows.tsv": {"kind": "window table", "rows": 14, "sessions": 3},
    "embeddings.npz": {"kind": "embeddings", "sessions": 3, "embedding": "float32 (3, 32)"},
}


@pytest.mark.parametrize("name", KINDS)
def test_inspect_says_what_a_thing_is(name: str, things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", str(things / name)]) == 0
    text = capsys.readouterr().out
    assert run_command(["inspect", str(things / name), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {key: facts[key] for key in KINDS[name]} == KINDS[name]
    assert facts["path"] == str(things / name)
    assert all(re.search(rf"^{re.escape(key)} ", text, flags=re.MULTILINE) for key in facts)


@pytest.mark.parametrize("name", ["note.txt", "empty", "x.nii.gz", "x.safetensors", "x.npz", "x.tsv"])
def test_inspect_refuses_what_is_none_of_these(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.mkdir() if name == "empty" else path.write_bytes(b"\xff\xfehello")
    assert run_command(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert str(path) in captured.err and captured.err.count("\n") == 1
