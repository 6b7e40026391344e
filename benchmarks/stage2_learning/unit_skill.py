"""Skill of a trained model for cells by half, cells by step and unit means, with the linear ceiling of the same masks and frames.

Runs on commit 5ea4a25 with the two patches applied, as `final_lab.py` tells. `unit_skill.py default --out stage2-run` adds a row to
`final.jsonl`; `final_lab.py train default` comes first.
"""

from __future__ import annotations

import final_lab
import numpy as np
import torch
from painted_cohort import Cohort, append_row, parser, segment_means

from slimbrain.models.signals import cell_signals, cell_slots

PLACE_RIDGE = 0.02


def cell_covariance(cohort: Cohort) -> np.ndarray:
    """(C, C) covariance of cells over steps of four frames, from every fourth pretraining person."""
    total, count = np.zeros((1, 1)), 0
    for run in cohort.split["pretrain"][::4]:
        cells = segment_means(cohort.clip(run, np.arange(run.frames // 4 * 4)), cohort.grid.cells.offsets)
        cells = cells.reshape(-1, 4, cells.shape[1]).mean(1)
        total, count = total + cells.T @ cells, count + len(cells)
    return total / count


@torch.no_grad()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("name")
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    grid, (model, steps) = cohort.grid, final_lab.load(arguments.out, arguments.name)
    covariance, slots, sums = cell_covariance(cohort), cell_slots(grid).numpy(), {}
    random = np.random.default_rng(99)
    for run in cohort.split["validation"][::4][:40]:
        clip, mask = final_lab.draw(cohort, model, run, random)
        values, _ = cell_signals([clip], 4)
        hidden = torch.from_numpy(~mask.context).ravel()
        context = model.context([clip], [mask.context])
        wanted = values.view(10, -1, 8, 2).numpy()
        predicted = np.zeros_like(wanted)
        predicted.reshape(-1, 16)[hidden.numpy()] = model.predictor(context, model.context.layout([clip]), hidden).numpy()
        halves, halves_predicted = (x.transpose(0, 3, 1, 2).reshape(20, -1)[:, slots] for x in (wanted, predicted))
        cells, cells_predicted = (x.mean(3).reshape(10, -1)[:, slots] for x in (wanted, predicted))
        visible = mask.places[grid.cell_unit]
        unseen = np.flatnonzero(~visible)
        own = covariance[np.ix_(visible, visible)] + PLACE_RIDGE * np.eye(visible.sum())
        weights = np.linalg.solve(own, covariance[np.ix_(visible, ~visible)])
        linear, linear_halves = cells[:, visible] @ weights, halves[:, visible] @ weights
        unit = grid.cell_unit[unseen]
        means = [
            np.stack([x[:, unit == u].mean(1) for u in np.unique(unit)], 1) for x in (cells[:, unseen], cells_predicted[:, unseen], linear)
        ]
        cases = {
            "cell2": (halves[:, unseen], halves_predicted[:, unseen], linear_halves),
            "cell": (cells[:, unseen], cells_predicted[:, unseen], linear),
            "unit": means,
        }
        for kind, (truth, ours, ceiling) in cases.items():
            total = sums.setdefault(kind, np.zeros(3))
            total += [np.square(truth - ours).sum(), np.square(truth - ceiling).sum(), np.square(truth).sum()]
    row = {"experiment": "final", "variant": arguments.name, "steps": steps}
    row |= {f"skill_{kind}": round(1 - total[0] / total[2], 3) for kind, total in sums.items()}
    row |= {f"ceiling_{kind}": round(1 - total[1] / total[2], 3) for kind, total in sums.items()}
    append_row(arguments.out / "final.jsonl", row)


if __name__ == "__main__":
    main()
