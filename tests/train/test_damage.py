"""A run whose files are damaged, or which another process is training: one sentence, and nothing of it is lost."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from store_samples import make_store
from train_samples import STEPS, assert_same_run, settings, small_preset

from slimbrain.disk.atomic import write_json
from slimbrain.disk.locks import claim
from slimbrain.disk.seal import SEAL_FILE, write_seal
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.train import lock, pretrain, read_metrics

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), grid8, frames=12)


@pytest.fixture(scope="module")
def finished(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    pretrain("temporal", store, small_preset(), run, seed=3, device="cpu")
    return run


def resume(store: Store, run: Path) -> None:
    pretrain("temporal", store, small_preset(), run, seed=3, resume=True, device="cpu")


def refused(store: Store, run: Path) -> str:
    with pytest.raises(InputError) as refusal:
        resume(store, run)
    message = str(refusal.value)
    assert message.startswith(str(run)) and "\n" not in message and message.endswith(".") and len(message) < 600
    return message


# --- damage


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"run"', "\x00", DEEP])
def test_a_damaged_run_json_is_refused(text: str, store: Store, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "run.json").write_text(text)
    assert "run.json: is damaged" in refused(store, run)


def test_a_run_json_that_is_no_text_is_refused(store: Store, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "run.json").write_bytes(b"\xff\xfe\x80")
    assert "run.json: is damaged" in refused(store, run)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"3", b"{}", b'{"step": "2"}', b'{"step": 1e999}', b"\xff", DEEP.encode()])
def test_a_damaged_line_of_metrics_is_named(line: bytes, store: Store, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    (run / "metrics.jsonl").write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]) + b"\n")
    assert "metrics.jsonl: line 3 is damaged" in refused(store, run)


@pytest.mark.parametrize(
    "change",
    [
        {"processes": "two"},
        {"tally": [1]},
        {"bad_lines": -1},
        {"session_counts": [1]},
        {"session_counts": None},
        {"more": 1},
        {"tally": None},
    ],
)
def test_a_state_of_another_form_is_refused_even_when_sealed(
    change: dict[str, object], store: Store, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    state = run / "state" / f"step-{STEPS:08d}"
    write_json(state / "loop.json", {**json.loads((state / "loop.json").read_text()), **change})
    assert "loop.json was cut short, damaged or exchanged" in refused(store, run)
    write_seal(state, [path.name for path in state.iterdir() if path.name != SEAL_FILE])
    assert f"{state / 'loop.json'}: is not what training writes" in refused(store, run)


def test_a_state_that_was_deleted_gives_way_to_the_one_before(store: Store, finished: Path, tmp_path: Path) -> None:
    """What the message about a damaged state advises."""
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "state" / f"step-{STEPS:08d}" / "layout.json").unlink()
    assert "(layout.json is missing); delete it to resume from an earlier one" in refused(store, run)
    shutil.rmtree(run / "state" / f"step-{STEPS:08d}")
    resume(store, run)
    assert_same_run(finished, run)


# --- sizes


@pytest.mark.parametrize(
    ("stage", "overrides", "advice"),
    [
        ("temporal", ["train_temporal.batch=65536", "temporal.groups=1024"], "lower train_temporal.batch"),
        ("temporal", ["temporal.depth=1000", "temporal.width=65536"], "temporal.width or temporal.depth"),
        ("voxel", ["voxel.depths=[1000,1000,1000,1000]", "voxel.embed=8192"], "voxel.embed or voxel.depths"),
        ("voxel", ["voxel.learned_positions=[1024,1000000]", "voxel.embed=8192"], "voxel.embed"),
        ("voxel", ["train_voxel.batch=65536", "window.k=10000"], "lower train_voxel.batch"),
        ("voxel", ["jepa.predictor_width=65532", "jepa.predictor_depth=1000"], "see `slimbrain plan`"),
    ],
)
def test_a_step_that_fits_no_memory_is_refused_before_anything_is_built(
    stage: str, overrides: list[str], advice: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimbrain.train.run.TemporalStage", None)
    monkeypatch.setattr("slimbrain.train.run.VoxelStage", None)
    with pytest.raises(InputError, match=r"takes at least [\d,.]+ GiB, this machine has [\d,.]+ GiB; ") as refusal:
        pretrain(stage, store, small_preset(*overrides), tmp_path / "run", device="cpu")
    assert advice in str(refusal.value) and not (tmp_path / "run" / "run.json").exists()


# --- one process per run

PAUSED = """
import sys, time
from pathlib import Path
from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import Loop, pretrain

root, run, signs, *overrides = sys.argv[1:]
step = Loop._step

def paused(self, number, batches):
    if number == 3:
        (Path(signs) / "paused").touch()
        while not (Path(signs) / "released").exists():
            time.sleep(0.05)
    return step(self, number, batches)

Loop._step = paused
pretrain("temporal", Store(root), load_preset("tiny", overrides), Path(run), seed=3, resume=True, device="cpu")
"""


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time(store: Store, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", PAUSED, str(store.root), str(run), str(tmp_path), *settings()])
    try:
        while not (tmp_path / "paused").exists():
            assert first.poll() is None
            time.sleep(0.05)
        assert f"process {first.pid} on {platform.node()} is training this run" in refused(store, run)
        assert len(read_metrics(run)) == 3
    finally:
        (tmp_path / "released").touch()
    assert first.wait(timeout=200) == 0
    assert_same_run(finished, run)
    assert [line["step"] for line in read_metrics(run)] == list(range(STEPS))
    resume(store, run)
    assert list((run / ".claims").iterdir()) == []


@contextmanager
def abandoned(run: Path, seconds: float) -> Iterator[None]:
    """A lock that outlives its holder for a while, as when reading processes have not noticed yet that it was killed."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run.mkdir()
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with claim(run, "pretrain"):
            write_json(run / ".claims" / "pretrain.json", {"process": gone.pid, "host": platform.node()})
            taken.set()
            done.wait(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    yield
    done.set()
    holder.join()


def test_the_lock_of_a_dead_process_is_waited_for(tmp_path: Path) -> None:
    with abandoned(tmp_path / "run", 0.5), lock.run_lock(tmp_path / "run"):
        told = json.loads((tmp_path / "run" / ".claims" / "pretrain.json").read_text())
        assert told == {"process": os.getpid(), "host": platform.node()}


def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_GRACE_S", 0.1)
    with abandoned(tmp_path / "run", 60), pytest.raises(InputError, match="is training this run"), lock.run_lock(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_locked_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run: cannot be locked .*choose an --out"), lock.run_lock(tmp_path / "file" / "run"):
        pass
