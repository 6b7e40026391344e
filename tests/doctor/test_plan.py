"""What is planned is what a step takes: counted by other means on real tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from slimbrain.cli import run_command
from slimbrain.config import Preset, load_preset
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, typical_mask
from slimbrain.doctor.plan import StepCost, _largest_batch, plan_step
from slimbrain.errors import InputError
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.jepa import HieraJEPA

MIB = 2**20
FRAMES = 8


@pytest.fixture(scope="module")
def grid() -> Grid:
    """A ball of 14 voxels of 8 mm: few units, since every operation on fake tensors takes a millisecond."""
    lattice = LATTICES["8mm"]
    place = np.indices((lattice.edge,) * 3) - 11.5
    return Grid(lattice, (place**2).sum(axis=0) < 49)


def small(*settings: str) -> Preset:
    """With the published targets, so that both encoders compute, unless `settings` say otherwise."""
    published = ("jepa.targets=latents", "jepa.predictor=joint", "jepa.hide=places_and_times")
    return load_preset("tiny", ["voxel.embed=16", "voxel.depths=[1, 1, 1, 1]", "jepa.predictor_depth=1", *published, *settings])


@pytest.fixture
def real(grid: Grid) -> Callable[..., tuple[HieraJEPA, list[Clip], list[JepaMask]]]:
    """Model, clips and masks as planned, of real tensors."""

    def make(preset: Preset, batch: int, frames: int) -> tuple[HieraJEPA, list[Clip], list[JepaMask]]:
        mask, _ = typical_mask(grid, preset, frames)
        clips = [
            Clip(torch.randn(frames, grid.n_patches, grid.voxels_per_patch).half(), torch.arange(frames) * 0.72, grid) for _ in range(batch)
        ]
        return HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch), clips, [mask] * batch

    return make


def autocast_to(precision: str) -> AbstractContextManager[object]:
    return nullcontext() if precision == "float32" else torch.autocast("cpu", getattr(torch, precision))


def held_for_backward(model: HieraJEPA, loss: Callable[[], Tensor]) -> float:
    """MiB of storages that autograd holds after a real forward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, tuple[StorageWeakRef, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = loss()
    total = sum(size for storage, size in held.values() if not storage.expired())
    del kept
    return total / MIB


SETTINGS = [("float32", True, 1), ("float32", False, 2), ("bfloat16", False, 1), ("bfloat16", True, 2)]


@lru_cache
def planned(grid: Grid, precision: str, recompute: bool, batch: int) -> StepCost:
    return plan_step(recomputing(recompute), grid, batch, FRAMES, precision)


def recomputing(recompute: bool) -> Preset:
    return small(f"voxel.recompute={json.dumps(recompute)}")


@pytest.mark.parametrize(("precision", "recompute", "batch"), SETTINGS)
def test_saved_bytes_are_those_that_autograd_holds(
    grid: Grid, real: Callable[..., tuple[HieraJEPA, list[Clip], list[JepaMask]]], precision: str, recompute: bool, batch: int
) -> None:
    model, clips, masks = real(recomputing(recompute), batch, FRAMES)
    with autocast_to(precision):
        held = held_for_backward(model, lambda: model(clips, masks).loss)
    plan = planned(grid, precision, recompute, batch)
    assert plan.saved_mib == pytest.approx(held, rel=0.01)
    assert plan.recompute is recompute


@pytest.mark.parametrize("recompute", [True, False])
def test_signals_are_planned_too_and_need_no_target_pass(
    grid: Grid, real: Callable[..., tuple[HieraJEPA, list[Clip], list[JepaMask]]], recompute: bool
) -> None:
    preset = small("jepa.targets=signals", "jepa.predictor=factorised", "jepa.hide=places", f"voxel.recompute={json.dumps(recompute)}")
    model, clips, masks = real(preset, 1, FRAMES)
    plan = plan_step(preset, grid, 1, FRAMES)
    assert plan.saved_mib == pytest.approx(held_for_backward(model, lambda: model(clips, masks).loss), rel=0.01)
    assert plan.gflops["target"] == 0 < plan.gflops["context"]


def most_allocated(step: Callable[[], None]) -> float:
    """MiB that torch's own allocator had given out at the highest point of a step, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    now = peak = 0
    for event in sorted(
        (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns()
    ):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / MIB


@pytest.mark.parametrize(("precision", "recompute", "batch"), SETTINGS)
def test_the_peak_is_what_the_allocator_gives_out(
    grid: Grid, real: Callable[..., tuple[HieraJEPA, list[Clip], list[JepaMask]]], precision: str, recompute: bool, batch: int
) -> None:
    model, clips, masks = real(recomputing(recompute), batch, FRAMES)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step() -> None:
        with autocast_to(precision):
            loss = model(clips, masks).loss
        loss.backward()
        optimizer.step()
        model.update_target(0.996)

    step()
    # Not within the step: what was there before does not count, and must not be given back while counting.
    optimizer.zero_grad(set_to_none=True)
    plan = planned(grid, precision, recompute, batch)
    standing = sum(plan.mib[name] for name in ("weights", "target", "optimizer", "inputs"))
    assert plan.peak_mib - standing == pytest.approx(most_allocated(step), rel=0.03)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad) * 4 / MIB
    assert plan.mib["weights"] == pytest.approx(parameters)
    assert plan.mib["gradients"] == pytest.approx(parameters)
    assert plan.mib["optimizer"] == pytest.approx(2 * parameters, rel=1e-3)
    assert plan.mib["inputs"] == pytest.approx(sum(clip.voxels.nbytes for clip in clips) / MIB)


def test_flops_are_those_that_torch_counts(grid: Grid, real: Callable[..., tuple[HieraJEPA, list[Clip], list[JepaMask]]]) -> None:
    model, clips, masks = real(recomputing(False), 2, FRAMES)
    plan = planned(grid, "float32", False, 2)
    # Written-out attention is two batched products, of which torch knows the cost.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for name, visible in (("target", None), ("context", [mask.context for mask in masks])):
            with FlopCounterMode(display=False) as counter:
                getattr(model, name)(clips, visible)
            assert plan.gflops[name] == pytest.approx(counter.get_total_flops() / 1e9)
    # Each product of the forward pass has two in the backward pass; the fused attention computes its scores once more.
    forward = plan.gflops["context"] + plan.gflops["predictor"]
    assert 2 * forward * 0.9 < plan.gflops["backward"] < 2.5 * forward


def test_recomputation_costs_flops_and_saves_bytes(grid: Grid) -> None:
    kept, again = (planned(grid, "float32", recompute, 2) for recompute in (False, True))
    assert again.saved_mib < kept.saved_mib
    assert again.gflops["backward"] > kept.gflops["backward"]
    assert again.gflops["target"] == kept.gflops["target"]


def test_the_global_share_grows_with_the_frames(grid: Grid) -> None:
    short, long = (plan_step(small(), grid, 1, frames) for frames in (8, 32))
    # Tokens of the global stages grow with the frames, their attention with the square.
    width, tokens = 8 * 16, {frames: len(grid.units) * frames // 4 for frames in (8, 32)}
    blocks = {1: width // 2, 2: width}  # one block of stage 3 after its first, one of stage 4
    for plan, frames in ((short, 8), (long, 32)):
        attention = sum(4 * tokens[frames] ** 2 * each for each in blocks.values()) / 1e9
        assert plan.global_attention_share * (plan.gflops["target"] + plan.gflops["context"]) <= 2 * attention
    assert long.global_attention_share > 2 * short.global_attention_share


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    def made(batch: int) -> StepCost:
        return StepCost(batch, 40, "bfloat16", "cuda", True, 0.3, {}, {}, 0.2, 0.0, {}, 1000.0 + 500.0 * batch)

    for gib in (4, 16, 80):
        count = _largest_batch(made(1), made(2), gib)
        assert made(count).expected_mib <= gib * 1024 < made(count + 1).expected_mib
    assert _largest_batch(made(1), made(2), 1) == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--frames", "6"], "multiple of voxel.unit_frames"),
        (["--precision", "int8"], "--precision int8"),
        (["--device", "tpu"], "--device tpu"),
        (["--visible", "1.5"], "context_fraction"),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "--preset", "tiny", "--resolution", "8mm", *words]) == 1
    assert complaint in capsys.readouterr().err


def test_the_command_prints_a_table_and_json(grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--preset", "tiny", "--resolution", "8mm", "--mask", str(grid.save_mask(tmp_path / "mask.nii.gz")), "--frames", "8"]
    words += ["--set", "voxel.depths=[1, 1, 1, 1]", "--set", "jepa.predictor_depth=1"]
    assert run_command(words) == 0
    text = capsys.readouterr().out
    assert all(f"{gib} GiB device" in text for gib in (16, 24, 40, 80)) and "not measured on a device" in text
    assert run_command([*words, "--device", "cpu", "--visible", "0.5", "--no-recompute", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["context_share"] == pytest.approx(0.5, abs=0.1) and facts["largest_batch"] == {}
    assert facts["peak_mib"] == pytest.approx(sum(facts["mib"].values()))


def test_only_known_devices_are_planned(grid: Grid) -> None:
    with pytest.raises(InputError):
        plan_step(small(), grid, 1, FRAMES, device="abacus")
