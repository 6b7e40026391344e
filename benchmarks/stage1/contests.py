"""What does a linear learner get out of an embedding? Traits from few labels or all, from short excerpts, and in another atlas.

Not a program: the experiments of `run.py` hand their embeddings to `compete`, which adds rows to `Results`.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cohorts import Cohort, Floats, Ints, abide, division, excerpt, rpn

COLUMNS = ("experiment", "variant", "seed", "contest", "n_labelled", "metric", "mean", "low", "high", "seconds")
PENALTIES = np.logspace(-3, 3, 13)
"""Of the ridge, relative to the mean diagonal of the centred kernel."""
BESIDE = (0.0, 0.1, 0.3, 1.0)
INNER_FOLDS = 5
DRAWS = 30
RESAMPLES = 400
TEST = 9
"""Number of the rotation that pretrains on all development people and opens the test people."""
SCREEN = bool(os.environ.get("SCREEN"))
"""A cheaper set for choosing: 60 labels, excerpts of 40 frames."""
REPEATS = int(os.environ.get("REPEATS", "1" if SCREEN else "3"))
"""Inner splits that penalties with few labels are tuned by."""
LABELLED = (60,) if SCREEN else (30, 60, 120)
EXCERPTS = (14, 40, 80)
LENGTHS = (0, *EXCERPTS)
"""Frames; 0 is the whole run."""
SCORED_EXCERPTS = (40,) if SCREEN else EXCERPTS
TARGETS = ("sex", "diagnosis", "age")


@dataclass(frozen=True)
class Target:
    name: str
    values: Floats
    is_class: bool

    @property
    def metric(self) -> str:
        return "AUC" if self.is_class else "R2"


def abide_targets(cohort: Cohort) -> list[Target]:
    return [
        Target("sex", (cohort.table["sex"] == "F").astype(float), True),
        Target("diagnosis", (cohort.table["diagnosis"] == "autism").astype(float), True),
        Target("age", np.log(cohort.numbers("age")), False),
    ]


def weighted_auc(truth: Floats, scores: Floats, weights: Floats) -> Floats:
    """(B,) areas under the ROC curve for (B, N) weights of people."""
    positive, negative = truth > 0.5, truth <= 0.5
    above = (scores[positive, None] > scores[None, negative]) + 0.5 * (scores[positive, None] == scores[None, negative])
    wins = ((weights[:, positive] @ above) * weights[:, negative]).sum(1)
    pairs = weights[:, positive].sum(1) * weights[:, negative].sum(1)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1e-12), np.nan)


def weighted_r2(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    total = weights.sum(1, keepdims=True)
    mean = weights @ truth[:, None] / total
    spread = (weights * (truth[None] - mean) ** 2).sum(1)
    return 1 - (weights * (truth - predicted)[None] ** 2).sum(1) / np.maximum(spread, 1e-12)


def score(target: Target, truth: Floats, predicted: Floats, weights: Floats | None = None) -> Floats:
    weights = np.ones((1, len(truth))) if weights is None else weights
    return (weighted_auc if target.is_class else weighted_r2)(truth, predicted, weights)


def _path(kernel: Floats, train: Ints, test: Ints, y: Floats) -> Floats:
    """(penalties, tests) predictions of kernel ridge regression with an intercept."""
    own = kernel[np.ix_(train, train)]
    column = own.mean(0)
    centred = own - column[None] - column[:, None] + column.mean()
    scale = np.trace(centred) / len(train)
    values, vectors = np.linalg.eigh(centred / scale)
    projected = vectors.T @ (y[train] - y[train].mean())
    coefficients = vectors @ (projected[:, None] / (np.maximum(values, 0)[:, None] + PENALTIES[None]))
    cross = kernel[np.ix_(test, train)]
    cross = cross - cross.mean(1, keepdims=True) - column[None] + column.mean()
    return (cross / scale @ coefficients).T + y[train].mean()


def fit_predict(kernel: Floats, target: Target, train: Ints, test: Ints, rng: np.random.Generator, repeats: int) -> Floats:
    """Predictions for `test`; penalty, and kernel where there are several (W, N, N), chosen inside `train` by the score that ranks."""
    kernels, y = kernel.reshape(-1, *kernel.shape[-2:]), target.values
    tuned = np.zeros((len(kernels), len(PENALTIES)))
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(train)), y[train] if target.is_class else np.zeros(len(train))))
        held = np.empty((*tuned.shape, len(train)))
        for fold in range(INNER_FOLDS):
            out = order[fold::INNER_FOLDS]
            for at, own in enumerate(kernels):
                held[at][:, out] = _path(own, np.delete(train, out), train[out], y)
        tuned += [[float(score(target, y[train], own)[0]) for own in of_kernel] for of_kernel in held]
    best, penalty = np.unravel_index(np.argmax(tuned), tuned.shape)
    return _path(kernels[best], train, test, y)[penalty]


def linear_kernel(features: Floats) -> Floats:
    features = features - features.mean(0)
    return (features @ features.T).astype(np.float64)


@dataclass
class Embedding:
    """One variant's vectors, by excerpt length (0: whole run), rows as in ABIDE; and rpn122's.

    Features `beside` them are weighted by one of BESIDE, whichever is best inside the labelled people.
    """

    abide: dict[int, Floats]
    rpn: Floats | None = None
    extra: dict[str, Floats] = field(default_factory=dict)
    beside: dict[int, Floats] = field(default_factory=dict)

    def kernel(self, frames: int) -> Floats:
        """(N, N), or (W, N, N) where there are features beside."""
        own = linear_kernel(self.abide[frames])
        return own + np.square(BESIDE)[:, None, None] * linear_kernel(self.beside[frames]) if self.beside else own


class Results:
    """A folder of results; a row that exists is not computed again.

    `rows.csv` is the table, `resampled/` holds each score with its values over resampled people (paired differences need them), `kept/`
    what experiments reuse.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "rows.csv"
        self.done: set[tuple[str, ...]] = set()
        if self.path.exists():
            with self.path.open() as file:
                self.done = {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(",".join(COLUMNS) + "\n")

    def kept(self, name: str) -> Path:
        (self.folder / "kept").mkdir(exist_ok=True)
        return self.folder / "kept" / name

    def has(self, experiment: str, variant: str, seed: int, contest: str, n_labelled: int) -> bool:
        return (experiment, variant, str(seed), contest, str(n_labelled)) in self.done

    def add(
        self,
        experiment: str,
        variant: str,
        seed: int,
        contest: str,
        n_labelled: int,
        metric: str,
        mean: float,
        resampled: Floats,
        seconds: float,
    ) -> None:
        low, high = np.nanpercentile(resampled, (2.5, 97.5))
        row = (experiment, variant, seed, contest, n_labelled, metric, f"{mean:.4f}", f"{low:.4f}", f"{high:.4f}", f"{seconds:.1f}")
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        self.done.add(tuple(str(cell) for cell in row[:5]))
        name, trait = contest.split("/")
        folder = self.folder / "resampled" / experiment / variant.replace("/", "_").replace(" ", "_") / f"{seed}_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{trait}_{n_labelled}.npy", np.concatenate(([mean], resampled)).astype(np.float32))


EXPERIMENTS: dict[str, Callable[[Results, Sequence[int]], None]] = {}
"""By the name `run.py --experiment` takes; each module adds its own."""


def _labelled_draw(target: Target, people: Ints, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Labelled and tested people; classes keep their share (of the rarer at least three)."""
    if target.is_class:
        positive = people[target.values[people] > 0.5]
        negative = people[target.values[people] <= 0.5]
        few = max(3, round(n * len(positive) / len(people)))
        chosen = np.concatenate((rng.permutation(positive)[:few], rng.permutation(negative)[: n - few]))
    else:
        chosen = rng.permutation(people)[:n]
    return chosen, np.setdiff1d(people, chosen)


def few_labels(kernel: Floats, target: Target, people: Ints, n: int, seed: int, weights: Floats) -> tuple[float, Floats]:
    """Mean over draws of the score on people not drawn, and its resampled values over people."""
    means, resampled = [], []
    for draw in range(DRAWS):
        rng = np.random.default_rng((seed, n, draw))
        train, test = _labelled_draw(target, people, n, rng)
        predicted = fit_predict(kernel, target, train, test, rng, repeats=REPEATS)
        means.append(score(target, target.values[test], predicted)[0])
        place = np.searchsorted(people, test)
        resampled.append(score(target, target.values[test], predicted, weights[:, place]))
    return float(np.mean(means)), np.nanmean(resampled, 0)


def compete(
    results: Results,
    experiment: str,
    variant: str,
    seed: int,
    labelled_people: Ints,
    people: Ints,
    embed: Callable[[], Embedding],
    contests: tuple[str, ...] = ("few", "all", "cut", "fewcut", "rpn"),
    labelled: tuple[int, ...] = LABELLED,
) -> None:
    """Run every contest of one variant and rotation.

    Parameters
    ----------
    labelled_people : rows whose labels the contests with all labels learn from (the pretraining people)
    people : rows that few labels are drawn from, and all tests are made on
    """
    if ("few" not in contests or results.has(experiment, variant, seed, "few/age", labelled[-1])) and (
        "all" not in contests or results.has(experiment, variant, seed, "all/age", len(labelled_people))
    ):
        return
    began = time.time()
    embedding = embed()
    took = time.time() - began
    targets = abide_targets(abide())
    rng = np.random.default_rng((99, seed))
    weights = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), RESAMPLES).astype(float)
    kernels = {frames: embedding.kernel(frames) for frames in embedding.abide}

    def add(contest: str, n: int, metric: str, mean: float, resampled: Floats) -> None:
        if not results.has(experiment, variant, seed, contest, n):
            results.add(experiment, variant, seed, contest, n, metric, mean, resampled, took)

    for target in targets:
        if "few" in contests:
            for n in labelled:
                add(f"few/{target.name}", n, target.metric, *few_labels(kernels[0], target, people, n, seed, weights))
        if "fewcut" in contests and 40 in kernels and not (SCREEN and target.name == "sex"):
            add(f"few40/{target.name}", 60, target.metric, *few_labels(kernels[40], target, people, 60, seed, weights))
        wanted = [("all", 0)] * ("all" in contests) + [
            (f"cut{frames}", frames) for frames in SCORED_EXCERPTS if frames in kernels and "cut" in contests
        ]
        for contest, frames in wanted:
            predicted = fit_predict(kernels[frames], target, labelled_people, people, np.random.default_rng(seed), 1)
            truth = target.values[people]
            add(
                f"{contest}/{target.name}",
                len(labelled_people),
                target.metric,
                float(score(target, truth, predicted)[0]),
                score(target, truth, predicted, weights),
            )
    for target in targets if not SCREEN else ():
        for changed, features in embedding.extra.items():
            # Learnt from whole, complete runs; tested on rows that are read otherwise.
            rows = np.concatenate((embedding.abide[0], features[people]))
            both = Target(target.name, np.concatenate((target.values, target.values[people])), target.is_class)
            test = np.arange(len(target.values), len(rows))
            predicted = fit_predict(linear_kernel(rows), both, labelled_people, test, np.random.default_rng(seed), 1)
            truth = target.values[people]
            add(
                f"{changed}/{target.name}",
                len(labelled_people),
                target.metric,
                float(score(target, truth, predicted)[0]),
                score(target, truth, predicted, weights),
            )
    if embedding.rpn is not None and "rpn" in contests:
        rpn_contest(embedding, np.concatenate((labelled_people, people)), seed, add)
    print(f"{experiment} | {variant} | {seed}: {took:.0f} s to embed, {time.time() - began:.0f} s in all", flush=True)


def rpn_contest(embedding: Embedding, train: Ints, seed: int, add: Callable[..., None]) -> None:
    """Sex, learnt on ABIDE's people, tested unchanged on those of rpn122 whose sex is known.

    Rows of results/stage1 were made before the two others were left out: they counted as men.
    """
    assert embedding.rpn is not None
    sex = abide_targets(abide())[0]
    known = rpn().table["sex"] != "n/a"
    other = (rpn().table["sex"][known] == "F").astype(float)
    features = np.concatenate((embedding.abide[0], embedding.rpn[known]))
    target = Target("sex", np.concatenate((sex.values, other)), True)
    test = np.arange(len(sex.values), len(features))
    predicted = fit_predict(linear_kernel(features), target, train, test, np.random.default_rng(seed), 1)
    weights = np.random.default_rng((98, seed)).multinomial(len(test), np.full(len(test), 1 / len(test)), RESAMPLES).astype(float)
    add("rpn/sex", len(train), "AUC", float(score(target, other, predicted)[0]), score(target, other, predicted, weights))


def rotation(seed: int) -> tuple[Ints, Ints]:
    """Pretraining and validation people of one rotation of the development folds."""
    folds, test = division()
    if seed == TEST:
        return np.sort(np.concatenate(folds)), test
    return np.sort(np.concatenate([fold for at, fold in enumerate(folds) if at != seed])), folds[seed]


def excerpts(seed: int, frames: int) -> list[Floats]:
    """ABIDE's runs, whole (0 frames) or one random excerpt each."""
    runs = abide().runs
    return runs if not frames else [excerpt(run, frames, (seed, frames, at)) for at, run in enumerate(runs)]
