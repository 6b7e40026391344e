"""The commands with --slurm on a real Slurm: the same results as without, whatever is cancelled, stopped, or breaks down."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm_cluster import SlurmCluster
from store_samples import make_store
from test_train import comparable, settings, small_preset

from slimbrain.cli import run_command
from slimbrain.launch.folder import LaunchFolder
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store
from slimbrain.train import pretrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def until(holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    simulate_cohort(root, CohortSpec(subjects=4, sessions=2, frames=160, seed=1))
    return root


@pytest.fixture(scope="module")
def serial(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of the cohort."""
    out = tmp_path_factory.mktemp("serial") / "store"
    prepare(cohort, out, PrepOptions(resolution="8mm"))
    return contents(out)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store, but for the report, which says when it was written, and what nobody reads."""
    paths = [path for path in store.rglob("*") if path.is_file() and path.name not in ("report.html", ".lock")]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in paths}


def prep_array(cohort: Path, out: Path, *options: str) -> int:
    return run_command(["prep", str(cohort), str(out), "--resolution", "8mm", "--slurm", "--shards", "2", *options])


def jobs_of(out: Path) -> list[str]:
    return [each.job for each in LaunchFolder(Path(f"{out}.launch")).read_jobs().values()]


def states_of(out: Path) -> list[str]:
    folder = LaunchFolder(Path(f"{out}.launch"))
    plan = folder.read_plan()
    assert plan is not None
    return [folder.read(shard).state for shard in plan.shards]


def sidecars(out: Path) -> list[Path]:
    return list(out.glob("sub-*/**/*_bold.json"))


def test_a_prep_array_equals_one_process_byte_for_byte(
    slurm: SlurmCluster, cohort: Path, serial: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out) == 0
    assert "8 sessions listed" in capsys.readouterr().out
    assert contents(out) == serial and (out / "report.html").exists()
    nodes = {row.split("\t")[5] for row in (Path(f"{out}.launch") / "table.tsv").read_text().splitlines()[1:]}
    assert nodes == {"node1", "node2"}


def test_a_cancelled_array_is_gone_on_with_and_nothing_is_lost(
    slurm: SlurmCluster, cohort: Path, serial: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out, "--no-wait") == 0
    until(lambda: len(sidecars(out)) >= 2, "two sessions")
    slurm.say("scancel", jobs_of(out)[0].partition("_")[0])
    slurm.wait_idle()
    before = {path: path.stat().st_mtime_ns for path in sidecars(out)}
    assert 2 <= len(before) < 8 and "done" not in states_of(out)
    assert prep_array(cohort, out) == 0
    assert contents(out) == serial
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_node_that_goes_down_costs_only_time(slurm: SlurmCluster, cohort: Path, serial: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "store"
    assert prep_array(cohort, out, "--no-wait") == 0
    until(lambda: states_of(out) == ["running", "running"] and len(sidecars(out)) >= 1, "both shards at work")
    slurm.kill_node("node2")
    try:
        assert prep_array(cohort, out) == 0
    finally:
        slurm.start_node("node2")
        slurm.wait_idle()
    assert contents(out) == serial
    rows = [row.split("\t") for row in (Path(f"{out}.launch") / "table.tsv").read_text().splitlines()[1:]]
    # Slurm queued the lost job again by itself: nobody had to submit it a second time.
    assert {(row[2], row[5]) for row in rows} == {("1", "node1")}


@pytest.fixture(scope="module")
def store(grid8: object, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), grid8, frames=12)  # type: ignore[arg-type]


def pretrain_on_two_nodes(store: Store, run: Path, *options: str) -> int:
    changed = [part for override in settings() for part in ("--set", override)]
    words = ["pretrain", "voxel", str(store.root), "--preset", "tiny", "--out", str(run), "--seed", "3", "--device", "cpu"]
    return run_command([*words, *changed, "--slurm", "--nodes", "2", *options])


def test_two_nodes_told_to_save_are_queued_again_and_train_what_one_process_trains(
    slurm: SlurmCluster, store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert pretrain_on_two_nodes(store, run, "--no-wait") == 0
    until(lambda: (run / "state" / "step-00000003").exists(), "the first state")
    # What `--signal` has Slurm send before the time limit.
    subprocess.run(["scancel", "--signal=USR1", jobs_of(run)[0]], check=True)
    until(lambda: "requeued" in states_of(run), "the job to be queued again")
    assert not (run / "model").exists()
    assert pretrain_on_two_nodes(store, run) == 0
    assert LaunchFolder(Path(f"{run}.launch")).read("all").requeues == 1
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    pretrain("voxel", store, small_preset(), tmp_path / "alone", seed=3, device="cpu")
    # Sums are added up in another order, so the last digits differ; gradients agree to 1e-10 in float64 (test_distributed.py).
    for line, other in zip(comparable(run), comparable(tmp_path / "alone"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    weights, others = (load_file(path / "model" / "model.safetensors") for path in (run, tmp_path / "alone"))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)
