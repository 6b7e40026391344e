"""rank, embed and evaluate, killed at up to thirty moments and typed again, leave what one uninterrupted command leaves, byte for byte."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_samples import write_models
from prep_victim import distinct
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.disk.atomic import TEMPORARY_PREFIX
from slimbrain.grid import LATTICES, Grid

N_KILLS = 30
SUBJECTS = 8


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of eight people with a block for a brain, models of both stages, a window table."""
    root, lattice = tmp_path_factory.mktemp("killed"), LATTICES["8mm"]
    mask = np.zeros((lattice.edge,) * 3, bool)
    mask[8:16, 8:16, 8:12] = True
    grid = Grid(lattice, mask)
    make_store(root / "store", grid, SUBJECTS)
    rows = [f"sub-{number:02d}\t{number * number % 11 + number / 10}" for number in range(1, SUBJECTS + 1)]
    (root / "store" / "participants.tsv").write_text("\n".join(["participant_id\tscore", *rows]) + "\n")
    write_models(root, grid)
    assert run_command(["rank", str(root / "store"), "--temporal", str(root / "temporal"), "--out", str(root / "windows.tsv")]) == 0
    return root


def words(inputs: Path, command: str, out: Path) -> list[str]:
    if command == "rank":
        return ["rank", str(inputs / "store"), "--temporal", str(inputs / "temporal"), "--out", str(out / "windows.tsv")]
    common = [str(inputs / "store"), "--model", str(inputs / "voxel"), "--windows", str(inputs / "windows.tsv")]
    if command == "embed":
        return ["embed", *common, "--out", str(out / "vectors.npz")]
    tuned = ["--method", "finetune", "--epochs", "1", "--seeds", "1", "--device", "cpu"]
    return ["evaluate", *common, "--task", "column:score", *tuned, "--out", str(out / "score.json")]


def whole(files: dict[str, str]) -> dict[str, str]:
    """Without temporary files of killed processes, which nothing reads."""
    return {name: digest for name, digest in files.items() if not Path(name).name.startswith(TEMPORARY_PREFIX)}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("command", "made"), [("rank", {"windows.tsv"}), ("embed", {"vectors.npz"}), ("evaluate", {"score.json", "score.md"})]
)
def test_killed_and_typed_again_it_leaves_the_same_bytes(command: str, made: set[str], inputs: Path, tmp_path: Path) -> None:
    out, log, draw = tmp_path / "out", tmp_path / "log", random.Random(20261130)
    kinds = ["event"] * (N_KILLS // 2) + ["time"] * (N_KILLS // 2)
    moments = [{kind: draw.random(), "before": "nothing"} for kind in kinds]
    plan: dict[str, Any] = {"argv": words(inputs, command, out), "out": str(out), "before": {"nothing": None}}
    plan |= {"moments": moments, "log": str(log), "exit": 0}
    program = Path(__file__).parents[1] / "prep_victim.py"
    done = subprocess.run([sys.executable, str(program)], input=json.dumps(plan), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + log.read_text()
    told = json.loads(done.stdout.splitlines()[-1])
    reference, results = told["reference"], told["results"]
    assert made <= reference.keys() and whole(reference) == reference
    if command == "evaluate":
        # Five folds; the model's weights are those of the untrained network, so folds are shared.
        assert sum(name.endswith(".npz") for name in reference) == 5
    kills = distinct(moments, {name: events for name, (events, _) in told["totals"].items()})
    assert [result["status"] for result in results] == [-signal.SIGKILL] * len(kills)
    assert sum(result["left"] != reference for result in results) >= N_KILLS // 2
    for result in results:
        assert result["resumed"] == 0
        # What stands under a final name is whole, before and after.
        assert whole(result["left"]).items() <= reference.items(), result["moment"]
        assert whole(result["files"]) == reference, result["moment"]
