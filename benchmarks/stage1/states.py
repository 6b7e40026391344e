"""Is rest, face or scene told from a short excerpt? song25, whose channels have no coordinates: only the shrinkage is tested.

.venv/bin/python benchmarks/stage1/run.py --experiment states --seeds 0
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from cohorts import Floats, excerpt, song
from connectome import correlations, flatten, geometric_mean, inverse_root, ledoit_wolf_stack, log_matrix, tangent
from contests import EXPERIMENTS, RESAMPLES, Results, Target, fit_predict, linear_kernel

FOLDS, DRAWS = 5, 3


def population_tangent(stack: Floats, others: Floats, weight: float, nugget: float) -> Floats:
    """`ConnectomeReadout` where channels are the anchors: damped by mean (mean + nugget)^-1, shrunk, tangent."""
    mean = 0.999 * others.mean(0) + 0.001 * np.eye(others.shape[1])
    modes = inverse_root(mean)
    gain = (modes @ mean @ np.linalg.inv(mean + nugget * np.eye(len(mean)))).astype(np.float32)
    deviations = gain @ (stack - mean.astype(np.float32)) @ gain.T
    eye = np.eye(len(mean), dtype=np.float32)
    return flatten(log_matrix(eye + (1 - weight) * deviations)) / (1 - weight)


def states_experiment(results: Results, seeds: Sequence[int]) -> None:
    cohort = song()
    people = np.unique(cohort.person)
    state = np.array(["rest" if "rest" in task else "face" if "face" in task else "scene" for task in cohort.task])
    whole, whole_ledoit = correlations(cohort.runs), ledoit_wolf_stack(cohort.runs)
    for frames in (20, 40):
        for seed in seeds:
            began = time.time()
            runs = [excerpt(run, frames, (seed, frames, at, draw)) for at, run in enumerate(cohort.runs) for draw in range(DRAWS)]
            row = np.repeat(np.arange(len(cohort.runs)), DRAWS)
            person, truth = cohort.person[row], state[row]
            stack, ledoit = correlations(runs), ledoit_wolf_stack(runs)
            rng = np.random.default_rng((21, seed))
            folds = np.array_split(rng.permutation(people), FOLDS)
            variants: dict[str, object] = {
                "tangent": lambda train: tangent(ledoit, inverse_root(geometric_mean(ledoit[np.isin(person, train)])).astype(np.float32)),
                "tangent at whole runs": lambda train: tangent(
                    ledoit, inverse_root(geometric_mean(whole_ledoit[np.isin(cohort.person, train)])).astype(np.float32)
                ),
                "correlation": lambda train: flatten(
                    np.arctanh(np.clip(ledoit, -0.99, 0.99) * (1 - np.eye(ledoit.shape[1], dtype=np.float32)))
                ),
            }
            for weight, nugget in ((0.5, 0.0), (0.5, 0.1), (0.8, 0.1), (0.5, 0.5), (0.5, 2.0)):
                variants[f"population {weight}, nugget {nugget}"] = lambda train, weight=weight, nugget=nugget: population_tangent(
                    stack, whole[np.isin(cohort.person, train)], weight, nugget
                )
            weights = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), RESAMPLES).astype(float)
            for name, make in variants.items():
                if results.has("states", name, seed, f"state{frames}/accuracy", len(people) * 4 // 5):
                    continue
                right = np.zeros(len(runs))
                for test_people in folds:
                    train_people = np.setdiff1d(people, test_people)
                    kernel = linear_kernel(make(train_people))
                    train, test = np.flatnonzero(np.isin(person, train_people)), np.flatnonzero(np.isin(person, test_people))
                    scores = [
                        fit_predict(kernel, Target(one, (truth == one).astype(float), True), train, test, np.random.default_rng(seed), 1)
                        for one in ("rest", "face", "scene")
                    ]
                    right[test] = np.array(["rest", "face", "scene"])[np.argmax(scores, 0)] == truth[test]
                share = np.array([right[person == one].mean() for one in people])
                resampled = weights @ share / weights.sum(1)
                results.add(
                    "states",
                    name,
                    seed,
                    f"state{frames}/accuracy",
                    len(people) * 4 // 5,
                    "accuracy",
                    float(share.mean()),
                    resampled,
                    time.time() - began,
                )


EXPERIMENTS["states"] = states_experiment
