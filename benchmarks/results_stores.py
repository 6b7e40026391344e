"""The stores that benchmarks/results.py reads, prepared from ../shared/data, and copies of the model that know nobody who is tested."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.cli import run_command
from slimbrain.disk.atomic import write_json, write_text
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError
from slimbrain.evaluate.probes import FeatureSet, Fitted
from slimbrain.evaluate.result import PROBE
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import PredictionProblem, Split
from slimbrain.governance.duplicates import find_duplicates
from slimbrain.store import Store
from slimbrain.store.participants import PARTICIPANTS_FILE

SHIPPED = "slimbrain-temporal"
STATES = {"rest1": "task-rest_run-1", "rest2": "task-rest_run-2", "gradCPTface": "task-face", "gradCPTscene": "task-scene"}
"""What song25 calls its runs, as BIDS entities: two of rest are one state."""
SONG_TR_S = 1.0
FOLD, N_FOLDS = "fold", 5


@dataclass(frozen=True)
class Work:
    """Where things are.

    Attributes
    ----------
    folder : Path
        Stores, fitted copies and finished jobs.
    data : Path
        The recordings.
    model : str
        Name or folder of the model.
    quick : bool
        A few participants, seeds and numbers: to see that the program runs.
    """

    folder: Path
    data: Path
    model: str
    quick: bool = False

    def store(self, name: str) -> Store:
        """The cohort's store, prepared if it is not there."""
        root, done = self.folder / "stores" / name, self.folder / "stores" / f"{name}.done"
        if not done.exists():
            for source, options in SOURCES[name](self):
                if run_command(["prep", str(source), str(root), "participant", *options]):
                    raise InputError(f"{source}: could not be prepared; see {root / 'failures.tsv'}.")
            if name == "abide":
                add_folds(root)
            done.touch()
        return Store(root)


def add_folds(root: Path) -> None:
    """Give each participant of a store one of five folds, dealt in turn to all in the order of site, sex, diagnosis and age."""
    path = root / PARTICIPANTS_FILE
    rows = read_tsv(path)
    order = sorted(rows, key=lambda row: (row["site"], row["sex"], row["diagnosis"], float(row["age"]), row["participant_id"]))
    folds = {row["participant_id"]: str(number % N_FOLDS + 1) for number, row in enumerate(order)}
    told = [{**row, FOLD: folds[row["participant_id"]]} for row in rows]
    write_text(path, format_tsv(list(told[0]), told))


def _abide(work: Work) -> Iterable[tuple[Path, list[str]]]:
    for site in sorted(path for path in (work.data / "abide-cc200").iterdir() if path.is_dir()):
        yield site, ["--cohort", "ABIDE", "--source-id", "abide-cc200"]


def _hcp(work: Work) -> Iterable[tuple[Path, list[str]]]:
    yield work.data / "hcp-dk68", ["--cohort", "HCP"]


def _rpn122(work: Work) -> Iterable[tuple[Path, list[str]]]:
    # The source names no TR.
    yield work.data / "rpn122", ["--cohort", "rpn122", "--tr", "2"]


def _song25(work: Work) -> Iterable[tuple[Path, list[str]]]:
    source, named = work.data / "song25", work.folder / "song25"
    named.mkdir(parents=True, exist_ok=True)
    with np.load(source / "timeseries.npz") as arrays:
        renamed = {}
        for key in arrays.files:
            person, task = key.split("_task-")
            renamed[f"{person}_{STATES[task]}"] = arrays[key]
        np.savez(named / "timeseries.npz", **renamed)
    shutil.copy(source / "participants.tsv", named)
    write_json(named / "timeseries.json", {"RepetitionTime": SONG_TR_S})
    yield named, ["--cohort", "song25", "--channels", "none"]


SOURCES: Mapping[str, Callable[[Work], Iterable[tuple[Path, list[str]]]]] = {
    "abide": _abide,
    "hcp": _hcp,
    "rpn122": _rpn122,
    "song25": _song25,
}


def fitted_copy(work: Work, store: Store, subjects: Iterable[str], name: str) -> Path:
    """The model with its connectome fitted anew on these participants alone; a folder, made once."""
    from slimbrain import from_pretrained
    from slimbrain.models.hub import save_pretrained, weights_sha256
    from slimbrain.train.connectome import fit_connectome

    people = sorted(set(subjects))
    # By the weights, too: a copy of an earlier recipe must not stand for today's.
    digest = hashlib.sha256(" ".join([work.model, weights_sha256(work.model), *people]).encode()).hexdigest()[:12]
    folder = work.folder / "copies" / f"{name}-{digest}"
    if not (folder / "config.json").exists():
        model = from_pretrained(work.model)
        assert model.provenance is not None
        # The copy is to remember those whom it was fitted on; the network, which knows more, is not read.
        model.provenance = replace(model.provenance, training={})
        save_pretrained(fit_connectome(store.select(people), model), folder)
    return folder


def connectome_vectors(work: Work, folder: Path, store: Store) -> dict[str, NDArray[Any]]:
    """A copy's scores on its axes, of every session of a store; computed once."""
    from slimbrain import from_pretrained
    from slimbrain.embed.features import embed_store

    path = folder / f"{store.root.name}-{len(store.sessions)}.npz"
    if not path.exists():
        made = embed_store(store, from_pretrained(folder), pooling="connectome", label=f"embed with {folder.name}")
        np.savez(path, **made.by_session())
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Vectors that are, for every test fold, those of a copy of the model that was fitted without its participants.

    Attributes
    ----------
    keys : tuple of str
        Sessions, in the order of the target.
    copied : frozenset of str
        Participants of whom another has the recording, too: no copy is fitted on them, or one might know a tested person.
    """

    work: Work
    store: Store
    keys: tuple[str, ...]
    copied: frozenset[str] = frozenset()
    model: str = f"{SHIPPED}, cross-fitted"
    method: str = PROBE

    def __len__(self) -> int:
        return len(self.keys)

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Fit the copy on everyone who is not tested, without labels, then a linear model on the training rows."""
        tested = set(problem.subjects[split.test].tolist())
        others = {info.subject for info in self.store.sessions} - tested - self.copied
        folder = fitted_copy(self.work, self.store, others, "fold")
        vectors = connectome_vectors(self.work, folder, self.store)
        data = np.stack([vectors[key] for key in self.keys]).astype(np.float64)
        return FeatureSet(self.model, self.method, data).fit_predict(problem, split, seed)


def copied_people(store: Store, series: ChannelSeries) -> frozenset[str]:
    """Participants whose recording stands under another's name as well."""
    pairs = [pair for pair in find_duplicates(store, signature_of=series.signature) if not pair.one_participant]
    return frozenset(info.subject for pair in pairs for info in (pair.first, pair.second))


def half_of(store: Store) -> tuple[set[str], set[str]]:
    """Every other participant in the order of the digests of their names, and the others."""
    ordered = sorted({info.subject for info in store.sessions}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(ordered[::2]), set(ordered[1::2])
