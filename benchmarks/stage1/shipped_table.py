"""The contests of the shipped weights, from what `run.py --experiment shipped` left, as results/stage1/shipped.csv.

    .venv/bin/python benchmarks/stage1/shipped_table.py stage1-run --csv results/stage1/shipped.csv

Several folders (one per fold) are read together. `difference` is the connectome's score less the method's, on the same resampled people.
Where labels are the tested people's own, who then teach as well as being tested, resampled scores are stretched by sqrt(2), as in
`slimbrain.evaluate.stats.bootstrap`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contests import TARGETS
from numpy.typing import NDArray

OURS = "connectome"
METHODS = (
    *(OURS, "connectome, standardised", "axes", "native", "tangent", "linear pretraining 50", "linear pretraining 512"),
    "gaussian 150 of 7 mm, tangent",
)
CONTESTS = {
    **{("few", n): f"{n} labels, whole runs" for n in (30, 60, 120)},
    ("few40", 60): "60 labels, 40 frames",
    ("250", 250): "250 labels of pretraining people",
    ("cv", 0): "five folds within the tested people",
    ("sites", 0): "sites left out, within the tested people",
    ("all", 0): "all labels of pretraining people",
    **{(f"cut{n}", 0): f"{n} frames, all labels of pretraining people" for n in (14, 40, 80)},
    ("missing30", 0): "30 % of parcels missing, learnt on complete ones",
    ("tr2", 0): "TR doubled, learnt on the TR as it is",
    ("tr-halved", 0): "TR halved, learnt on the TR as it is",
    ("3min", 0): "3 minutes, learnt on whole runs",
    ("whole-to-40", 0): "40 frames, learnt on whole runs",
    ("rpn", 0): "another atlas: rpn122's 122 parcels, learnt on ABIDE's 200",
    ("rpn60", 60): "another cohort: rpn122, 60 labels of its own",
    ("rpncv", 0): "another cohort: rpn122, five folds of its own",
}
TAUGHT_BY_TESTED = {"few", "few40", "cv", "sites", "rpn60", "rpncv"}
IN_CARD = {
    ("few", 30),
    ("few", 60),
    ("few", 120),
    ("cv", 0),
    ("sites", 0),
    ("all", 0),
    ("cut40", 0),
    ("missing30", 0),
    ("3min", 0),
    ("rpn", 0),
    ("rpn60", 60),
    ("rpncv", 0),
}
CARD_METHODS = (OURS, "tangent", "linear pretraining 50", "native", "gaussian 150 of 7 mm, tangent")
COLUMNS = (
    *("contest", "trait", "method", "metric", "folds", "mean", "low", "high"),
    *("difference", "difference_low", "difference_high", "in_card"),
)


def read(folders: Sequence[Path], method: str, contest: str, trait: str, n: int) -> dict[int, NDArray[np.float32]]:
    """(1 + resamples,) score and resampled scores by fold."""
    found = {}
    for folder in folders:
        for path in (folder / "resampled" / "shipped" / method.replace(" ", "_")).glob(f"*_{contest}/{trait}_{n or '*'}.npy"):
            found[int(path.parent.name.split("_")[0])] = np.load(path)
    return found


def bounds(resampled: NDArray[np.float32], stretch: float) -> tuple[float, float]:
    """95 % interval of resampled scores, their distances from the mean stretched."""
    middle = np.nanmean(resampled)
    low, high = np.nanpercentile(middle + stretch * (resampled - middle), (2.5, 97.5))
    return float(low), float(high)


def rows(folders: Sequence[Path]) -> list[dict[str, str]]:
    made = []
    for (contest, n), title in CONTESTS.items():
        for trait in TARGETS:
            scores = {method: read(folders, method, contest, trait, n) for method in METHODS}
            for method, by_fold in scores.items():
                # Folds that a method did not run are no part of its difference.
                folds = sorted(by_fold.keys() & scores[OURS].keys())
                if not folds:
                    continue
                own, ours = (np.mean([by[fold] for fold in folds], 0) for by in (by_fold, scores[OURS]))
                stretch = 2**0.5 if contest in TAUGHT_BY_TESTED else 1.0
                if contest.startswith("rpn"):
                    # Every fold tests the same people, whom it resampled by itself.
                    stretch *= len(folds) ** 0.5
                values = (own[0], *bounds(own[1:], stretch), ours[0] - own[0], *bounds((ours - own)[1:], stretch))
                name = (title, trait, method, "R2" if trait == "age" else "AUC", " ".join(map(str, folds)))
                shown = "yes" if (contest, n) in IN_CARD and method in CARD_METHODS else "no"
                made.append(dict(zip(COLUMNS, (*name, *(f"{value:.4f}" for value in values), shown), strict=True)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="--out of run.py")
    parser.add_argument("--csv", type=Path, required=True)
    options = parser.parse_args()
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows(options.folders))


if __name__ == "__main__":
    main()
