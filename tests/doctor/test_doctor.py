"""What `slimbrain doctor` says of a machine and a store, what `slimbrain inspect` says of rarer things, and completion in a shell."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.config import load_preset
from slimbrain.disk.tsv import format_tsv
from slimbrain.doctor import checkup, examine, inspect_path, machine
from slimbrain.doctor.speed import Rate, temporal_rate, voxel_rates
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.bids import list_runs
from slimbrain.store import Store
from slimbrain.train import pretrain

CPU = torch.device("cpu")
SMALL = (
    *("window.frames=4", "window.k=2", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2"),
    *("temporal.groups=4", "voxel.embed=8", "voxel.depths=[1,1,1,1]", "jepa.predictor_width=16", "jepa.predictor_depth=1"),
    *("jepa.predictor_heads=2", "train_temporal.steps=2", "train_temporal.batch=1", "train_voxel.steps=50", "train_voxel.batch=3"),
)


@pytest.fixture(scope="module")
def preset() -> Any:
    return load_preset("tiny", list(SMALL))


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("doctor") / "store", grid8, subjects=2, frames=16)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed: the machine's own speed has tests of its own."""
    monkeypatch.setattr(machine, "_EDGE_CPU", 8)
    monkeypatch.setattr(checkup, "temporal_rate", lambda *_: Rate(2.0, 10))
    monkeypatch.setattr(checkup, "voxel_rates", lambda *_: (Rate(0.5, 5), Rate(0.1, 5)))


# --- rates and estimates


def test_an_estimate_is_work_over_rate() -> None:
    rate = Rate(seconds=0.25, windows=5)
    assert rate.per_second == 20
    assert rate.hours(20 * 3600 * 3) == pytest.approx(3)


def test_both_stages_are_timed_by_steps_that_learn(preset: Any, grid8: Grid) -> None:
    temporal = temporal_rate(preset, grid8.n_cells, 40, CPU)
    training, embedding = voxel_rates(preset, grid8, CPU)
    assert (temporal.windows, training.windows, embedding.windows) == (10, 2, 2)
    assert temporal.loss > 0 and training.loss > 0
    # An embedding is one of the forward passes of a training step, which has a backward pass besides.
    assert embedding.seconds > 0 and training.seconds > 0


def test_a_loss_that_is_no_number_is_unfit(preset: Any, grid8: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimbrain.doctor.speed.temporal_loss", lambda *_: (torch.tensor(float("nan"), requires_grad=True), {}))
    with pytest.raises(InputError, match="the loss is nan on cpu; choose"):
        temporal_rate(preset, 3, 40, CPU)


def test_the_work_of_a_preset_is_its_steps_times_its_batch(preset: Any, store: Store, quick: None) -> None:
    found = examine(preset, store.root, "cpu")
    assert found.problems == []
    assert found.rates == {"pretrain temporal": 5, "pretrain voxel": 10, "embed": 50}
    # 50 steps of 3 clips of 5 windows at 10 a second are 75 s.
    assert found.facts["pretrain voxel, estimate"] == "about a minute for 50 steps of 3 sessions, 750 windows"
    assert found.facts["store"] == "2 sessions, 2 with a checksum, 0 problems"
    assert found.to_dict()["fit"] is True


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (0.001, "about a minute"),
        (0.5, "about 30 minutes"),
        (1.26, "about 1.3 hours"),
        (12.6, "about 13 hours"),
        (1234, "about 1,200 hours"),
    ],
)
def test_durations_promise_two_digits(hours: float, words: str) -> None:
    assert checkup._duration(hours) == words


# --- what is unfit


def test_a_damaged_store_is_unfit(store: Store, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(store.root, tmp_path / "store"))
    data = copy / store.sessions[0].path
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert run_command(["doctor", str(copy), "--set", "window.k=2"]) == 1
    out = capsys.readouterr().out
    assert f"unfit: {data}: is not what was written" in out
    assert run_command(["doctor", str(copy), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["fit"] is False and len(facts["problems"]) == 2, "two windows of 8 frames are no more than each session has; five are not"


def test_no_store_is_unfit(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", str(tmp_path)]) == 1
    assert "unfit: " in (out := capsys.readouterr().out) and "is not a store" in out


def test_a_full_disk_and_little_memory_are_unfit(preset: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))  # type: ignore[attr-defined]
    monkeypatch.setattr(machine, "memory_bytes", lambda: (2**34, 2**29))
    problems = examine(preset, None, "cpu", "8mm").problems
    assert [problem.split(":")[0] for problem in problems] == ["memory", "."]
    assert "0.5 GiB are free, 1.5 GiB are needed" in problems[0] and "has 0.00 GiB free" in problems[1]


@pytest.mark.parametrize(("number", "fit"), [(errno.EROFS, True), (errno.EACCES, True), (errno.EIO, False)])
def test_a_folder_that_may_only_be_read_is_no_problem(number: int, fit: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Media that can only be read have no free space, which nobody needs there."""

    def refuse(dir: Path) -> Any:
        raise OSError(number, os.strerror(number), str(dir))

    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 0))  # type: ignore[attr-defined]
    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    state, problems = machine.disk(tmp_path)
    assert (problems == []) is fit and ("read-only" in state) is fit and os.strerror(number) in state


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.metadata, "requires", lambda _: ["torch>=2", "no-such-package>1", "ruff; extra == 'dev'"])
    found, problems = machine.versions()
    assert "torch" in found and problems == ["no-such-package: is not installed; install slimbrain again (docs/install.md)."]


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert run_command(["doctor", "--device", "cuda"]) == 1
    assert "this machine has no such device" in capsys.readouterr().err


def test_doctor_without_a_store_names_versions_and_times(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert torch.__version__.startswith(facts["torch"]) and facts["cores"].endswith(f"of {os.cpu_count()}")
    assert facts["timed with"].startswith("preset tiny on ") and facts["windows_per_second"]["embed"] == 50


def test_precisions_say_what_is_slow_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {torch.float32: 10.0, torch.bfloat16: 2.0, torch.float16: None}
    monkeypatch.setattr(machine, "_speed", lambda device, dtype, edge: speeds[dtype])
    assert machine._precisions(CPU) == "float32 10 GFLOP/s, tf32 no, bfloat16 2 GFLOP/s (slower than float32: use that), float16 no"


def test_a_type_without_a_product_has_no_speed() -> None:
    assert machine._speed(CPU, torch.bool, 8) is None
    assert machine._speed(CPU, torch.float32, 8) > 0  # type: ignore[operator]


# --- inspect: what the commands' own test does not show


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_inspect_follows_a_run_through_its_states(preset: Any, store: Store, tmp_path: Path) -> None:
    pretrain("temporal", store, preset, tmp_path / "run", device="cpu", commands=["slimbrain pretrain temporal"])
    run = inspect_path(tmp_path / "run")
    assert (run["steps"], run["states"], run["model"]) == ("2 of 2 logged", [2], str(tmp_path / "run" / "model"))
    assert run["commands"] == ["slimbrain pretrain temporal"]
    assert inspect_path(tmp_path / "run" / "state")["steps"] == [2]
    state = inspect_path(tmp_path / "run" / "state" / "step-00000002")
    assert (state["kind"], state["step"], state["processes"]) == ("training state", 2, 1)
    assert inspect_path(tmp_path / "run" / "metrics.jsonl")["last"]["step"] == 1
    assert inspect_path(tmp_path / "run" / "run.json")["kind"] == "settings of a pretraining run"
    config = inspect_path(tmp_path / "run" / "model" / "config.json")
    assert (config["kind"], config["lattice"]) == ("configuration of a temporal model", "mni-8mm-24-p2")
    weights = inspect_path(tmp_path / "run" / "model" / "model.safetensors")
    assert weights["kind"] == "safetensors" and weights["tensors"] > 10
    shutil.rmtree(tmp_path / "run" / "model")
    assert "--resume auto" in inspect_path(tmp_path / "run")["model"]
    (tmp_path / "run" / "state" / "step-00000002" / "loop.json").unlink()
    with pytest.raises(InputError, match=r"damaged or no training state \(loop.json is missing\)"):
        inspect_path(tmp_path / "run" / "state" / "step-00000002")


def test_doctor_and_inspect_look_at_the_seal_of_a_model(preset: Any, store: Store, tmp_path: Path, quick: None) -> None:
    pretrain("temporal", store, preset, tmp_path / "run", device="cpu")
    model = tmp_path / "run" / "model"
    facts = examine(preset, model, "cpu", "8mm").to_dict()
    assert (facts["model"], facts["model's seal"], facts["problems"]) == ("TemporalExtractor, distinguishes two inputs", "whole", [])
    assert inspect_path(model)["seal"] == "weights and config.json are as they were exported"
    seal = (model / "seal.json").read_bytes()
    (model / "seal.json").unlink()
    assert "cannot be detected" in examine(preset, model, "cpu", "8mm").facts["model's seal"]
    assert inspect_path(model)["seal"] == "none: changes of config.json cannot be detected"
    (model / "seal.json").write_bytes(seal)
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"version": "9"})
    (problem,) = examine(preset, model, "cpu", "8mm").problems
    assert problem.startswith(f"{model / 'config.json'}: was cut short, damaged or exchanged")


def test_inspect_reads_an_evaluation(tmp_path: Path) -> None:
    rows = [{"model": name, "method": "linear probe", "metric": "auc", "mean": 0.7} for name in ("ours", "untrained")]
    gap = {**rows[0], "mean": 0.0, "low": -0.1, "high": 0.1}
    value = {"task": "column:sex", "cohort": "x", "n_subjects": 9, "n_sessions": 9, "split": "5-fold", "rows": rows, "version": "0.1.0"}
    value |= {"best_baseline": rows[1], "differences": [gap], "schema_version": 1}
    facts = inspect_path(write_json(tmp_path / "sex.json", value))
    assert (facts["kind"], facts["task"], facts["n_subjects"], facts["models"]) == ("evaluation", "column:sex", 9, "ours, untrained")
    facts = inspect_path(write_json(tmp_path / "sex.json", {**value, "rows": []}))
    assert facts["kind"] == "damaged evaluation" and "rows" in facts["reason"]


def test_inspect_reads_a_sidecar_as_its_manifest_row(store: Store) -> None:
    info = store.sessions[0]
    facts = inspect_path((store.root / info.path).with_suffix(".json"))
    assert facts["kind"] == "sidecar of a session" and facts["n_frames"] == str(info.n_frames)


TABLES = {
    "participants": ("participant_id", "age"),
    "runs that could not be used": ("file", "reason"),
    "images to prepare": ("path", "participant_id", "space"),
    "events of a run": ("onset", "duration", "trial_type"),
    "table": ("something", "else"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_inspect_tells_tables_by_their_columns(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(format_tsv(TABLES[kind], [dict.fromkeys(TABLES[kind], "1")]), encoding="utf-8")
    expected = {"path": str(path), "kind": kind, "rows": 1, "columns": ", ".join(TABLES[kind])}
    found = inspect_path(path)
    # Of images to prepare it also says which would be taken.
    assert found.items() >= expected.items() and (found == expected) is (kind != "images to prepare")


def test_inspect_knows_a_mask_from_a_recording(tmp_path: Path) -> None:
    volume = np.zeros((4, 5, 6), np.float32)
    volume[1, 2, 3:5] = 1
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2, 2, 1])), tmp_path / "mask.nii.gz")
    assert inspect_path(tmp_path / "mask.nii.gz")["voxels above 0.5"] == 2
    native = tmp_path / "sub-01_task-rest_space-T1w_bold.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 7), np.float32), np.diag([2.0, 2, 2, 1])), native)
    assert "T1w is no MNI152 space" in inspect_path(native)["note"]


def test_inspect_lists_recordings_whose_sidecars_say_the_tr_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 2.0}')
    for name in ("sub-01", "sub-02"):
        (tmp_path / name / "func").mkdir(parents=True)
        (tmp_path / name / "func" / f"{name}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz").write_bytes(b"not an image")
    (tmp_path / "sub-02" / "func" / "sub-02_task-face_space-T1w_desc-preproc_bold.nii.gz").write_bytes(b"")
    facts = inspect_path(tmp_path)
    assert (facts["layout"], facts["usable runs"], facts["participants"], facts["refused"]) == ("bids", 2, 2, 1)
    assert "sub-02_task-face" in facts["first reason"]
    (tmp_path / "task-rest_bold.json").unlink()
    facts = inspect_path(tmp_path)
    assert (facts["usable runs"], facts["participants"], facts["refused"]) == (0, 2, 3)


def test_inspect_opens_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"is a pickle.*was not opened"):
        inspect_path(tmp_path / "model.pth")


def test_inspect_reads_a_preset_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nwindow: {frames: 8, k: 3}\n", encoding="utf-8")
    facts = inspect_path(tmp_path / "mine.yaml")
    assert (facts["kind"], facts["name"], facts["window"]["k"]) == ("preset", "mine", 3)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.yaml", "metrics.jsonl"])
def test_inspect_says_of_damage_in_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"{\xff: [\n")
    assert run_command(["inspect", str(tmp_path / name)]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / name) in said and said.count("\n") == 1


# --- completion


@pytest.fixture
def complete(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash offers after a line, by the script that `slimbrain --show-completion` prints."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash to complete in")
    program = tmp_path / "slimbrain"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m slimbrain \"$@\"\n", encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def offered(line: str) -> list[str]:
        script = (
            'eval "$(slimbrain --show-completion)"; COMP_WORDS=($1); [ "${1%% }" = "$1" ] || COMP_WORDS+=("");'
            'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _slimbrain_completion slimbrain; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", script, "bash", line], check=True, capture_output=True, text=True, env=environment)
        return done.stdout.split()

    return offered


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slimbrain ins", {"inspect"}),
        ("slimbrain pretrain ", {"temporal", "voxel"}),
        ("slimbrain doctor --preset s", {"small"}),
        ("slimbrain store ", {"collect", "verify", "merge", "subset", "duplicates"}),
    ],
)
def test_bash_completes_commands_and_values(line: str, words: set[str], complete: Callable[[str], list[str]]) -> None:
    assert set(complete(line)) == words


# --- which image is taken


def named(root: Path, *names: str, tr: float = 0.72) -> None:
    """Small images at these places, with the TR in their headers."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4))
        image.header.set_zooms((3, 3, 3, tr))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, root / name)


def test_inspect_lists_the_image_that_is_taken_for_each_run_and_why(tmp_path: Path) -> None:
    func = "sub-01/func/sub-01"
    named(
        tmp_path,
        *(
            f"{func}_task-rest_{version}_desc-preproc_bold.nii.gz"
            for version in ("space-T1w", "space-MNI152NLin2009cAsym", "space-MNI152NLin6Asym")
        ),
        *(f"{func}_task-face_space-MNI152NLin6Asym_desc-{desc}_bold.nii.gz" for desc in ("preproc", "smooth")),
        *(f"{func}_task-film_{version}desc-preproc_bold.nii.gz" for version in ("", "space-MNI152NLin6Asym_")),
        f"{func}_task-rest_run-2_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
        f"{func}_task-move_space-T1w_desc-preproc_bold.nii.gz",
    )
    (tmp_path / "task-face_bold.json").write_text('{"RepetitionTime": 2.0}')
    rows = inspect_path(tmp_path)["runs"]
    assert [(row["file"].split("_task-")[1].split("_desc")[0], row["tr"], row["why"]) for row in rows[:4]] == [
        ("face_space-MNI152NLin6Asym", "2 s (sidecar)", "of 2 images desc-preproc before desc-smooth"),
        ("film_space-MNI152NLin6Asym", "0.72 s (header)", "of 2 images the only one in an MNI152 space"),
        ("rest_run-2_space-MNI152NLin6Asym", "0.72 s (header)", "the only one of its run"),
        ("rest_space-MNI152NLin6Asym", "0.72 s (header)", "of 3 images space-MNI152NLin6Asym before space-MNI152NLin2009cAsym"),
    ]
    assert rows[4]["why"].startswith("refused: ") and "task-move" in rows[4]["file"] and len(rows) == 5
    # What it says is taken is what prep takes.
    taken, _ = list_runs(tmp_path)
    assert [run.image.relative_to(tmp_path).as_posix() for run in taken] == [row["file"] for row in rows[:4]]


def test_inspect_of_an_image_finds_that_it_ends_early_and_reads_its_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "rest.nii.gz"
    values = np.random.default_rng(0).integers(0, 1000, (6, 7, 8, 9)).astype(np.int16)
    nibabel.Nifti1Image(values, np.diag([3, 3, 3, 1])).to_filename(path)
    facts = inspect_path(path)
    assert facts["shape"] == (6, 7, 8, 9) and "gives it" in facts["note"]
    (tmp_path / "rest.json").write_text('{"RepetitionTime": 2.5}')
    facts = inspect_path(path)
    assert facts["TR of its JSON sidecar (s)"] == 2.5 and "note" not in facts
    whole = path.read_bytes()
    # In two parts, as bgzip writes, the last bytes count the last part only.
    unpacked = gzip.decompress(whole)
    path.write_bytes(gzip.compress(unpacked[:999]) + gzip.compress(unpacked[999:]))
    assert inspect_path(path)["shape"] == (6, 7, 8, 9)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"rest\.nii\.gz"):
        inspect_path(path)


def test_inspect_of_a_damaged_store_says_what_is_wrong_with_it(store: Store, tmp_path: Path) -> None:
    description = tmp_path / "store" / "dataset_description.json"
    description.parent.mkdir()
    description.write_bytes((store.root / description.name).read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"dataset_description\.json: cannot be read"):
        inspect_path(description.parent)


def test_other_layouts_say_why_too(tmp_path: Path) -> None:
    run = tmp_path / "hcp" / "100307" / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
    named(run, "rfMRI_REST1_LR.nii.gz", "rfMRI_REST1_LR_hp2000_clean.nii.gz")
    facts = inspect_path(tmp_path / "hcp")
    (row,) = facts["runs"]
    assert row["file"].endswith("hp2000_clean.nii.gz") and row["why"] == "the most cleaned of 2 images"
    assert facts["read by"] == "slimbrain prep"
    assert row["space"].startswith("MNI152NLin6Asym (HCP pipelines")
    named(tmp_path / "adhd", "snwmrda0010001_session_1_rest_1.nii.gz", "sfnwmrda0010001_session_1_rest_1.nii.gz", tr=0.0)
    facts = inspect_path(tmp_path / "adhd")
    (row,) = facts["runs"]
    assert row["file"].startswith("snwmrda") and row["why"] == "refused without --tr; the one without band-pass filter"
    assert row["tr"] == "not said: give --tr" and facts["read by"] == "slimbrain prep --tr SECONDS"


def test_runs_without_a_tr_are_not_counted_as_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as `prep` refuses without --tr, also those beyond the rows that a terminal shows."""
    place = "sub-{0:02d}/func/sub-{0:02d}_task-rest_space-MNI152NLin6Asym_bold.nii"
    named(tmp_path / "bids", *(place.format(n) for n in range(21)))
    named(tmp_path / "bids", *(place.format(n) for n in range(21, 24)), tr=0.0)
    facts = inspect_path(tmp_path / "bids", 20)
    assert (facts["usable runs"], facts["refused without --tr"], facts["participants"]) == (21, 3, 24)
    assert facts["read by"] == "slimbrain prep --tr SECONDS" and "refused" not in facts
    assert run_command(["inspect", str(tmp_path / "bids")]) == 0
    assert capsys.readouterr().out.endswith("... and 4 more; --json lists all\n")
    rows = inspect_path(tmp_path / "bids")["runs"]
    assert [row["why"].startswith("refused without --tr; ") for row in rows] == [False] * 21 + [True] * 3


@pytest.mark.parametrize("said", [2000, 0, -2.0, "2.0", True])
def test_runs_whose_sidecar_says_no_tr_in_seconds_are_refused_as_by_prep(said: object, tmp_path: Path) -> None:
    """In prep's words, though the header has a TR."""
    source = tmp_path / "bids"
    image = "sub-01/func/sub-01_task-rest_space-MNI152NLin6Asym_bold.nii"
    named(source, image, image.replace("01", "02"))
    (source / image).with_suffix(".json").write_text(json.dumps({"RepetitionTime": said}))
    facts = inspect_path(source)
    assert (facts["usable runs"], facts["refused"]) == (1, 1)
    assert facts["first reason"].endswith(f"RepetitionTime {said!r}, which is not a TR in seconds; correct the sidecar.")
    assert inspect_path(source / image)["note"] == facts["first reason"]
    refused = {failure.file: failure.reason for failure in prepare(source, tmp_path / "store", PrepOptions(resolution="8mm")).failures}
    assert refused[image] == facts["first reason"]


@pytest.mark.parametrize("sidecar", [{}, {"RepetitionTime": 2.0}])
def test_series_of_regions_say_their_tr_in_sidecars_alone(sidecar: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "channels.tsv").write_text("name\tx\ty\tz\na\t0\t0\t0\nb\t8\t0\t0\n")
    (tmp_path / "sub-01_timeseries.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "sub-01_timeseries.json").write_text(json.dumps(sidecar))
    facts = inspect_path(tmp_path)
    assert (facts["usable runs"], facts.get("refused without --tr")) == ((1, None) if sidecar else (0, 1))


def test_the_terminal_shows_the_first_runs_and_json_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named(tmp_path, *(f"sub-{n:02d}/func/sub-{n:02d}_task-rest_space-MNI152NLin6Asym_bold.nii" for n in range(23)))
    assert run_command(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("sub-") for line in shown) == 20 and shown[-1] == "... and 3 more; --json lists all"
    assert run_command(["inspect", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 23
