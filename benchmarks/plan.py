"""What `slimbrain plan` predicts, beside what a step then takes on this machine: bytes kept and peak memory, five settings.

python benchmarks/plan.py [--quick] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from case import Case
from stage2 import Trainee, saved_mib
from torch import Tensor

from slimbrain.config import Preset, load_preset
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, typical_mask
from slimbrain.doctor.plan import plan_step
from slimbrain.grid import Grid
from slimbrain.models.jepa import HieraJEPA


@dataclass(frozen=True)
class Setting:
    """One thing to plan and to measure."""

    name: str
    preset: str
    resolution: str
    batch: int
    frames: int
    precision: str
    recompute: bool

    @property
    def chosen(self) -> Preset:
        return load_preset(self.preset, [f"voxel.recompute={json.dumps(self.recompute)}"])


SETTINGS = (
    Setting("small_4mm_batch_4", "small", "4mm", 4, 40, "float32", True),
    Setting("base_20_frames", "base", "2mm", 1, 20, "float32", True),
    Setting("base_40_frames", "base", "2mm", 1, 40, "float32", True),
    Setting("base_plain", "base", "2mm", 1, 40, "float32", False),
    Setting("base_bfloat16_batch_2", "base", "2mm", 2, 40, "bfloat16", True),
)
QUICK = (Setting("tiny_8mm", "tiny", "8mm", 2, 16, "float32", False), Setting("small_4mm", "small", "4mm", 1, 8, "bfloat16", True))


def make(setting: Setting) -> Trainee:
    """A model and the loss of a batch, as the plan has them."""
    preset = setting.chosen
    grid = Grid.mni152(setting.resolution)
    mask, _ = typical_mask(grid, preset, setting.frames)
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(setting.frames, grid.n_patches, grid.voxels_per_patch, generator=generator).half()
    clips = [Clip(voxels.clone(), torch.arange(setting.frames) * 0.72, grid) for _ in range(setting.batch)]
    del voxels
    model = HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    return Trainee(model, loss_of(model, clips, [mask] * setting.batch, setting.precision), optimizer)


def loss_of(model: HieraJEPA, clips: list[Clip], masks: list[JepaMask], precision: str) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        autocast: AbstractContextManager[object] = nullcontext()
        if precision != "float32":
            autocast = torch.autocast("cpu", getattr(torch, precision))
        with autocast:
            return model(clips, masks).loss

    return loss


def measure(setting: Setting, what: str) -> float:
    """`saved` or `peak` in MiB, in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--measure", what, json.dumps(asdict(setting))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def report(what: str, setting: Setting) -> None:
    """What `measure` starts."""
    Grid.mni152(setting.resolution)
    import torch._dynamo  # noqa: F401 -- the first optimiser would

    base = _memory_mib("VmRSS")
    trainee = make(setting)
    if what == "saved":
        print(saved_mib(trainee))
        return
    for _ in range(2):
        trainee.step()
    print(_memory_mib("VmHWM") - base)


def _memory_mib(name: str) -> float:
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small settings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        report(options.measure[0], Setting(**json.loads(options.measure[1])))
        return
    for setting in QUICK if options.quick else SETTINGS:
        preset = setting.chosen
        plan = plan_step(preset, Grid.mni152(setting.resolution), setting.batch, setting.frames, setting.precision)
        detail = {**asdict(setting), "quick": options.quick, "threads": options.threads, "torch": torch.__version__}
        Case(f"plan/saved_mib_{setting.name}", plan.saved_mib, "MiB", "measured", measure(setting, "saved"), detail).print()
        ledger = {"ledger_peak_mib": round(plan.peak_mib), "above": "resident memory once everything is imported"}
        Case(f"plan/peak_mib_{setting.name}", plan.expected_mib, "MiB", "measured", measure(setting, "peak"), {**detail, **ledger}).print()


if __name__ == "__main__":
    main()
