"""What linear readouts of the parcels, cells and unit means tell: the tangent of their covariance, without any network.

`python benchmarks/stage2_learning/baselines.py --out stage2-run` adds rows to `baselines.jsonl`; `painted.py` first. Columns by label:
`cv` (five folds over validation people from all axes of the pretraining people), `ax50` and `ax100` (the leading ones, scaled), `all` and
`ax50all`, `ax200all` (the probe trained on the labels of the pretraining people). `--only whole_cells` also writes the axes of whole runs
that `surrogate_lab.py --experiment align` reads.

The rows `lin_...` (leading components of all cells, whitened), `local4_...` (four components per unit, then the same) and `cells raw
comps ...` (not whitened) are of this readout with other series; they did no better than the cells and have no program here.
"""

from __future__ import annotations

import numpy as np
from painted_cohort import Cohort, Run, Tangent, append_row, covariance, labels, out_of_fold, parser, ridge_scores, score, segment_means

CASES = (
    *("spread80_units", "spread80_units_steps", "spread80_parcels", "spread80_cells", "spread80_cells_steps"),
    *("stretch80_units", "stretch80_units_steps", "stretch80_parcels", "stretch80_cells", "whole_cells"),
)


def series_of(cohort: Cohort, run: Run, frames: str, kind: str) -> np.ndarray:
    """(T, C) series: 80 frames spread over the run or in one stretch, or the whole run; `_steps` averages four frames."""
    chosen = {
        "spread80": lambda: cohort.spread_frames(run, 10),
        "stretch80": lambda: (run.frames - 80) // 2 + np.arange(80),
        "whole": lambda: np.arange(run.frames // 4 * 4),
    }[frames]()
    if kind == "parcels":
        return cohort.parcels[run.first + chosen].astype(np.float32)
    level = cohort.grid.units if kind.startswith("units") else cohort.grid.cells
    x = segment_means(cohort.clip(run, chosen), level.offsets)
    return x.reshape(-1, 4, x.shape[1]).mean(1) if kind.endswith("steps") else x


def axes_of(cohort: Cohort, frames: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of pretraining and validation people along the axes of the pretraining people's tangent vectors."""
    groups = ("pretrain", "validation")
    first, second = ([covariance(series_of(cohort, run, frames, kind)).astype(np.float32) for run in cohort.split[g]] for g in groups)
    tangent = Tangent(first)
    pre, val = np.stack([tangent(m) for m in first]), np.stack([tangent(m) for m in second])
    mean = pre.mean(0)
    pre, val = pre - mean, val - mean
    values, vectors = np.linalg.eigh((pre @ pre.T).astype(float))
    rank = min(len(pre) - 1, pre.shape[1] - 1)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    return vectors * np.sqrt(values), (val @ pre.T) @ vectors / np.sqrt(values)


def transfer(x: np.ndarray, y: np.ndarray, probed: np.ndarray) -> np.ndarray:
    """Predictions for `probed` of a probe trained on `x`."""
    both = np.concatenate((x, probed)).astype(np.float64)
    known = np.arange(len(x))
    return ridge_scores(both @ both.T, np.r_[y, np.zeros(len(probed))], known, np.arange(len(x), len(both)))


def row_of(cohort: Cohort, name: str, pre: np.ndarray, val: np.ndarray) -> dict[str, object]:
    """Scores of every label and way."""
    row: dict[str, object] = {"name": name}
    spread = pre.std(0)
    known = labels(cohort.split["pretrain"])
    for label, y in labels(cohort.split["validation"]).items():
        ways = {
            "cv": out_of_fold(val, y),
            "all": transfer(pre, known[label], val),
            "ax50": out_of_fold(val[:, :50] / spread[:50], y),
            "ax50all": transfer(pre[:, :50] / spread[:50], known[label], val[:, :50] / spread[:50]),
            "ax100": out_of_fold(val[:, :100] / spread[:100] ** 0.5, y),
            "ax200all": transfer(pre[:, :200] / spread[:200] ** 0.5, known[label], val[:, :200] / spread[:200] ** 0.5),
        }
        row[label] = {way: round(score(label, y, predicted), 3) for way, predicted in ways.items()}
    return row


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=CASES)
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    for case in [arguments.only] if arguments.only else CASES:
        pre, val = axes_of(cohort, *case.split("_", 1))
        if case == "whole_cells":
            np.savez(arguments.out / "axes_whole_cells.npz", Zp=pre.astype(np.float32), Zv=val.astype(np.float32))
        append_row(arguments.out / "baselines.jsonl", row_of(cohort, case, pre, val))


if __name__ == "__main__":
    main()
