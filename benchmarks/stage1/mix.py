"""How should learnt axes be scaled? From the scores that `final` kept.

.venv/bin/python benchmarks/stage1/run.py --experiment mix
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from contests import EXPERIMENTS, Results, compete, rotation
from readout import embedding


def mix_experiment(results: Results, seeds: Sequence[int]) -> None:
    for seed in seeds:
        pre, val = rotation(seed)
        with np.load(results.kept(f"final_{seed}.npz")) as archive:
            scores = {key: archive[str(key)] for key in (0, 40)} | {"rpn": archive["rpn"]}
        spread = scores[0][pre].std(0)
        total = np.sqrt((spread**2).sum())

        def enter(name: str, made: dict) -> None:
            compete(results, "mix", name, seed, pre, val, lambda: embedding(made))

        for share in (0.3, 0.6, 1.0):
            enter(
                f"axes and {share} of z-scored axes",
                {
                    key: np.hstack((own / total, share * own / spread / np.sqrt(len(spread)))).astype(np.float32)
                    for key, own in scores.items()
                },
            )
        for power in (-0.5, -0.75, 1.0, 1.5):
            enter(
                f"axes times variance^{power / 2}",
                {key: (own * spread ** (0.8 * power - 0.2)).astype(np.float32) for key, own in scores.items()},
            )


EXPERIMENTS["mix"] = mix_experiment
