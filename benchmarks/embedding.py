"""Whether what stage 1 has learnt tells people and states apart better than connectivity does, on region-of-interest series.

python benchmarks/embedding.py rpn122|song25 [--quick] [--only identify windows separation states sex]

`identify`: whose excerpt is it? Excerpts of one occasion against the whole of the other, everybody in the gallery, correlation of vectors
demeaned over the group. `windows`: the same from windows that stage 1 ranks first, and from as many random ones. `separation`:
task or rest, without labels. `states`: rest, face or scene, probed. `sex`: three folds by subject, and sites left out. Networks, means and
probes are fitted without the people tested, without labels but for the probes'; only the places that song25's networks are given come
from everybody. Variants were chosen on halves of rpn122; docs/embedding.md has what came out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from case import Case
from numpy.typing import NDArray
from roi_contest import BASELINES, COLUMNS, ROI, Cohort, FloatArray, Fold, rpn122, song25
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from slimbrain.config import SaliencyConfig
from slimbrain.saliency import fast_scores, order_apart

FOLDS = 3
RESAMPLES = 2000
WINDOWED = (*BASELINES, "tangent towards the population")
"""Columns that do not ask in which order frames came."""

STRETCH = 40
"""Frames of the stretches that are compared without labels."""

Pick = Callable[[int, np.random.Generator], FloatArray]


def folds_of(cohort: Cohort, part: NDArray[np.int64], steps: int) -> list[Fold]:
    people = np.arange(len(cohort.people))
    return [Fold(cohort, tuple(people[part != number]), tuple(people[part == number]), steps) for number in np.unique(part)]


def likeness(query: FloatArray, gallery: FloatArray) -> FloatArray:
    query, gallery = query - query.mean(0), gallery - gallery.mean(0)
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)[None]
    return (query @ gallery.T) / np.maximum(lengths, 1e-12)


def found(folds: Sequence[Fold], column: str, pick: Pick, draws: int, galleries: dict[tuple[int, str], FloatArray]) -> FloatArray:
    """(people,) share of draws in which each was found among everybody."""
    cohort = folds[0].cohort
    share = np.zeros(len(cohort.people))
    for number, fold in enumerate(folds):
        if (number, column) not in galleries:
            galleries[number, column] = COLUMNS[column](fold, cohort.second)
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            query = COLUMNS[column](fold, [pick(person, rng) for person in range(len(cohort.people))])
            right = likeness(query, galleries[number, column]).argmax(1) == np.arange(len(query))
            share[list(fold.tested)] += right[list(fold.tested)] / draws
    return share


def excerpt(cohort: Cohort, frames: int, person: int, rng: np.random.Generator) -> FloatArray:
    run = cohort.first[person]
    start = int(rng.integers(max(1, len(run) - frames + 1)))
    return run[start : start + frames]


def identify(cohort: Cohort, folds: Sequence[Fold], sizes: Sequence[int], draws: int) -> None:
    galleries: dict[tuple[int, str], FloatArray] = {}
    for frames in sizes:
        pick = partial(excerpt, cohort, frames)
        shares = {column: found(folds, column, pick, draws, galleries) for column in COLUMNS}
        report(f"identify_{frames}_frames", cohort, shares, {"draws": draws, "gallery": len(cohort.people)})


def by_window(
    orders: Mapping[int, NDArray[np.int64]], cohort: Cohort, count: int, width: int, person: int, rng: np.random.Generator
) -> FloatArray:
    """Frames of the windows ranked first, or of random ones where there is no order."""
    run = cohort.first[person]
    n = len(run) // width
    chosen = np.sort(orders[person][:count] if orders else rng.choice(n, min(count, n), replace=False))
    return np.concatenate([run[window * width : (window + 1) * width] for window in chosen])


def windows(cohort: Cohort, folds: Sequence[Fold], sizes: Sequence[int], draws: int) -> None:
    """Does it help to choose windows by saliency?"""
    orders, weights = {}, SaliencyConfig()
    for fold in folds:
        for person in fold.tested:
            series = torch.from_numpy(cohort.first[person]).float()
            scores = fast_scores(fold.network, series, cohort.places, cohort.tr, weights)
            orders[person] = order_apart(scores.score, scores.onset_s, weights.min_distance_s)
    width = folds[0].network.window_frames
    galleries: dict[tuple[int, str], FloatArray] = {}
    for frames in sizes:
        ranked = partial(by_window, orders, cohort, frames // width, width)
        chance = partial(by_window, {}, cohort, frames // width, width)
        for column in WINDOWED:
            ours, theirs = found(folds, column, ranked, 1, galleries), found(folds, column, chance, draws, galleries)
            name = f"embedding/{cohort.name}_windows_{frames}_frames_{column.replace(' ', '_')}"
            detail = {"difference": interval(ours - theirs), "draws": draws}
            Case(name, ours.mean(), "share found", "random windows", theirs.mean(), detail).print()


def states(cohort: Cohort, folds: Sequence[Fold], sizes: Sequence[int], draws: int) -> None:
    label = np.tile(["rest", "rest", "face", "scene"], len(cohort.people))
    owner = np.repeat(np.arange(len(cohort.people)), 4)
    runs = [run for own in cohort.runs for run in own]
    for frames in sizes:
        totals: dict[str, FloatArray] = {}
        for column in COLUMNS:
            right = np.zeros(len(runs))
            for draw in range(draws):
                rng = np.random.default_rng(draw)
                starts = [int(rng.integers(len(run) - frames + 1)) for run in runs]
                cut = [run[start : start + frames] for run, start in zip(runs, starts, strict=True)]
                for fold in folds:
                    said = probe(COLUMNS[column](fold, cut), label, owner, np.isin(owner, fold.tested)).argmax(1)
                    right[np.isin(owner, fold.tested)] += (np.unique(label)[said] == label[np.isin(owner, fold.tested)]) / draws
            weight = np.select([label == name for name in np.unique(label)], [1 / 3 / np.mean(label == name) for name in np.unique(label)])
            totals[column] = (right * weight).reshape(-1, 4).mean(1)
        report(f"state_{frames}_frames", cohort, totals, {"draws": draws, "metric": "balanced accuracy", "chance": 1 / 3})


def separation(cohort: Cohort, folds: Sequence[Fold]) -> None:
    """Are task and rest told apart without a label: does a stretch's nearest neighbour among other people's come from the same state?"""
    task = np.tile([False, False, True, True], len(cohort.people))
    owner = np.repeat(np.arange(len(cohort.people)), 4)
    runs = [run for own in cohort.runs for run in own]
    for column in ("frozen, moments", "untrained, moments", "channel means and deviations", "tangent towards the population"):
        agree = np.zeros(len(cohort.people))
        for fold in folds:
            here = np.flatnonzero(np.isin(owner, fold.tested))
            cut = [runs[run][start : start + STRETCH] for run in here for start in range(0, len(runs[run]) - STRETCH + 1, STRETCH)]
            source = np.concatenate([[run] * (len(runs[run]) // STRETCH) for run in here])
            x = COLUMNS[column](fold, cut) if column in COLUMNS else np.stack([np.r_[part.mean(0), part.std(0)] for part in cut])
            x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
            distance = np.square(x).sum(1)[:, None] - 2 * x @ x.T + np.square(x).sum(1)[None]
            distance[owner[source][:, None] == owner[source][None]] = np.inf
            same = task[source[distance.argmin(1)]] == task[source]
            for person in fold.tested:
                sides = [same[(owner[source] == person) & (task[source] == side)].mean() for side in (False, True)]
                agree[person] = np.mean(sides)
        detail = {"interval": interval(agree), "frames": STRETCH, "people": len(agree)}
        Case(f"embedding/{cohort.name}_separation_{column.replace(' ', '_')}", agree.mean(), "same state", "chance", 0.5, detail).print()


def probe(x: FloatArray, label: NDArray, group: NDArray, tested: NDArray) -> FloatArray:
    """(tested, classes) probabilities of a logistic regression tuned by group within the others."""
    # Centred features of one scale: a tangent's directions mean something, and z-scoring each would undo that.
    centre = x[~tested].mean(0)
    scale = np.sqrt(np.square(x[~tested] - centre).sum(1).mean())
    x = (x - centre) / scale
    # All that the others span; the penalised model is the same, and small.
    x = x @ np.linalg.svd(x[~tested], full_matrices=False)[2].T
    grid = GridSearchCV(LogisticRegression(max_iter=300), {"C": np.logspace(-1, 3, 5)}, scoring="neg_log_loss", cv=GroupKFold(3))
    return grid.fit(x[~tested], label[~tested], groups=group[~tested]).predict_proba(x[tested])


def sex(cohort: Cohort, steps: int, folds: Sequence[Fold]) -> None:
    """AUC of whole runs; sites left out as well."""
    label = np.array([row["sex"] for row in cohort.about])
    sites = np.array([row["site"] for row in cohort.about])
    known, whole = np.isin(label, ["F", "M"]), [runs[0] for runs in cohort.runs]
    for name, parts in (("sex", folds), ("sex_sites_left_out", folds_of(cohort, np.unique(sites, return_inverse=True)[1], steps))):
        said: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
        for column in COLUMNS:
            for fold in parts:
                tested = np.isin(np.arange(len(label)), fold.tested)
                probability = probe(COLUMNS[column](fold, whole)[known], label[known], np.arange(known.sum()), tested[known])
                said.setdefault(column, []).append((label[known & tested] == "M", probability[:, 1]))
        values = {column: np.mean([roc_auc_score(*pair) for pair in pairs]) for column, pairs in said.items()}
        best = max(BASELINES, key=values.__getitem__)
        for column, value in values.items():
            rng = np.random.default_rng(0)
            drawn = [np.mean([resampled(*pair, rng) for pair in said[column]]) for _ in range(500)]
            detail = {
                "metric": "AUC",
                "low": round(float(np.quantile(drawn, 0.025)), 3),
                "high": round(float(np.quantile(drawn, 0.975)), 3),
            }
            detail |= {"people": int(known.sum()), "folds": len(parts)}
            Case(f"embedding/{cohort.name}_{name}_{column.replace(' ', '_')}", value, "AUC", best, values[best], detail).print()


def resampled(truth: NDArray, said: FloatArray, rng: np.random.Generator) -> float:
    while True:
        rows = rng.integers(0, len(truth), len(truth))
        if len(np.unique(truth[rows])) == 2:
            return float(roc_auc_score(truth[rows], said[rows]))


def interval(values: FloatArray) -> list[float]:
    """95 % bootstrap interval of the mean over people."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    return [round(float(np.quantile(drawn, level)), 3) for level in (0.025, 0.975)]


def report(name: str, cohort: Cohort, shares: Mapping[str, FloatArray], note: dict[str, object]) -> None:
    best = max(BASELINES, key=lambda column: shares[column].mean())
    for column, share in shares.items():
        detail = {"interval": interval(share), "difference": interval(share - shares[best]), **note}
        case = f"embedding/{cohort.name}_{name}_{column.replace(' ', '_')}"
        Case(case, share.mean(), "share right", best, shares[best].mean(), detail).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", choices=["rpn122", "song25"], nargs="?", default="rpn122")
    parser.add_argument("--quick", action="store_true", help="20 training steps, one draw, one length")
    parser.add_argument("--only", nargs="+", default=["identify", "windows", "separation", "states", "sex"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, draws = (20, 1) if options.quick else (200, 10)
    if not (ROI / options.cohort).is_dir():
        parser.exit(1, f"{ROI / options.cohort}: the recordings are not there; put them beside the checkout.\n")
    cohort = {"rpn122": rpn122, "song25": song25}[options.cohort]()
    halves = options.cohort == "rpn122"
    labels = [row["sex"] + row["site"] for row in cohort.about] if halves else np.zeros(len(cohort.people))
    part = np.zeros(len(cohort.people), dtype=np.int64)
    for number, (_, tested) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(part, labels)):
        part[tested] = number
    folds = folds_of(cohort, part, steps)
    # Halves of rpn122 hold 77 to 145 frames.
    sizes = (20,) if options.quick else (5, 10, 20, 40) if halves else (20, 40, 80, 160)
    with threadpool_limits(options.threads):
        if "identify" in options.only:
            identify(cohort, folds, sizes, min(draws, 3) if halves else draws)
        if "windows" in options.only:
            windows(cohort, folds, sizes[-2:] if halves else sizes[:3], min(draws, 3) if halves else draws)
        if "separation" in options.only and not halves:
            separation(cohort, folds)
        if "states" in options.only and not halves:
            states(cohort, folds, (20,) if options.quick else (10, 20, 40, 100), 1 if options.quick else 3)
        if "sex" in options.only and halves:
            sex(cohort, steps, folds)


if __name__ == "__main__":
    main()
