"""What is a ranking of windows good for? Do two seeds agree on it, what explains it, and do the windows it chooses predict traits better?

.venv/bin/python benchmarks/window_contest.py STORE --model RUN/model --other RUN2/model [--out results/saliency]

`agreement`: Spearman correlation, within each run, of what two models say, mean over runs of ABIDE and of HCP; and the share of a part's
variance within a run that DVARS and the window's power explain (linear regression on both).

`traits`: 40 or 80 frames of each of ABIDE's people, chosen in windows of 8: ranked first, and by simpler rules. Their covariance is shrunk
half towards the population's, whitened and taken as a tangent in the population's leading modes; a kernel ridge regression learns from it
in five folds over people, twice. The population's mean and modes are those of all whole runs, without labels, the same for all rules.
Intervals are over resampled people, differences paired.

Data: ../shared/data/roi, prepared into one store (docs/saliency.md). Findings: docs/saliency.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from case import Case
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from slimbrain.disk.atomic import write_atomic
from slimbrain.disk.tsv import read_tsv
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.saliency import WindowScores, fast_scores, order_apart, order_by_score, order_spread, select_uniform
from slimbrain.store import SessionInfo, Store

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PARTS = ("score", "informativeness", "explained", "novelty")
COLUMNS = ("contest", "cohort", "n", "variant", "against", "metric", "mean", "low", "high")
DUPLICATED = {"sub-50578", "sub-50602", "sub-50805", "sub-50808"}
APART_S = 11.0
MODES = 100
PENALTIES = np.logspace(-3, 3, 13)
FOLDS, REPEATS, RESAMPLES = 5, 2, 1000
FRAMES = 8


@dataclass(frozen=True)
class Run:
    """A run with what selectors may look at: N windows' scores, DVARS and power (mean square)."""

    info: SessionInfo
    series: NDArray[np.float32]
    scores: WindowScores
    power: FloatArray


def read(store: Store, info: SessionInfo) -> NDArray[np.float32]:
    """(T, C) standardised; an empty channel is 0."""
    return np.asarray(standardise(torch.from_numpy(store.coarse(info.key))).numpy())


def scored(store: Store, info: SessionInfo, model: TemporalExtractor, kept: Path) -> Run:
    """A run with its fast scores, which are kept in a folder so that a stopped program resumes."""
    series = read(store, info)
    mm = torch.tensor(store.channels(info.key).mm, dtype=torch.float32)
    path = kept / f"{model.provenance.weights_sha256[:12] if model.provenance else ''}_{info.key}.npz"
    if path.exists():
        with np.load(path) as arrays:
            scores = WindowScores(**arrays)
    else:
        scores = fast_scores(model, torch.from_numpy(series), mm, info.tr)
        write_atomic(path, lambda temporary: np.savez(temporary, **vars(scores)))
    n = len(scores)
    live = series.any(0)
    power = np.square(series[: n * FRAMES, live], dtype=np.float64).reshape(n, -1).mean(1)
    return Run(info, series, scores, power)


# --- agreement


def explained_by(part: FloatArray, causes: Sequence[FloatArray]) -> float:
    """Share of the variance of ranks that a linear regression on the ranks of the causes explains."""
    y = rankdata(part) - (len(part) + 1) / 2
    x = np.stack([rankdata(cause) for cause in causes], 1)
    x = x - x.mean(0)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(np.square(fitted).sum() / np.square(y).sum())


def agreement(cohort: str, ours: Sequence[Run], other: Sequence[Run]) -> list[dict[str, object]]:
    rows = []
    for part in PARTS:
        values = [(getattr(a.scores, part), getattr(b.scores, part)) for a, b in zip(ours, other, strict=True)]
        rows.append(row("agreement", cohort, part, "another seed", "Spearman", [float(spearmanr(a, b).statistic) for a, b in values]))
        for name, causes in (("DVARS", ("dvars",)), ("power", ("power",)), ("DVARS and power", ("dvars", "power"))):
            shares = [
                explained_by(getattr(run.scores, part), [run.power if cause == "power" else run.scores.dvars for cause in causes])
                for run in ours
            ]
            rows.append(row("explained", cohort, part, name, "R2 of ranks", shares))
    tops = [
        len(
            set(order_apart(a.scores.score, a.scores.onset_s, APART_S)[:5])
            & set(order_apart(b.scores.score, b.scores.onset_s, APART_S)[:5])
        )
        / 5
        for a, b in zip(ours, other, strict=True)
    ]
    rows.append(row("agreement", cohort, "first five windows", "another seed", "share in common", tops))
    return rows


def row(contest: str, cohort: str, variant: str, against: str, metric: str, values: Sequence[float]) -> dict[str, object]:
    """Mean over runs, with the interval of runs resampled."""
    sample = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    numbers = {"mean": float(np.mean(values)), "low": float(np.quantile(sample, 0.025)), "high": float(np.quantile(sample, 0.975))}
    return {"contest": contest, "cohort": cohort, "n": len(values), "variant": variant, "against": against, "metric": metric, **numbers}


# --- traits

Selector = Callable[[Run, int, np.random.Generator], IntArray]


def first(scores: FloatArray, run: Run, k: int, distance_s: float = APART_S) -> IntArray:
    return order_apart(scores, run.scores.onset_s, distance_s)[:k]


SELECTORS: dict[str, Selector] = {
    "ranked (score, apart)": lambda run, k, rng: first(run.scores.score, run, k),
    "ranked (score alone)": lambda run, k, rng: order_by_score(run.scores.score)[:k],
    "lowest score, apart": lambda run, k, rng: first(-run.scores.score, run, k),
    "energy explained": lambda run, k, rng: first(run.scores.explained, run, k),
    "informativeness": lambda run, k, rng: first(run.scores.informativeness, run, k),
    "spread": lambda run, k, rng: select_uniform(len(run.scores), k),
    "spread, low motion": lambda run, k, rng: order_spread(run.scores.dvars, k)[:k],
    "low motion": lambda run, k, rng: order_by_score(-run.scores.dvars)[:k],
    "high power": lambda run, k, rng: first(run.power, run, k),
    "spread, ranked": lambda run, k, rng: order_spread(-run.scores.score, k)[:k],
    "random": lambda run, k, rng: rng.permutation(len(run.scores))[:k],
    "one stretch": lambda run, k, rng: int(rng.integers(len(run.scores) - k + 1)) + np.arange(k),
}


def frames_of(windows: IntArray) -> IntArray:
    return (np.sort(windows)[:, None] * FRAMES + np.arange(FRAMES)).ravel()


def second_moments(series: NDArray[np.float32]) -> FloatArray:
    """(C, C) correlation of standardised frames; an empty channel correlates with itself alone."""
    centred = series - series.mean(0)
    centred = centred / np.maximum(centred.std(0), 1e-6)
    moments = centred.T.astype(np.float64) @ centred / len(centred)
    np.fill_diagonal(moments, 1)
    return moments


def population_modes(runs: Sequence[Run]) -> FloatArray:
    """(C, MODES) directions that whiten the mean correlation of whole runs, its largest first."""
    mean = np.mean([second_moments(run.series) for run in runs], 0)
    values, vectors = np.linalg.eigh(mean)
    return (vectors / np.sqrt(np.maximum(values, 1e-3)))[:, ::-1][:, :MODES]


def tangents(runs: Sequence[Run], modes: FloatArray, select: Selector, k: int, seed: int) -> NDArray[np.float32]:
    """(P, MODES (MODES + 1) / 2) logarithms of half the chosen frames' whitened correlation and half the population's."""
    rng = np.random.default_rng(seed)
    stack = np.stack([modes.T @ second_moments(run.series[frames_of(select(run, k, rng))]) @ modes for run in runs])
    values, vectors = np.linalg.eigh(0.5 * stack + 0.5 * np.eye(MODES))
    logs = (vectors * np.log(values)[:, None]) @ np.swapaxes(vectors, 1, 2)
    lower = np.tril_indices(MODES)
    return (logs[:, lower[0], lower[1]] * np.where(lower[0] == lower[1], 1, np.sqrt(2))).astype(np.float32)


def out_of_fold(features: NDArray[np.float32], targets: Mapping[str, tuple[FloatArray, bool]]) -> dict[str, FloatArray]:
    """(P,) predictions of each target for people left out, mean over repeats; penalties are tuned inside by the score reported."""
    features = features - features.mean(0)
    kernel = (features @ features.T).astype(np.float64)
    y = np.stack([values for values, _ in targets.values()])
    total = np.zeros_like(y)
    for repeat in range(REPEATS):
        fold = _folds(len(kernel), np.random.default_rng(repeat))
        for number in range(FOLDS):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            inner = _folds(len(train), np.random.default_rng((repeat, number)))
            held = np.empty((len(y), len(PENALTIES), len(train)))
            for part in range(FOLDS):
                held[..., inner == part] = _path(kernel, train[inner != part], train[inner == part], y)
            outer = _path(kernel, train, test, y)
            for place, is_class in enumerate(is_class for _, is_class in targets.values()):
                best = int(np.argmax([metric(y[place, train], own, is_class) for own in held[place]]))
                total[place, test] += outer[place, best] / REPEATS
    return dict(zip(targets, total, strict=True))


def _folds(n: int, rng: np.random.Generator) -> IntArray:
    fold = np.empty(n, np.int64)
    fold[rng.permutation(n)] = np.arange(n) % FOLDS
    return fold


def _path(kernel: FloatArray, train: IntArray, test: IntArray, y: FloatArray) -> FloatArray:
    """(targets, penalties, tests) predictions of kernel ridge regression with an intercept, for targets (targets, P)."""
    own, cross = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
    column, known = own.mean(0), y[:, train]
    centred = own - column[None] - column[:, None] + column.mean()
    scale = np.trace(centred) / len(train)
    values, vectors = np.linalg.eigh(centred / scale)
    projected = (known - known.mean(1, keepdims=True)) @ vectors
    coefficients = projected[:, None] / (np.maximum(values, 0) + PENALTIES[:, None])
    cross = cross - cross.mean(1, keepdims=True) - column[None] + column.mean()
    return np.asarray(coefficients @ (cross / scale @ vectors).T + known.mean(1)[:, None, None])


def metric(truth: FloatArray, predicted: FloatArray, is_class: bool) -> float:
    """Area under the ROC curve, or R2."""
    if not is_class:
        return float(1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean()).sum())
    ranks, positive = rankdata(predicted), truth > 0.5
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def traits(runs: Sequence[Run], targets: Mapping[str, tuple[FloatArray, bool]], k: int, random_draws: int) -> list[dict[str, object]]:
    modes = population_modes(runs)
    predicted: dict[str, list[dict[str, FloatArray]]] = {}
    for name, select in SELECTORS.items():
        draws = random_draws if name in ("random", "one stretch") else 1
        features = [tangents(runs, modes, select, k, seed) for seed in range(draws)]
        predicted[name] = [out_of_fold(made, targets) for made in features]
    rows = []
    for target, (y, is_class) in targets.items():
        picks = np.random.default_rng(0).integers(len(y), size=(RESAMPLES, len(y)))
        sample = {
            name: np.mean([[metric(y[pick], draw[target][pick], is_class) for pick in picks] for draw in draws], 0)
            for name, draws in predicted.items()
        }
        whole = {name: float(np.mean([metric(y, draw[target], is_class) for draw in draws])) for name, draws in predicted.items()}
        for name in SELECTORS:
            for against in ("", "spread", "random"):
                mean, spread = (whole[name] - whole[against], sample[name] - sample[against]) if against else (whole[name], sample[name])
                low, high = np.quantile(spread, [0.025, 0.975])
                about = {"contest": f"{target}, {k * FRAMES} frames", "cohort": "ABIDE", "n": len(y), "variant": name, "against": against}
                rows.append({**about, "metric": "AUC" if is_class else "R2", "mean": mean, "low": float(low), "high": float(high)})
    return rows


# --- the whole


def abide_targets(store: Store, runs: Sequence[Run]) -> dict[str, tuple[FloatArray, bool]]:
    table = {cells["participant_id"]: cells for cells in read_tsv(store.root / "participants.tsv")}
    own = [table[run.info.subject] for run in runs]
    return {
        "sex": (np.array([float(cells["sex"] == "F") for cells in own]), True),
        "diagnosis": (np.array([float(cells["diagnosis"] == "autism") for cells in own]), True),
        "age": (np.log([float(cells["age"]) for cells in own]), False),
    }


def report(one: Mapping[str, object], rows: Sequence[Mapping[str, object]], model: str) -> None:
    """One line per row that stands for itself; what it is compared with is the aim, everything, or random windows."""
    if one["contest"] in ("agreement", "explained"):
        against, value = ("aim", 0.7) if one["contest"] == "agreement" else ("all of the variance", 1.0)
    elif one["against"]:
        return
    else:
        against = "random windows"
        same = {"contest": one["contest"], "variant": "random", "against": ""}
        value = next(float(str(row["mean"])) for row in rows if same.items() <= row.items())
    name = "/".join(str(one[key]) for key in ("contest", "cohort", "variant", "against") if one[key]).replace(" ", "_").replace(",", "")
    detail = {key: one[key] for key in ("n", "low", "high")} | {"model": model, "quick": False}
    Case(f"windows/{name}", float(str(one["mean"])), str(one["metric"]), against, value, detail).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", required=True, help="stage 1 that ranks")
    parser.add_argument("--other", help="the same from another seed; no agreement is computed without")
    parser.add_argument("--people", type=int, default=1000, help="of ABIDE, for traits")
    parser.add_argument("--runs", type=int, default=60, help="of each cohort, for agreement")
    parser.add_argument("--frames", type=int, nargs="*", default=[40, 80])
    parser.add_argument("--random-draws", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for scores, so that a stopped program resumes")
    parser.add_argument("--out", type=Path, help="folder for window_contest.csv")
    options = parser.parse_args()
    store, kept = Store(options.store), options.keep or Path(tempfile.mkdtemp())
    kept.mkdir(parents=True, exist_ok=True)
    models = [require_model(from_pretrained(name), TemporalExtractor, name) for name in (options.model, options.other) if name]
    rng, rows = np.random.default_rng(0), []
    infos = [info for info in store.sessions if info.subject not in DUPLICATED and info.n_frames >= max(options.frames, default=8) + FRAMES]
    cohorts = {name: [info for info in infos if info.subject.startswith(start)] for name, start in (("ABIDE", "sub-5"), ("HCP", "sub-1"))}
    for name, members in cohorts.items() if len(models) == 2 else ():
        chosen = [members[place] for place in np.sort(rng.permutation(len(members))[: options.runs])]
        rows += agreement(name, *([scored(store, info, model, kept) for info in chosen] for model in models))
    people = [cohorts["ABIDE"][place] for place in np.sort(rng.permutation(len(cohorts["ABIDE"]))[: options.people])]
    runs = [scored(store, info, models[0], kept) for info in people] if options.frames else []
    for frames in options.frames:
        rows += traits(runs, abide_targets(store, runs), frames // FRAMES, options.random_draws)
    for one in rows:
        report(one, rows, options.model)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "window_contest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in one.items()} for one in rows)


if __name__ == "__main__":
    main()
