"""Who learns and who is tested, beyond folds: a few labelled people, each site in turn, another cohort, windows of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slimbrain.errors import InputError
from slimbrain.evaluate.held_out import with_blocks
from slimbrain.evaluate.leaks import Screened, screen
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import LABELLED_DRAWS, SplitPolicy, labelled_policies, policy_called
from slimbrain.evaluate.tasks import Target, Task, read_target
from slimbrain.evaluate.window_store import WindowStore
from slimbrain.governance.provenance import Provenance
from slimbrain.store import Store


@dataclass(frozen=True)
class Design:
    """What `slimbrain evaluate` is told about who learns and who is tested.

    Attributes
    ----------
    split : str
        `5-fold` or `70/10/20`; the task's own if empty.
    labelled : str
        Numbers of labelled participants of a curve, `30,60,120`; no curve if empty.
    seeds : int or None
        How often people are divided into folds, or labelled ones drawn; as often as the task says, or `LABELLED_DRAWS` times, if None.
    leave_out : str
        Column of participants whose values are left out in turn.
    transfer_to : Path or None
        Store that is tested, this one being trained on.
    frames : int or None
        Frames per window where windows are the samples; whole runs if None.
    """

    split: str = ""
    labelled: str = ""
    seeds: int | None = None
    leave_out: str = ""
    transfer_to: Path | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        named = {"--split": self.split, "--labelled": self.labelled, "--leave-out": self.leave_out, "--transfer-to": self.transfer_to}
        several = [option for option, value in named.items() if value]
        if len(several) > 1:
            raise InputError(f"{' and '.join(several)}: each says who learns and who is tested; give one of them.")
        if self.transfer_to and self.frames:
            raise InputError("--transfer-to and --frames: windows are compared within one cohort; give one of them.")

    def task(self, wanted: Task) -> Task:
        """The task, divided as `--split` and `--seeds` say."""
        policy = policy_called(self.split) if self.split else wanted.policy
        return replace(wanted, policy=replace(policy, seeds=tuple(range(self.seeds))) if self.seeds else policy)

    @property
    def policies(self) -> tuple[SplitPolicy, ...]:
        """One for each number of labelled participants."""
        return labelled_policies(self.labelled, self.seeds or LABELLED_DRAWS) if self.labelled else ()

    @property
    def leaves_known_out(self) -> bool:
        """Whether participants that a model was trained on are left out instead of refused."""
        return bool(self.labelled or self.leave_out or self.transfer_to)

    def require_fitting(self, task: Task, methods: Sequence[str]) -> None:
        """Refuse what cannot be done.

        Raises
        ------
        InputError
            If the task trains nothing, or a method cannot read windows or two cohorts.
        """
        if task.identification and self != Design():
            options = "--split, --labelled, --leave-out, --transfer-to nor --frames"
            raise InputError(f"{task.name}: nothing is trained, so nobody is left out; give neither {options}.")
        if (self.frames or self.transfer_to) and tuple(methods) != ("probe",):
            raise InputError(f"--method {methods[-1]}: windows as samples, and other cohorts, are read by --method probe alone.")


def whole_runs(target: Target, store: WindowStore) -> Target:
    """A target of windows as one of the runs that they are of, each with the label of its first window, by which people are screened."""
    first: dict[str, int] = {}
    for row, key in enumerate(target.keys):
        first.setdefault(store.origin(key)[0], row)
    return replace(target.take(list(first.values())), keys=tuple(first))


def of_runs(target: Target, store: WindowStore, runs: Target) -> Target:
    """The windows of the runs that were found fit, each with the run that it is of; what was left out since is counted in runs."""
    kept: Collection[str] = set(runs.keys)
    part = target.take([row for row, key in enumerate(target.keys) if store.origin(key)[0] in kept])
    return replace(part, excluded=runs.excluded, runs=np.array([store.origin(key)[0] for key in part.keys], dtype=np.str_))


def leaving_out(column: str, task: Task, screened: Screened, store: Store) -> tuple[Task, Screened]:
    """The task and its labels, each value of a column of participants to be tested by models of all others."""
    policy = SplitPolicy("leave-out", seeds=(0,), column=column)
    return replace(task, policy=policy), replace(screened, target=with_blocks(screened.target, store, column))


@dataclass(frozen=True)
class Screening:
    """How people of a store are found fit to be evaluated.

    Attributes
    ----------
    provenances : Mapping[str, Provenance or None]
        What each model was trained on, by the name the user gave it.
    allow, drop : bool
        As for `leaks.screen`.
    """

    task: Task
    provenances: Mapping[str, Provenance | None]
    design: Design
    allow: bool = False
    drop: bool = False

    def of(self, store: Store) -> tuple[Store, ChannelSeries, Screened]:
        """The store, or its windows, the series of either, and the labels of those who are fit for it."""
        windows = WindowStore(store, self.design.frames) if self.design.frames is not None else None
        target = read_target(self.task, windows) if windows else None
        runs = whole_runs(target, windows) if windows and target else None
        series, known_out = ChannelSeries(store), self.design.leaves_known_out
        screened = screen(store, self.task, self.provenances, self.allow, series, self.drop, runs, others_only=known_out)
        if not windows or not target:
            return store, series, screened
        return windows, ChannelSeries(windows), replace(screened, target=of_runs(target, windows, screened.target))
