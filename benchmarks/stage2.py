"""Stage 2 at the published size, ours beside the published configuration: FLOPs, seconds, bytes.

    python benchmarks/stage2.py [--quick] [--swift DIR]

One JSON line per case, nothing else on standard output. Both do a whole pretraining step on one sample in float32: target forward,
context forward and backward, predictor, optimiser, running mean. Signals are noise; no case depends on them. With a checkout of SwiFT
(and monai and einops, which it imports) alone: our step beside a supervised one of SwiFT on a sample of the same size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

BASE_KIB = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])  # noqa: SIM115 -- before other imports
"""Resident memory once torch, and nothing else, is imported."""

import numpy as np  # noqa: E402
from case import Case  # noqa: E402
from dense_reference import DenseConfig, DenseHiera, DenseJepa  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from slimbrain.config import Preset, load_preset  # noqa: E402
from slimbrain.data.clip import Clip  # noqa: E402
from slimbrain.data.masking import typical_mask  # noqa: E402
from slimbrain.grid import LATTICES, Grid  # noqa: E402
from slimbrain.models.hiera import Hiera  # noqa: E402
from slimbrain.models.jepa import HieraJEPA  # noqa: E402

AGAINST = "dense-reference"
TEMPLATE = Path(__file__).resolve().parents[2] / "shared" / "data" / "templates" / "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz"
TR_S, WINDOW_GAP_S = 0.72, 40.0
FRAME_COUNTS = (20, 40, 80, 160)
TWO_FRAMES_A_PATCH = ("voxel.unit_frames=8", "voxel.patch_frames=2")
"""An option that halves the tokens; never counted as ours where a ratio is formed."""

MIB = 2**20


@dataclass(frozen=True)
class Size:
    """How large a sample is: `edge` voxels a side around the middle of the box, `frames` frames."""

    edge: int
    frames: int
    quick: bool

    @property
    def dense(self) -> DenseConfig:
        return DenseConfig(sides=(self.edge,) * 3, frames=self.frames)


FULL, QUICK = Size(96, 40, False), Size(64, 8, True)


@dataclass(frozen=True)
class Trainee:
    """A model with `context`, `target`, `predictor` and `follow`, the loss of its sample, and its optimiser."""

    model: Any
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.model.update_target(0.996)


@lru_cache(maxsize=2)
def brain(size: Size) -> tuple[Grid, str]:
    """The mask, cut to the size's box, and its name."""
    grid, name = (Grid.from_nifti(TEMPLATE), "MNI152NLin6Asym") if TEMPLATE.exists() else (Grid.mni152(), "nilearn MNI152")
    margin = (LATTICES["2mm"].edge - size.edge) // 2
    box = np.zeros_like(grid.mask)
    box[(slice(margin, margin + size.edge),) * 3] = True
    return Grid(grid.lattice, grid.mask & box), name


def make_clip(size: Size, preset: Preset) -> Clip:
    """Windows of noise, drawn from a session at equal distances."""
    grid, _ = brain(size)
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(size.frames, *grid.voxel_mask.shape, generator=generator).half() * torch.tensor(grid.voxel_mask)
    frame = torch.arange(size.frames)
    window = frame // preset.window.frames
    return Clip(voxels, TR_S * (frame - window * preset.window.frames) + WINDOW_GAP_S * window, grid)


def make_ours(size: Size, recompute: bool, *settings: str) -> Trainee:
    preset = load_preset("base", [f"voxel.recompute={recompute}".lower(), *settings])
    torch.manual_seed(0)
    clip = make_clip(size, preset)
    mask, _ = typical_mask(clip.grid, preset, len(clip.seconds))
    model = HieraJEPA(preset.voxel, preset.jepa, clip.grid.voxels_per_patch)
    return Trainee(model, lambda: model([clip], [mask]).loss, _optimizer(model))


def swift_model(size: Size, checkout: Path) -> nn.Module:
    """SwiFT from its checkout: width 36, first window 4, for a sample of our size."""
    sys.path.insert(0, str(checkout))
    from project.module.models.swin4d_transformer_ver7 import SwinTransformer4D

    model: nn.Module = SwinTransformer4D(
        img_size=(*(size.edge,) * 3, size.frames), in_chans=1, embed_dim=36, window_size=(4, 4, 4, 4), first_window_size=(4, 4, 4, 4),
        patch_size=(6, 6, 6, 1), depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), c_multiplier=2, last_layer_full_MSA=True,
    )  # fmt: skip
    return model


class Supervised(Trainee):
    """A model without a target."""

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


def make_swift(size: Size, checkout: Path) -> Supervised:
    torch.manual_seed(0)
    model, volumes = swift_model(size, checkout), torch.randn(1, 1, *(size.edge,) * 3, size.frames)
    return Supervised(model, lambda: model(volumes).square().mean(), _optimizer(model))


def make_dense(size: Size, recompute: bool) -> Trainee:
    torch.manual_seed(0)
    config = DenseConfig(**{**vars(size.dense), "recompute": recompute})
    volumes = torch.randn(config.frames, *config.sides)
    visible = torch.rand(config.n_units).argsort().argsort() < dense_context(config)
    model = DenseJepa(config)
    return Trainee(model, lambda: model(volumes, visible), _optimizer(model))


def dense_context(config: DenseConfig) -> int:
    """How many mask units the context sees: 30 %."""
    return round(0.3 * config.n_units)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, betas=(0.9, 0.99), weight_decay=0.05, fused=True)


# --- what is measured


def cpu_attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    """Two products of a query and a key length: the fused CPU kernel is missing from torch's own table of formulas."""
    batch, heads, queries, width = q
    return 2 * batch * heads * queries * k[-2] * (width + v[-1])


def count_flops(model: Hiera | DenseHiera, forward: Callable[[], object]) -> tuple[float, float]:
    """GFLOPs of a forward pass, and the share of them that is attention in the blocks that see all tokens."""
    formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        forward()
    first = sum(model.config.depths[:2]) + 1
    names = [f"{type(model).__name__}.blocks.{number}" for number in range(first, len(model.blocks))]
    counts = counter.get_flop_counts()
    attention = sum(flops for name in names for op, flops in counts.get(name, {}).items() if "attention" in str(op) or "bmm" in str(op))
    return counter.get_total_flops() / 1e9, attention / counter.get_total_flops()


def saved_mib(trainee: Trainee) -> float:
    """MiB of storages that are held for the backward pass, parameters left out, each counted once (DESIGN section 7)."""
    own = {parameter.untyped_storage().data_ptr() for parameter in trainee.model.parameters()}
    held: dict[int, tuple[StorageWeakRef, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return tensor.detach()  # the tensor itself may be an output of its own node: a cycle, which is never freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trainee.loss()
    total = sum(size for storage, size in held.values() if not storage.expired())
    del loss
    return total / MIB


@contextmanager
def stopwatch(trainee: Trainee) -> Iterator[dict[str, float]]:
    """Seconds that `target`, `context` and `predictor` take forward, added up while the block lasts."""
    spent = dict.fromkeys(("target", "context", "predictor"), 0.0)
    handles = []
    for name in spent:

        def start(*_: object, name: str = name) -> None:
            spent[name] -= time.perf_counter()

        def stop(*_: object, name: str = name) -> None:
            spent[name] += time.perf_counter()

        module = getattr(trainee.model, name)
        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    yield spent
    for handle in handles:
        handle.remove()


def time_step(trainee: Trainee, repeats: int) -> tuple[float, dict[str, float]]:
    """Seconds of the fastest step, and of its parts; `other` is backward, optimiser and running mean."""
    best, parts = math.inf, {}
    for _ in range(repeats):
        with stopwatch(trainee) as spent:
            started = time.perf_counter()
            trainee.step()
            seconds = time.perf_counter() - started
        if seconds < best:
            best, parts = seconds, {**spent, "other": seconds - sum(spent.values())}
    return best, {name: round(value, 3) for name, value in parts.items()}


# --- cases


def facts(size: Size) -> dict[str, Any]:
    """What every case's detail says."""
    grid, mask = brain(size)
    preset = load_preset("base")
    config = size.dense
    return {
        "quick": size.quick,
        "preset": preset.name,
        "mask": mask,
        "box": size.edge,
        "frames": size.frames,
        "patches": grid.n_patches,
        "context_share": round(typical_mask(grid, preset, size.frames)[1], 4),
        "dense_context_share": round(dense_context(config) / config.n_units, 4),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def flop_cases(size: Size) -> Iterator[Case]:
    """Forward FLOPs of the target and of the context; the dense encoder is counted on shapes alone."""
    preset = load_preset("base")
    encoder, clip = Hiera(preset.voxel, brain(size)[0].voxels_per_patch), make_clip(size, preset)
    mask, _ = typical_mask(clip.grid, preset, len(clip.seconds))
    dense = DenseJepa(size.dense).context.to("meta")
    volumes = torch.empty(size.frames, *size.dense.sides, device="meta")
    chosen = torch.empty(dense_context(size.dense), dtype=torch.long, device="meta")
    note = {"counted": "torch.utils.flop_counter, with a formula for the fused CPU attention that it does not know"}
    value, share = count_flops(encoder, lambda: encoder([clip]))
    option = Hiera(load_preset("base", list(TWO_FRAMES_A_PATCH)).voxel, brain(size)[0].voxels_per_patch)
    note["two_frames_a_patch"] = f"{count_flops(option, lambda: option([clip]))[0]:.1f} GFLOP"
    against, dense_share = count_flops(dense, lambda: dense(volumes))
    shares = {"global_attention_share": round(share, 4), "dense_global_attention_share": round(dense_share, 4)}
    by_frames = {} if size.quick else {"by_frames": flops_by_frames(encoder, preset)}
    yield Case("stage2/target_gflops", value, "GFLOP", AGAINST, against, {**facts(size), **note, **shares, **by_frames})
    value, _ = count_flops(encoder, lambda: encoder([clip], [mask.context]))
    against, _ = count_flops(dense, lambda: dense(volumes, chosen))
    yield Case("stage2/context_gflops", value, "GFLOP", AGAINST, against, {**facts(size), **note})


def flops_by_frames(encoder: Hiera, preset: Preset) -> dict[str, dict[str, float]]:
    """How the target's cost grows with the length of a sample."""
    table = {}
    for frames in FRAME_COUNTS:
        clip = make_clip(Size(96, frames, False), preset)
        started = time.perf_counter()
        gflops, share = count_flops(encoder, lambda clip=clip: encoder([clip]))  # type: ignore[misc]
        seconds = time.perf_counter() - started
        table[str(frames)] = {"gflops": round(gflops, 1), "global_attention_share": round(share, 4), "seconds": round(seconds, 2)}
    return table


def time_case(size: Size, repeats: int) -> Case:
    """A whole step. The dense one is slow: it runs once, after a warm-up on the quick size."""
    ours, plain, dense = make_ours(size, True), make_ours(size, False), make_dense(size, False)
    make_dense(QUICK, False).step()
    make_ours(QUICK, True).step()
    value, parts = time_step(ours, repeats)
    plain_value, plain_parts = time_step(plain, repeats)
    option_value, _ = time_step(make_ours(size, False, *TWO_FRAMES_A_PATCH), repeats)
    against, dense_parts = time_step(dense, 1)
    runs = {"repeats": repeats, "dense_repeats": 1, "statistic": "fastest", "warm_up": "one step of each at the quick size"}
    timing = {"parts": parts, "dense_parts": dense_parts, "plain_seconds": round(plain_value, 3), "plain_parts": plain_parts}
    timing["two_frames_a_patch_plain_seconds"] = round(option_value, 3)
    return Case("stage2/step_seconds", value, "s", AGAINST, against, {**facts(size), **runs, **timing})


def saved_cases(size: Size) -> Iterator[Case]:
    """Bytes held between forward and backward, levels 1 and 2 recomputed or not, each against the dense network doing the same."""
    for name, recompute in (("recompute", True), ("plain", False)):
        values = [saved_mib(make(size, recompute)) for make in (make_ours, make_dense)]
        yield Case(f"stage2/saved_mib_{name}", values[0], "MiB", AGAINST, values[1], facts(size))


OURS = {"recompute": (True, ()), "plain": (False, ()), "half_in_view": (False, ("jepa.view_fraction=0.5",))}


def swift_cases(size: Size, checkout: Path, repeats: int) -> Iterator[Case]:
    """A step, and the bytes held for the backward pass, beside SwiFT's; steps take turns."""
    makers: dict[str, Callable[[], Trainee]] = {
        name: partial(make_ours, size, recompute, *settings) for name, (recompute, settings) in OURS.items()
    }
    makers["SwiFT"] = partial(make_swift, size, checkout)
    saved = {name: saved_mib(make()) for name, make in makers.items()}
    seconds = dict.fromkeys(makers, math.inf)
    trainees = {name: make() for name, make in makers.items()}
    for _ in range(repeats + 1):  # the fastest counts, and it is not the first
        for name, trainee in trainees.items():
            started = time.perf_counter()
            trainee.step()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    detail = {**facts(size), "repeats": repeats + 1, "statistic": "fastest"}
    for name in OURS:
        yield Case(f"stage2/{name}_step_seconds", seconds[name], "s", "SwiFT", seconds["SwiFT"], detail)
        yield Case(f"stage2/{name}_saved_mib", saved[name], "MiB", "SwiFT", saved["SwiFT"], detail)


def peak_case(size: Size) -> Case:
    """Peak resident memory of two of our steps and one dense step, in processes of their own."""
    ours, plain, dense = (_peak_of(who, size) for who in ("ours", "plain", "dense"))
    note = {
        "above": "resident memory after `import torch`",
        "plain": round(plain),
        "includes": "parameters, optimiser, running mean, sample",
    }
    return Case("stage2/peak_rss_mib", ours, "MiB", AGAINST, dense, {**facts(size), **note})


def _peak_of(who: str, size: Size) -> float:
    threads = ("--threads", str(torch.get_num_threads()))
    command = [sys.executable, __file__, "--peak-of", who, *threads, *(["--quick"] if size.quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["mib"])


def report_peak(who: str, size: Size) -> None:
    """What `_peak_of` starts: step, then print the peak above the base."""
    trainee = make_dense(size, False) if who == "dense" else make_ours(size, who == "ours")
    for _ in range(1 if who == "dense" else 2):
        trainee.step()
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    print(json.dumps({"mib": (peak - BASE_KIB) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a box of 64 voxels in the middle, 8 frames")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="steps of ours, of which the fastest counts")
    parser.add_argument("--swift", type=Path, help="a checkout of SwiFT: only compare with it")
    parser.add_argument("--peak-of", choices=("ours", "plain", "dense"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = QUICK if options.quick else FULL
    if options.peak_of:
        report_peak(options.peak_of, size)
        return
    if options.swift:
        for case in swift_cases(size, options.swift, options.repeats):
            case.print()
        return
    for case in flop_cases(size):
        case.print()
    for case in saved_cases(size):
        case.print()
    time_case(size, options.repeats).print()
    peak_case(size).print()


if __name__ == "__main__":
    main()
