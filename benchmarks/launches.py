"""Kernels that a training step of stage 2 starts on a GPU, counted without one.

    python benchmarks/launches.py [--preset base] [--batch 1]

The step runs on fake tensors, in the layout of a GPU (all mask units in one variable-length attention); every operation that writes a
tensor counts as one kernel. Copies of index tables to the device are counted apart. `benchmarks/gpu.py` counts the real ones.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from case import Case
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from slimbrain.config import load_preset
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, typical_mask
from slimbrain.doctor.plan import make_fake
from slimbrain.grid import Grid
from slimbrain.models import attention, hiera, packing
from slimbrain.models.jepa import HieraJEPA

TR_S = 0.72
WITHOUT_KERNEL = ("detach", "empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh", "_reshape_alias", "device")
FOREACH = {"linalg_vector_norm": "norms", "mul_": "clipping"}
"""On a GPU, gradients are clipped by one kernel for many tensors; fake tensors on the CPU take them one by one."""


class LaunchCounter(TorchDispatchMode):
    """Counts operations that start a kernel, by part of the step."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        if not is_view and name not in WITHOUT_KERNEL:
            self.counts[self.part, name] += 1
        return func(*args, **(kwargs or {}))

    def by_part(self) -> dict[str, int]:
        """Launches of each part of the step."""
        found: Counter[str] = Counter()
        for (part, name), count in self.counts.items():
            found[part] += 1 if part == "clip" and name in FOREACH else count
        return dict(found)


@contextmanager
def as_on_a_gpu() -> Iterator[Counter[str]]:
    """Choose the layout of a GPU that has the variable-length kernel; what comes is the number of tables that go to the device."""
    moved: Counter[str] = Counter()
    to = packing.Packing.to

    def count(self: packing.Packing, device: torch.device) -> packing.Packing:
        tables = [*vars(self).values(), *(value for level in self.levels for block in level for value in vars(block).values())]
        moved["tables"] += sum(isinstance(value, Tensor) for value in tables)
        return to(self, device)

    with (
        patch.object(packing.Packing, "to", count),
        patch.object(attention, "has_variable_length_kernel", lambda q: True),
        patch.object(hiera.Hiera, "_has_ragged_kernel", lambda self, device: True),
    ):
        yield moved


def count_launches(preset_name: str, batch: int, grid: Grid, frames: int = 40) -> tuple[dict[str, int], dict[str, int]]:
    """Launches of one bfloat16 step by part, and the commonest operations."""
    preset = load_preset(preset_name)
    mask, _ = typical_mask(grid, preset, frames)
    clip = Clip(torch.zeros(frames, *grid.voxel_mask.shape, dtype=torch.float16), TR_S * torch.arange(frames).double(), grid)
    model = HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch)
    make_fake(model, FakeTensorMode(allow_non_fake_inputs=True))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    counter = LaunchCounter()
    with as_on_a_gpu() as moved, counter:
        for _ in range(2):  # the first step also makes the optimiser's states
            counter.counts.clear()
            moved.clear()
            take_step(model, [clip] * batch, [mask] * batch, optimizer, counter)
    operations: Counter[str] = Counter()
    for (part, name), count in counter.counts.items():
        operations[name] += count if part != "clip" else 0
    return {**counter.by_part(), "tables": moved["tables"]}, dict(operations.most_common(12))


def take_step(model: HieraJEPA, clips: list[Clip], masks: list[JepaMask], optimizer: torch.optim.Optimizer, counter: LaunchCounter) -> None:
    """One bfloat16 step, its parts named to the counter."""
    optimizer.zero_grad(set_to_none=True)
    counter.part = "forward"
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(clips, masks).loss
    counter.part = "backward"
    loss.backward()
    counter.part = "clip"
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    counter.part = "optimizer"
    optimizer.step()
    counter.part = "running mean"
    model.update_target(0.996)


def launch_case(preset: str, batch: int, grid: Grid, quick: bool) -> Case:
    """Launches of a step beside the matrix products among them, which nothing can remove."""
    parts, operations = count_launches(preset, batch, grid)
    products = sum(operations.get(name, 0) for name in ("mm", "addmm", "bmm"))
    detail = {"quick": quick, "preset": preset, "batch": batch, "parts": parts, "operations": operations, "torch": torch.__version__}
    return Case("gpu/launches", sum(parts.values()), "kernels", "matrix products", products, detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the 8 mm lattice")
    options = parser.parse_args()
    grid = Grid.mni152("8mm" if options.quick else "2mm")
    launch_case(options.preset, options.batch, grid, options.quick).print()


if __name__ == "__main__":
    main()
