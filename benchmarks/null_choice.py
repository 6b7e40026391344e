"""How often p is small where there is nothing to find, and an interval holds what cohorts score on average; features are chosen inside.

python benchmarks/null_choice.py [--quick] [--cohorts N] [--subjects N] [--candidates N] [--seeds S] [--effect E]

Cohorts of subjects with noise features in several sets, of which each fold takes the one that did best within its training subjects, as
`best of N chosen inside` does. Expected are shares of 0.05 and 0.95; beside them stand those of permuting or resampling around fixed
predictions, as if nobody who is tested also taught. `--effect` is the weight of five features of each set in the labels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from case import Case
from threadpoolctl import threadpool_limits

from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import Kind, SplitPolicy
from slimbrain.evaluate.stats import Interval, OutOfFold, bootstrap, choose_inside, permutation_p

ALPHA = 0.05
FEATURES = 20
RESAMPLES = 199
COVERAGE = 0.95


def nested(kind: Kind, cohort: int, arguments: argparse.Namespace) -> OutOfFold:
    """What the nested choice says of one cohort. Of classes, the quarter with the largest values is one."""
    rng, n = np.random.default_rng(cohort), arguments.subjects
    drawn = [rng.normal(size=(n, FEATURES)) for _ in range(arguments.candidates)]
    values = rng.normal(size=n) + arguments.effect * sum(features[:, :5].sum(1) for features in drawn)
    labels = values if kind == "regression" else (values.argsort().argsort() >= 3 * n // 4).astype(int)
    policy = SplitPolicy(seeds=tuple(range(arguments.seeds)))
    sets = [FeatureSet("noise", str(number), features) for number, features in enumerate(drawn)]
    return choose_inside([cross_validate(features, labels, np.arange(n), kind, policy) for features in sets])


def as_one_set(predictions: OutOfFold) -> OutOfFold:
    """As if all folds were one test set, so that nobody who is tested taught."""
    return replace(predictions, fold=np.where(predictions.fold >= 0, 0, -1))


def covered(intervals: list[Interval]) -> float:
    """Share of intervals that hold the mean of all cohorts."""
    mean = np.mean([interval.mean for interval in intervals])
    return float(np.mean([interval.low <= mean <= interval.high for interval in intervals]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cohorts")
    parser.add_argument("--effect", type=float, default=0.0)
    for name, default in {"cohorts": 400, "subjects": 40, "candidates": 5, "seeds": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.cohorts, arguments.subjects, arguments.candidates = 12, 24, 2
    detail = {name: getattr(arguments, name) for name in ("quick", "cohorts", "subjects", "candidates", "seeds", "effect")}
    kinds: tuple[Kind, ...] = ("regression", "classification")
    for kind in kinds:
        with threadpool_limits(1):
            found = [nested(kind, cohort, arguments) for cohort in range(arguments.cohorts)]
            for metric in found[0].metrics:
                sides = [found, [as_one_set(predictions) for predictions in found]]
                small, fixed = (
                    float(np.mean([permutation_p(one, metric, RESAMPLES, cohort) <= ALPHA for cohort, one in enumerate(side)]))
                    for side in sides
                )
                Case(f"null/{kind}_{metric}_p_small", small, "share", "nominal", ALPHA, {**detail, "fixed_predictions": fixed}).print()
            # Not of `as_one_set`, whose ranks would be compared between folds: seeds of one are not resampled.
            metric, free = ("mse" if kind == "regression" else "auc"), [replace(one, drawn=True) for one in found]
            ours, fixed = (
                covered([bootstrap(one, metric, RESAMPLES, cohort) for cohort, one in enumerate(side)]) for side in (found, free)
            )
            of = {"of": metric, "fixed_predictions": fixed}
            Case(f"null/{kind}_interval_covers", ours, "share", "nominal", COVERAGE, {**detail, **of}).print()


if __name__ == "__main__":
    main()
