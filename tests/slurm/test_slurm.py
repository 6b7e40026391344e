"""`slimbrain launch` on a real Slurm: the same results as without, whatever is cancelled, stopped, or breaks down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from slurm_cluster import SlurmCluster
from store_samples import files_but_commands
from train_samples import assert_same_run, comparable, settings, small_preset

from slimbrain.cli import run_command
from slimbrain.disk.tsv import read_tsv
from slimbrain.launch import client
from slimbrain.launch.folder import LaunchFolder, ShardState
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store
from slimbrain.train import pretrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TIME_LIMIT = "SLIMBRAIN_TEST_TIME_LIMIT"
TRAINED, HELD_OUT = ("sub-001",), ("sub-002", "sub-003", "sub-004")


def until(holds: Callable[[], bool], what: str, out: Path, seconds: float = 240.0) -> None:
    """Wait; in vain, say what the queue, the shards and the end of their logs say."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            queue = subprocess.run(["squeue", "--long"], check=False, capture_output=True, text=True).stdout
            nodes = subprocess.run(["sinfo", "--long", "--Node"], check=False, capture_output=True, text=True).stdout
            logs = "".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}\n" for log in launch_folder(out).logs.glob("*_log.*"))
            pytest.fail(f"waited in vain for {what}\n{queue}\n{nodes}\n{shards_of(out)}\n{logs}")
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """The queue is ours alone, and may be asked as often as one likes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_POLL_S", 0.1)
        patch.setattr(client, "_ASK_S", 1.0)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    simulate_cohort(root, CohortSpec(subjects=4, sessions=2, frames=160, seed=1))
    return root


@pytest.fixture(scope="module")
def serial(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one process makes of the cohort."""
    out = tmp_path_factory.mktemp("serial") / "store"
    prepare(cohort, out, PrepOptions(resolution="8mm"))
    return out


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Tables of the participants to train on, and of those to evaluate on."""
    folder = tmp_path_factory.mktemp("tables")
    paths = {people: folder / f"{people[0]}.tsv" for people in (TRAINED, HELD_OUT)}
    for people, path in paths.items():
        path.write_text("\n".join(["participant_id", *people]) + "\n")
    return paths


@pytest.fixture(scope="module")
def alone(serial: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that one process trains."""
    run = tmp_path_factory.mktemp("alone") / "run"
    pretrain("voxel", Store(serial).select(TRAINED), small_preset(), run, seed=3, device="cpu")
    return run


def prep_array(cohort: Path, out: Path, *options: str) -> int:
    return run_command(["launch", "--shards", "2", *options, "prep", str(cohort), str(out), "--resolution", "8mm"])


def launch_folder(out: Path) -> LaunchFolder:
    return LaunchFolder(Path(f"{out}.launch"))


def jobs_of(out: Path) -> list[str]:
    return [each.job for each in launch_folder(out).read_jobs().values()]


def shards_of(out: Path) -> list[ShardState]:
    plan = launch_folder(out).read_plan()
    assert plan is not None
    return [launch_folder(out).read(shard) for shard in plan.shards]


def states_of(out: Path) -> list[str]:
    return [shard.state for shard in shards_of(out)]


def starts_of(out: Path) -> list[int]:
    """How often each shard was begun, by the logs of its jobs."""
    logs = [launch_folder(out).logs / f"{job}_0_log.out" for job in jobs_of(out)]
    return [log.read_text().count("Starting with JobEnvironment") for log in logs]


def table_of(out: Path) -> list[dict[str, str]]:
    return read_tsv(launch_folder(out).root / "table.tsv")


def sidecars(out: Path) -> list[Path]:
    """Of sessions that are there; a cancelled task may leave a file under a temporary name, which the next one removes."""
    return list(out.glob("sub-*/**/sub-*_bold.json"))


# --- arrays


def test_a_prep_array_equals_one_process_byte_for_byte(
    slurm: SlurmCluster, cohort: Path, serial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out) == 0
    assert "8 sessions listed" in capsys.readouterr().out
    assert files_but_commands(out) == files_but_commands(serial) and (out / "report.html").exists()
    assert {row["node"] for row in table_of(out)} == {"node1", "node2"}


def test_a_cancelled_array_is_gone_on_with_and_nothing_is_lost(slurm: SlurmCluster, cohort: Path, serial: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out, "--no-wait") == 0
    until(lambda: len(sidecars(out)) >= 2, "two sessions", out)
    slurm.say("scancel", jobs_of(out)[0].partition("_")[0])
    slurm.wait_idle()
    before = {path: path.stat().st_mtime_ns for path in sidecars(out)}
    assert 2 <= len(before) < 8 and "done" not in states_of(out)
    assert prep_array(cohort, out) == 0
    assert files_but_commands(out) == files_but_commands(serial)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture(scope="module")
def unwatched(slurm: SlurmCluster, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of which one is damaged, and a store; its array runs beside the next tests, and nobody waits for it."""
    source, out = tmp_path_factory.mktemp("damaged"), tmp_path_factory.mktemp("unwatched") / "store"
    for subject in HELD_OUT[:2]:
        shutil.copytree(cohort / subject / "ses-1", source / subject / "ses-1")
    next((source / HELD_OUT[0]).rglob("*_bold.nii.gz")).write_bytes(b"no image")
    assert prep_array(source, out, "--no-wait") == 0
    return source, out


def test_embed_and_evaluate_on_nodes_give_what_one_process_gives(
    slurm: SlurmCluster, unwatched: tuple[Path, Path], serial: Path, alone: Path, tables: dict[tuple[str, ...], Path], tmp_path: Path
) -> None:
    given = [str(serial), "--participants", str(tables[HELD_OUT]), "--model", str(alone / "model")]
    embed = ["embed", *given, "--out"]
    assert run_command([*embed, str(tmp_path / "here.npz")]) == 0
    assert run_command(["launch", "--shards", "2", *embed, str(tmp_path / "there.npz")]) == 0
    here, there = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("here", "there"))
    assert "there.npz" in str(there.pop("commands")) and "here.npz" in str(here.pop("commands"))
    assert here.keys() == there.keys() and all(np.array_equal(here[name], there[name]) for name in here)
    assert states_of(tmp_path / "there.npz") == ["done", "done"]
    evaluate = ["evaluate", *given, "--task", "identity", "--out"]
    assert run_command([*evaluate, str(tmp_path / "here.json")]) == 0
    assert run_command(["launch", *evaluate, str(tmp_path / "there.json")]) == 0
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("here", "there")]
    assert [len(result.pop("commands")) for result in results] == [1, 1] and results[0] == results[1]
    assert (tmp_path / "there.md").read_bytes() == (tmp_path / "here.md").read_bytes()


def test_a_shard_that_fails_is_tried_once_more_where_nobody_waits(slurm: SlurmCluster, unwatched: tuple[Path, Path]) -> None:
    source, out = unwatched
    until(lambda: sorted(states_of(out)) == ["done", "failed"], "the shard to be given up", out)
    # The other shard of the array is left alone.
    assert sorted(zip((shard.failures for shard in shards_of(out)), starts_of(out), strict=True)) == [(0, 1), (2, 2)]
    assert {each.submissions for each in launch_folder(out).read_jobs().values()} == {1}
    damaged, sound = (next((source / subject).rglob("*_bold.nii.gz")) for subject in HELD_OUT[:2])
    (before,) = sidecars(out)
    written = before.stat().st_mtime_ns
    # Mended, it weighs something else, so that the shards have to be made anew; what was done is not done again.
    shutil.copy(sound, damaged)
    assert prep_array(source, out) == 0
    assert len(Store(out).sessions) == 2 and before.stat().st_mtime_ns == written
    assert [(row["submissions"], row["failures"]) for row in table_of(out)] == [("2", "0"), ("2", "0")]


# --- two nodes


def test_two_nodes_train_what_one_process_trains_also_if_they_are_told_to_save(
    slurm: SlurmCluster, serial: Path, alone: Path, tables: dict[tuple[str, ...], Path], tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def on_two_nodes(run: Path, *options: str) -> int:
        words = ["pretrain", "voxel", str(serial), "--participants", str(tables[TRAINED]), "--preset", "tiny", "--out", str(run)]
        changed = [part for override in settings() for part in ("--set", override)]
        return run_command(["launch", "--nodes", "2", *options, *words, "--seed", "3", "--device", "cpu", *changed])

    assert on_two_nodes(stopped, "--no-wait") == 0
    until(lambda: (stopped / "state" / "step-00000003").exists(), "the first state", stopped)
    # What `--signal` has Slurm send before the time limit.
    subprocess.run(["scancel", "--signal=USR1", jobs_of(stopped)[0]], check=True)
    until(lambda: "requeued" in states_of(stopped), "the job to be queued again", stopped)
    assert not (stopped / "model").exists()
    # It has to wait a while, which leaves the nodes to the other.
    assert on_two_nodes(whole) == 0 and on_two_nodes(stopped) == 0
    assert [shard.requeues for shard in (*shards_of(whole), *shards_of(stopped))] == [0, 1]
    assert json.loads((whole / "run.json").read_text())["processes"] == 2
    assert_same_run(stopped, whole)
    # Sums are added up in another order, so the last digits differ; gradients agree to 1e-10 in float64 (test_distributed.py).
    for line, other in zip(comparable(whole), comparable(alone), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    weights, others = (load_file(path / "model" / "model.safetensors") for path in (whole, alone))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(TIME_LIMIT not in os.environ, reason=f"takes minutes, since a limit is one at least; set {TIME_LIMIT}=1 to run it")
def test_a_real_time_limit_costs_only_time(slurm: SlurmCluster, serial: Path, tables: dict[tuple[str, ...], Path], tmp_path: Path) -> None:
    """Slurm tells the job half a minute before, within which it is queued again; many times, until all steps are done."""
    words = ["pretrain", "voxel", str(serial), "--participants", str(tables[TRAINED]), "--preset", "tiny", "--seed", "3", "--device", "cpu"]
    words += ["--set", "train_voxel.steps=150", "--out"]
    assert run_command([*words, str(tmp_path / "whole")]) == 0
    assert run_command(["launch", "--time", "1", "--grace", "10", *words, str(tmp_path / "limited")]) == 0
    (shard,) = shards_of(tmp_path / "limited")
    assert shard.requeues >= 1, "was done before its limit; give it more steps"
    assert_same_run(tmp_path / "limited", tmp_path / "whole")


# --- last, since it costs a node


def test_a_node_that_goes_down_costs_only_time(slurm: SlurmCluster, cohort: Path, serial: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out, "--no-wait") == 0
    until(lambda: states_of(out) == ["running", "running"] and len(sidecars(out)) >= 1, "both shards at work", out)
    slurm.kill_node("node2")
    try:
        assert prep_array(cohort, out) == 0
    finally:
        slurm.start_node("node2")
        slurm.wait_idle()
    assert files_but_commands(out) == files_but_commands(serial)
    # Slurm queued the lost job again by itself: nobody had to submit it a second time.
    assert {(row["submissions"], row["node"]) for row in table_of(out)} == {("1", "node1")}
