"""What becomes of a recording in which parcels are missing? What they would have told, made up for in several ways.

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment missing

The package's readout, fitted without the tested fold of `shipped`. Of the tested people parcels are missing, a random 30 % of each or the
lowest fifth of all, as where the field of view ends. `all`: learnt from pretraining people who lack nothing; `few`: from 60 of the tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from cohorts import Floats, abide
from contests import EXPERIMENTS, Embedding, Results, compete
from more import with_missing
from shipped import fit, folds, places
from torch import Tensor

from slimbrain.models.connectome import ConnectomeReadout, turn

LOWEST = 0.2
N_LABELLED = 60


def without_lowest(runs: Sequence[Floats]) -> list[Floats]:
    height = abide().coordinates[:, 2]
    return [run * (height >= np.quantile(height, LOWEST)).astype(np.float32) for run in runs]


def as_in_population(readout: ConnectomeReadout, run: Tensor, mm: Tensor) -> Tensor:
    return readout.as_read(run, mm)


def mean_made_up(readout: ConnectomeReadout, run: Tensor, mm: Tensor) -> Tensor:
    return readout.as_read(run, mm) + readout.gap(mm, run.ne(0).any(0))[2]


def axes_made_up(readout: ConnectomeReadout, run: Tensor, mm: Tensor) -> Tensor:
    vector, (fit_, rest, _) = readout.as_read(run, mm), readout.gap(mm, run.ne(0).any(0))
    return vector + rest @ (fit_ @ (vector - readout.centre))


def both_made_up(readout: ConnectomeReadout, run: Tensor, mm: Tensor) -> Tensor:
    return readout.tangent(run, mm)


WAYS: tuple[Callable[[ConnectomeReadout, Tensor, Tensor], Tensor], ...] = (as_in_population, mean_made_up, axes_made_up, both_made_up)


@torch.inference_mode()
def embed(readout: ConnectomeReadout, way: Callable[[ConnectomeReadout, Tensor, Tensor], Tensor], runs: Sequence[Floats]) -> Floats:
    """(N, Q + S) scores on the axes and signed sums, turned."""
    mm = places(abide().coordinates)
    vectors = torch.stack([way(readout, torch.from_numpy(run), mm) for run in runs]) - readout.centre
    return turn(readout.scores(vectors)).numpy()


def missing_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold)
        complete = embed(readout, both_made_up, abide().runs)

        def enter(name: str, rows: Floats) -> None:
            made = complete.copy()
            made[val] = rows
            compete(results, "missing", name, fold, pre, val, lambda: Embedding({0: made}), ("few", "all"), (N_LABELLED,))

        enter("none missing", complete[val])
        for kind, runs in (("30 %", with_missing(abide().runs)), ("lowest fifth", without_lowest(abide().runs))):
            for way in WAYS:
                enter(f"{kind} missing, {way.__name__.replace('_', ' ')}", embed(readout, way, [runs[at] for at in val]))


EXPERIMENTS["missing"] = missing_experiment
