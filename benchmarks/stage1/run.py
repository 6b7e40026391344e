"""Which first stage is worth pretraining? Runs one experiment and appends its rows to a table.

    .venv/bin/python benchmarks/stage1/run.py --experiment baselines
    SCREEN=1 .venv/bin/python benchmarks/stage1/run.py --experiment readout --seeds 0 1

Writes `rows.csv`, and what `report.py` and `summary.py` read, to `--out`; rows that exist are not computed again. Rotations 0 to 3 pretrain
on three folds of ABIDE's development people and validate on the fourth; experiment `test` opens the test people instead. With SCREEN=1 in
the environment contests are cheaper: 60 labels, excerpts of 40 frames, penalties tuned in one inner split and not three. `mix` and `chosen`
read what `final` kept. Data: `../shared/data/roi` beside the checkout. Findings: docs/stage1.md.
"""

from __future__ import annotations

import argparse
import importlib
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from collections.abc import Callable, Sequence  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from cohorts import Floats  # noqa: E402
from connectome import (  # noqa: E402
    Axes,
    correlations,
    geometric_mean,
    inverse_root,
    ledoit_wolf_stack,
    tangent,
)
from contests import EXPERIMENTS, LENGTHS, Embedding, Results, compete, excerpts, rotation  # noqa: E402


def baselines(results: Results, seeds: Sequence[int]) -> None:
    """Native connectivity of the 200 parcels, and linear pretraining (principal axes of the tangent)."""
    for seed in seeds:
        pre, val = rotation(seed)

        @cache
        def ledoit(frames: int) -> Floats:
            return ledoit_wolf_stack(excerpts(seed, frames))

        @cache
        def native(frames: int) -> Floats:
            stack = ledoit(frames)
            return tangent(stack, inverse_root(geometric_mean(stack[pre].astype(np.float64))).astype(np.float32))

        def to_population(weight: float) -> Callable[[], Embedding]:
            def embed() -> Embedding:
                made = {}
                for frames in LENGTHS:
                    stack = correlations(excerpts(seed, frames))
                    mean = stack[pre].mean(0) * (1 - 1e-3) + 1e-3 * np.eye(200, dtype=np.float32)
                    made[frames] = tangent((1 - weight) * stack + weight * mean, inverse_root(mean))
                return Embedding(made)

            return embed

        def correlation() -> Embedding:
            made = {}
            for frames in LENGTHS:
                rows, columns = np.tril_indices(200, -1)
                stack = ledoit(frames)[:, rows, columns]
                made[frames] = np.arctanh(np.clip(stack, -0.999, 0.999))
            return Embedding(made)

        def leading(n_axes: int) -> Callable[[], Embedding]:
            return lambda: Embedding({frames: Axes.fit(native(frames)[pre], n_axes)(native(frames)) for frames in LENGTHS})

        def transferred(n_axes: int) -> Callable[[], Embedding]:
            """Axes of whole runs, read at every length."""

            def embed() -> Embedding:
                axes = Axes.fit(native(0)[pre], n_axes)
                return Embedding({frames: axes(native(frames)) for frames in LENGTHS})

            return embed

        compete(results, "baselines", "tangent", seed, pre, val, lambda: Embedding({frames: native(frames) for frames in LENGTHS}))
        compete(results, "baselines", "correlation", seed, pre, val, correlation)
        compete(results, "baselines", "tangent to population", seed, pre, val, to_population(0.5))
        for n_axes in (50, 100, 200, 500):
            compete(results, "baselines", f"linear pretraining {n_axes}", seed, pre, val, leading(n_axes))
        compete(results, "baselines", "linear pretraining 50 from whole runs", seed, pre, val, transferred(50))
        for made in (ledoit, native):
            made.cache_clear()


EXPERIMENTS["baselines"] = baselines


def main() -> None:
    for name in (
        "more",
        "readout",
        "mix",
        "networks",
        "series",
        "leads",
        "states",
        "opened",
        "shipping",
        "shipped",
        "remaining",
        "sums",
        "metric",
        "missing",
    ):
        importlib.import_module(name)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", required=True, choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3], help="rotations; `test` takes none of them")
    parser.add_argument("--out", type=Path, default=Path("stage1-run"), help="folder of results, continued where it exists")
    options = parser.parse_args()
    EXPERIMENTS[options.experiment](Results(options.out), options.seeds)


if __name__ == "__main__":
    main()
