"""What a training step costs: CPU seconds (process time, so that another program's load does not count) and saved bytes.

Runs on commit 5ea4a25 with the two patches applied, as `final_lab.py` tells. `cost.py --out stage2-run`, after `painted.py`, prints one
line per objective: the present one, the new one at half of the places visible, and at 30 %.
"""

from __future__ import annotations

import time

import final_lab
import numpy as np
import torch
from painted_cohort import TR_S, Cohort, append_row, parser

from slimbrain.masking import sample_jepa_mask
from slimbrain.models.packing import Clip

STEPS = 6
FRAMES = 40


def saved_mib(model: torch.nn.Module, clip: Clip, mask: object) -> float:
    """MiB that the forward pass keeps for the backward pass, each storage once, without parameters."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model([clip], [mask]).loss.backward()
    return sum(storages.values()) / 2**20


def main() -> None:
    cohort = Cohort(parser(__doc__).parse_args().out)
    grid = cohort.grid
    clip = Clip(torch.randn(FRAMES, grid.n_patches, 1), torch.arange(FRAMES) * TR_S, grid)
    final_lab.SETTINGS["default 0.3"] = {"context_fraction": 0.3}
    for name in ("present", "default", "default 0.3"):
        model, seconds = final_lab.build(name), []
        cut = (1, 10) if model.jepa.hide == "places" else (5, 2)
        masks = [sample_jepa_mask(grid.units.mm, *cut, model.jepa.context_fraction, np.random.default_rng(s)) for s in range(STEPS)]
        saved = saved_mib(model, clip, masks[0])
        for mask in masks[1:]:
            start = time.process_time()
            model([clip], [mask]).loss.backward()
            model.follow(0.99)
            seconds.append(time.process_time() - start)
        row = {"objective": name, "cpu_s_per_step": round(float(np.median(seconds)), 3), "saved_mib": round(saved, 1)}
        append_row(cohort.out / "cost.jsonl", row)


if __name__ == "__main__":
    main()
