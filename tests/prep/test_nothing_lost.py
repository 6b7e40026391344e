"""A prep that is killed, and one that meets a full or read-only disk: what is in the store stays, and the same command finishes it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from slimbrain.atomic import TEMPORARY_PREFIX
from slimbrain.prep import PrepOptions, prepare
from slimbrain.verify import verify

WriteRun = Callable[..., Path]

N_KILLS = 30
FINAL = ("sessions.tsv", "participants.tsv", "failures.tsv", "dataset_description.json", "report.html")


def victim(plan: dict[str, Any]) -> dict[str, Any]:
    program = Path(__file__).with_name("prep_victim.py")
    done = subprocess.run([sys.executable, str(program)], input=json.dumps(plan), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def batch(write_run: WriteRun, bids_dir: Path) -> Path:
    """Four runs, one of which is too short, and a table of participants."""
    for number in range(3):
        write_run(f"sub-{number}", seed=number, tr=(0.72, 2.0, 0.8)[number], frames=12)
    write_run("sub-short", frames=3)
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-0\t31\nsub-1\t\n")
    return bids_dir


@pytest.mark.slow
def test_killed_at_thirty_moments_and_resumed_it_is_the_store_of_an_uninterrupted_prep(
    batch: Path, mask8: Path, tmp_path: Path, write_run: WriteRun
) -> None:
    out = tmp_path / "store"
    # Half of the kills hit a prep that replaces a session whose source has changed since.
    old = tmp_path / "older"
    prepare(batch, old, PrepOptions(mask=mask8, resolution="8mm", participant_label=("0", "1")))
    write_run("sub-1", seed=9, tr=2.0, frames=16)
    random_moments = random.Random(20260101)
    kinds = ["event"] * 20 + ["time"] * (N_KILLS - 20)
    moments = [{kind: random_moments.random(), "before": ("nothing", "older store")[number % 2]} for number, kind in enumerate(kinds)]
    argv = ["prep", str(batch), str(out), "participant", "--mask", str(mask8), "--resolution", "8mm"]
    told = victim(
        {
            "argv": argv,
            "out": str(out),
            "before": {"nothing": None, "older store": str(old)},
            "moments": moments,
            "log": str(tmp_path / "log"),
            "exit": 1,
        }
    )
    reference = told["reference"]
    assert set(FINAL) <= reference.keys() and sum(name.endswith(".safetensors") for name in reference) == 3
    results = told["results"]
    assert [result["status"] for result in results] == [-signal.SIGKILL] * N_KILLS
    # The moments are worth something: some left half a store, some a temporary file.
    assert sum(result["left"] != reference for result in results) >= N_KILLS // 2
    assert any(TEMPORARY_PREFIX in name for result in results for name in result["left"])
    for result in results:
        assert result["resumed"] == 1
        assert result["files"] == reference, (result["moment"], sorted(set(result["files"].items()) ^ set(reference.items())))


def slimbrain(*words: object) -> list[str]:
    return [sys.executable, "-m", "slimbrain", *map(str, words)]


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


def eventually(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something holds; the test's own time limit ends what never does."""
    while not holds():
        assert process is None or process.poll() is None, "the process ended before that"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_the_command_finishes_its_work(batch: Path, mask8: Path, tmp_path: Path) -> None:
    """The real program, with two workers, killed when its first session appears."""
    prepare(batch, tmp_path / "reference", PrepOptions(mask=mask8, resolution="8mm"))
    out = tmp_path / "store"
    command = slimbrain("prep", batch, out, "participant", "--mask", mask8, "--resolution", "8mm", "--nprocs", 2)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    eventually(lambda: any(out.rglob("*.safetensors")), process)
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    made = files(out)
    assert made.pop("report.html", None)
    assert made == files(tmp_path / "reference")
    assert verify(out).problems == []


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
