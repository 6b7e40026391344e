"""Commands that only read a store write nothing into it, so it may lie on a medium that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_samples import TR_S, make_store, write_run

from slimbrain.cli import run_command
from slimbrain.grid import Grid
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


def test_evaluations_and_maps_only_read(grid8: Grid, trained: Callable[[str], Path], tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", grid8, TR_S)
    for number in range(12):
        write_run(store, 24, f"{20 + number}", seed=100 + number)
    rows = "".join(f"sub-{20 + number}\t{'FM'[number % 2]}\n" for number in range(12))
    (store.root / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    (people := tmp_path / "people.tsv").write_text("participant_id\nsub-20\nsub-21\nsub-22\nsub-23\n")
    model, root, out = str(trained("voxel") / "model"), str(store.root), tmp_path / "out"
    out.mkdir()
    asked = [root, "--model", model, "--task", "column:sex"]
    maps = ["explain", root, "--model", model, "--method", "surprise", "--participants", str(people), "--pictures", "none"]
    only_read(store.root, [["evaluate", *asked, "--out", str(out / "sex.json")], [*maps, "--out", str(out / "maps")]])


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
