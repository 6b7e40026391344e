"""What do directions that the axes leave out tell? The whole tangent vector, and what remains of it beside the axes, more or less of it.

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment remaining
    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment vectors

The package's readout, fitted without the tested fold of `shipped`. What remains is weighed in units of the last axis, whose scale it would
have as one more axis. `vectors`: the whole vector as `slimbrain embed --pooling tangent` gives it, beside `connectome` and `native`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from cohorts import abide
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts
from shipped import EARLIER, EARLIER_AXES, embed, fit, folds, native, places, within

from slimbrain.models.connectome import ConnectomeReadout

WEIGHTS = (0.5, 1.0, 2.0)


@torch.inference_mode()
def parts(readout: ConnectomeReadout, fold: int, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, Q) scores on the axes, (N, D) what is orthogonal to all axes in units of the last, and (N, D) tangent vectors."""
    mm = places(abide().coordinates)
    vectors = torch.stack([readout.tangent(torch.from_numpy(run), mm) for run in excerpts(fold, frames)]) - readout.centre
    axes = readout.unpacked_axes()
    directions = torch.linalg.qr(axes).Q
    remaining = vectors - (vectors @ directions) @ directions.T
    return (vectors @ axes) * readout.axis_scales, remaining * (axes[:, -1].norm() * readout.axis_scales[-1]), vectors


def remaining_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold, EARLIER, EARLIER_AXES)
        made = {frames: parts(readout, fold, frames) for frames in (0, 40)}
        variants = {"axes": {frames: scores for frames, (scores, _, _) in made.items()}}
        for weight in WEIGHTS:
            mixed = {frames: torch.cat((scores, weight * rest), 1) for frames, (scores, rest, _) in made.items()}
            variants[f"axes and {weight:g} x what remains"] = mixed
        variants["tangent vector"] = {frames: vectors for frames, (_, _, vectors) in made.items()}
        for name, vectors in variants.items():
            embedding = Embedding({frames: values.numpy() for frames, values in vectors.items()})
            compete(results, "remaining", name, fold, pre, val, lambda own=embedding: own, contests=("few", "all", "cut", "fewcut"))


@torch.inference_mode()
def vectors_experiment(results: Results, seeds: Sequence[int]) -> None:
    cohort = abide()
    mm = places(cohort.coordinates)
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(cohort.runs)), val)
        readout = fit(fold)
        variants = {
            "connectome": embed(readout, cohort.runs, cohort.coordinates),
            "tangent": torch.stack([readout.tangent(torch.from_numpy(run), mm) for run in cohort.runs]).numpy(),
            "native": native(cohort.runs),
        }
        for name, values in variants.items():
            own = Embedding({0: values})
            compete(results, "vectors", name, fold, pre, val, lambda own=own: own, contests=("few", "all"))
            within(results, name, fold, values, pre, val, "vectors")


EXPERIMENTS["remaining"] = remaining_experiment
EXPERIMENTS["vectors"] = vectors_experiment
