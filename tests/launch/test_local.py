"""`slimbrain launch --local`, in processes of this machine: the same as without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from store_samples import files_but_commands
from train_samples import comparable, settings

from slimbrain.cli import run_command
from slimbrain.disk.tsv import read_tsv
from slimbrain.launch import client
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(client, "_POLL_S", 0.1)


def test_two_shards_of_prep_make_the_store_of_one_process(tmp_path: Path) -> None:
    cohort, out, alone = tmp_path / "cohort", tmp_path / "store", tmp_path / "alone"
    simulate_cohort(cohort, CohortSpec(subjects=2, sessions=1, frames=130, seed=1))
    assert run_command(["launch", "--local", "--shards", "2", "prep", str(cohort), str(out), "--resolution", "8mm"]) == 0
    prepare(cohort, alone, PrepOptions(resolution="8mm"))

    assert files_but_commands(out) == files_but_commands(alone)
    rows = read_tsv(tmp_path / "store.launch" / "table.tsv")
    assert [(row["state"], row["submissions"], row["failures"]) for row in rows] == [("done", "1", "0")] * 2
    assert len({row["job"] for row in rows}) == 2


def test_two_local_processes_train_what_one_trains(training_store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    run, alone = tmp_path / "run", trained("voxel")
    words = ["pretrain", "voxel", str(training_store.root), "--preset", "tiny", "--out", str(run), "--seed", "3", "--device", "cpu"]
    changed = [part for override in settings() for part in ("--set", override)]
    assert run_command(["launch", "--local", "--processes", "2", *words, *changed]) == 0
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    # Sums are added up in another order, so the last digits differ; gradients agree to 1e-10 in float64 (test_distributed.py).
    for line, other in zip(comparable(run), comparable(alone), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    weights, others = (load_file(path / "model" / "model.safetensors") for path in (run, alone))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)
