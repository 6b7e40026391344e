"""Every variant of some experiments in one table, averaged over the rotations each has, or as differences from one variant.

    .venv/bin/python benchmarks/stage1/summary.py final --against "baselines/tangent" --intervals

Reads the folder that `run.py` filled (`--out`). A star marks a paired difference whose 95 % interval over people excludes zero. The number
in brackets says how many rotations a variant has; a difference is taken over the rotations both have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cohorts import Floats
from report import CONTESTS


def by_seed(variant: Path, contest: str, n_labelled: int, seeds: list[int] | None) -> dict[int, Floats]:
    """(1 + resamples,) the score and its values over resampled people, for each rotation there is."""
    name, trait = contest.split("/")
    found = sorted(variant.glob(f"*_{name}/{trait}_{n_labelled or '*'}.npy"))
    rotations = {int(path.parent.name.split("_")[0]): np.load(path) for path in found}
    return {seed: values for seed, values in rotations.items() if seeds is None or seed in seeds}


def cell(own: dict[int, Floats], other: dict[int, Floats] | None, intervals: bool) -> str:
    common = sorted(own if other is None else set(own) & set(other))
    if not common:
        return "-"
    values = np.mean([own[seed] if other is None else own[seed] - other[seed] for seed in common], axis=0)
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    if other is None:
        return f"{values[0]:.3f}" + f" [{low:.3f}, {high:.3f}]" * intervals
    return f"{values[0]:+.3f}" + "*" * bool(low > 0 or high < 0) + f" [{low:+.3f}, {high:+.3f}]" * intervals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--against", metavar="EXPERIMENT/VARIANT")
    parser.add_argument("--intervals", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*")
    parser.add_argument("--out", type=Path, default=Path("stage1-run"))
    options = parser.parse_args()
    folder = options.out / "resampled"
    base = folder / options.against.replace(" ", "_") if options.against else None
    print("variant", *(contest + f" {n}" * bool(n) for contest, n in CONTESTS), sep=" | ")
    for variant in (path for name in options.experiments for path in sorted((folder / name).iterdir())):
        rows = [
            (by_seed(variant, *contest, options.seeds), None if base in (None, variant) else by_seed(base, *contest, options.seeds))
            for contest in CONTESTS
        ]
        count = max(len(own) for own, _ in rows)
        print(
            f"{variant.parent.name}/{variant.name.replace('_', ' ')} ({count})",
            *(cell(own, other, options.intervals) for own, other in rows),
            sep=" | ",
        )


if __name__ == "__main__":
    main()
