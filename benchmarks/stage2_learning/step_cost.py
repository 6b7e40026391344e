"""What a step costs by objective: CPU seconds, bytes kept for the backward pass, and peak memory, at the size of the paper.

`python benchmarks/stage2_learning/step_cost.py` prints one JSON line per objective: preset `base`, 40 frames at 96 cubed, one clip.
CPU seconds are of the process, fastest of `--repeats` after a warm-up, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from stage2 import BASE_KIB, FULL, QUICK, make_ours, saved_mib

LATENTS = ("jepa.targets=latents", "jepa.predictor=joint", "jepa.hide=places_and_times", "voxel.pooling=max", "voxel.signal_std=null")
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "latents, joint predictor, max": LATENTS,
    "signals, factorised predictor, merge": (),
    "the same, half of the units in view": ("jepa.view_fraction=0.5",),
    "the same, 35 % in view": ("jepa.view_fraction=0.35",),
}


def measure(name: str, recompute: bool, quick: bool, repeats: int) -> dict[str, object]:
    """One objective, in this process."""
    trainee = make_ours(QUICK if quick else FULL, recompute, *OBJECTIVES[name])
    trainee.step()
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        trainee.step()
        spent.append(time.process_time() - started)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    held = saved_mib(trainee)
    return {
        "objective": name,
        "recompute": recompute,
        "quick": quick,
        "cpu_seconds": round(min(spent), 2),
        "saved_mib": round(held, 1),
        "peak_mib": round((peak - BASE_KIB) / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a box of 64 voxels in the middle, 8 frames")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1] == "True", options.quick, options.repeats)), flush=True)
        return
    for name in OBJECTIVES:
        for recompute in (False, True):
            # A process of its own for each, whose peak is that of one objective.
            words = [sys.executable, __file__, "--one", name, str(recompute), "--repeats", str(options.repeats)]
            subprocess.run([*words, *(["--quick"] if options.quick else [])], check=True)


if __name__ == "__main__":
    main()
