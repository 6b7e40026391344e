"""Extractors that `embedding.py` trains without labels, in the variants that were tried, and what it reads from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from roi_cohorts import Cohort, FloatArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from slimbrain.config import TemporalConfig
from slimbrain.disk.atomic import write_atomic
from slimbrain.models.temporal import TemporalExtractor, standardise, temporal_loss

SMALL = TemporalConfig(width=64, depth=3, heads=4, groups=32, window_frames=4)
STRETCH_FRAMES = 120
STRETCHES = 4
"""Stretches of a run a step, and how many."""
PART_FRAMES, PART_RUNS = 40, 12
"""Two parts of as many frames from each of as many runs: what the contrastive term tells apart, a step."""
TEMPERATURE = 0.1
AT_ONCE = 16
"""Runs of one length that are read in one pass."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained and read.

    Attributes
    ----------
    window_frames : frames per patch.
    channels : what is done to the channels, each of which is z-scored afterwards: nothing; their mean taken out of every frame; or
        every frame brought to one length, so that no frame counts more than another.
    contrast : weight of a term that tells parts of one run from parts of others by the session embedding (InfoNCE).
    """

    window_frames: int = SMALL.window_frames
    channels: Literal["as they are", "less their mean", "frames of one length"] = "as they are"
    contrast: float = 0.0

    def config(self) -> TemporalConfig:
        return SMALL.model_copy(update={"window_frames": self.window_frames})

    def read(self, series: Tensor) -> Tensor:
        """(..., T, C) as the network is given it."""
        series = standardise(series)
        if self.channels == "less their mean":
            return standardise(series - series.mean(-1, keepdim=True))
        if self.channels == "frames of one length":
            return standardise(normalize(series, dim=-1))
        return series


PLAIN = Recipe()


def trained(cohorts: Sequence[tuple[Cohort, Sequence[int]]], steps: int, recipe: Recipe, keep: Path | None = None) -> TemporalExtractor:
    """A small extractor trained on stretches of the runs of some people of each cohort, the cohorts taking turns.

    Parameters
    ----------
    keep : folder in which networks are kept, and found again by what they were trained on.
    """
    torch.manual_seed(0)
    model = TemporalExtractor(recipe.config())
    about = repr(([(cohort.name, [cohort.people[person] for person in people]) for cohort, people in cohorts], steps, recipe))
    path = keep / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors" if keep else None
    if path and path.is_file():
        model.load_state_dict(load_file(path))
    else:
        _train(model, cohorts, steps, recipe)
    if path and not path.is_file():
        write_atomic(path, lambda temporary: save_file(model.state_dict(), temporary))
    return model.eval()


@cache
def untrained(recipe: Recipe) -> TemporalExtractor:
    torch.manual_seed(1)
    return TemporalExtractor(recipe.config()).eval()


def _train(model: TemporalExtractor, cohorts: Sequence[tuple[Cohort, Sequence[int]]], steps: int, recipe: Recipe) -> None:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    runs = [[torch.from_numpy(run).float() for person in people for run in cohort.runs[person]] for cohort, people in cohorts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        (cohort, _), own = cohorts[step % len(cohorts)], runs[step % len(cohorts)]
        loss, _ = temporal_loss(model, recipe.read(stretches(own, STRETCHES, rng)), cohort.places, cohort.tr, generator)
        if recipe.contrast:
            loss = loss + recipe.contrast * _contrast(model, own, cohort, recipe, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def stretches(runs: Sequence[Tensor], count: int, rng: np.random.Generator, frames: int = STRETCH_FRAMES) -> Tensor:
    """(count, frames, C) random stretches of random runs that are long enough."""
    enough = [run for run in runs if len(run) >= frames]
    picked = [enough[number] for number in rng.choice(len(enough), count)]
    starts = [int(rng.integers(len(run) - frames + 1)) for run in picked]
    return torch.stack([run[start : start + frames] for run, start in zip(picked, starts, strict=True)])


def _contrast(model: TemporalExtractor, runs: Sequence[Tensor], cohort: Cohort, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """InfoNCE: of all second parts, which belongs to the run of this first part, and the other way round."""
    picked = [runs[number] for number in rng.choice(len(runs), min(PART_RUNS, len(runs)), replace=False)]
    starts = [rng.choice(len(run) - PART_FRAMES + 1, 2) for run in picked]
    parts = torch.stack([run[start : start + PART_FRAMES] for half in (0, 1) for run, start in _pairs(picked, starts, half)])
    vectors = model.embed(recipe.read(parts), cohort.places, cohort.tr)[0]
    vectors = normalize(vectors - vectors.mean(0), dim=1)
    likeness = vectors[: len(picked)] @ vectors[len(picked) :].T / TEMPERATURE
    own = torch.arange(len(picked))
    return (cross_entropy(likeness, own) + cross_entropy(likeness.T, own)) / 2


def _pairs(runs: Sequence[Tensor], starts: Sequence[np.ndarray], half: int) -> Iterator[tuple[Tensor, int]]:
    return ((run, int(start[half])) for run, start in zip(runs, starts, strict=True))


@dataclass(frozen=True)
class Network:
    """A network with what one has to know to read a cohort's recordings with it."""

    model: TemporalExtractor
    recipe: Recipe
    places: Tensor
    tr: float

    def tokens(self, runs: Sequence[FloatArray]) -> list[FloatArray]:
        """(N, G, D) of every run, with everything visible."""
        return self._by_length(runs, lambda series: self.model(series, self.places, self.tr).tokens, tail=False)

    def rebuilt(self, runs: Sequence[FloatArray]) -> list[FloatArray]:
        """(T, C) of every run, each sample rebuilt while it was hidden: one random half of the groups, then the other half."""
        whole = self._by_length(runs, self._rebuilt, tail=True)
        return [series[: len(run)] for series, run in zip(whole, runs, strict=True)]

    def seen(self, run: FloatArray) -> FloatArray:
        """(T, C) what the network is given of a run."""
        return np.asarray(self.recipe.read(torch.from_numpy(run)).numpy())

    def _rebuilt(self, series: Tensor) -> Tensor:
        groups = self.model.nearest_group(self.places)
        n = series.shape[1] // self.recipe.window_frames
        hidden = torch.rand((n, self.model.config.groups), generator=torch.Generator().manual_seed(0)) < 0.5
        halves = []
        for half in (hidden, ~hidden):
            mask = half[:, groups][None].expand(len(series), -1, -1)
            output = self.model(series, self.places, self.tr, channel_visible=~mask).reconstruction
            halves.append(torch.where(mask[:, :, None], output, 0.0).flatten(1, 2))
        return halves[0] + halves[1]

    @torch.no_grad()
    def _by_length(self, runs: Sequence[FloatArray], read: Callable[[Tensor], Tensor], tail: bool) -> list[FloatArray]:
        """Runs of one length together; the last window, if it is needed, is filled by running back in time."""
        done: dict[int, FloatArray] = {}
        frames = self.recipe.window_frames
        for length in {len(run) for run in runs}:
            numbers = [number for number, run in enumerate(runs) if len(run) == length]
            for start in range(0, len(numbers), AT_ONCE):
                some = numbers[start : start + AT_ONCE]
                series = self.recipe.read(torch.from_numpy(np.stack([runs[number] for number in some])).float())
                missing = -length % frames if tail or length < frames else 0
                padded = torch.cat((series, series[:, length - missing :].flip(1)), 1) if missing else series
                done |= zip(some, read(padded).double().numpy(), strict=True)
        return [done[number] for number in range(len(runs))]
