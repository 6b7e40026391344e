"""The inputs of a report, read once and checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from slimbrain.config import WindowConfig
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.evaluate.result import Result, read_result
from slimbrain.explain import MapEntry, list_maps
from slimbrain.prep.exclusion import COLUMNS as EXCLUDED_COLUMNS
from slimbrain.report.recorded import RunRecord, SessionFacts, read_run, session_facts
from slimbrain.saliency import WindowRow, read_window_table
from slimbrain.simulate import SessionTruth, Truth, load_truth
from slimbrain.store import ROI, SessionInfo, Store

MAX_DETAILED = 10
"""More sessions than this are summarised, with the worst `N_WORST` in detail: the page must stay small enough to mail."""

N_WORST = 6


@dataclass(frozen=True)
class ReportInputs:
    """Files that a report shows; the page lists at its end what was not given.

    Attributes
    ----------
    store : Store or None
        Prepared sessions.
    windows : Path or None
        Window table of `slimbrain rank`.
    runs : tuple of Path
        Folders of pretraining runs.
    evaluations : tuple of Path
        Result files of `slimbrain evaluate`.
    failures : Path or None
        Table of refused runs that `slimbrain prep` wrote.
    excluded : Path or None
        Table of runs that a quality threshold excluded, from `slimbrain prep` as well.
    truth : Path or None
        `truth.json` of a simulated cohort; its events are marked under the scores.
    maps : tuple of Path
        NIfTI files for the slice viewer.
    explained : tuple of Path
        Folders of `slimbrain explain`, whose averages are shown there, with their regions.
    commands : tuple of str
        Command lines to show after those that the runs recorded.
    title : str
        Heading of the page.
    """

    store: Store | None = None
    windows: Path | None = None
    runs: tuple[Path, ...] = ()
    evaluations: tuple[Path, ...] = ()
    failures: Path | None = None
    excluded: Path | None = None
    truth: Path | None = None
    maps: tuple[Path, ...] = ()
    explained: tuple[Path, ...] = ()
    commands: tuple[str, ...] = ()
    title: str = "slimbrain report"

    @property
    def shows_nothing(self) -> bool:
        """Whether every section would say that it was given nothing; a truth by itself shows nothing."""
        tables = (self.windows, self.failures, self.excluded)
        return self.store is None and not (any(tables) or self.runs or self.evaluations or self.maps or self.explained)


@dataclass(frozen=True)
class Material:
    """Everything a section builder may show."""

    inputs: ReportInputs
    sessions: tuple[SessionFacts, ...]
    windows: Mapping[str, Sequence[WindowRow]]
    runs: tuple[RunRecord, ...]
    evaluations: tuple[Result, ...]
    failures: tuple[tuple[str, str], ...]
    excluded: tuple[Mapping[str, str], ...]
    truth: Truth | None
    explained: tuple[tuple[Path, Sequence[MapEntry]], ...] = ()

    @property
    def store(self) -> Store | None:
        return self.inputs.store

    @property
    def k(self) -> int:
        """Windows kept per session: what the last run was told, or the default."""
        for run in reversed(self.runs):
            if run.settings.preset.window.k is not None:
                return run.settings.preset.window.k
        return WindowConfig().k

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short name of every session, whether of the store or only of the window table."""
        return _session_labels([*(session.info.key for session in self.sessions), *self.windows])

    @cached_property
    def worst_first(self) -> tuple[SessionFacts, ...]:
        """Sessions with warnings first, then by mean rank of coverage, tSNR (low is bad), motion and spikes (high is bad)."""
        if not self.sessions:
            return ()
        signs = {"coverage": 1.0, "tsnr": 1.0, "fd_mean": -1.0, "spikes": -1.0}
        goodness = [rankdata([sign * session.qc.get(name, 0.0) for session in self.sessions]) for name, sign in signs.items()]
        mean_rank = np.mean(goodness, axis=0)
        order = sorted(range(len(self.sessions)), key=lambda i: (not self.sessions[i].warnings, mean_rank[i], self.sessions[i].info.key))
        return tuple(self.sessions[i] for i in order)

    @property
    def in_detail(self) -> tuple[SessionFacts, ...]:
        """All sessions, or the worst of many."""
        return self.sessions if len(self.sessions) <= MAX_DETAILED else self.worst_first[:N_WORST]

    def planted(self, key: str) -> SessionTruth | None:
        """What was planted in a session, if known."""
        return next((session for session in self.truth.sessions if session.key == key), None) if self.truth else None


def read_material(inputs: ReportInputs) -> Material:
    """Read and check everything the inputs name.

    Raises
    ------
    InputError, StoreError
        If one of the files is missing or is not what it should be.
    """
    infos = inputs.store.sessions if inputs.store else []
    windows = read_window_table(inputs.windows) if inputs.windows else {}
    for info in infos:
        if rows := windows.get(info.key):
            _require_own_windows(inputs.windows, rows, info)
    labels = _session_labels([info.key for info in infos])
    return Material(
        inputs=inputs,
        sessions=tuple(session_facts(inputs.store, info, labels[info.key]) for info in infos) if inputs.store else (),
        windows=windows,
        runs=tuple(read_run(folder) for folder in inputs.runs),
        evaluations=tuple(read_result(path) for path in inputs.evaluations),
        failures=_read_failures(inputs.failures) if inputs.failures else (),
        excluded=_read_excluded(inputs.excluded) if inputs.excluded else (),
        truth=load_truth(inputs.truth) if inputs.truth else None,
        explained=tuple((folder, list_maps(folder)) for folder in inputs.explained),
    )


def _require_own_windows(path: Path | None, rows: Sequence[WindowRow], info: SessionInfo) -> None:
    """Refuse a table of another store, in which sessions may have the same names: windows of others would be drawn over these."""
    count = info.n_windows(max(1, round(rows[0].duration_s / info.tr)))
    if len(rows) != count:
        raise InputError(f"{path}: has {len(rows)} windows of {info.key}, which has {count}; give the table that was ranked on this store.")


def _session_labels(keys: Iterable[str]) -> dict[str, str]:
    """Each key without the entities that all keys share, except the subject; the key itself where nothing else is left."""
    keys = list(dict.fromkeys(keys))
    parts = [key.split("_") for key in keys]
    shared = set.intersection(*map(set, parts)) if parts else set()
    told = ["_".join(part for part in split if part not in shared or part.startswith("sub-")) for split in parts]
    return {key: label or key for key, label in zip(keys, told, strict=True)}


def has_voxels(store: Store) -> bool:
    """Whether the store holds images, not region-of-interest series alone."""
    return store.contract.lattice != ROI


def _read_failures(path: Path) -> tuple[tuple[str, str], ...]:
    """File and reason of every refused run."""
    try:
        return tuple((row["file"], row["reason"]) for row in read_tsv(path))
    except KeyError as error:
        raise InputError(f"{path}: has no column {error}; name the failures.tsv that `slimbrain prep` wrote.") from error


def _read_excluded(path: Path) -> tuple[dict[str, str], ...]:
    """One row per threshold that a run exceeds."""
    rows = tuple(read_tsv(path))
    missing = [name for name in EXCLUDED_COLUMNS if rows and name not in rows[0]]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}; name the excluded.tsv that `slimbrain prep` wrote.")
    return rows
