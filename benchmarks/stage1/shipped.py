"""What are the shipped weights worth? The package's own fit, on all cohorts that ship, without the people it is tested on.

    REPEATS=1 .venv/bin/python benchmarks/stage1/run.py --experiment shipped

Four folds over all of ABIDE and HCP: three give population and axes, the fourth is tested. rpn122 is in no fold. Besides the contests of
`compete`: `cv` (five folds within the tested people) and `sites` (five groups of sites, the same), `250` (labels of pretraining people),
`rpncv` and `rpn60` (labels of rpn122's own people). `axes` is the connectome without its signed sums, `native` the logarithm of the
parcels' own correlation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from cohorts import Floats, Ints, abide, hcp, rpn, standardise
from connectome import Axes, GaussianReader, geometric_mean, inverse_root, k_means_anchors, ledoit_wolf_stack, shrunk_tangent, tangent
from contests import (
    EXPERIMENTS,
    LENGTHS,
    RESAMPLES,
    Embedding,
    Results,
    Target,
    abide_targets,
    compete,
    excerpts,
    few_labels,
    fit_predict,
    linear_kernel,
    score,
)
from more import RIDGE, changed_runs
from scipy.ndimage import zoom

from slimbrain.models.connectome import ConnectomeReadout, log_correlation, turn
from slimbrain.train.connectome import MOST_AXES, Recordings, fit_readout

FOLDS = 4
MINUTES_3 = 180.0


@cache
def folds() -> list[Ints]:
    """Rows of ABIDE, all people, stratified by site and sex."""
    cohort, rng = abide(), np.random.default_rng(20)
    strata = np.char.add(np.char.add(cohort.table["site"], " "), cohort.table["sex"])
    order = np.lexsort((rng.random(len(strata)), strata))
    return [np.sort(order[fold::FOLDS]) for fold in range(FOLDS)]


def hcp_people(fold: int) -> tuple[Ints, Ints]:
    """Runs of HCP whose people pretrain, and of those who are tested."""
    names = np.random.default_rng(20).permutation(np.unique(hcp().person))
    held = np.isin(hcp().person, names[fold::FOLDS])
    return np.flatnonzero(~held), np.flatnonzero(held)


def places(coordinates: Floats | None) -> torch.Tensor:
    return torch.tensor(coordinates, dtype=torch.float32)


EARLIER = {"reference": 1.0, "shrinkage": 0.5}
"""Constants of the readout, and how many axes it had, when `sums` and `remaining` were run."""
EARLIER_AXES = 512


def fit(fold: int, settings: Mapping[str, float] | None = None, axes: int = MOST_AXES) -> ConnectomeReadout:
    """The package's readout without the people of a fold."""
    pre, (others, _) = np.setdiff1d(np.arange(len(abide().runs)), folds()[fold]), hcp_people(fold)
    groups = [
        Recordings(places(cohort.coordinates), tuple(cohort.person[rows]), lambda n, c=cohort, r=rows: torch.from_numpy(c.runs[r[n]]))
        for cohort, rows in ((abide(), pre), (hcp(), others))
    ]
    return fit_readout(groups, np.zeros((len(pre), 0)), axes, settings=settings)


@torch.inference_mode()
def embed(readout: ConnectomeReadout, runs: Sequence[Floats], coordinates: Floats | None) -> Floats:
    """(N, Q + S) scores on the axes and signed sums, turned."""
    mm, made = places(coordinates), []
    for at in range(0, len(runs), 64):
        block = [torch.from_numpy(run) for run in runs[at : at + 64]]
        made.append(turn(readout(block, [mm] * len(block))).numpy())
    return np.concatenate(made)


def all_runs(fold: int) -> dict[int | str, list[Floats]]:
    """ABIDE's runs as they are, cut, and changed."""
    runs: dict[int | str, list[Floats]] = {frames: excerpts(fold, frames) for frames in LENGTHS}
    runs |= changed_runs(fold)
    runs["tr-halved"] = [standardise(zoom(run, (2, 1), order=3)) for run in abide().runs]
    runs["3min"] = [standardise(run[: int(MINUTES_3 / tr)]) for run, tr in zip(abide().runs, abide().tr, strict=True)]
    return runs


def as_embedding(made: dict[int | str, Floats], other: Floats | None = None) -> Embedding:
    extra = {key: own for key, own in made.items() if isinstance(key, str)}
    return Embedding({key: own for key, own in made.items() if isinstance(key, int)}, other, extra)


def within(results: Results, variant: str, fold: int, features: Floats, pre: Ints, val: Ints, experiment: str = "shipped") -> None:
    """Contests whose labels are the tested people's own, and 250 labels of pretraining people."""
    kernel, rng = linear_kernel(features), np.random.default_rng((97, fold))
    weights = np.random.default_rng((99, fold)).multinomial(len(val), np.full(len(val), 1 / len(val)), RESAMPLES).astype(float)
    sites = abide().table["site"][val]
    shuffled = rng.permutation(len(val)) % 5
    of_site = {name: number % 5 for number, name in enumerate(sorted(np.unique(sites), key=lambda name: -np.sum(sites == name)))}
    parts = {"cv": shuffled, "sites": np.array([of_site[name] for name in sites])}
    for target in abide_targets(abide()):
        for name, part in parts.items():
            predicted = np.empty(len(val))
            for number in range(5):
                train, test = val[part != number], val[part == number]
                raw = fit_predict(kernel, target, train, test, np.random.default_rng(number), 1)
                predicted[part == number] = raw
            enter(results, variant, fold, f"{name}/{target.name}", len(val), target, target.values[val], predicted, weights, experiment)
        drawn = []
        for draw in range(10):
            train = np.random.default_rng((fold, draw)).permutation(pre)[:250]
            drawn.append(fit_predict(kernel, target, np.sort(train), val, np.random.default_rng(draw), 1))
        if not results.has(experiment, variant, fold, f"250/{target.name}", 250):
            truth = target.values[val]
            means = [float(score(target, truth, own)[0]) for own in drawn]
            spread = np.mean([score(target, truth, own, weights) for own in drawn], 0)
            results.add(experiment, variant, fold, f"250/{target.name}", 250, target.metric, float(np.mean(means)), spread, 0)


def enter(
    results: Results,
    variant: str,
    fold: int,
    contest: str,
    n: int,
    target: Target,
    truth: Floats,
    predicted: Floats,
    weights: Floats,
    experiment: str = "shipped",
) -> None:
    if not results.has(experiment, variant, fold, contest, n):
        mean, resampled = float(score(target, truth, predicted)[0]), score(target, truth, predicted, weights)
        results.add(experiment, variant, fold, contest, n, target.metric, mean, resampled, 0)


def elsewhere(results: Results, variant: str, fold: int, features: Floats, experiment: str = "shipped") -> None:
    """Sex of rpn122's people from labels of their own."""
    sex = rpn().table["sex"]
    target, people = Target("sex", (sex == "F").astype(float), True), np.flatnonzero(sex != "n/a")
    kernel, rng = linear_kernel(features), np.random.default_rng((96, fold))
    weights = np.random.default_rng((98, fold)).multinomial(len(people), np.full(len(people), 1 / len(people)), RESAMPLES).astype(float)
    predicted = np.empty(len(people))
    part = np.argsort(np.lexsort((rng.random(len(people)), target.values[people]))) % 5
    for number in range(5):
        train, test = people[part != number], people[part == number]
        predicted[part == number] = fit_predict(kernel, target, train, test, np.random.default_rng(number), 1)
    enter(results, variant, fold, "rpncv/sex", len(people), target, target.values[people], predicted, weights, experiment)
    if not results.has(experiment, variant, fold, "rpn60/sex", 60):
        results.add(experiment, variant, fold, "rpn60/sex", 60, target.metric, *few_labels(kernel, target, people, 60, fold, weights), 0)


def native(runs: Sequence[Floats]) -> Floats:
    return torch.stack([log_correlation(torch.from_numpy(run)) for run in runs]).numpy()


def shipped_experiment(results: Results, seeds: Sequence[int]) -> None:
    for fold in seeds:
        val = folds()[fold]
        pre = np.setdiff1d(np.arange(len(abide().runs)), val)
        runs = all_runs(fold)

        def go(variant: str, made: dict[int | str, Floats], other: Floats | None = None) -> None:
            compete(results, "shipped", variant, fold, pre, val, lambda: as_embedding(made, other))
            within(results, variant, fold, made[0], pre, val)

        readout = fit(fold)
        ours = {key: embed(readout, own, abide().coordinates) for key, own in runs.items()}
        other = embed(readout, rpn().runs, rpn().coordinates)
        go("connectome", ours, other)
        elsewhere(results, "connectome", fold, other)
        go("connectome, standardised", {key: own / ours[0][pre].std(0) for key, own in ours.items()})
        # The rotation is its own inverse.
        ordered = [turn(torch.from_numpy(own)).numpy()[:, : readout.config.axes] for own in (*ours.values(), other)]
        go("axes", dict(zip(ours, ordered, strict=False)), ordered[-1])
        elsewhere(results, "axes", fold, ordered[-1])
        go("native", {key: native(own) for key, own in runs.items()})
        elsewhere(results, "native", fold, native(rpn().runs))
        stacks = {key: ledoit_wolf_stack(own) for key, own in runs.items()}
        whitening = inverse_root(geometric_mean(stacks[0][pre], 3)).astype(np.float32)
        tangents = {key: tangent(own, whitening) for key, own in stacks.items()}
        del stacks
        go("tangent", tangents)
        theirs = ledoit_wolf_stack(rpn().runs)
        elsewhere(results, "tangent", fold, tangent(theirs, inverse_root(geometric_mean(theirs, 3)).astype(np.float32)))
        for n_axes in (50, 512):
            axes = Axes.fit(tangents[0][pre], n_axes)
            go(f"linear pretraining {n_axes}", {key: axes(own) for key, own in tangents.items()})
        del tangents
        if fold == 0:
            gaussian_rpn(results, fold, pre, val)


def gaussian_rpn(results: Results, fold: int, pre: Ints, val: Ints) -> None:
    """The baseline for another atlas: 150 Gaussian anchors of 7 mm, tangent."""
    reader = GaussianReader(k_means_anchors(abide().coordinates, 150), 7.0)
    matrices = {0: reader.covariances(abide().runs, abide().coordinates), "rpn": reader.covariances(rpn().runs, rpn().coordinates)}
    origin = matrices[0][pre].mean(0) * (1 - RIDGE) + RIDGE * np.eye(150)
    made = {key: shrunk_tangent(own, origin, 0.1) for key, own in matrices.items()}
    own = Embedding({0: made[0]}, made["rpn"])
    compete(results, "shipped", "gaussian 150 of 7 mm, tangent", fold, pre, val, lambda: own, contests=("all", "rpn"))


EXPERIMENTS["shipped"] = shipped_experiment
