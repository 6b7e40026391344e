"""What every baseline reads of sex, diagnosis and age in a store, beside chance, one JSON line per task and baseline.

python benchmarks/baselines.py [STORE] [--quick] [--seeds S] [--tasks sex,diagnosis,age] [--axes-from SHARE] [--only WORDS]

Without a store, of simulated participants. Vectors are read once for all tasks. Axes of linear pretraining are learnt, without labels, in
a share of the participants, who are then not evaluated, by any baseline.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from case import Case
from threadpoolctl import threadpool_limits

from slimbrain.evaluate.baselines import confound_rows, confounds, store_baselines
from slimbrain.evaluate.leaks import screen
from slimbrain.evaluate.linear_pretraining import TangentAxes
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.stats import bootstrap
from slimbrain.evaluate.tasks import get_task
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

PLAIN = "tangent towards the population, whole run"


def simulated(folder: Path, people: int = 60, channels: int = 12) -> Store:
    """A store of people whose coupling of two channels grows with age and differs between the sexes."""
    rng, store = np.random.default_rng(0), Store.create(folder, None, tr=1.0)
    named = Channels(tuple(f"parcel-{number}" for number in range(channels)), np.zeros((channels, 3)))
    rows = ["participant_id\tsex\tdiagnosis\tage\tsite"]
    for number in range(people):
        sex, age = number % 2, 20 + number * 7 % 40
        values = rng.standard_normal((80, channels))
        values[:, 1] += sex * values[:, 0]
        values[:, 3] += age / 20 * values[:, 2]
        write_roi_session(store, {"sub": f"{number:02d}", "task": "rest"}, values, named, 1.0)
        rows.append(f"sub-{number:02d}\t{'FM'[sex]}\t{'ac'[number // 2 % 2]}\t{age}\t{'xy'[number % 3 // 2]}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return Store(folder)


def rows_of(sets: Sequence[FeatureSet], rows: Sequence[int], learnt: Sequence[int]) -> list[FeatureSet]:
    """Baselines of the participants who are evaluated, and linear pretraining in the others, cheapest first."""
    found = [features.take(rows) for features in sets]
    if learnt:
        plain = next(features for features in sets if features.method == PLAIN)
        axes = TangentAxes(plain.data[list(learnt)])
        method = f"{len(axes.axes)} axes of {len(learnt)} participants, whole run"
        found.append(FeatureSet("linear pretraining", method, axes(plain.data[list(rows)])))
    return sorted(found, key=lambda features: features.transform is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="simulated participants, one seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default="sex,diagnosis,age")
    parser.add_argument("--axes-from", type=float, default=0.0)
    parser.add_argument("--only", default="", help="baselines in whose name these words are, of several separated by commas")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        torch.set_num_threads(1)
        simulate = arguments.quick or arguments.store is None
        store = simulated(Path(folder)) if simulate else Store(arguments.store)
        keys = [info.key for info in store.sessions]
        series = ChannelSeries(store)
        sets = [
            features
            for features in store_baselines(store, keys, series=series, further=True)
            if features.model not in ("confounds", "majority")
        ]
        for name in arguments.tasks.split(","):
            evaluate_task(series, keys, sets, name, arguments)


def evaluate_task(series: ChannelSeries, keys: list[str], sets: Sequence[FeatureSet], name: str, arguments: argparse.Namespace) -> None:
    """Cross-validate every baseline on one column, and print a line as soon as it is done."""
    store, seeds = series.store, 1 if arguments.quick else arguments.seeds
    task = get_task(f"column:{name}")
    target = screen(store, task, {}, series=series, drop=True).target
    number = {key: row for row, key in enumerate(keys)}
    learners = {subject for subject in target.subjects if np.random.default_rng(abs(hash_of(subject))).random() < arguments.axes_from}
    known = confounds(confound_rows(store, keys), [*task.hidden, name])
    kept = [row for row, subject in enumerate(target.subjects) if subject not in learners]
    rows = [number[target.keys[row]] for row in kept]
    learnt = [number[key] for key, subject in zip(target.keys, target.subjects, strict=True) if subject in learners]
    fitting = [adjusted(features, known) for features in sets]
    for features in rows_of([*fitting, *([known] if known else [])], rows, learnt):
        if not any(words in f"{features.model}, {features.method}" for words in arguments.only.split(",")):
            continue
        started, policy = time.process_time(), SplitPolicy(seeds=tuple(range(seeds)))
        strata = None if target.strata is None else target.strata[kept]
        scored = cross_validate(features, target.labels[kept], target.subjects[kept], target.kind, policy, strata)
        metric = "r2" if target.kind == "regression" else "auc"
        found = bootstrap(scored, metric)
        detail = {"quick": arguments.quick, "model": features.model, "method": features.method, "low": found.low, "high": found.high}
        detail |= {"people": len(kept), "seeds": seeds, "cpu_seconds": round(time.process_time() - started, 1)}
        if target.kind != "regression":
            detail["balanced_accuracy"] = bootstrap(scored, "balanced_accuracy").mean
        chance = 0.5 if metric == "auc" else 1.0
        Case(f"baselines/{name}/{features.model}/{features.method}", found.mean, metric, "chance or all", chance, detail).print()


def adjusted(features: FeatureSet, known: FeatureSet | None) -> FeatureSet:
    """Connectivity less the confounds of this task, among which its label is not."""
    if features.confounds is None or known is None:
        return features
    return replace(features, confounds=known, method=f"tangent towards the population, less {known.method}, whole run")


def hash_of(subject: str) -> int:
    """A number that stays with a label from run to run."""
    return int.from_bytes(subject.encode(), "big") % (2**63)


if __name__ == "__main__":
    main()
