"""How much of what the product's objective hides can a linear model predict? The ceiling beside the skill of a trained model.

`product_ceiling.py --store STORE --model RUN/model [--seed 0] [--preset tiny] [--clips 48]`: skill on the same masked clips of held-out
participants, which are those that `slimbrain pretrain voxel` holds out with that seed. The linear model is the conditional expectation of a
Gaussian with the covariance of the trained-on participants' cells, in means of half a step: hidden cells from visible ones of the same half
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ceilings import PLACE_RIDGE, conditional_weights
from painted_cohort import append_row, parser, segment_means

from slimbrain.config import load_preset
from slimbrain.data.draws import MaskedClip
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA, Prediction
from slimbrain.models.signals import signal_series, signal_slots, token_signals
from slimbrain.models.skill import skill
from slimbrain.store import Store
from slimbrain.train.stages import VoxelStage


def covariance(stage: VoxelStage, store: Store, half: int) -> np.ndarray:
    """(C, C) second moments of cells, in means of half a step, of the sessions that are trained on."""
    total, count = 0.0, 0
    for info in stage.draws.sessions:
        frames = info.n_frames // half * half
        voxels = np.asarray(store.voxels(info.key, 0, frames), np.float32).sum(-1).reshape(-1, half, store.grid.n_patches).mean(1)
        cells = segment_means(voxels, store.grid.cells.offsets)
        total, count = total + cells.T @ cells, count + len(cells)
    return total / count


@torch.no_grad()
def predictions(samples: Iterable[MaskedClip], model: HieraJEPA, known: np.ndarray) -> Iterator[tuple[Prediction, Prediction]]:
    """What the linear model predicts of each clip, and what the network does."""
    for sample in samples:
        asked = model.predict([sample.clip], [sample.mask])
        grid = sample.clip.grid
        values, _ = token_signals([sample.clip], model.config.unit_frames)
        series = signal_series(values, grid).double().numpy()
        cells = np.flatnonzero(sample.mask.places[grid.cell_unit])
        weights = conditional_weights(known[np.ix_(cells, cells)], known[cells], PLACE_RIDGE)
        predicted = torch.from_numpy(series[:, cells] @ weights)
        table = torch.zeros(len(predicted), grid.n_units * 8, dtype=torch.float64)
        table[:, signal_slots(grid)] = predicted
        rows = table.unflatten(0, (-1, 2)).unflatten(2, (-1, 8)).permute(0, 2, 3, 1).reshape(-1, 16)
        hidden = torch.from_numpy(sample.mask.viewed & ~sample.mask.context).ravel()
        yield replace(asked, predicted=rows[hidden].to(asked.wanted)), asked


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--store", type=Path, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--seed", type=int, default=0, help="of the run")
    options.add_argument("--preset", default="tiny")
    options.add_argument("--clips", type=int, default=48)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    store, model = Store(arguments.store), from_pretrained(arguments.model)
    assert isinstance(model, HieraJEPA)
    preset = load_preset(arguments.preset)
    stage = VoxelStage(store, preset, arguments.seed, None)
    samples = (stage.draws[pick] for pick in stage.draws.scored(arguments.clips))
    known = covariance(stage, store, preset.voxel.unit_frames // 2)
    ceiling, ours = zip(*predictions(samples, model, known), strict=True)
    row = {
        "seed": arguments.seed,
        "clips": arguments.clips,
        "held_out": len(stage.draws.held_out),
        "linear": skill(ceiling)["skill"],
        "model": skill(ours)["skill"],
    }
    append_row(arguments.out / "product_ceiling.jsonl", {name: round(value, 3) for name, value in row.items()})


if __name__ == "__main__":
    main()
