"""How long connectivity baselines take to cross-validate, and in how much memory, beside nilearn and scikit-learn doing the same.

python benchmarks/evaluate.py [--quick] [--people N] [--seeds S] [--folds F] [--parcels C] [--threads T] [--side ours]

Sex from correlation, partial correlation and tangent of ABIDE's participants (simulated ones with --quick, or where there are no
recordings), the penalty of a logistic regression tuned by AUC in inner splits. Each side runs in a process of its own. More parcels
than there are come from splitting: the parts of a parcel are its series plus half as much white noise, each its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from case import Case
from numpy.typing import NDArray
from roi_cohorts import ROI, read_rows, read_series
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]

COPIES = ("sub-50602", "sub-50808")
"""Recordings of ABIDE that stand under another participant as well."""

SIMULATED = (60, 90, 40)
"""Participants, frames and channels."""


def abide(people: int) -> tuple[list[Floats], NDArray[np.str_]]:
    """(T, 200) series and sex of ABIDE's participants, sites in turn."""
    series: dict[str, Floats] = {}
    sex: dict[str, str] = {}
    for site in sorted((ROI / "abide-cc200").iterdir()):
        if site.is_dir():
            series |= {key.split("_")[0]: values for key, values in read_series(site).items()}
            sex |= {row["participant_id"]: row["sex"] for row in read_rows(site / "participants.tsv")}
    chosen = [name for name in sorted(series) if name not in COPIES and sex.get(name) in ("M", "F")][:people]
    return [series[name] for name in chosen], np.array([sex[name] for name in chosen])


def divided(series: Sequence[Floats], parcels: int) -> list[Floats]:
    """(T, C) series of which each parcel is divided into parts that share most of their signal."""
    rng = np.random.default_rng(0)
    parts = [np.repeat(values, -(-parcels // values.shape[1]), axis=1)[:, :parcels] for values in series]
    return [part + 0.5 * part.std(axis=0) * rng.standard_normal(part.shape) for part in parts]


def simulated(people: int) -> tuple[list[Floats], NDArray[np.str_]]:
    """Series with a mixing of their own; that of one class differs a little."""
    rng = np.random.default_rng(0)
    n, frames, channels = min(people, SIMULATED[0]), *SIMULATED[1:]
    shared, shift = rng.standard_normal((2, channels, channels))
    labels = np.where(np.arange(n) % 4 == 0, "F", "M")
    mixes = [np.eye(channels) + 0.1 * (shared + 0.5 * (label == "F") * shift + rng.standard_normal(shared.shape)) for label in labels]
    return [rng.standard_normal((frames, channels)) @ mix for mix in mixes], labels


def ours(series: Sequence[Floats], labels: NDArray[np.str_], seeds: int, folds: int, threads: int) -> dict[str, float]:
    """AUC by kind of connectivity; kinds share the threads, as in `slimbrain evaluate`."""
    import torch

    from slimbrain.evaluate.connectivity import connectivity
    from slimbrain.evaluate.probes import cross_validate
    from slimbrain.evaluate.splits import SplitPolicy
    from slimbrain.evaluate.stats import score

    policy = SplitPolicy(n_splits=folds, seeds=tuple(range(seeds)))
    who = np.arange(len(labels))
    kinds = connectivity(series, "whole run")[:3]
    torch.set_num_threads(1)

    def area(kind: Any) -> float:
        return float(np.mean(score(cross_validate(kind, labels, who, "classification", policy), "auc")))

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip((kind.method for kind in kinds), pool.map(area, kinds), strict=True))


def theirs(series: Sequence[Floats], labels: NDArray[np.str_], seeds: int, folds: int, _: int) -> dict[str, float]:
    """The same by nilearn's ConnectivityMeasure and scikit-learn's grid search."""
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import LedoitWolf
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    from slimbrain.evaluate.probes import STRENGTHS

    deviation = [values.std(axis=0) for values in series]
    scaled = [(values - values.mean(axis=0)) / np.where(std > 0, std, 1) for values, std in zip(series, deviation, strict=True)]
    y, kinds, found = labels == "M", ("correlation", "partial correlation", "tangent"), {}
    for kind in kinds:
        measure = ConnectivityMeasure(LedoitWolf(), kind=kind, vectorize=True, discard_diagonal=kind != "tangent", standardize=False)
        areas = []
        for seed in range(seeds):
            outer, inner = (StratifiedKFold(parts, shuffle=True, random_state=seed) for parts in (folds, 3))
            for train, test in outer.split(y, y):
                x, held = measure.fit_transform([scaled[row] for row in train]), measure.transform([scaled[row] for row in test])
                divide = FunctionTransformer(_divided, kw_args={"by": np.sqrt(x.shape[1])})
                model = make_pipeline(StandardScaler(), divide, LogisticRegression(max_iter=2000))
                search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring="roc_auc", cv=inner).fit(x, y[train])
                areas.append(float(roc_auc_score(y[test], search.predict_proba(held)[:, 1])))
        found[kind] = float(np.mean(areas))
    return found


def _divided(x: Floats, by: float) -> Floats:
    return x / by


def run_side(side: str, arguments: argparse.Namespace) -> None:
    """Print seconds, peak memory and scores of one side as JSON."""
    real = not arguments.quick and (ROI / "abide-cc200").is_dir()
    series, labels = (abide if real else simulated)(arguments.people)
    if arguments.parcels > series[0].shape[1]:
        series = divided(series, arguments.parcels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.perf_counter(), time.process_time()
    with threadpool_limits(1 if side == "ours" else arguments.threads):
        areas = {"ours": ours, "theirs": theirs}[side](series, labels, arguments.seeds, arguments.folds, arguments.threads)
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time() - cpu
    about = {"cpu_seconds": cpu, "people": len(labels), "channels": series[0].shape[1], "data": "ABIDE" if real else "simulated"}
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "added_mib": (peak - before) / 1024, "auc": areas, **about}))


def measured(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own says of one side."""
    options = [
        "--people",
        str(arguments.people),
        "--seeds",
        str(arguments.seeds),
        "--folds",
        str(arguments.folds),
        "--parcels",
        str(arguments.parcels),
        "--threads",
        str(arguments.threads),
    ]
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, *options, *(["--quick"] if arguments.quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few simulated participants, one seed")
    parser.add_argument("--people", type=int, default=10_000, help="at most so many participants")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--parcels", type=int, default=0, help="divide parcels until there are so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "theirs"), help="one of the two alone, its figures as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.folds = 3
    if arguments.side:
        run_side(arguments.side, arguments)
        return
    mine, other = (measured(side, arguments) for side in ("ours", "theirs"))
    detail = {name: mine[name] for name in ("data", "people", "channels", "cpu_seconds")} | {
        "quick": arguments.quick,
        "threads": arguments.threads,
    }
    detail |= {
        "seeds": arguments.seeds,
        "folds": arguments.folds,
        "auc": mine["auc"],
        "against_auc": other["auc"],
        "against_cpu_seconds": other["cpu_seconds"],
    }
    Case("evaluate/seconds", mine["seconds"], "s", "nilearn and scikit-learn", other["seconds"], detail).print()
    Case("evaluate/peak_rss_mib", mine["peak_mib"], "MiB", "nilearn and scikit-learn", other["peak_mib"], detail).print()


if __name__ == "__main__":
    main()
