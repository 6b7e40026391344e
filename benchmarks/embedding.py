"""Whether what stage 1 has learnt tells people and states apart better than connectivity does, on region-of-interest series.

python benchmarks/embedding.py rpn122|song25 [--quick] [--only identify windows separation states sex variants] [--keep FOLDER]

`identify`: whose excerpt is it? Excerpts of one occasion against the whole of the other, everybody in the gallery, correlation of vectors
demeaned over the group. `windows`: the same from windows that stage 1 ranks first, and from as many random ones. `separation`:
task or rest, without labels. `states`: rest, face or scene, by the tuned linear probe of `slimbrain evaluate`. `sex`: by the same probe,
5 x 5 folds by subject balanced over sex and site, and sites left out. Networks, means and probes are fitted without the people tested,
without labels but for the probes'; only the places that song25's networks are given come from everybody. `variants`: other patches,
channels, cohorts and objectives in training, chosen between on halves of rpn122; docs/embedding.md has what came out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from case import Case
from numpy.typing import NDArray
from roi_cohorts import ROI, TWIN_OF, Cohort, FloatArray, rpn122, song25
from roi_contest import BASELINES, COLUMNS, Excerpts, Fold
from roi_networks import Recipe
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from slimbrain.config import SaliencyConfig
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.splits import PredictionProblem, Split, SplitPolicy, outer_splits
from slimbrain.evaluate.stats import Interval, OutOfFold, bootstrap, bootstrap_difference, score
from slimbrain.progress import track
from slimbrain.saliency import fast_scores, order_apart

FOLDS = 3
RESAMPLES = 2000
NO_NETWORK = "tangent towards the population"
"""What has to be beaten before a network can be said to add anything."""
BESIDE_IT = ("residual beside tangent, both towards the population", "covariance of groups beside tangent towards the population")
VARIED = (NO_NETWORK, "frozen, moments", "frozen, covariance of groups", "residual series, tangent towards the population", BESIDE_IT[0])
VARIANTS = {
    "as chosen": (Recipe(), False),
    "windows of 8 frames": (Recipe(window_frames=8), False),
    "channels less their mean": (Recipe(channels="less their mean"), False),
    "frames of one length": (Recipe(channels="frames of one length"), False),
    "contrast of runs in training": (Recipe(contrast=0.3), False),
    "one network for both cohorts": (Recipe(), True),
}
"""How the network is trained, and whether on the other cohort too."""
WINDOWED = (*BASELINES, NO_NETWORK)
"""Columns that do not ask in which order frames came."""

VARIANT_STEPS = 100
STRETCH = 40
"""Frames of the stretches that are compared without labels."""

Pick = Callable[[int, np.random.Generator], FloatArray]
Galleries = dict[tuple[int, str], FloatArray]


def likeness(query: FloatArray, gallery: FloatArray) -> FloatArray:
    query, gallery = query - query.mean(0), gallery - gallery.mean(0)
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)[None]
    return (query @ gallery.T) / np.maximum(lengths, 1e-12)


def found(folds: Sequence[Fold], columns: Sequence[str], pick: Pick, draws: int, galleries: Galleries) -> dict[str, FloatArray]:
    """(people,) by column, share of draws in which each was found among everybody."""
    cohort = folds[0].cohort
    share = {column: np.zeros(len(cohort.people)) for column in columns}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        cut = Excerpts([pick(person, rng) for person in range(len(cohort.people))])
        for number, fold in enumerate(folds):
            for column in columns:
                query = COLUMNS[column](fold, cut)
                right = likeness(query, galleries[number, column]).argmax(1) == np.arange(len(query))
                share[column][list(fold.tested)] += right[list(fold.tested)] / draws
    return share


def galleries_of(folds: Sequence[Fold], columns: Sequence[str]) -> Galleries:
    """The second occasion of everybody, by fold and column."""
    whole = Excerpts(list(folds[0].cohort.second))
    numbered = [(number, column) for number in range(len(folds)) for column in columns]
    return {(number, column): COLUMNS[column](folds[number], whole) for number, column in track(numbered, "galleries")}


def excerpt(cohort: Cohort, frames: int, person: int, rng: np.random.Generator) -> FloatArray:
    run = cohort.first[person]
    start = int(rng.integers(max(1, len(run) - frames + 1)))
    return run[start : start + frames]


def identify(cohort: Cohort, folds: Sequence[Fold], sizes: Sequence[int], draws: int) -> None:
    galleries = galleries_of(folds, list(COLUMNS))
    for frames in sizes:
        shares = found(folds, list(COLUMNS), partial(excerpt, cohort, frames), draws, galleries)
        report_shares(f"identify_{frames}_frames", cohort, shares, {"draws": draws, "gallery": len(cohort.people)})


def variants(cohort: Cohort, other: Cohort, sizes: Sequence[int], draws: int, steps: int, keep: Path | None) -> None:
    """Other ways to train and read the network; a hundred steps each, the chosen one too."""
    for name, (recipe, both) in VARIANTS.items():
        folds = [Fold(cohort, tested, steps, recipe, other if both else None, keep) for tested in thirds(cohort)]
        galleries = galleries_of(folds, VARIED)
        for frames in sizes:
            shares = found(folds, VARIED, partial(excerpt, cohort, frames), draws, galleries)
            for column in VARIED[1:]:
                without = shares[column] - shares[NO_NETWORK]
                detail = {"interval": interval(shares[column]), "over_no_network": [round(float(without.mean()), 4), *interval(without)]}
                detail |= {"variant": name, "draws": draws, "steps": steps}
                case = f"embedding/{cohort.name}_variant_{frames}_frames_{name}_{column}".replace(" ", "_")
                Case(case, shares[column].mean(), "share right", NO_NETWORK, shares[NO_NETWORK].mean(), detail).print()


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
    for own, person in track([(fold, person) for fold in folds for person in fold.tested], "rank"):
        series = torch.from_numpy(cohort.first[person]).float()
        scores = fast_scores(own.network.model, series, cohort.places, cohort.tr, weights)
        orders[person] = order_apart(scores.score, scores.onset_s, weights.min_distance_s)
    width, galleries = folds[0].recipe.window_frames, galleries_of(folds, WINDOWED)
    for frames in sizes:
        ours = found(folds, WINDOWED, partial(by_window, orders, cohort, frames // width, width), 1, galleries)
        theirs = found(folds, WINDOWED, partial(by_window, {}, cohort, frames // width, width), draws, galleries)
        for column in WINDOWED:
            name = f"embedding/{cohort.name}_windows_{frames}_frames_{column.replace(' ', '_')}"
            detail = {"difference": interval(ours[column] - theirs[column]), "draws": draws}
            Case(name, ours[column].mean(), "share found", "random windows", theirs[column].mean(), detail).print()


def predicted(
    problem: PredictionProblem, cuts: Sequence[Excerpts], splits: Sequence[Sequence[Split]], fold_of: Callable[[Split], Fold], what: str
) -> dict[str, OutOfFold]:
    """By column, what a tuned linear model says of those it was not fitted on; one set of excerpts and of splits a seed."""
    rows, ones = len(problem.target), np.ones((len(cuts), len(problem.target)))
    scores = {column: np.zeros((len(cuts), rows, problem.n_outputs)) for column in COLUMNS}
    number = np.zeros((len(cuts), rows), dtype=np.int64)
    for seed, place in track([(seed, place) for seed, divided in enumerate(splits) for place in range(len(divided))], what):
        split, cut = splits[seed][place], cuts[seed]
        fold = fold_of(split)
        number[seed, split.test] = place
        for column in COLUMNS:
            features = FeatureSet(column, "", COLUMNS[column](fold, cut))
            scores[column][seed, split.test] = features.fit_predict(problem, split, seed).scores
        cut.forget(fold.network)
    return {
        column: OutOfFold(problem.subjects, problem.target, said, number, ones, np.inf * ones, problem.classes)
        for column, said in scores.items()
    }


def states(cohort: Cohort, folds: Sequence[Fold], sizes: Sequence[int], draws: int) -> None:
    """Rest, face or scene, by balanced accuracy; the same folds for each draw of excerpts."""
    owner = np.repeat(np.arange(len(cohort.people)), 4)
    classes, target = np.unique(["rest", "rest", "face", "scene"] * len(cohort.people), return_inverse=True)
    problem = PredictionProblem(target.astype(np.float64), owner.astype(np.str_), tuple(classes.tolist()))
    runs = [run for own in cohort.runs for run in own]
    tested = [np.isin(owner, fold.tested) for fold in folds]
    nobody = np.empty(0, dtype=np.int64)
    splits = [Split(np.flatnonzero(~rows), nobody, np.flatnonzero(rows)) for rows in tested]
    fold_of = {id(split): fold for split, fold in zip(splits, folds, strict=True)}
    for frames in sizes:
        cuts = []
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            starts = [int(rng.integers(len(run) - frames + 1)) for run in runs]
            cuts.append(Excerpts([run[start : start + frames] for run, start in zip(runs, starts, strict=True)]))
        said = predicted(problem, cuts, [splits] * draws, lambda split: fold_of[id(split)], f"states, {frames} frames")
        report_predictions(f"state_{frames}_frames", cohort, said, "balanced_accuracy", {"draws": draws, "chance": round(1 / 3, 3)})


def sex(cohort: Cohort, make: Callable[[tuple[int, ...]], Fold], policy: SplitPolicy) -> None:
    """AUC of whole runs, by subject, and with each site left out. One recording lies there under two names and either sex: left out."""
    known = [n for n, row in enumerate(cohort.about) if row["sex"] in ("F", "M") and cohort.people[n] != TWIN_OF]
    classes, target = np.unique([cohort.about[n]["sex"] for n in known], return_inverse=True)
    sites = np.array([cohort.about[n]["site"] for n in known])
    subjects = np.array([cohort.people[n] for n in known])
    problem = PredictionProblem(target.astype(np.float64), subjects, tuple(classes.tolist()))
    cut = Excerpts([cohort.runs[n][0] for n in known])
    nobody = np.empty(0, dtype=np.int64)
    by_site = [Split(np.flatnonzero(sites != site), nobody, np.flatnonzero(sites == site)) for site in np.unique(sites)]
    by_subject = [outer_splits(subjects, classes[target], "classification", policy, seed, sites) for seed in policy.seeds]
    for name, splits in (("sex_sites_left_out", [by_site]), ("sex", by_subject)):
        said = predicted(problem, [cut] * len(splits), splits, lambda split: make(tuple(known[row] for row in split.test)), name)
        report_predictions(name, cohort, said, "auc", {"people": len(known), "folds": len(splits[0]), "seeds": len(splits)})


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
            x = COLUMNS[column](fold, Excerpts(cut)) if column in COLUMNS else np.stack([np.r_[part.mean(0), part.std(0)] for part in cut])
            x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
            distance = np.square(x).sum(1)[:, None] - 2 * x @ x.T + np.square(x).sum(1)[None]
            distance[owner[source][:, None] == owner[source][None]] = np.inf
            same = task[source[distance.argmin(1)]] == task[source]
            for person in fold.tested:
                sides = [same[(owner[source] == person) & (task[source] == side)].mean() for side in (False, True)]
                agree[person] = np.mean(sides)
        detail = {"interval": interval(agree), "frames": STRETCH, "people": len(agree)}
        Case(f"embedding/{cohort.name}_separation_{column.replace(' ', '_')}", agree.mean(), "same state", "chance", 0.5, detail).print()


def thirds(cohort: Cohort) -> list[tuple[int, ...]]:
    """Who is tested in each fold, balanced over sex and site where these are known."""
    labels = [row.get("sex", "") + row.get("site", "") for row in cohort.about]
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels)
    return [tuple(tested.tolist()) for _, tested in parts]


def interval(values: FloatArray) -> list[float]:
    """95 % bootstrap interval of the mean over people."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    return [round(float(np.quantile(drawn, level)), 3) for level in (0.025, 0.975)]


def report_shares(name: str, cohort: Cohort, shares: Mapping[str, FloatArray], note: dict[str, object]) -> None:
    best = max(BASELINES, key=lambda column: shares[column].mean())
    for column, share in shares.items():
        detail = {"interval": interval(share), "difference": interval(share - shares[best]), **note}
        if column in BESIDE_IT:
            without = share - shares[NO_NETWORK]
            detail["over_no_network"] = [round(float(without.mean()), 4), *interval(without)]
        case = f"embedding/{cohort.name}_{name}_{column.replace(' ', '_')}"
        Case(case, share.mean(), "share right", best, shares[best].mean(), detail).print()


def report_predictions(name: str, cohort: Cohort, said: Mapping[str, OutOfFold], metric: str, note: dict[str, object]) -> None:
    means = {column: float(score(out, metric).mean()) for column, out in said.items()}
    best = max(BASELINES, key=means.__getitem__)
    for column, out in said.items():
        detail: dict[str, object] = {
            "interval": bounds(bootstrap(out, metric))[1:],
            "std_over_seeds": round(float(score(out, metric).std()), 4),
        }
        detail["difference"] = bounds(bootstrap_difference(out, said[best], metric))
        if column in BESIDE_IT:
            detail["over_no_network"] = bounds(bootstrap_difference(out, said[NO_NETWORK], metric))
        case = f"embedding/{cohort.name}_{name}_{column.replace(' ', '_')}"
        Case(case, means[column], metric, best, means[best], {**detail, **note}).print()


def bounds(value: Interval) -> list[float]:
    return [round(number, 4) for number in (value.mean, value.low, value.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", choices=["rpn122", "song25"], nargs="?", default="rpn122")
    parser.add_argument("--quick", action="store_true", help="20 training steps, one draw, one length")
    parser.add_argument("--only", nargs="+", default=["identify", "windows", "separation", "states", "sex", "variants"])
    parser.add_argument(
        "--threads", type=int, default=1, help="one is fastest for matrices so small, and the number changes what is learnt"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the divisions into five folds for `sex`")
    parser.add_argument("--keep", type=Path, help="folder in which trained networks are kept for the next time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, draws = (20, 1) if options.quick else (200, 10)
    if not (ROI / options.cohort).is_dir():
        parser.exit(1, f"{ROI / options.cohort}: the recordings are not there; put them beside the checkout.\n")
    cohort = {"rpn122": rpn122, "song25": song25}[options.cohort]()
    halves = options.cohort == "rpn122"
    make = partial(Fold, cohort, steps=steps, keep=options.keep)
    folds = [make(tested) for tested in thirds(cohort)]
    # Halves of rpn122 hold 77 to 145 frames.
    sizes = (20,) if options.quick else (5, 10, 20, 40) if halves else (20, 40, 80, 160)
    with threadpool_limits(options.threads):
        if "identify" in options.only:
            identify(cohort, folds, sizes, draws)
        if "variants" in options.only:
            other = song25() if halves else rpn122()
            variants(cohort, other, sizes[:1] if options.quick else sizes[:2], min(draws, 3), min(steps, VARIANT_STEPS), options.keep)
        if "windows" in options.only:
            windows(cohort, folds, sizes[-2:] if halves else sizes[:3], draws)
        if "separation" in options.only and not halves:
            separation(cohort, folds)
        if "states" in options.only and not halves:
            states(cohort, folds, (20,) if options.quick else (10, 20, 40, 100), 1 if options.quick else 3)
        if "sex" in options.only and halves:
            sex(cohort, make, SplitPolicy(n_splits=5, seeds=tuple(options.seeds[:1] if options.quick else options.seeds)))


if __name__ == "__main__":
    main()
