"""The sections of `gpu.py`: each takes the machine and yields cases."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from case import Case
from dense_reference import DenseJepa
from gpu_data import clip_store, loader_rates, signal_store
from launches import launch_case
from stage2 import FULL, Size, Trainee, brain, dense_context, make_clip, saved_mib, swift_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimbrain.config import load_preset
from slimbrain.data.clip import Clip
from slimbrain.data.masking import typical_mask
from slimbrain.doctor.plan import plan_step
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.train import pretrain, read_metrics

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
PUBLISHED_CLIPS_PER_S = 2.3
"""The authors' run: 4,129 sessions, 40 epochs, about 20 h on one A100."""

CPU_TESTS = ("tests/models/test_attention.py", "tests/models/test_paths.py")
ROOF_EDGE = 8192
"""Edge of the matrix product that measures the roof: the FLOP/s that the device reaches at best."""

QUICK = Size(32, 16, True)
"""Two mask units of the published configuration, in the middle of the box."""


@dataclass(frozen=True)
class Machine:
    """Where the sections run, and how large.

    Attributes
    ----------
    device, name : torch.device, str
        What computes.
    quick : bool
        Small sizes.
    swift : Path or None
        A checkout of SwiFT.
    """

    device: torch.device
    name: str
    quick: bool
    swift: Path | None

    @classmethod
    def describe(cls, device: str, quick: bool, swift: Path | None) -> Machine:
        chosen = torch.device(device)
        return cls(chosen, torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU", quick, swift)

    @property
    def size(self) -> Size:
        return QUICK if self.quick else FULL

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 2) if self.quick else (1, 4, 16, 64)

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        return nullcontext() if precision == "float32" else torch.autocast(self.device.type, getattr(torch, precision))

    def settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, work: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
        """Median over repeats, the device waited for; a quick run, whose times say nothing, has one of each."""
        warm_up, repeats = (1, 1) if self.quick else (warm_up, repeats)
        times = []
        for _ in range(warm_up + repeats):
            self.settle()
            started = time.perf_counter()
            work()
            self.settle()
            times.append(1000 * (time.perf_counter() - started))
        return median(times[warm_up:])

    def facts(self, **more: Any) -> dict[str, Any]:
        return {"quick": self.quick, "device": self.name, "torch": torch.__version__, **more}


def measured_roof(machine: Machine) -> float:
    """TFLOP/s of a large bfloat16 matrix product on random data."""
    edge = 512 if machine.quick else ROOF_EDGE
    a, b = (torch.randn(edge, edge, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    return float(2 * edge**3 / machine.milliseconds(lambda: a @ b, 5) / 1e9)


def trainee(machine: Machine, batch: int, precision: str, *settings: str) -> Trainee:
    """The preset `base` with a batch of clips that lie on the device, as a step that can be taken."""
    preset = load_preset("base", list(settings))
    torch.manual_seed(0)
    clip = make_clip(machine.size, preset)
    mask, _ = typical_mask(clip.grid, preset, machine.size.frames)
    clips = [Clip(clip.voxels.to(machine.device).clone(), clip.seconds, clip.grid) for _ in range(batch)]
    model = HieraJEPA(preset.voxel, preset.jepa, clip.grid.voxels_per_patch).to(machine.device)

    def loss() -> Tensor:
        with machine.autocast(precision):
            return model(clips, [mask] * batch).loss

    return Trainee(model, loss, _optimizer(model))


def dense_trainee(machine: Machine, precision: str) -> Trainee:
    """The published configuration with nothing deleted, one sample."""
    torch.manual_seed(0)
    config = machine.size.dense
    volumes = torch.randn(config.frames, *config.sides, device=machine.device)
    visible = (torch.rand(config.n_units).argsort().argsort() < dense_context(config)).to(machine.device)
    model = DenseJepa(config).to(machine.device)

    def loss() -> Tensor:
        with machine.autocast(precision):
            return model(volumes, visible)

    return Trainee(model, loss, _optimizer(model))


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


# --- sections


def tests_cases(machine: Machine) -> Iterator[Case]:
    """The tests marked `cuda`; on a CPU, tests of the same layouts."""
    chosen = ["-m", "cuda", "tests"] if machine.device.type == "cuda" else ["-m", "not slow", *CPU_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout.splitlines()[-1])}
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    ran = sum(count for word, count in counts.items() if word != "skipped")
    if not ran:
        raise RuntimeError(f"no test ran: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    yield Case("gpu/tests_passed", counts.get("passed", 0), "tests", "tests that ran", ran, machine.facts(failed=failed, counts=counts))
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise RuntimeError(f"{len(failed)} tests failed: {'; '.join(failed)[:400]}")


def steps_cases(machine: Machine) -> Iterator[Case]:
    """A whole pretraining step by batch size, beside the published configuration and SwiFT."""
    roof = measured_roof(machine)
    grid, _ = brain(machine.size)
    plan = plan_step(load_preset("base"), grid, 1, machine.size.frames, "bfloat16", machine.device.type)
    gflops = sum(plan.gflops.values())
    for batch in machine.batches:
        taken = trainee(machine, batch, "bfloat16")
        peak = _PeakMemory(machine)
        ms = machine.milliseconds(taken.step, 3 if machine.quick else 8)
        clips_per_s = 1000 * batch / ms
        share = gflops * clips_per_s / 1000 / roof
        detail = machine.facts(
            batch=batch, gflops_per_clip=round(gflops, 1), roof_tflops=round(roof, 2), clips_per_s=round(clips_per_s, 2),
            share_of_roof=round(share, 4), times_published_pace=round(clips_per_s / PUBLISHED_CLIPS_PER_S, 2), peak_mib=peak.mib(),
        )  # fmt: skip
        yield Case(f"gpu/step_ms_batch_{batch}", ms, "ms", "roof", batch * gflops / roof, detail)
        del taken
    yield from _others(machine)


def _others(machine: Machine) -> Iterator[Case]:
    """One clip: ours beside the dense reference, and beside SwiFT where there is a checkout."""
    ours = trainee(machine, 1, "bfloat16")
    peak = _PeakMemory(machine)
    ms, mib = machine.milliseconds(ours.step, 3), peak.mib()
    del ours
    makers: dict[str, Callable[[], Callable[[], object]]] = {"dense-reference": lambda: dense_trainee(machine, "bfloat16").step}
    if machine.swift is not None:
        makers["SwiFT"] = lambda: swift_step(machine)
    for name, make in makers.items():
        step, peak = make(), _PeakMemory(machine)
        against = machine.milliseconds(step, 2, warm_up=1)
        yield Case(f"gpu/step_ms_against_{name.lower()}", ms, "ms", name, against, machine.facts(batch=1))
        if mib:
            yield Case(f"gpu/peak_mib_against_{name.lower()}", mib, "MiB", name, peak.mib(), machine.facts(batch=1))
        del step


def swift_step(machine: Machine) -> Callable[[], object]:
    """A supervised forward and backward pass of SwiFT: width 36, first window 4, the frames of our clip."""
    assert machine.swift is not None
    edge, frames = machine.size.edge, machine.size.frames
    model = swift_model(machine.size, machine.swift).to(machine.device)
    volumes = torch.randn(1, 1, edge, edge, edge, frames, device=machine.device)
    optimizer = _optimizer(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast("bfloat16"):
            loss = model(volumes).float().square().mean()
        loss.backward()
        optimizer.step()

    return step


class _PeakMemory:
    """Most memory allocated on the device since this was made; 0 on a CPU, which does not count it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(machine.device)

    def mib(self) -> float:
        return torch.cuda.max_memory_allocated(self.machine.device) / MIB if self.machine.device.type == "cuda" else 0.0


def memory_cases(machine: Machine) -> Iterator[Case]:
    """What `slimbrain plan` predicts beside the allocator's peak; on a CPU, beside the bytes held for the backward pass."""
    grid, _ = brain(machine.size)
    batches = (1,) if machine.quick else (1, 8, 32)
    for recompute in (True, False):
        for batch in batches:
            setting = f"voxel.recompute={recompute}".lower()
            plan = plan_step(load_preset("base", [setting]), grid, batch, machine.size.frames, "bfloat16", machine.device.type)
            name = f"gpu/plan_mib_{'recompute' if recompute else 'plain'}_{batch}"
            detail = machine.facts(batch=batch, recompute=recompute, expected_mib=round(plan.expected_mib, 1))
            peak, taken = _PeakMemory(machine), trainee(machine, batch, "bfloat16", setting)
            if machine.device.type != "cuda":
                yield Case(name, plan.saved_mib, "MiB", "held for backward", saved_mib(taken), detail)
                continue
            for _ in range(2):
                taken.step()
            yield Case(name, plan.peak_mib, "MiB", "max_memory_allocated", peak.mib(), detail)
            del taken


def variants_cases(machine: Machine) -> Iterator[Case]:
    """Ways to run the same step, each against the default; and where the default's time goes."""
    batch, repeats = (1, 2) if machine.quick else (4, 8)
    plain = trainee(machine, batch, "bfloat16")
    default = machine.milliseconds(plain.step, repeats)
    yield _profile(machine, plain, default)
    del plain
    for layout in ("ragged", "blocks"):
        if layout == "ragged" and machine.device.type != "cuda":
            continue
        ms = machine.milliseconds(trainee(machine, batch, "bfloat16", f"voxel.layout={layout}").step, repeats)
        yield Case(f"gpu/step_ms_{layout}", ms, "ms", "default", default, machine.facts(batch=batch))
    for name, mode in (("compiled", "default"), ("cuda_graphs", "reduce-overhead")):
        if machine.device.type != "cuda":
            return
        taken = trainee(machine, batch, "bfloat16")
        started = time.perf_counter()
        for block in taken.model.context.blocks[taken.model.context.first_global :]:
            block.compile(mode=mode, dynamic=False)
        for block in taken.model.context.blocks[: taken.model.context.first_global]:
            block.compile(dynamic=True)
        ms = machine.milliseconds(taken.step, repeats, warm_up=3)
        seconds = round(time.perf_counter() - started, 1)
        yield Case(f"gpu/step_ms_{name}", ms, "ms", "default", default, machine.facts(batch=batch, seconds_with_compilation=seconds))
        del taken


def _profile(machine: Machine, taken: Trainee, ms: float) -> Case:
    """Time of all kernels of a step beside the step: what is missing are gaps between launches."""
    from torch.profiler import ProfilerActivity, profile

    cuda = machine.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as run:
        taken.step()
        machine.settle()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(run.key_averages(), key=lambda event: -float(getattr(event, key)))
    kernels = [event for event in events if float(getattr(event, key)) > 0]
    largest = {event.key[:80]: {"ms": round(getattr(event, key) / 1000, 3), "calls": event.count} for event in kernels[:10]}
    busy = sum(float(getattr(event, key)) for event in kernels) / 1000
    calls = sum(event.count for event in kernels if cuda or event.key.startswith("aten::"))
    return Case("gpu/kernel_ms", busy, "ms", "step", ms, machine.facts(largest=largest, calls=calls, gaps_ms=round(ms - busy, 2)))


def loader_cases(machine: Machine) -> Iterator[Case]:
    """Clips per second from files to the device, against what a step takes."""
    batch = 1 if machine.quick else 16
    taken = trainee(machine, batch, "bfloat16")
    wanted = 1000 * batch / machine.milliseconds(taken.step, 2)
    del taken
    with tempfile.TemporaryDirectory() as folder:
        store = clip_store(Path(folder), brain(machine.size)[0], 48 if machine.quick else 200)
        for name, rate in loader_rates(store, machine.device, 8 if machine.quick else 200):
            yield Case(f"gpu/loader_clips_per_s_{name}", rate, "1/s", "training step", wanted, machine.facts(batch=batch))


def temporal_cases(machine: Machine) -> Iterator[Case]:
    """A training step of stage 1 on long sessions, against the roof."""
    frames, channels, batch = (160, 50, 2) if machine.quick else (1200, 701, 64)
    preset = load_preset("tiny" if machine.quick else "base")
    torch.manual_seed(0)
    model = TemporalExtractor(preset.temporal).to(machine.device)
    series = torch.randn(batch, frames, channels, device=machine.device)
    places = torch.randn(channels, 3, device=machine.device) * 40
    optimizer, generator = _optimizer(model), torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast("bfloat16"):
            loss, _ = temporal_loss(model, series, places, 0.72, generator)
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    peak = _PeakMemory(machine)
    ms, tflop = machine.milliseconds(step, 3), counter.get_total_flops() / 1e12
    detail = machine.facts(batch=batch, frames=frames, channels=channels, tflop=round(tflop, 3), peak_mib=peak.mib())
    yield Case("gpu/temporal_step_ms", ms, "ms", "roof", 1000 * tflop / measured_roof(machine), detail)


def curves_cases(machine: Machine) -> Iterator[Case]:
    """The same seeds and clips on the CPU and on the device: losses of a short run side by side."""
    steps = 2 if machine.quick else 100
    with tempfile.TemporaryDirectory() as folder:
        store = signal_store(Path(folder) / "store", sessions=6)
        losses = {}
        for name, device, precision in (
            ("cpu", "cpu", "float32"),
            ("float32", machine.device.type, "float32"),
            ("bfloat16", machine.device.type, "bfloat16"),
        ):
            settings = [f"train_voxel.{key}={value}" for key, value in {"steps": steps, "log_every": 1, "precision": precision}.items()]
            preset = load_preset("tiny", [*settings, "train_voxel.warmup=1", "train_voxel.save_every=1000", "train_voxel.batch=2"])
            pretrain("voxel", store, preset, Path(folder) / name, seed=0, device=device)
            losses[name] = np.array([line["loss"] for line in read_metrics(Path(folder) / name)])
    for name in ("float32", "bfloat16"):
        apart = np.abs(losses[name] / losses["cpu"] - 1)
        at = {str(step + 1): round(float(apart[step]), 6) for step in (0, len(apart) // 2, len(apart) - 1)}
        detail = machine.facts(steps=steps, relative_difference=at, last_cpu=float(losses["cpu"][-1]), largest=float(apart.max()))
        yield Case(f"gpu/last_loss_{name}", float(losses[name][-10:].mean()), "loss", "cpu", float(losses["cpu"][-10:].mean()), detail)


def launches_cases(machine: Machine) -> Iterator[Case]:
    """Kernels that a step starts, counted without the device."""
    preset = "tiny" if machine.quick else "base"
    yield replace(launch_case(preset, 1, brain(machine.size)[0], machine.quick), case="gpu/launches_counted")
