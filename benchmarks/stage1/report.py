"""How does one variant compare with others? Means, 95 % intervals over people, and paired differences, as a Markdown table.

    .venv/bin/python benchmarks/stage1/report.py "chosen/readout, 500 axes" baselines/tangent "baselines/linear pretraining 500"

Reads the folder that `run.py` filled (`--out`). Differences are the first variant's score less the other's, on the same resampled people,
averaged over rotations (`--seeds`); `--seeds 9` is the test set. A contest that a variant has not run is a dash.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cohorts import Floats

TRAITS = ("age", "sex", "diagnosis")
CONTESTS = (
    *((f"few/{trait}", n) for trait in TRAITS for n in (30, 60, 120)),
    *((f"few40/{trait}", 60) for trait in TRAITS),
    *((f"{name}/{trait}", 0) for name in ("all", "cut14", "cut40", "cut80", "missing30", "tr2", "whole-to-40") for trait in TRAITS),
    ("rpn/sex", 0),
    ("rpn60/sex", 60),
    ("rpncv/sex", 0),
)
"""Names, and labelled people where a contest is run with several numbers of them (0: all)."""


def scores(variant: Path, contest: str, n_labelled: int, seeds: Sequence[int]) -> Floats | None:
    """(1 + resamples,) the score and its values over resampled people, averaged over rotations; None where one is missing."""
    name, trait = contest.split("/")
    found = [sorted((variant / f"{seed}_{name}").glob(f"{trait}_{n_labelled or '*'}.npy")) for seed in seeds]
    return np.mean([np.load(paths[0]) for paths in found], axis=0) if all(found) else None


def with_interval(values: Floats, sign: str = "") -> str:
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def table(ours: Path, others: Sequence[Path], seeds: Sequence[int]) -> list[str]:
    """Rows of Markdown."""
    lines = ["| contest | " + " | ".join(path.name.replace("_", " ") for path in (ours, *others)) + " |", "|---" * (2 + len(others)) + "|"]
    for contest, n_labelled in CONTESTS:
        own = scores(ours, contest, n_labelled, seeds)
        if own is None:
            continue
        cells = [contest + f", {n_labelled} labels" * bool(n_labelled), with_interval(own)]
        for path in others:
            against = scores(path, contest, n_labelled, seeds)
            cells.append("-" if against is None else f"{against[0]:.3f} ({with_interval(own - against, '+')})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="EXPERIMENT/VARIANT", help="the first is compared with the others")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("stage1-run"))
    options = parser.parse_args()
    folder = options.out / "resampled"
    ours, *others = (folder / variant.replace(" ", "_") for variant in options.variants)
    print("\n".join(table(ours, others, options.seeds)))


if __name__ == "__main__":
    main()
