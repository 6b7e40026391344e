"""How often p is small, and an interval leaves chance out, where there is nothing to find and the features are chosen inside.

python benchmarks/null_choice.py [--quick] [--cohorts N] [--subjects N] [--candidates N] [--seeds S]

Cohorts of subjects with noise features in several sets, of which each fold takes the one that did best within its training subjects, as
`best of N chosen inside` does. The expected share is 0.05; beside it stands that of permuting the labels around fixed predictions.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from case import Case
from threadpoolctl import threadpool_limits

from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import Kind, SplitPolicy
from slimbrain.evaluate.stats import OutOfFold, bootstrap, choose_inside, permutation_p

ALPHA = 0.05
FEATURES = 20
RESAMPLES = 199
CHANCE = {"auc": 0.5, "r": 0.0}


def nested(kind: Kind, cohort: int, arguments: argparse.Namespace) -> OutOfFold:
    """What the nested choice says of one cohort, in which labels and features are drawn alone."""
    rng, n = np.random.default_rng(cohort), arguments.subjects
    labels = rng.normal(size=n) if kind == "regression" else np.arange(n) % 4 // 3
    policy = SplitPolicy(seeds=tuple(range(arguments.seeds)))
    sets = [FeatureSet("noise", str(number), rng.normal(size=(n, FEATURES))) for number in range(arguments.candidates)]
    return choose_inside([cross_validate(features, labels, np.arange(n), kind, policy) for features in sets])


def fixed_p(predictions: OutOfFold, metric: str, cohort: int) -> float:
    """The p-value of labels permuted around predictions as they are: as if all folds were one test set."""
    one_set = replace(predictions, fold=np.where(predictions.fold >= 0, 0, -1))
    return permutation_p(one_set, metric, RESAMPLES, cohort)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cohorts")
    for name, default in {"cohorts": 400, "subjects": 40, "candidates": 5, "seeds": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.cohorts, arguments.subjects, arguments.candidates = 12, 24, 2
    kinds: tuple[Kind, ...] = ("regression", "classification")
    for kind in kinds:
        small: dict[str, list[tuple[bool, bool]]] = {}
        outside: list[bool] = []
        with threadpool_limits(1):
            for cohort in range(arguments.cohorts):
                predictions = nested(kind, cohort, arguments)
                for metric in predictions.metrics:
                    p, fixed = permutation_p(predictions, metric, RESAMPLES, cohort), fixed_p(predictions, metric, cohort)
                    small.setdefault(metric, []).append((p <= ALPHA, fixed <= ALPHA))
                ranks = "r" if kind == "regression" else "auc"
                interval = bootstrap(predictions, ranks, RESAMPLES, cohort)
                outside.append(not interval.low <= CHANCE[ranks] <= interval.high)
        detail = {name: getattr(arguments, name) for name in ("quick", "cohorts", "subjects", "candidates", "seeds")}
        for metric, found in small.items():
            ours, fixed = np.mean(found, axis=0)
            Case(f"null/{kind}_{metric}_p_small", ours, "share", "nominal", ALPHA, {**detail, "fixed_predictions": fixed}).print()
        Case(f"null/{kind}_interval_without_chance", float(np.mean(outside)), "share", "nominal", ALPHA, {**detail, "of": ranks}).print()


if __name__ == "__main__":
    main()
