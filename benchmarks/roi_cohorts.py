"""Region-of-interest recordings of two cohorts that `embedding.py` tells people and states apart by."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import MDS
from torch import Tensor

from slimbrain.models.temporal import BRAIN_CENTRE_MM, BRAIN_RADII_MM

FloatArray = NDArray[np.float64]
ROI = Path(__file__).resolve().parents[2] / "shared" / "data" / "roi"
TWIN = "sub-essen005"
"""Bit for bit the recording of `TWIN_OF`, under the other sex."""
TWIN_OF = "sub-essen004"


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
    series = read_series(ROI / "rpn122")
    rows = {row["participant_id"]: row for row in read_rows(ROI / "rpn122" / "participants.tsv")}
    channels = read_rows(ROI / "rpn122" / "channels.tsv")
    places = torch.tensor([[float(row[axis]) for axis in "xyz"] for row in channels])
    people = tuple(key for key in series if key != TWIN)
    runs = tuple(series[key] for key in people)
    first, second = (tuple(part) for part in zip(*((run[: len(run) // 2], run[len(run) // 2 :]) for run in runs), strict=True))
    return Cohort("rpn122", 2.0, places, people, first, second, tuple((run,) for run in runs), tuple(rows[key] for key in people))


def song25() -> Cohort:
    """27 people, two runs of rest and one each of two tasks, 25 networks whose places nobody knows, 1 s a frame."""
    series = read_series(ROI / "song25")
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


def read_series(folder: Path) -> dict[str, FloatArray]:
    """(T, C) series by key of a folder of recordings."""
    with np.load(folder / "timeseries.npz") as arrays:
        return {key: np.asarray(arrays[key], dtype=np.float64) for key in arrays.files}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table."""
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))
