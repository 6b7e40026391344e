"""How much of the whole tangent vector should stand beside the axes, and in how many numbers?

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment sums --seeds 0 1

The package's readout, fitted without the tested fold of `shipped`. Vectors are weighed in units of the last axis, whose scale they would
have as one more axis, as they are or scaled to the median length of the pretraining people's, once (over length) or twice (over squared
length). Besides the contests of `compete`, those of rpn122's own people. Fold 2 (`shipped`) then lowered the weight to 0.15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from cohorts import Cohort, Floats, abide, rpn
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts
from shipped import EARLIER, EARLIER_AXES, elsewhere, fit, folds, places

from slimbrain.embed.series import TANGENT, connectome_vectors
from slimbrain.models.connectome import ConnectomeReadout

WEIGHTS = {0: (0.15, 0.2, 0.3), 1: (0.15, 0.2, 0.3), 2: (0.1, 0.15, 0.2, 0.3)}
"""By the power of the length that a vector is divided by."""
SUMS = (512, 1536, 3584)
SUMS_WEIGHT = 0.15
LEADING = ((60, 0.5), (90, 0.3))
"""Modes, among which the entries are, and weights."""
KEYS = (0, 40, "rpn")


@torch.inference_mode()
def tangents(readout: ConnectomeReadout, runs: Sequence[Floats], cohort: Cohort) -> Floats:
    """(N, D), centred on the pretraining people's mean."""
    series = [torch.from_numpy(run) for run in runs]
    return connectome_vectors(readout, series, [places(cohort.coordinates)] * len(series), TANGENT).numpy()


def summed(vectors: Floats, n_sums: int) -> Floats:
    """(N, S) sums of every S-th entry with random signs."""
    signs = 2 * np.random.default_rng(0).integers(0, 2, vectors.shape[1]) - 1
    padded = np.pad(vectors * signs.astype(np.float32), ((0, 0), (0, -vectors.shape[1] % n_sums)))
    return padded.reshape(len(vectors), -1, n_sums).sum(1)


def print_shares(axes: Floats, groups: dict[str, Floats]) -> None:
    """How much of the squared length of people's vectors lies in the span of the axes (D, Q)."""
    directions = np.linalg.qr(axes)[0]
    shares = {name: np.square(own @ directions).sum() / np.square(own).sum() for name, own in groups.items()}
    print("share on the axes:", ", ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)


def sums_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        readout = fit(fold, EARLIER, EARLIER_AXES)
        axes = readout.unpacked_axes().numpy() * readout.axis_scales.numpy()
        vectors = {frames: tangents(readout, excerpts(fold, frames), abide()) for frames in (0, 40)}
        vectors["rpn"] = tangents(readout, rpn().runs, rpn())
        print_shares(axes, {"pretraining": vectors[0][pre], "others": vectors[0][val], "rpn122": vectors["rpn"] - vectors["rpn"].mean(0)})
        median = np.median(np.linalg.norm(vectors[0][pre], axis=1))

        def scaled(key: int | str, power: int) -> Floats:
            """In units of the last axis."""
            own = vectors[key]
            return own * np.linalg.norm(axes[:, -1]) * (median / np.linalg.norm(own, axis=1, keepdims=True)) ** power

        def enter(name: str, beside: Callable[[int | str], Floats]) -> None:
            made = {key: np.hstack((vectors[key] @ axes, beside(key))).astype(np.float32) for key in KEYS}
            own = Embedding({0: made[0], 40: made[40]}, made["rpn"])
            compete(results, "sums", name, fold, pre, val, lambda: own, contests=("few", "all", "fewcut", "rpn"))
            elsewhere(results, name, fold, made["rpn"], "sums")

        enter("axes", lambda key: vectors[key][:, :0])
        for power, over in enumerate(("", " over length", " over squared length")):
            for weight in WEIGHTS[power]:
                enter(f"axes and {weight:g} x tangent{over}", lambda key: weight * scaled(key, power))
        for n_sums in SUMS:
            enter(f"axes and {n_sums} sums over squared length", lambda key: SUMS_WEIGHT * summed(scaled(key, 2), n_sums))
        for modes, weight in LEADING:
            enter(f"axes and {weight:g} x {modes} leading modes", lambda key: weight * scaled(key, 0)[:, : modes * (modes + 1) // 2])


EXPERIMENTS["sums"] = sums_experiment
