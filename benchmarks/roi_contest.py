"""What `embedding.py` compares: recordings of two cohorts, networks trained on other people's, and the columns of its tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.covariance import ledoit_wolf
from sklearn.manifold import MDS
from torch import Tensor

from slimbrain.config import TemporalConfig
from slimbrain.evaluate.baselines import EIGENVALUE_FLOOR, TangentSpace, connectivity
from slimbrain.models.temporal import BRAIN_CENTRE_MM, BRAIN_RADII_MM, TemporalExtractor, standardise, temporal_loss

FloatArray = NDArray[np.float64]
ROI = Path(__file__).resolve().parents[2] / "shared" / "data" / "roi"
SMALL = TemporalConfig(width=64, depth=3, heads=4, groups=32, window_frames=4)
BANDS_HZ = (0.0, 0.05, 0.1, np.inf)
TWIN = "sub-essen005"
"""Bit for bit the recording of sub-essen004."""
POPULATION_WEIGHT = 0.5
"""Weight of the training subjects' mean; from 0.3 to 0.9 as good as each other on halves of rpn122 (docs/embedding.md)."""
MEAN_OF = 40
"""Runs of others whose network features make a mean."""
BASELINES = ("correlation", "partial correlation", "tangent")


@dataclass(frozen=True)
class Cohort:
    """Recordings of people: `first` and `second` are two occasions of each, `runs` all that may be trained on, by person."""

    name: str
    tr: float
    places: Tensor
    people: tuple[str, ...]
    first: tuple[FloatArray, ...]
    second: tuple[FloatArray, ...]
    runs: tuple[tuple[FloatArray, ...], ...]
    about: tuple[Mapping[str, str], ...]


def rpn122() -> Cohort:
    """Rest of 118 people at three sites, 122 parcels, 2 s a frame assumed; the occasions are halves of one run."""
    series = _series(ROI / "rpn122")
    rows = {row["participant_id"]: row for row in _rows(ROI / "rpn122" / "participants.tsv")}
    channels = _rows(ROI / "rpn122" / "channels.tsv")
    places = torch.tensor([[float(row[axis]) for axis in "xyz"] for row in channels])
    people = tuple(key for key in series if key != TWIN)
    runs = tuple(series[key] for key in people)
    first, second = (tuple(part) for part in zip(*((run[: len(run) // 2], run[len(run) // 2 :]) for run in runs), strict=True))
    return Cohort("rpn122", 2.0, places, people, first, second, tuple((run,) for run in runs), tuple(rows[key] for key in people))


def song25() -> Cohort:
    """27 people, two runs of rest and one each of two tasks, 25 networks whose places nobody knows, 1 s a frame."""
    series = _series(ROI / "song25")
    people = tuple(sorted({key.split("_")[0] for key in series}))
    tasks = ("rest1", "rest2", "gradCPTface", "gradCPTscene")
    runs = tuple(tuple(series[f"{person}_task-{task}"] for task in tasks) for person in people)
    first, second = tuple(run[0] for run in runs), tuple(run[1] for run in runs)
    return Cohort("song25", 1.0, likely_places([run for own in runs for run in own]), people, first, second, runs, ({},) * len(people))


def likely_places(runs: Sequence[FloatArray]) -> Tensor:
    """(C, 3) places for channels that have none: those that go together lie together, scaled to fill the brain."""
    mean = np.mean([np.corrcoef(run.T) for run in runs], axis=0)
    places = MDS(3, metric="precomputed", n_init=4, init="random", random_state=0).fit_transform(np.sqrt(np.clip(2 - 2 * mean, 0, None)))
    scaled = places / np.abs(places).max(0) * np.array(BRAIN_RADII_MM) * 0.8 + BRAIN_CENTRE_MM
    return torch.from_numpy(scaled).float()


def _series(folder: Path) -> dict[str, FloatArray]:
    with np.load(folder / "timeseries.npz") as arrays:
        return {key: np.asarray(arrays[key], dtype=np.float64) for key in arrays.files}


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def trained(cohort: Cohort, people: Sequence[int], steps: int, seed: int = 0, frames: int = 120) -> TemporalExtractor:
    """A small extractor, trained without labels on stretches of the runs of some people."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    runs = [torch.from_numpy(run).float() for person in people for run in cohort.runs[person] if len(run) >= frames]
    model = TemporalExtractor(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        picked = [runs[number] for number in rng.choice(len(runs), 4)]
        starts = [int(rng.integers(len(run) - frames + 1)) for run in picked]
        series = torch.stack([run[start : start + frames] for run, start in zip(picked, starts, strict=True)])
        loss, _ = temporal_loss(model, series, cohort.places, cohort.tr, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


class PopulationTangent(TransformerMixin, BaseEstimator):
    """Tangent connectivity of correlation matrices that are first drawn towards the training subjects' mean.

    A short series has a singular matrix. Ledoit and Wolf draw it towards the identity; the mean of other people is nearer to the truth
    (the idea of population shrinkage: Rahim, Thirion and Varoquaux 2019, Medical Image Analysis; theirs has a covariant prior, this
    one a plain weight).

    Parameters
    ----------
    weight : of the training subjects' mean, over 0 to 1.
    """

    def __init__(self, weight: float = POPULATION_WEIGHT) -> None:
        self.weight = weight

    def fit(self, X: FloatArray, y: object = None) -> PopulationTangent:
        """Learn the mean of X (N, C, C), positive semidefinite, and place the tangent at the drawn matrices' geometric mean."""
        self.mean_ = np.asarray(X, dtype=np.float64).mean(axis=0)
        # A channel that nobody has a signal in must not make the mean singular.
        self.mean_ = self.mean_ + EIGENVALUE_FLOOR * np.eye(len(self.mean_))
        self.tangent_ = TangentSpace().fit(self._drawn(X))
        return self

    def transform(self, X: FloatArray) -> FloatArray:
        """(N, C (C + 1) / 2)."""
        return self.tangent_.transform(self._drawn(X))

    def _drawn(self, X: FloatArray) -> FloatArray:
        return (1 - self.weight) * np.asarray(X, dtype=np.float64) + self.weight * self.mean_


@dataclass(frozen=True)
class Contrast:
    """Plays down directions in which parts of one run differ: within-class whitening, with a ridge, in `directions` (D, R)."""

    directions: FloatArray
    factors: FloatArray

    @classmethod
    def between(cls, apart: FloatArray) -> Contrast:
        """From (M, D) vectors of parts of runs, less their run's mean."""
        values, vectors = np.linalg.eigh(apart @ apart.T / len(apart))
        kept = values > values[-1] * 1e-8
        values, vectors = values[kept], vectors[:, kept]
        ridge = values.sum() / apart.shape[1]
        return cls(apart.T @ vectors / np.sqrt(values * len(apart)), np.sqrt(ridge / (values + ridge)) - 1)

    def __call__(self, x: FloatArray) -> FloatArray:
        return x + ((x @ self.directions) * self.factors) @ self.directions.T


@dataclass(frozen=True)
class Fold:
    """What was fitted without the people who are tested: a network, an untrained one, and the other people's recordings."""

    cohort: Cohort
    others: tuple[int, ...]
    tested: tuple[int, ...]
    steps: int

    @cached_property
    def network(self) -> TemporalExtractor:
        return trained(self.cohort, self.others, self.steps)

    @cached_property
    def untrained(self) -> TemporalExtractor:
        torch.manual_seed(1)
        return TemporalExtractor(SMALL).eval()

    @cached_property
    def runs(self) -> list[FloatArray]:
        return [run for person in self.others for run in self.cohort.runs[person]]

    @cached_property
    def tangent(self) -> TangentSpace:
        return TangentSpace().fit(connectivity(self.runs, "")[2].data)

    @cached_property
    def population(self) -> PopulationTangent:
        return PopulationTangent().fit(covariances(self.runs))

    @cached_property
    def residual_tangent(self) -> PopulationTangent:
        return PopulationTangent().fit(covariances([self.residual(run) for run in self.runs[:MEAN_OF]]))

    @cached_property
    def token_tangent(self) -> TangentSpace:
        return self._tangent_of_tokens(self.network)

    @cached_property
    def untrained_tangent(self) -> TangentSpace:
        return self._tangent_of_tokens(self.untrained)

    def _tangent_of_tokens(self, model: TemporalExtractor) -> TangentSpace:
        return TangentSpace().fit(np.stack([token_covariance(self.tokens(run, model)) for run in self.runs[:MEAN_OF]]))

    @cached_property
    def contrast(self) -> Contrast:
        """Learnt from eight excerpts of 20 frames of every run of the others."""
        rng, apart = np.random.default_rng(0), []
        for run in self.runs:
            cut = [run[start : start + 20] for start in rng.integers(0, len(run) - 20, 8)]
            vectors = self.population.transform(covariances(cut))
            apart.append(vectors - vectors.mean(0))
        return Contrast.between(np.concatenate(apart))

    @torch.no_grad()
    def tokens(self, run: FloatArray, model: TemporalExtractor) -> FloatArray:
        """(N, G, D) with everything visible."""
        series = standardise(torch.from_numpy(run).float()[None])
        return model(series, self.cohort.places, self.cohort.tr).tokens[0].double().numpy()

    def residual(self, run: FloatArray) -> FloatArray:
        """(T, C) what the network cannot rebuild of each channel from the channels elsewhere and from other windows."""
        return standardise(torch.from_numpy(run)).numpy() - self.rebuilt(run)

    @torch.no_grad()
    def rebuilt(self, run: FloatArray) -> FloatArray:
        """(T, C) each sample rebuilt while it was hidden: one random half of the groups, then the other half."""
        series = standardise(torch.from_numpy(run).float()[None])
        width = self.network.window_frames
        tail = -series.shape[1] % width
        padded = torch.cat((series, series[:, series.shape[1] - tail :].flip(1)), 1) if tail else series
        groups = self.network.nearest_group(self.cohort.places)
        hidden = torch.rand((padded.shape[1] // width, SMALL.groups), generator=torch.Generator().manual_seed(0)) < 0.5
        rebuilt = torch.zeros_like(padded)
        for half in (hidden, ~hidden):
            mask = half[:, groups][None]
            output = self.network(padded, self.cohort.places, self.cohort.tr, channel_visible=~mask).reconstruction
            rebuilt += torch.where(mask[:, :, None], output, 0.0).flatten(1, 2)
        return rebuilt[0, : len(run)].double().numpy()


Column = Callable[[Fold, Sequence[FloatArray]], FloatArray]


def covariances(runs: Sequence[FloatArray]) -> FloatArray:
    """(N, C, C) correlation matrices as they are, singular where frames are few."""
    return np.stack([(z.T @ z) / len(z) for z in (standardise(torch.from_numpy(run)).numpy() for run in runs)])


def token_covariance(tokens: FloatArray) -> FloatArray:
    """(G, G) how groups go together over windows and features: covariance-aware pooling, Ledoit-Wolf."""
    scaled = (tokens - tokens.mean((0, 1))) / (tokens.std((0, 1)) + 1e-6)
    return ledoit_wolf(scaled.transpose(0, 2, 1).reshape(-1, tokens.shape[1]))[0]


def moments(tokens: FloatArray) -> FloatArray:
    """(2 D,) mean and standard deviation over windows, as `TemporalExtractor.embed` has them."""
    windows = tokens.mean(1)
    return np.concatenate((windows.mean(0), windows.std(0)))


def band_power(run: FloatArray, tr: float) -> FloatArray:
    """(3 C,) share of each channel's power in three bands."""
    power = np.abs(np.fft.rfft(run - run.mean(0), axis=0)) ** 2
    frequency = np.fft.rfftfreq(len(run), tr)
    bands = [power[(frequency >= low) & (frequency < high)].sum(0) for low, high in pairwise(BANDS_HZ)]
    return np.concatenate(bands) / np.tile(np.maximum(power.sum(0), 1e-12), len(bands))


def beside(*columns: str) -> Column:
    """Tangent columns side by side, each of length 1 a session; their origin is the other people's mean already."""

    def join(fold: Fold, runs: Sequence[FloatArray]) -> FloatArray:
        parts = [COLUMNS[name](fold, runs) for name in columns]
        return np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])

    return join


COLUMNS: dict[str, Column] = {
    "correlation": lambda fold, runs: connectivity(runs, "")[0].data,
    "partial correlation": lambda fold, runs: connectivity(runs, "")[1].data,
    "tangent": lambda fold, runs: fold.tangent.transform(connectivity(runs, "")[2].data),
    "tangent towards the population": lambda fold, runs: fold.population.transform(covariances(runs)),
    "the same, contrast between parts of a run": lambda fold, runs: fold.contrast(fold.population.transform(covariances(runs))),
    "band power": lambda fold, runs: np.stack([band_power(run, fold.cohort.tr) for run in runs]),
    "untrained, moments": lambda fold, runs: np.stack([moments(fold.tokens(run, fold.untrained)) for run in runs]),
    "frozen, moments": lambda fold, runs: np.stack([moments(fold.tokens(run, fold.network)) for run in runs]),
    "untrained, covariance of groups": lambda fold, runs: fold.untrained_tangent.transform(
        np.stack([token_covariance(fold.tokens(run, fold.untrained)) for run in runs])
    ),
    "frozen, covariance of groups": lambda fold, runs: fold.token_tangent.transform(
        np.stack([token_covariance(fold.tokens(run, fold.network)) for run in runs])
    ),
    "rebuilt series, partial correlation": lambda fold, runs: connectivity([fold.rebuilt(run) + run for run in runs], "")[1].data,
    "residual series, tangent towards the population": lambda fold, runs: fold.residual_tangent.transform(
        covariances([fold.residual(run) for run in runs])
    ),
    "residual beside tangent, both towards the population": beside(
        "residual series, tangent towards the population", "tangent towards the population"
    ),
    "covariance of groups beside tangent towards the population": beside("frozen, covariance of groups", "tangent towards the population"),
}
