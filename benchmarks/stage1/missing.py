"""What becomes of a recording in which parcels are missing? What they would have told, made up for in several ways.

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment missing

The package's readout, fitted without the tested fold of `shipped`. Of the tested people parcels are missing, a random 30 % of each or the
lowest fifth of all, as where the field of view ends. `all`: learnt from pretraining people who lack nothing; `few`: from 60 of the tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shipped
import torch
from cohorts import Floats, abide
from contests import EXPERIMENTS, Embedding, Results, compete
from more import with_missing
from shipped import fit, folds, places

from slimbrain.models.connectome import ConnectomeReadout, turn

LOWEST = 0.2
N_LABELLED = 60


def without_lowest(runs: Sequence[Floats]) -> list[Floats]:
    height = abide().coordinates[:, 2]
    return [run * (height >= np.quantile(height, LOWEST)).astype(np.float32) for run in runs]


WAYS = {"as in population": (False, False), "mean made up": (True, False), "axes made up": (False, True), "both made up": (True, True)}
"""Whether the mean, and whether the leading axes, are made up for; both is what the package does."""


@torch.inference_mode()
def embed(readout: ConnectomeReadout, runs: Sequence[Floats]) -> dict[str, Floats]:
    """(N, Q + S) scores on the axes and signed sums, turned, by the name of the way."""
    mm, vectors = places(abide().coordinates), {name: [] for name in WAYS}
    for run in map(torch.from_numpy, runs):
        read, (fitted, rest, lost) = readout.as_read(run, mm) - readout.centre, readout.gap(mm, run.ne(0).any(0))
        for name, (mean, axes) in WAYS.items():
            vector = read + mean * lost
            vectors[name].append(vector + axes * (rest @ (fitted @ vector)))
    return {name: turn(readout.scores(torch.stack(own))).numpy() for name, own in vectors.items()}


def missing_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold)
        complete = shipped.embed(readout, abide().runs, abide().coordinates)

        def enter(name: str, rows: Floats) -> None:
            made = complete.copy()
            made[val] = rows
            compete(results, "missing", name, fold, pre, val, lambda: Embedding({0: made}), ("few", "all"), (N_LABELLED,))

        enter("none missing", complete[val])
        for kind, runs in (("30 %", with_missing(abide().runs)), ("lowest fifth", without_lowest(abide().runs))):
            for name, rows in embed(readout, [runs[at] for at in val]).items():
                enter(f"{kind} missing, {name}", rows)


EXPERIMENTS["missing"] = missing_experiment
