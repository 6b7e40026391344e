"""What should a recording's connectivity be compared with: the population's, none at all, or something between?

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment metric --seeds 0 1

The package's readout, fitted without the tested fold of `shipped`, whose tangent is taken at a power of the population's correlation: 1 is
the population, 0 no correlation, as in `native`. Recordings are shrunk towards that. Each setting is entered by its whole vectors, by their
axes, and by these with signed sums at several weights (as in `sums`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cohorts import Floats, abide, rpn
from connectome import Axes
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts
from shipped import EARLIER, elsewhere, fit, folds
from sums import summed, tangents

REFERENCES = (0.5, 0.75, 0.25, 1.0, 0.0)
SHRINKAGES = (0.1, 0.2, 0.05, 0.5)
WEIGHTS = (0.15, 0.2, 0.25, 0.4)
SETTINGS = [*((reference, shrinkage, 512) for shrinkage in SHRINKAGES for reference in REFERENCES), (0.5, 0.1, 700)]
"""Power, shrinkage, and axes."""
N_SUMS = 3584


def metric_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold, EARLIER)
        sources = {0: (excerpts(fold, 0), abide()), 40: (excerpts(fold, 40), abide()), "rpn": (rpn().runs, rpn())}

        def enter(name: str, made: dict[int | str, Floats]) -> None:
            own = Embedding({0: made[0], 40: made[40]}, made["rpn"])
            compete(results, "metric", name, fold, pre, val, lambda: own, contests=("few", "all", "fewcut", "rpn"))
            elsewhere(results, name, fold, made["rpn"], "metric")

        for reference, shrinkage, n_axes in SETTINGS:
            name = f"reference {reference:g}, shrinkage {shrinkage:g}"
            readout.config = readout.config.model_copy(update={"reference": reference, "shrinkage": shrinkage})
            vectors = {key: tangents(readout, *own) for key, own in sources.items()}
            centre = vectors[0][pre].mean(0)
            vectors = {key: own - centre for key, own in vectors.items()}
            axes = Axes.fit(vectors[0][pre], n_axes)
            median = np.median(np.linalg.norm(vectors[0][pre], axis=1))
            scale = ((axes.variances / axes.variances[0]) ** 0.125).astype(np.float32)
            scores = {key: axes(own) * scale for key, own in vectors.items()}
            enter(f"{name}, whole vector", vectors)
            enter(f"{name}, {n_axes} axes", scores)
            sums = {
                key: summed(own * scale[-1] * np.square(median / np.linalg.norm(own, axis=1, keepdims=True)), N_SUMS)
                for key, own in vectors.items()
            }
            for weight in WEIGHTS:
                mixed = {key: np.hstack((own, weight * sums[key])) for key, own in scores.items()}
                enter(f"{name}, {n_axes} axes and {weight:g} x sums", mixed)


EXPERIMENTS["metric"] = metric_experiment
