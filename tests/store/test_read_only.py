"""Commands that only read a store write nothing into it, so it may lie on a medium that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from disk_samples import mounted, remount
from store_samples import TR_S, make_store, write_run

from slimbrain.cli import run_command
from slimbrain.evaluate.finetune import FinetuneConfig, FineTuning, Views
from slimbrain.evaluate.tasks import Target
from slimbrain.evaluate.tuned import save_tuned
from slimbrain.explain.methods import TITLES
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.store import Store
from slimbrain.store.records import Governance
from slimbrain.store.write import assign

pytestmark = pytest.mark.slow

GUARD = r"""
import contextlib, errno, io, json, os, sys
root = os.path.realpath(sys.argv[1])
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.utime"}

def refuse(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes, os.PathLike)) or not (flags or 0) & WRITES:
            return
        paths = [path]
    elif event in CHANGES:
        paths = [path for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))]
    else:
        return
    for path in paths:
        real = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path)))), os.path.basename(os.fsdecode(path)))
        if real == root or real.startswith(root + os.sep):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))

sys.addaudithook(refuse)
from slimbrain.cli import run_command
results = []
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run_command(words)
    results.append([code, out.getvalue()[-2000:] + err.getvalue()[-2000:]])
print(json.dumps(results))
"""


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        status = os.lstat(path)
        found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def test_a_store_that_cannot_be_written_is_read_by_every_command_that_only_reads(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", grid8, 8, frames=24)
    said = Governance.model_validate({"cohort": "study", "licence": "CC0-1.0", "consent": ["broad-research"]})
    assign(store.root, {info.key: said for info in store.sessions})
    rows = "".join(f"sub-{number:02d}\t{'FM'[number % 2]}\t{20 + number}\n" for number in range(1, 9))
    (store.root / "participants.tsv").write_text(f"participant_id\tsex\tage\n{rows}")
    settings = ("window.frames=4", "window.k=2", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2")
    settings += ("temporal.groups=4", "train_temporal.steps=2", "train_temporal.batch=1", "train_temporal.log_every=1")
    root, run, out = str(store.root), tmp_path / "run", tmp_path / "out"
    out.mkdir()
    overrides = [word for setting in settings for word in ("--set", setting)]
    pretrain = ["pretrain", "temporal", root, "--preset", "tiny", "--participants", str(_people(tmp_path, 4)), *overrides]
    assert run_command([*pretrain, "--out", str(run)]) == 0
    model = str(run / "model")
    commands = [
        ["inspect", root],
        ["ledger", root],
        ["ledger", root, "--contains", "01"],
        ["ledger", root, "--compatible-with", "CC0-1.0"],
        ["ledger", root, "--diff", root],
        ["ledger", model, "--diff", model],
        ["store", "verify", root],
        ["store", "duplicates", root],
        ["store", "subset", root, str(out / "some"), "--where", "age > 23"],
        ["store", "merge", str(out / "all"), root],
        ["store", "merge", str(out / "links"), root, "--link"],
        [*pretrain, "--out", str(out / "run")],
        ["rank", root, "--temporal", model, "--out", str(out / "windows.tsv")],
        ["embed", root, "--model", model, "--out", str(out / "embeddings.npz")],
        ["group", root, "--temporal", model, "--k", "2", "--out", str(out / "groups.tsv")],
        ["report", root, "--out", str(out / "report.html")],
    ]
    only_read(store.root, commands)


@pytest.fixture
def labelled(grid8: Grid, tmp_path: Path) -> Store:
    """Twelve people, of two sexes, that no model was trained on."""
    store = Store.create(tmp_path / "store", grid8, TR_S)
    for number in range(12):
        write_run(store, 24, f"{20 + number}", seed=100 + number)
    rows = "".join(f"sub-{20 + number}\t{'FM'[number % 2]}\n" for number in range(12))
    (store.root / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    return Store(store.root)


def tuned(model: Path, store: Store, folder: Path) -> str:
    """A folder of the model, fine-tuned for an epoch."""
    loaded = from_pretrained(model)
    assert isinstance(loaded, HieraJEPA)
    keys = tuple(info.key for info in store.sessions[:4])
    views, config = dict.fromkeys(keys, Views((0, 2), (0, 1, 2))), FinetuneConfig(epochs=1, warmup_epochs=0, batch=4)
    tuning = FineTuning("m", loaded.encoder, store, keys, views, 4, config, torch.device("cpu"))
    sexes, who = np.array(list("FMFM")), np.array([key.split("_")[0] for key in keys])
    save_tuned(folder, loaded, tuning, Target(keys, who, sexes, "classification", None, {}), "column:sex")
    return str(folder)


def test_evaluations_maps_and_predictions_only_read(labelled: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    (people := tmp_path / "people.tsv").write_text("participant_id\nsub-20\nsub-21\n")
    models, root, out = {stage: str(trained(stage) / "model") for stage in ("temporal", "voxel")}, str(labelled.root), tmp_path / "out"
    out.mkdir()
    head, task = tuned(trained("voxel") / "model", labelled, tmp_path / "tuned"), ["--task", "column:sex"]
    commands = [
        ["evaluate", root, "--model", models["voxel"], *task, "--out", str(out / "sex.json")],
        ["predict", root, "--model", head, "--out", str(out / "predictions.tsv")],
    ]
    assert set(TITLES) == {"gradient", "integrated", "occlusion", "surprise", "channels"}
    some = ["--participants", str(people)]
    for method in TITLES:
        model = models["temporal" if method == "channels" else "voxel"]
        # A probe learns from all participants; where there is none, two sessions are enough.
        asked = some if method in ("surprise", "channels") else task
        more = {"integrated": ["--steps", "2"], "gradient": ["--pictures", "group"]}.get(method, ["--pictures", "none"])
        commands.append(["explain", root, "--model", model, "--method", method, *asked, *more, "--out", str(out / method)])
    commands.append(["explain", root, "--model", head, "--method", "gradient", "--pictures", "none", "--out", str(out / "tuned-maps")])
    only_read(labelled.root, commands)


def test_the_doctor_finds_a_store_on_a_read_only_disk_fit(labelled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk of 20 MiB is full, too: whoever cannot write there needs no room there."""
    with mounted(tmp_path / "disk", "size=20m") as disk:
        shutil.copytree(labelled.root, disk / "store")
        words = ["doctor", str(disk / "store"), "--preset", "tiny", "--set", "window.frames=4", "--set", "temporal.window_frames=4"]
        assert run_command(words) == 1 and "GiB free, a session can take as much" in capsys.readouterr().out
        remount(disk, "ro")
        assert run_command(words) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert "read-only: fine for all that only reads" in told and "0 problems" in told and "unfit" not in told


def only_read(root: Path, commands: list[list[str]]) -> None:
    """All commands succeed although nothing below `root` can be written, and leave it as it was."""
    before = snapshot(root)
    done = subprocess.run([sys.executable, "-c", GUARD, str(root), json.dumps(commands)], check=True, capture_output=True, text=True)
    results = json.loads(done.stdout.splitlines()[-1])
    assert {" ".join(command[:3]): text for command, (code, text) in zip(commands, results, strict=True) if code} == {}
    after = snapshot(root)
    # The time of a change of the inode is left out: hard links are counted in what they are links to.
    assert {path for path in before.keys() | after.keys() if before.get(path, ())[:2] != after.get(path, ())[:2]} == set()


def test_the_guard_refuses_what_a_read_only_file_system_refuses(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", grid8, 2, frames=8)
    commands = [["withdraw", str(store.root), "01"], ["store", "collect", str(store.root)]]
    before = snapshot(store.root)
    done = subprocess.run([sys.executable, "-c", GUARD, str(store.root), json.dumps(commands)], check=True, capture_output=True, text=True)
    for code, text in json.loads(done.stdout.splitlines()[-1]):
        assert code and "Read-only file system" in text and "Traceback" not in text
    assert snapshot(store.root) == before


def _people(folder: Path, count: int) -> Path:
    path = folder / "people.tsv"
    path.write_text("participant_id\n" + "".join(f"sub-{number:02d}\n" for number in range(1, count + 1)))
    return path
