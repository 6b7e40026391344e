"""The chosen readout in every contest: on the four rotations (`chosen`) and, once, on the test people (`test`).

    .venv/bin/python benchmarks/stage1/run.py --experiment chosen
    .venv/bin/python benchmarks/stage1/run.py --experiment test

The test people were opened on 30 November 2026 for the table of docs/stage1.md: choose nothing by them any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from checkpoint import ConnectomeReadout
from cohorts import Floats, abide, hcp, rpn
from connectome import Axes, GaussianReader, geometric_mean, inverse_root, k_means_anchors, ledoit_wolf_stack, shrunk_tangent, tangent
from contests import EXPERIMENTS, LENGTHS, TEST, Embedding, Results, compete, excerpts, rotation
from more import RIDGE, changed_runs
from readout import ALL_KEYS, design, embedding, int4


def chosen_experiment(results: Results, seeds: Sequence[int]) -> None:
    for seed in seeds:
        pre, val = rotation(seed)
        with np.load(results.kept(f"final_{seed}.npz")) as archive:
            scores = {key: archive[str(key)] for key in ALL_KEYS}
        # Kept with variance^0.125; the chosen exponent is twice that.
        spread = scores[0][pre].std(0) ** 0.2
        compete(
            results, "chosen", "readout, 500 axes", seed, pre, val, lambda: embedding({key: own * spread for key, own in scores.items()})
        )


def hcp_vectors(readout: ConnectomeReadout) -> Floats:
    """Two runs of each HCP participant, one per day."""
    one = [at for at, task in enumerate(hcp().task) if ("REST1" in task and "LR" in task) or ("REST2" in task and "RL" in task)]
    return readout.vectors([hcp().runs[at] for at in one], hcp().coordinates)


def test_experiment(results: Results, seeds: Sequence[int]) -> None:
    pre, people = rotation(TEST)
    name = "test"

    def native() -> dict[int | str, Floats]:
        runs = {frames: excerpts(TEST, frames) for frames in LENGTHS} | changed_runs(TEST)
        stacks = {key: ledoit_wolf_stack(own) for key, own in runs.items()}
        whitening = inverse_root(geometric_mean(stacks[0][pre], 3)).astype(np.float32)
        return {key: tangent(own, whitening) for key, own in stacks.items()}

    vectors = native()
    compete(results, name, "tangent", TEST, pre, people, lambda: embedding(vectors))
    for n_axes in (50, 500):
        axes = Axes.fit(vectors[0][pre], n_axes)
        compete(
            results,
            name,
            f"linear pretraining {n_axes}",
            TEST,
            pre,
            people,
            lambda: embedding({key: axes(own) for key, own in vectors.items()}),
        )
    del vectors

    def gaussian() -> Embedding:
        reader = GaussianReader(k_means_anchors(abide().coordinates, 150), 7.0)
        runs = {frames: excerpts(TEST, frames) for frames in LENGTHS} | changed_runs(TEST)
        matrices = {key: reader.covariances(own, abide().coordinates) for key, own in runs.items()}
        matrices["rpn"] = reader.covariances(rpn().runs, rpn().coordinates)
        origin = matrices[0][pre].mean(0) * (1 - RIDGE) + RIDGE * np.eye(150)
        return embedding({key: shrunk_tangent(own, origin, 0.1) for key, own in matrices.items()})

    compete(results, name, "gaussian 150 of 7 mm, tangent", TEST, pre, people, gaussian)
    readout, vectors = design(TEST)
    others = hcp_vectors(readout)
    others += vectors[0][pre].mean(0) - others.mean(0)
    both = np.concatenate((vectors[0][pre], others))
    for label, fitted, n_axes, how in (
        ("readout, 512 axes", vectors[0][pre], 512, ""),
        ("readout, 679 axes", vectors[0][pre], 679, ""),
        ("readout, 512 axes, with HCP, int8", both, 512, "int8"),
        ("readout, 768 axes, with HCP, int4", both, 768, "int4"),
    ):
        readout.fit_axes(fitted, n_axes, 0.5)
        if how == "int8":
            readout.quantised()
        if how == "int4":
            readout.axes = int4(readout.axes)
        print(label, readout.n_bytes() / 2**20, "MiB at int8", flush=True)
        compete(results, name, label, TEST, pre, people, lambda: embedding({key: readout.scores(own) for key, own in vectors.items()}))


EXPERIMENTS |= {"chosen": chosen_experiment, "test": test_experiment}
