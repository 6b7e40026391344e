"""What is predicted: a label for sessions, how it is made, and how it is scored.

`column:NAME` makes a task of any column of `participants.tsv`; `identity` asks whose a session is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import is_missing
from slimbrain.evaluate.probe import DEFAULT_POLICY, Kind, SplitPolicy
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, REGRESSION_METRICS
from slimbrain.store import SessionInfo, Store

COLUMN_PREFIX = "column:"
IDENTITY = "identity"
SITE = "site"
MAX_CLASSES_OF_NUMBERS = 5
"""A numeric column with more distinct values than this is a quantity, not a code for classes."""


@dataclass(frozen=True)
class Task:
    """One declarative entry.

    Attributes
    ----------
    name : what the user types.
    column : column of `participants.tsv` that holds the label.
    kind : None to infer it from the column.
    policy : how subjects are divided.
    strata : further column the folds balance; empty for `site`, where there is one.
    primary : metric that ranks models; empty for the default (`auc` for two classes, `balanced_accuracy` for more, `r2`).
    published : values from the literature, by metric, for the table.
    identification : whether subjects are to be told by their sessions, for which there is no column.
    occasions : the two sessions that identification compares, such as `task-rest_run-1`; those that most subjects have if empty.
    """

    name: str
    column: str
    kind: Kind | None = None
    policy: SplitPolicy = DEFAULT_POLICY
    strata: str = ""
    primary: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    identification: bool = False
    occasions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The labels of a task in one store.

    Attributes
    ----------
    keys : N session keys.
    subjects : (N,) str.
    labels : (N,) class names (str) or values (float64).
    strata : (N,) str, or None.
    excluded : sessions left out, by reason.
    """

    keys: tuple[str, ...]
    subjects: NDArray[np.str_]
    labels: NDArray[Any]
    kind: Kind
    strata: NDArray[np.str_] | None
    excluded: Mapping[str, int]

    @property
    def n_subjects(self) -> int:
        return len(np.unique(self.subjects))


def get_task(name: str, policy: SplitPolicy | None = None) -> Task:
    """The task called `name`.

    Raises
    ------
    InputError
        If there is none.
    """
    kind, *occasions = name.split(":")
    if kind == IDENTITY:
        if len(occasions) not in (0, 2):
            raise InputError(f"{name}: identification compares two sessions; name both, as in {IDENTITY}:task-rest_run-1:task-rest_run-2.")
        return Task(name, "", identification=True, occasions=tuple(occasions))
    column = name.removeprefix(COLUMN_PREFIX)
    if column == name or not column:
        raise InputError(f"{name}: no such task; name a column of participants.tsv, for example {COLUMN_PREFIX}sex, or ask for {IDENTITY}.")
    return Task(name, column, policy=policy or DEFAULT_POLICY)


def read_target(task: Task, store: Store, keys: Sequence[str] | None = None) -> Target:
    """Look up the label of every session, leaving out (and counting) those without one.

    Parameters
    ----------
    keys : sessions to consider, all by default.

    Raises
    ------
    InputError
        If the column does not exist, or fewer than two subjects have a label.
    """
    sessions = store.sessions if keys is None else [store.session(key) for key in keys]
    columns = sorted({name for row in store.participants.values() for name in row} - {"participant_id"})
    if task.column not in columns:
        there = f"has {', '.join(columns)}" if columns else "is missing or empty"
        raise InputError(f"{store.root / 'participants.tsv'}: {there}; task {task.name} needs the column {task.column}.")
    cells = [store.participants.get(session.subject, {}).get(task.column) for session in sessions]
    unlisted = sum(cell is None for cell in cells)
    labelled = [(session, cell) for session, cell in zip(sessions, cells, strict=True) if cell is not None and not is_missing(cell)]
    excluded = {"not in participants.tsv": unlisted, f"{task.column} missing": len(sessions) - unlisted - len(labelled)}
    subjects = np.array([session.subject for session, _ in labelled], dtype=np.str_)
    if len(np.unique(subjects)) < 2:
        raise InputError(f"{store.root}: {len(np.unique(subjects))} subject with a value in {task.column}; at least two are needed.")
    kind, labels = _labels(task, [cell.strip() for _, cell in labelled])
    return Target(
        keys=tuple(session.key for session, _ in labelled),
        subjects=subjects,
        labels=labels,
        kind=kind,
        strata=_strata(task, store, [session for session, _ in labelled]),
        excluded={reason: count for reason, count in excluded.items() if count},
    )


def primary_metric(task: Task, target: Target) -> str:
    """The metric that ranks models: threshold-free for two classes, indifferent to class sizes for more."""
    if task.primary:
        return task.primary
    if target.kind == "regression":
        return REGRESSION_METRICS[0]
    return CLASSIFICATION_METRICS[0] if len(np.unique(target.labels)) == 2 else CLASSIFICATION_METRICS[1]


def _labels(task: Task, cells: Sequence[str]) -> tuple[Kind, NDArray[Any]]:
    """A column of numbers with more than `MAX_CLASSES_OF_NUMBERS` distinct values is a regression, anything else classes."""
    numbers = _numbers(cells)
    many = numbers is not None and len(np.unique(numbers)) > MAX_CLASSES_OF_NUMBERS
    kind: Kind = task.kind or ("regression" if many else "classification")
    if kind == "classification":
        return kind, np.array(cells, dtype=np.str_)
    if numbers is None:
        raise InputError(f"{task.name}: column {task.column} holds text, so it cannot be regressed; correct the column or choose another.")
    return kind, numbers


def _numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _strata(task: Task, store: Store, sessions: Sequence[SessionInfo]) -> NDArray[np.str_] | None:
    """Unbalanced sites cost accuracy and add noise: sex by tangent connectivity of three sites, AUC 0.785 without and 0.804 with."""
    rows = [store.participants[session.subject] for session in sessions]
    names = {name.lower(): name for row in rows for name in row}
    column = task.strata or names.get(SITE, "")
    if not column or column == task.column:
        return None
    return np.array([row.get(column, "") for row in rows], dtype=np.str_)
