"""Which recordings, and whose? Region-of-interest cohorts from the shared data, and the fixed division of ABIDE's participants.

Not a program: the experiments of `run.py` read everything through here.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

ROI = Path(__file__).resolve().parents[3] / "shared" / "data" / "roi"
DUPLICATED = {"sub-50578", "sub-50602", "sub-50805", "sub-50808", "sub-essen005"}
"""Recordings that stand under two people of ABIDE (whose labels differ: both are dropped), and rpn122's second copy."""
N_TEST = 193
ROTATIONS = 4


@dataclass(frozen=True)
class Cohort:
    """Recordings of one parcellation.

    Attributes
    ----------
    runs : list of (T, C) float32
        z-scored channel by channel; an empty channel is 0.
    coordinates : (C, 3) MNI millimetres, None where the source states none
    tr : (N,) seconds, nan where unknown
    person, task : (N,) str
    table : column -> (N,) str, from participants.tsv
    """

    name: str
    runs: list[Floats]
    coordinates: Floats | None
    tr: Floats
    person: NDArray[np.str_]
    task: NDArray[np.str_]
    table: dict[str, NDArray[np.str_]]

    def numbers(self, column: str) -> Floats:
        return np.array([float(cell) if cell not in ("", "n/a") else np.nan for cell in self.table[column]])


def standardise(run: Floats) -> Floats:
    """(T, C) z-scored over frames; a constant channel is 0."""
    run = np.asarray(run, dtype=np.float32)
    run = run - run.mean(0)
    spread = run.std(0)
    return np.where(spread > 1e-6, run / np.maximum(spread, 1e-6), 0).astype(np.float32)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _load(name: str, folders: list[Path]) -> Cohort:
    runs, tr, person, task, table = [], [], [], [], []
    coordinates = None
    for folder in folders:
        described = folder / "timeseries.json"
        seconds = json.loads(described.read_text())["RepetitionTime"] if described.exists() else np.nan
        people = {row["participant_id"]: row for row in _rows(folder / "participants.tsv")}
        if (folder / "channels.tsv").exists():
            coordinates = np.array([[float(row[axis]) for axis in "xyz"] for row in _rows(folder / "channels.tsv")])
        with np.load(folder / "timeseries.npz") as archive:
            for key in archive.files:
                subject, _, rest = key.partition("_")
                if subject in DUPLICATED:
                    continue
                runs.append(standardise(archive[key]))
                tr.append(seconds)
                person.append(subject)
                task.append(rest)
                table.append(people[subject])
    columns = {column: np.array([row.get(column) or "" for row in table]) for column in table[0]}
    return Cohort(name, runs, coordinates, np.array(tr), np.array(person), np.array(task), columns)


@cache
def abide() -> Cohort:
    return _load("abide", sorted((ROI / "abide-cc200").iterdir()))


@cache
def hcp() -> Cohort:
    return _load("hcp", [ROI / "hcp-dk68"])


@cache
def rpn() -> Cohort:
    return _load("rpn", [ROI / "rpn122"])


@cache
def song() -> Cohort:
    return _load("song", [ROI / "song25"])


@cache
def division() -> tuple[list[Ints], Ints]:
    """Row numbers of ABIDE: four development folds and the test people, stratified by site and sex, fixed."""
    cohort, rng = abide(), np.random.default_rng(13)
    strata = np.char.add(np.char.add(cohort.table["site"], " "), cohort.table["sex"])
    share = N_TEST / len(cohort.runs)
    # Within a stratum people are shuffled, then every stratum is dealt out evenly: position in the stratum decides.
    order = np.lexsort((rng.random(len(strata)), strata))
    place = np.arange(len(order)) * share
    is_test = np.floor(place + share) > np.floor(place)
    test, rest = order[is_test], order[~is_test]
    return [np.sort(rest[fold::ROTATIONS]) for fold in range(ROTATIONS)], np.sort(test)


def excerpt(run: Floats, frames: int, seed: tuple[int, ...]) -> Floats:
    """(min(T, frames), C) contiguous frames from a random place, z-scored on themselves."""
    start = int(np.random.default_rng(seed).integers(0, max(len(run) - frames, 0) + 1))
    return standardise(run[start : start + frames])
