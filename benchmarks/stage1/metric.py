"""What should a recording's connectivity be compared with: the population's, none at all, or something between?

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment metric --seeds 0 1

The package's readout, fitted without the tested fold of `shipped`, whose tangent is taken at a power of the population's correlation: 1 is
the population, 0 no correlation, as in `native`. Recordings are shrunk towards that, and some towards the population before. Each setting
is entered by its whole vectors, by their axes, and by these with signed sums at several weights (as in `sums`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from cohorts import Cohort, Floats, abide, rpn
from connectome import Axes
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts
from shipped import elsewhere, fit, folds, places
from sums import summed

from slimbrain.models.connectome import ConnectomeReadout, _shrunk_logarithm

REFERENCES = (0.5, 0.75, 0.25, 1.0, 0.0)
SHRINKAGES = (0.1, 0.2, 0.05, 0.5)
WEIGHTS = (0.15, 0.2, 0.25, 0.4)
SETTINGS = [
    *((reference, shrinkage, 0.0, 512) for shrinkage in SHRINKAGES for reference in REFERENCES),
    *((reference, shrinkage, population, 512) for population in (0.25, 0.5) for shrinkage in (0.2, 0.5, 0.7) for reference in (0.5, 0.75)),
    (0.5, 0.1, 0.0, 700),
]
"""Power, both shrinkages, and axes."""
N_SUMS = 3584


@torch.inference_mode()
def vectors_of(
    readout: ConnectomeReadout, runs: Sequence[Floats], cohort: Cohort, reference: float, shrinkage: float, population: float
) -> Floats:
    """(N, D) tangent vectors, as the package makes them but for the shrinkage towards the population."""
    mm, made = places(cohort.coordinates), []
    scale = readout.modes.square().sum(0) ** ((reference - 1) / 2)
    one = torch.eye(len(scale))
    for run in runs:
        series = torch.from_numpy(run)
        present = series.ne(0).any(0)
        gain, expected = readout._gain(mm, present)
        latent = series[:, present] @ gain.T
        moments = scale[:, None] * (one + (1 - population) * (latent.T @ latent / len(series) - expected)) * scale
        made.append(_shrunk_logarithm(moments - one, shrinkage).numpy() / (1 - population))
    return np.stack(made)


def metric_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold)
        sources = {0: (excerpts(fold, 0), abide()), 40: (excerpts(fold, 40), abide()), "rpn": (rpn().runs, rpn())}

        def enter(name: str, made: dict[int | str, Floats]) -> None:
            own = Embedding({0: made[0], 40: made[40]}, made["rpn"])
            compete(results, "metric", name, fold, pre, val, lambda: own, contests=("few", "all", "fewcut", "rpn"))
            elsewhere(results, name, fold, made["rpn"], "metric")

        for reference, shrinkage, population, n_axes in SETTINGS:
            name = f"reference {reference:g}, shrinkage {shrinkage:g}"
            name += f", population {population:g}" if population else ""
            vectors = {key: vectors_of(readout, *own, reference, shrinkage, population) for key, own in sources.items()}
            centre = vectors[0][pre].mean(0)
            vectors = {key: own - centre for key, own in vectors.items()}
            axes = Axes.fit(vectors[0][pre], n_axes)
            median = np.median(np.linalg.norm(vectors[0][pre], axis=1))
            scale = ((axes.variances / axes.variances[0]) ** 0.125).astype(np.float32)
            scores = {key: axes(own) * scale for key, own in vectors.items()}
            enter(f"{name}, whole vector", vectors)
            enter(f"{name}, {n_axes} axes", scores)
            if population:
                continue
            sums = {
                key: summed(own * scale[-1] * np.square(median / np.linalg.norm(own, axis=1, keepdims=True)), N_SUMS)
                for key, own in vectors.items()
            }
            for weight in WEIGHTS:
                mixed = {key: np.hstack((own, weight * sums[key])) for key, own in scores.items()}
                enter(f"{name}, {n_axes} axes and {weight:g} x sums", mixed)


EXPERIMENTS["metric"] = metric_experiment
