"""The painted cohort in memory, for all experiments here: runs, split, clips, labels and ridge probes. `painted.py` makes its files.

Works with the code of today and with that of commit 5ea4a25 alike.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimbrain import grid as grids
from slimbrain.grid import Grid, Lattice

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
PARCELS = DATA / "roi" / "abide-cc200"
LATTICE = Lattice(24, 8.0, 1)
"""Voxels and patches of 8 mm, cells of 16 mm, units of 32 mm: the published geometry at 1/64 of the bytes."""
grids.LATTICES.setdefault("8mm-p1", LATTICE)
TR_S = 0.72
HALVES = ("first", "second")
WINDOW = 8


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every program here has: `--out`, the folder with all it makes."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("stage2-run"), help="folder of cohort, checkpoints and rows")
    return options


def parcel_places() -> np.ndarray:
    """(200, 3) centres of the CC200 parcels in MNI mm."""
    with (PARCELS / "NYU" / "channels.tsv").open() as table:
        return np.array([[float(row[axis]) for axis in "xyz"] for row in csv.DictReader(table, delimiter="\t")])


@dataclass(frozen=True)
class Run:
    """One painted run: where its frames lie in the files, and its participant's labels."""

    key: str
    site: str
    first: int
    frames: int
    age: float
    female: bool
    autism: bool


class Cohort:
    """Runs by split (`pretrain`, `validation`, `test`, drawn within site), voxels (T, P) and parcels (T, 200)."""

    def __init__(self, out: Path) -> None:
        self.out = out
        folder = out / "painted"
        tables = np.load(folder / "grid.npz")
        self.grid = Grid(LATTICE, tables["mask"])
        self.nearest = tables["nearest"]
        rows = list(csv.DictReader((folder / "runs.tsv").open(), delimiter="\t"))
        self.runs = [
            Run(
                r["participant_id"],
                r["site"],
                int(r["first"]),
                int(r["frames"]),
                float(r["age"]),
                r["sex"] == "F",
                r["diagnosis"] == "autism",
            )
            for r in rows
        ]
        total = sum(run.frames for run in self.runs)
        self.voxels = np.memmap(folder / "voxels.f16", np.float16, "r", shape=(total, self.grid.n_patches))
        self.parcels = np.load(folder / "parcels.npy")
        self.split = self._split()

    def _split(self) -> dict[str, list[Run]]:
        """57 % pretraining, 21 % validation, 22 % test of each site."""
        parts: dict[str, list[Run]] = {"pretrain": [], "validation": [], "test": []}
        random = np.random.default_rng(12)
        for site in sorted({run.site for run in self.runs}):
            own = [run for run in self.runs if run.site == site and run.frames >= 96]
            own = [own[place] for place in random.permutation(len(own))]
            a, b = round(0.57 * len(own)), round(0.78 * len(own))
            parts["pretrain"] += own[:a]
            parts["validation"] += own[a:b]
            parts["test"] += own[b:]
        return parts

    def halves(self, seed: int = 2026) -> tuple[list[Run], list[Run]]:
        """Two halves of each site: one to pretrain on, the other to read."""
        parts: tuple[list[Run], list[Run]] = ([], [])
        random = np.random.default_rng(seed)
        for site in sorted({run.site for run in self.runs}):
            own = [run for run in self.runs if run.site == site and run.frames >= 96]
            own = [own[place] for place in random.permutation(len(own))]
            cut = round(len(own) / 2)
            parts[0].extend(own[:cut])
            parts[1].extend(own[cut:])
        return parts

    def spread_frames(self, run: Run, windows: int, offset: float = 0.5) -> np.ndarray:
        """(windows * 8,) frames of windows spread evenly over the run."""
        slots = run.frames // WINDOW
        chosen = np.floor((np.arange(windows) + offset) * slots / windows).astype(int)
        return (chosen[:, None] * WINDOW + np.arange(WINDOW)).ravel()

    def random_frames(self, run: Run, windows: int, random: np.random.Generator) -> np.ndarray:
        """(windows * 8,) frames of random windows that do not overlap, in order."""
        chosen = np.sort(random.permutation(run.frames // WINDOW)[:windows])
        return (chosen[:, None] * WINDOW + np.arange(WINDOW)).ravel()

    def stretch(self, run: Run, frames: int, random: np.random.Generator) -> np.ndarray:
        """(frames,) neighbouring frames from a random start."""
        return int(random.integers(run.frames - frames + 1)) + np.arange(frames)

    def clip(self, run: Run, frames: np.ndarray) -> np.ndarray:
        """(F, P) float32 voxels."""
        return self.voxels[run.first + frames].astype(np.float32)


def segment_means(voxels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(T, P) -> (T, N) means over consecutive patches."""
    return np.add.reduceat(voxels, offsets[:-1], axis=1) / np.diff(offsets)


def covariance(x: np.ndarray) -> np.ndarray:
    """(T, C) -> (C, C) Ledoit-Wolf correlation."""
    from sklearn.covariance import ledoit_wolf

    x = x - x.mean(0)
    x = x / (x.std(0) + 1e-3)
    return ledoit_wolf(x, assume_centered=True)[0]


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-6) ** exponent) @ vectors.T


def _log(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.log(np.maximum(values, 1e-6))) @ vectors.T


class Tangent:
    """Tangent at the mean of reference matrices; `log` False is first order in the covariance."""

    def __init__(self, reference: list[np.ndarray], log: bool = True, shrink: float = 0.0) -> None:
        self.mean = np.mean(reference, 0)
        self.white, self.log, self.shrink = _power(self.mean, -0.5), log, shrink
        self.upper = np.triu_indices(len(self.mean))
        self.weight = np.where(self.upper[0] == self.upper[1], 1.0, np.sqrt(2))

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        inner = self.white @ ((1 - self.shrink) * matrix + self.shrink * self.mean) @ self.white
        inner = _log(inner) if self.log else inner - np.eye(len(inner))
        return (inner[self.upper] * self.weight).astype(np.float32)


# --- probes

ALPHAS = np.logspace(-4, 2, 19)


def ridge_scores(gram: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, centre: float | None = None) -> np.ndarray:
    """Kernel ridge with the penalty of least leave-one-out error on `train`; gram is of raw features."""
    k, cross = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    row, both = k.mean(0), k.mean()
    k = k - row[None] - row[:, None] + both
    cross = cross - cross.mean(1, keepdims=True) - row[None] + both
    scale = np.trace(k) / len(k)
    k, cross = k / scale, cross / scale
    target = y[train] - y[train].mean()
    values, vectors = np.linalg.eigh(k)
    projected = vectors.T @ target
    best, weights = np.inf, None
    for alpha in ALPHAS * len(train):
        shrunk = 1 / (np.maximum(values, 0) + alpha)
        dual = vectors @ (shrunk * projected)
        # The intercept is not penalised: the constant direction of the centred kernel is not a direction to leave out.
        error = np.square(dual / ((vectors**2) @ shrunk - 1 / (len(train) * alpha))).mean()
        if error < best:
            best, weights = error, dual
    # Not the training mean of the fold: with a strong penalty it would rank held-out people against their own class.
    return cross @ weights + (y[train].mean() if centre is None else centre)


def labels(runs: list[Run]) -> dict[str, np.ndarray]:
    """(n,) log age, sex (female is 1) and diagnosis (autism is 1)."""
    return {
        "log_age": np.log([run.age for run in runs]),
        "sex": np.array([run.female for run in runs], float),
        "diagnosis": np.array([run.autism for run in runs], float),
    }


def score(name: str, y: np.ndarray, predicted: np.ndarray) -> float:
    """R2 for `log_age` (the mean scores 0), AUC for the others (chance is 0.5); higher is better.

    Of (n, draws) predictions of `few_labels` the mean over draws, each of the people whom it tests.
    """
    if predicted.ndim == 2:
        return float(np.mean([score(name, y[tested], p[tested]) for p, tested in zip(predicted.T, ~np.isnan(predicted.T), strict=True)]))
    if name == "log_age":
        return float(1 - np.square(y - predicted).sum() / np.square(y - y.mean()).sum())
    order = predicted.argsort()
    rank = np.empty(len(y))
    rank[order] = np.arange(1, len(y) + 1)
    positive = y > 0.5
    n = positive.sum()
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


def out_of_fold(
    x: np.ndarray, y: np.ndarray, repeats: int = 6, folds: int = 5, others: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """(n,) out-of-fold ridge predictions, averaged over repeats; other people's features and labels teach in every fold."""
    n = len(y)
    features, known = (x, y) if others is None else (np.concatenate(pair) for pair in zip((x, y), others, strict=True))
    gram = features.astype(np.float64) @ features.T.astype(np.float64)
    predicted = np.zeros(n)
    for repeat in range(repeats):
        place = np.random.default_rng(repeat).permutation(n)
        place = place[np.argsort(y[place] > np.median(y), kind="stable")]
        for fold in range(folds):
            test = np.sort(place[fold::folds])
            train = np.setdiff1d(np.arange(len(known)), test)
            predicted[test] += ridge_scores(gram, known, train, test, float(y.mean())) / repeats
    return predicted


def site_left_out(
    x: np.ndarray, y: np.ndarray, sites: np.ndarray, others: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """(n,) ridge predictions of each site by people of all other sites, other people (features, labels, sites) among them."""
    features, known, place = (x, y, sites) if others is None else (np.concatenate(pair) for pair in zip((x, y, sites), others, strict=True))
    gram = features.astype(np.float64) @ features.T.astype(np.float64)
    predicted = np.full(len(y), np.nan)
    for site in np.unique(sites):
        test = np.flatnonzero(sites == site)
        predicted[test] = ridge_scores(gram, known, np.flatnonzero(place != site), test, float(known.mean()))
    return predicted


def few_labels(x: np.ndarray, y: np.ndarray, count: int, draws: int = 10) -> np.ndarray:
    """(n, draws) ridge predictions from `count` labelled people, drawn alike from either side of the median; NaN where they are these."""
    gram = x.astype(np.float64) @ x.T.astype(np.float64)
    predicted = np.full((len(y), draws), np.nan)
    for draw in range(draws):
        place = np.random.default_rng(draw).permutation(len(y))
        place = place[np.argsort(y[place] > np.median(y), kind="stable")]
        train = np.sort(place[np.linspace(0, len(y) - 1, count).round().astype(int)])
        test = np.setdiff1d(np.arange(len(y)), train)
        predicted[test, draw] = ridge_scores(gram, y, train, test)
    return predicted


def interval(name: str, y: np.ndarray, a: np.ndarray, b: np.ndarray | None = None, draws: int = 2000) -> tuple[float, float, float]:
    """Score of a (less that of b), with a 95 % bootstrap interval over people, who teach as well as being tested.

    Resampled scores are stretched by sqrt(2) for that, as in `slimbrain.evaluate.stats.bootstrap`; rows of results/stage2 that were made
    before `contest.csv` have narrower intervals, without it.
    """

    def value(rows: np.ndarray) -> float:
        return score(name, y[rows], a[rows]) - (0 if b is None else score(name, y[rows], b[rows]))

    return interval_of(value, len(y), draws)


def interval_of(value: Callable[[np.ndarray], float], people: int, draws: int = 2000) -> tuple[float, float, float]:
    """As `interval`, of anything that rows of people give."""
    random, everyone = np.random.default_rng(0), np.arange(people)
    sampled = np.array([value(random.choice(everyone, people)) for _ in range(draws)])
    sampled = sampled.mean() + np.sqrt(2) * (sampled - sampled.mean())
    return (value(everyone), *np.percentile(sampled, (2.5, 97.5)).tolist())


def skill(predicted: np.ndarray, wanted: np.ndarray, constant: np.ndarray | float = 0.0) -> float:
    """1 - squared error / that of the best constant, which scores 0; 1 is perfect."""
    return 1 - float(np.square(predicted - wanted).sum() / np.square(constant - wanted).sum())


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add a row to a table of JSON lines, and print it."""
    line = json.dumps(row)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
