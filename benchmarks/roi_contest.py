"""The columns of `embedding.py`'s tables, and what is fitted for them on the people who are not tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from roi_cohorts import Cohort, FloatArray
from roi_networks import PLAIN, Network, Recipe, trained, untrained
from sklearn.covariance import ledoit_wolf

from slimbrain.evaluate.baselines import PopulationTangent, TangentSpace, connectivity, correlations
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.models.temporal import TemporalExtractor, standardise

BANDS_HZ = (0.0, 0.05, 0.1, np.inf)
MEAN_OF = 40
"""Runs of others whose network features make a mean."""
BASELINES = ("correlation", "partial correlation", "tangent")


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
class Excerpts:
    """Series (T, C), and what is computed of them once, for all folds and columns."""

    runs: list[FloatArray]
    read: dict[tuple[TemporalExtractor, str], list[FloatArray]] = field(default_factory=dict)

    @cached_property
    def connectivity(self) -> list[FeatureSet]:
        return connectivity(self.runs, "")

    @cached_property
    def covariances(self) -> FloatArray:
        return covariances(self.runs)

    def tokens(self, network: Network) -> list[FloatArray]:
        """(N, G, D) of every run."""
        return self._once(network, "tokens", lambda: network.tokens(self.runs))

    def rebuilt(self, network: Network) -> list[FloatArray]:
        """(T, C) of every run, what the network makes of it."""
        return self._once(network, "rebuilt", lambda: network.rebuilt(self.runs))

    def residual(self, network: Network) -> list[FloatArray]:
        """(T, C) of every run, what the network cannot rebuild of each channel from the channels elsewhere and from other windows."""
        return [network.seen(run) - rebuilt for run, rebuilt in zip(self.runs, self.rebuilt(network), strict=True)]

    def forget(self, network: Network) -> None:
        """Let go of what was read with a network that is not needed any more."""
        for what in ("tokens", "rebuilt"):
            self.read.pop((network.model, what), None)

    def _once(self, network: Network, what: str, read: Callable[[], list[FloatArray]]) -> list[FloatArray]:
        key = (network.model, what)
        if key not in self.read:
            self.read[key] = read()
        return self.read[key]


@dataclass(frozen=True)
class Fold:
    """What was fitted without the people who are tested: a network, an untrained one, and the other people's recordings.

    Attributes
    ----------
    beside : a further cohort, all of whose people the network is trained on as well.
    keep : folder that trained networks are kept in.
    """

    cohort: Cohort
    tested: tuple[int, ...]
    steps: int
    recipe: Recipe = PLAIN
    beside: Cohort | None = None
    keep: Path | None = None

    @cached_property
    def network(self) -> Network:
        also = [(self.beside, range(len(self.beside.people)))] if self.beside else []
        model = trained([(self.cohort, self.others), *also], self.steps, self.recipe, self.keep)
        return Network(model, self.recipe, self.cohort.places, self.cohort.tr)

    @cached_property
    def untrained(self) -> Network:
        return Network(untrained(self.recipe), self.recipe, self.cohort.places, self.cohort.tr)

    @cached_property
    def others(self) -> tuple[int, ...]:
        return tuple(person for person in range(len(self.cohort.people)) if person not in self.tested)

    @cached_property
    def runs(self) -> Excerpts:
        return Excerpts([run for person in self.others for run in self.cohort.runs[person]])

    @cached_property
    def some(self) -> Excerpts:
        return Excerpts(self.runs.runs[:MEAN_OF])

    @cached_property
    def tangent(self) -> TangentSpace:
        return TangentSpace().fit(self.runs.connectivity[2].data)

    @cached_property
    def population(self) -> PopulationTangent:
        return population(self.runs.runs)

    @cached_property
    def residual_tangent(self) -> PopulationTangent:
        return population(self.some.residual(self.network))

    @cached_property
    def token_tangent(self) -> TangentSpace:
        return TangentSpace().fit(token_covariances(self.some.tokens(self.network)))

    @cached_property
    def untrained_tangent(self) -> TangentSpace:
        return TangentSpace().fit(token_covariances(self.some.tokens(self.untrained)))

    @cached_property
    def contrast(self) -> Contrast:
        """Learnt from eight excerpts of 20 frames of every run of the others."""
        rng, apart = np.random.default_rng(0), []
        for run in self.runs.runs:
            cut = [run[start : start + 20] for start in rng.integers(0, len(run) - 20, 8)]
            vectors = self.population.transform(covariances(cut))
            apart.append(vectors - vectors.mean(0))
        return Contrast.between(np.concatenate(apart))


Column = Callable[[Fold, Excerpts], FloatArray]


def population(runs: Sequence[FloatArray]) -> PopulationTangent:
    return PopulationTangent().fit(covariances(runs))


def covariances(runs: Sequence[FloatArray]) -> FloatArray:
    """(N, C, C) correlation matrices as they are, singular where frames are few."""
    return correlations([standardise(torch.from_numpy(run)).numpy() for run in runs])


def token_covariance(tokens: FloatArray) -> FloatArray:
    """(G, G) how groups go together over windows and features: covariance-aware pooling, Ledoit-Wolf."""
    scaled = (tokens - tokens.mean((0, 1))) / (tokens.std((0, 1)) + 1e-6)
    return ledoit_wolf(scaled.transpose(0, 2, 1).reshape(-1, tokens.shape[1]))[0]


def token_covariances(tokens: Sequence[FloatArray]) -> FloatArray:
    return np.stack([token_covariance(own) for own in tokens])


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

    def join(fold: Fold, cut: Excerpts) -> FloatArray:
        parts = [COLUMNS[name](fold, cut) for name in columns]
        return np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])

    return join


COLUMNS: dict[str, Column] = {
    "correlation": lambda fold, cut: cut.connectivity[0].data,
    "partial correlation": lambda fold, cut: cut.connectivity[1].data,
    "tangent": lambda fold, cut: fold.tangent.transform(cut.connectivity[2].data),
    "tangent towards the population": lambda fold, cut: fold.population.transform(cut.covariances),
    "the same, contrast between parts of a run": lambda fold, cut: fold.contrast(fold.population.transform(cut.covariances)),
    "band power": lambda fold, cut: np.stack([band_power(run, fold.cohort.tr) for run in cut.runs]),
    "untrained, moments": lambda fold, cut: np.stack([moments(own) for own in cut.tokens(fold.untrained)]),
    "frozen, moments": lambda fold, cut: np.stack([moments(own) for own in cut.tokens(fold.network)]),
    "untrained, covariance of groups": lambda fold, cut: fold.untrained_tangent.transform(token_covariances(cut.tokens(fold.untrained))),
    "frozen, covariance of groups": lambda fold, cut: fold.token_tangent.transform(token_covariances(cut.tokens(fold.network))),
    "rebuilt series, partial correlation": lambda fold, cut: (
        Excerpts([run + made for run, made in zip(cut.runs, cut.rebuilt(fold.network), strict=True)]).connectivity[1].data
    ),
    "residual series, tangent towards the population": lambda fold, cut: fold.residual_tangent.transform(
        covariances(cut.residual(fold.network))
    ),
    "residual beside tangent, both towards the population": beside(
        "residual series, tangent towards the population", "tangent towards the population"
    ),
    "covariance of groups beside tangent towards the population": beside("frozen, covariance of groups", "tangent towards the population"),
}
