"""Training on one CUDA device: to the bit again after a stop, and through the wrappers of several processes. The CPU runs them too."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from train_samples import KILLED, assert_same_run, settings, small_preset

from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import Loop, VoxelStage, distributed, pretrain
from slimbrain.train.stop import StopSignals

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")],
    ),
]


@contextmanager
def group_of_one(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group with one member, which the wrappers take for one of several."""
    store = dist.HashStore()
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gradients(store: Store, run: Path, device: str, parallel: str) -> dict[str, torch.Tensor]:
    """Of the second step of two micro-batches, in float64."""
    preset = load_preset("tiny", settings(accumulate=2, clip=1e9, parallel=parallel))
    stage = VoxelStage(store, preset, 3, None)
    stage.model.double()
    loop = Loop(stage, preset.train_voxel, run, torch.device(device))
    batches = loop._batches(0)
    for step in range(2):
        loop._timed_step(step, batches, StopSignals(60, str))
    found = {name: weight.grad for name, weight in stage.model.named_parameters() if weight.grad is not None}
    return {name: (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).cpu() for name, grad in found.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_wrappers_give_the_gradients_of_one_process(
    training_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, parallel: str
) -> None:
    alone = gradients(training_store, tmp_path / "alone", "cpu", "ddp")
    with group_of_one(device, monkeypatch):
        wrapped = gradients(training_store, tmp_path / "wrapped", device, parallel)
    assert alone.keys() == wrapped.keys() and len(alone) > 20
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, gradient in alone.items():
        assert float((gradient - wrapped[name]).abs().max()) < 1e-8 * largest, name


@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("stage", ["temporal", "voxel"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_run_resumes_to_the_bit(training_store: Store, tmp_path: Path, device: str, stage: str, precision: str) -> None:
    """The CPU's is in test_train.py."""
    preset = small_preset(precision=precision)
    pretrain(stage, training_store, preset, tmp_path / "whole", seed=3, device=device)
    script = KILLED.replace('device="cpu"', f'device="{device}"')
    words = [str(training_store.root), str(tmp_path / "killed"), stage, "in a step", *settings(precision=precision)]
    assert subprocess.run([sys.executable, "-c", script, *words], check=False).returncode == -signal.SIGKILL
    pretrain(stage, training_store, preset, tmp_path / "killed", seed=3, resume=True, device=device)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
