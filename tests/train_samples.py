"""Small pretraining runs for the tests, and what must be equal of two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from slimbrain.config import Preset, load_preset
from slimbrain.train import read_metrics

STAGES = ("temporal", "voxel")
STEPS = 7
MACHINE_DEPENDENT = ("windows_per_second", "peak_mib")
MODEL = (
    *("window.frames=4", "window.k=2", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2"),
    *("temporal.groups=4", "voxel.embed=8", "voxel.depths=[1,1,1,1]", "jepa.predictor_width=16", "jepa.predictor_depth=1"),
    "jepa.predictor_heads=2",
)
KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from slimbrain.train import checkpoint
from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import loop as loop_module
from slimbrain.train import Loop, pretrain

torch.set_num_threads(1)
root, run, stage, where, *overrides = sys.argv[1:]
step, replace, saves = Loop._step, os.replace, []

def step_or_die(self, number, batches):
    if where == "in a step" and number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, batches)

def replace_or_die(old, new):
    saves.append(new) if Path(new).name.startswith("step-") else None
    if where == "in a save" and len(saves) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

Loop._step, os.replace = step_or_die, replace_or_die
pretrain(stage, Store(root), load_preset("tiny", overrides), Path(run), seed=3, device="cpu")
"""


def settings(**training: object) -> list[str]:
    """Overrides of the preset `tiny`; `training` sets both stages' loops."""
    values = {"steps": STEPS, "accumulate": 2, "save_every": 3, "log_every": 1, "warmup": 2, **training}
    loops = [f"train_{stage}.{name}={value}" for stage in STAGES for name, value in values.items()]
    return [*MODEL, "train_temporal.batch=2", "train_voxel.batch=1", *loops]


def small_preset(*overrides: str, **training: object) -> Preset:
    return load_preset("tiny", [*settings(**training), *overrides])


def comparable(run: Path) -> list[dict[str, Any]]:
    """Logged lines without what depends on the machine."""
    return [{name: value for name, value in line.items() if name not in MACHINE_DEPENDENT} for line in read_metrics(run)]


def assert_same_run(first: Path, second: Path) -> None:
    assert comparable(first) == comparable(second)
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (first, second))
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    told, other = (json.loads((run / "model" / "config.json").read_text())["training"] for run in (first, second))
    assert (told["ledger"], told["times_seen"]) == (other["ledger"], other["times_seen"])
