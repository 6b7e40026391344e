"""What is predicted: a label for sessions, how it is made, and how it is scored.

`column:NAME` makes a task of any column of `participants.tsv`, or of the table of sessions (`column:task`); `events` asks what the
participant was doing, `identity` whose a session is; the benchmarks are in `evaluate.registry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.groups import bound_together
from slimbrain.evaluate.labels import Labelled, LeftOut
from slimbrain.evaluate.phenotypes import Cohort, Phenotypes, Row, age_in_years, cell, collect, column_key, is_missing, read_phenotypes
from slimbrain.evaluate.registry import ENTRIES, Benchmark, TaskKind
from slimbrain.evaluate.result import Grouping
from slimbrain.evaluate.splits import DEFAULT_POLICY, SplitPolicy
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, IDENTIFICATION_METRICS, REGRESSION_METRICS
from slimbrain.evaluate.window_store import WindowStore
from slimbrain.store import SessionInfo
from slimbrain.store.participants import PARTICIPANTS_FILE

_COLUMN_PREFIX = "column:"
_PARTICIPANT = "participant_id"
_RESTING = "rest"
"""What the task of a resting run is called, with more around it (HCP: REST1, REST2)."""

IDENTITY = "identity"
EVENTS = "events"
_RUN_COLUMNS = ("task", "session", "run")
"""Columns of the table of sessions that name states or occasions, beside those of quality."""
_TRIAL_TYPE = "trial_type"
_SITE = "site"
_MAX_CLASSES_OF_NUMBERS = 5
"""A numeric column with more distinct values than this is a quantity, not a code for classes."""


@dataclass(frozen=True)
class Task:
    """One declarative entry.

    Attributes
    ----------
    name : str
        What the user types.
    column : str
        Column of `participants.tsv` that holds the label; empty for a benchmark.
    kind : TaskKind or None
        None to infer it from the column.
    policy : SplitPolicy
        How subjects are divided.
    strata : str
        Further column of `participants.tsv` the folds balance; empty for `site`, where there is one.
    primary : str
        Metric that ranks models; empty for the default (`auc` for two classes, `balanced_accuracy` for more, `r2`).
    published : Mapping[str, float]
        Values from the literature, by metric, for the table.
    entry : Benchmark or None
        The benchmark, which says how labels are made; None for a column.
    phenotypes : tuple[Path, ...]
        The benchmark's phenotype files; `participants.tsv` is read if there are none.
    group : str
        Column of `participants.tsv` whose values bind participants together; for a benchmark the cohort says which.
    occasions : tuple[str, ...]
        The two sessions that identification compares, such as `task-rest_run-1`; those that most subjects have if empty.
    """

    name: str
    column: str
    kind: TaskKind | None = None
    policy: SplitPolicy = DEFAULT_POLICY
    strata: str = ""
    primary: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    entry: Benchmark | None = None
    phenotypes: tuple[Path, ...] = ()
    group: str = ""
    occasions: tuple[str, ...] = ()

    @property
    def hidden(self) -> tuple[str, ...]:
        """Confounds that would give the label away."""
        return self.entry.hides if self.entry else (self.column,)

    @property
    def identification(self) -> bool:
        """Whether subjects are to be told by their sessions, for which there is no column."""
        return self.kind == "identification"


class LabelSource(Protocol):
    """What labels are looked up in: a store, or what a source tells of its runs before they are prepared."""

    @property
    def root(self) -> Path:
        """Folder of `participants.tsv`."""

    @property
    def sessions(self) -> Sequence[SessionInfo]:
        """The sessions."""

    @property
    def participants(self) -> Mapping[str, Mapping[str, str]]:
        """Columns by participant."""


@dataclass(frozen=True)
class Target:
    """The labels of a task in one store.

    Attributes
    ----------
    keys : tuple[str, ...]
        N session keys.
    subjects : ndarray of str
        (N,) str.
    labels : ndarray
        (N,) class names (str) or values (float64); for identification the subjects.
    strata : ndarray of str or None
        (N,) str, or None.
    excluded : Mapping[str, int]
        Sessions left out, by reason.
    known : tuple[Mapping[str, str], ...]
        Age, sex and site of each session's participant where a phenotype file tells them; empty for a column.
    groups : ndarray of str or None
        (N,) str, which participants stay on one side of every split; None where nothing binds them.
    bound : Grouping or None
        By which columns they are bound; None where nothing binds participants.
    blocks : ndarray of str or None
        (N,) str, what is left out in turn, or the side of a transfer (`slimbrain.evaluate.held_out`).
    runs : ndarray of str or None
        (N,) str, the run that each is a window of (`slimbrain.evaluate.window_store`); None where sessions are whole.
    """

    keys: tuple[str, ...]
    subjects: NDArray[np.str_]
    labels: NDArray[Any]
    kind: TaskKind
    strata: NDArray[np.str_] | None
    excluded: Mapping[str, int]
    known: tuple[Mapping[str, str], ...] = ()
    groups: NDArray[np.str_] | None = None
    bound: Grouping | None = None
    blocks: NDArray[np.str_] | None = None
    runs: NDArray[np.str_] | None = None

    @property
    def n_subjects(self) -> int:
        return len(np.unique(self.subjects))

    def without(self, keys: Collection[str], reason: str) -> Target:
        """Labels of the other sessions; these are counted under a reason."""
        rows = [row for row, key in enumerate(self.keys) if key not in keys]
        if len(rows) == len(self.keys):
            return self
        return replace(self.take(rows), excluded={**self.excluded, reason: len(self.keys) - len(rows)})

    def take(self, rows: Sequence[int]) -> Target:
        """Labels of some sessions, in this order."""
        at = np.array(rows, dtype=np.int64)
        strata, groups, blocks, runs = (None if each is None else each[at] for each in (self.strata, self.groups, self.blocks, self.runs))
        bound = self.bound if groups is None or self.bound is None else Grouping(by=self.bound.by, count=len(np.unique(groups)))
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            subjects=self.subjects[at],
            labels=self.labels[at],
            strata=strata,
            known=tuple(self.known[row] for row in rows) if self.known else (),
            groups=groups,
            bound=bound,
            blocks=blocks,
            runs=runs,
        )

    @property
    def classes(self) -> dict[str, int]:
        """Subjects of each class, or sessions of each where a subject has several; empty where there are no classes."""
        if self.kind != "classification":
            return {}
        if self.runs is not None and any(len(set(self.labels[self.subjects == who])) > 1 for who in np.unique(self.subjects)):
            return dict(sorted(Counter(map(str, self.labels.tolist())).items()))
        pairs = set(zip(self.subjects.tolist(), map(str, self.labels.tolist()), strict=True))
        return dict(sorted(Counter(label for _, label in pairs).items()))


def get_task(
    name: str,
    policy: SplitPolicy | None = None,
    phenotypes: Sequence[str | Path] = (),
    group: str = "",
    source: LabelSource | None = None,
) -> Task:
    """The task called `name`.

    Parameters
    ----------
    policy : SplitPolicy or None
        How subjects are divided; five folds for a column and the published 70/10/20 for a benchmark by default.
    phenotypes : Sequence[str or Path], default ()
        Files of the benchmark's cohort.
    group : str, default ''
        Column of `participants.tsv` whose values bind participants together, family say; for tasks on a column.
    source : LabelSource or None
        Whose columns a message about a name that is no task may suggest.

    Raises
    ------
    InputError
        If there is none, or it reads no phenotype file, or takes no groups.
    """
    paths = tuple(Path(path) for path in phenotypes)
    if group and not name.startswith(_COLUMN_PREFIX):
        raise InputError(f"{name}: takes no --group: who belongs together is in the phenotype files, or nothing is split; leave it out.")
    if entry := ENTRIES.get(name):
        if paths and not entry.columns:
            raise InputError(f"{name}: reads no phenotype file; leave --phenotypes out.")
        policy = policy or SplitPolicy("70/10/20", seeds=entry.seeds)
        return Task(name, "", entry.kind, policy, "", entry.primary, entry.published, entry, paths)
    if paths:
        raise InputError(f"{name}: reads participants.tsv of the store and no phenotype file; leave --phenotypes out.")
    word, *occasions = name.split(":")
    if word == IDENTITY:
        if len(occasions) not in (0, 2):
            raise InputError(f"{name}: identification compares two sessions; name both, as in {IDENTITY}:task-rest_run-1:task-rest_run-2.")
        return Task(name, "", "identification", occasions=tuple(occasions))
    if name == EVENTS:
        return Task(name, _TRIAL_TYPE, "classification", policy or DEFAULT_POLICY)
    column = label_name(name)
    if column == name or not column:
        columns = {word: f"{_COLUMN_PREFIX}{word}" for word in (_columns(source) if source else ())}
        tasks = (*ENTRIES, IDENTITY, EVENTS, *columns.values())
        if meant := _closest(name, {**dict(zip(tasks, tasks, strict=True)), **columns}):
            raise InputError(f"{name}: no such task; {meant} was probably meant.")
        raise InputError(
            f"{name}: no such task; name a column of participants.tsv, for example {_COLUMN_PREFIX}sex, ask for {IDENTITY} or {EVENTS}, "
            f"or for a benchmark: {', '.join(ENTRIES)} (`slimbrain evaluate --list`)."
        )
    return Task(name, column, policy=policy or DEFAULT_POLICY, group=group)


def label_name(task: str) -> str:
    """What a task predicts, in words: the column of `column:sex` is sex; other tasks are called by their own names."""
    return task.removeprefix(_COLUMN_PREFIX)


def read_target(task: Task, store: LabelSource, sessions: Sequence[SessionInfo] | None = None) -> Target:
    """Look up the label of every session, leaving out (and counting) those without one.

    Parameters
    ----------
    store : LabelSource
        A store, or the roster of a source (`slimbrain.prep.roster`).
    sessions : Sequence[SessionInfo] or None
        Which of them to consider, all by default.

    Raises
    ------
    InputError
        If the column does not exist, or fewer than two subjects have a label.
    """
    sessions = store.sessions if sessions is None else sessions
    if task.kind == "identification":
        return _read_identities(task, store, sessions)
    if task.entry:
        return _read_benchmark(task, task.entry, store, sessions)
    return _read_column(task, store, sessions)


def _read_column(task: Task, store: LabelSource, sessions: Sequence[SessionInfo]) -> Target:
    cells = _cells(task, store, sessions)
    unlisted = sum(cell is None for cell in cells)
    labelled = [(session, cell) for session, cell in zip(sessions, cells, strict=True) if cell is not None and not is_missing(cell)]
    lacking = "no event that fills half of the window" if task.name == EVENTS else f"{task.column} missing"
    excluded = {"not in participants.tsv": unlisted, lacking: len(sessions) - unlisted - len(labelled)}
    subjects = _subjects(store, [session for session, _ in labelled], f"a value in {task.column}")
    kind, labels = _labels(task, [cell.strip() for _, cell in labelled])
    if kind == "classification":
        _require_one_spelling(store, task, subjects, labels)
    marks = {subject: [mark] for subject in subjects if not is_missing(mark := store.participants.get(subject, {}).get(task.group, ""))}
    groups, bound = _groups(subjects, marks, task.group)
    return Target(
        keys=tuple(session.key for session, _ in labelled),
        subjects=subjects,
        labels=labels,
        kind=kind,
        strata=_strata(task, store, [session for session, _ in labelled]),
        excluded={reason: count for reason, count in excluded.items() if count},
        groups=groups,
        bound=bound,
    )


def _cells(task: Task, store: LabelSource, sessions: Sequence[SessionInfo]) -> list[str | None]:
    """What each session has in the task's column: its participant's cell, or that of the session's own row; None for who is not listed."""
    if task.name == EVENTS:
        if not isinstance(store, WindowStore):
            raise InputError(f"{task.name}: events are shorter than runs; say with --frames how long the windows are that are told apart.")
        return [store.event_of(session.key) for session in sessions]
    columns = _columns(store)
    further = {name for session in sessions for name in session.qc} | set(_RUN_COLUMNS)
    for column in filter(None, (task.column, task.group)):
        if column not in columns and (column == task.group or column not in further):
            there = f"has {', '.join(columns)}" if columns else "is missing or tells nothing of anybody"
            meant = _closest(column, {name: name for name in (columns if column == task.group else {*columns, *further})})
            hint = f"; {meant if column == task.group else f'{_COLUMN_PREFIX}{meant}'} was probably meant." if meant else "."
            raise InputError(f"{store.root / PARTICIPANTS_FILE}: {there}; task {task.name} needs the column {column}{hint}")
    if task.column in columns:
        return [store.participants.get(session.subject, {}).get(task.column) for session in sessions]
    if task.column in _RUN_COLUMNS:
        return [str(getattr(session, task.column)) for session in sessions]
    return [session.qc.get(task.column, "") for session in sessions]


def _columns(source: LabelSource) -> list[str]:
    """What is known of participants."""
    return sorted({name for row in source.participants.values() for name in row} - {_PARTICIPANT})


def _closest(name: str, words: Mapping[str, str]) -> str:
    """What was probably meant, by the words it may be typed as; empty if nothing is like it."""
    lower = {word.lower(): meant for word, meant in words.items()}
    close = get_close_matches(name.lower(), lower, n=1)
    return lower[close[0]] if close else ""


def _groups(subjects: NDArray[np.str_], marks: Mapping[str, Sequence[str]], by: str) -> tuple[NDArray[np.str_] | None, Grouping | None]:
    """The group of every session's participant, and what the result says of it; nothing where nothing could bind them."""
    if not by:
        return None, None
    if not any(marks.values()):
        return None, Grouping(by=by, count=None)
    groups = np.array(bound_together(subjects.tolist(), marks), dtype=np.str_)
    return groups, Grouping(by=by, count=len(np.unique(groups)))


def _read_identities(task: Task, store: LabelSource, sessions: Sequence[SessionInfo]) -> Target:
    """Sessions (for a benchmark resting ones) of participants who have two or more; the participant is the label."""
    resting = [session for session in sessions if not task.entry or _RESTING in session.task.casefold() or not session.task]
    counts = Counter(session.subject for session in resting)
    kept = [session for session in resting if counts[session.subject] > 1]
    excluded = {"not a resting run": len(sessions) - len(resting), "participant has one session": len(resting) - len(kept)}
    subjects = _subjects(store, kept, "two resting sessions" if task.entry else "two sessions")
    keys = tuple(session.key for session in kept)
    return Target(keys, subjects, subjects, "identification", None, {reason: count for reason, count in excluded.items() if count})


def _read_benchmark(task: Task, entry: Benchmark, store: LabelSource, sessions: Sequence[SessionInfo]) -> Target:
    assert entry.label is not None
    table = _phenotypes(task, entry, store)
    if sessions and not any(table.of(session.subject) for session in sessions):
        listed = ", ".join(list(table.rows)[:3])
        raise InputError(
            f"{table.files}: lists none of the {len({session.subject for session in sessions})} participants of {store.root} "
            f"(there {sessions[0].subject}, here {listed}); give the file of this cohort, or rename the participants."
        )
    kept: list[tuple[SessionInfo, str | float, Row]] = []
    excluded: Counter[str] = Counter()
    first: dict[str, Labelled] = {}
    for session in sessions:
        # A file of relatives has lines of the same participants, without the columns of the label.
        rows = [row for row in table.of(session.subject) if any(column_key(name) in row for name in entry.columns)]
        label = entry.label(rows, session) if rows else LeftOut("not in the phenotype file")
        if not isinstance(label, LeftOut) and label != first.setdefault(session.subject, label):
            label = LeftOut("label differs from that of the participant's first session")
        if isinstance(label, LeftOut):
            excluded[label.reason] += 1
        else:
            kept.append((session, label, rows[0]))
    told = f"; left out: {', '.join(f'{count} {reason}' for reason, count in excluded.items())}" if excluded else ""
    infos = [session for session, _, _ in kept]
    subjects = _subjects(store, infos, f"a label for {task.name}", told)
    sites = [cell(row, entry.cohort.site) for _, _, row in kept]
    marks = {subject: _marks(entry, table.of(subject)) for subject in np.unique(subjects).tolist()}
    groups, bound = _groups(subjects, marks, ", ".join(entry.cohort.relatives))
    return Target(
        keys=tuple(info.key for info in infos),
        subjects=subjects,
        labels=np.array([label for _, label, _ in kept], dtype=np.float64 if entry.kind == "regression" else np.str_),
        kind=entry.kind,
        strata=np.array(sites, dtype=np.str_) if any(sites) else None,
        excluded=dict(excluded),
        known=tuple(_known(entry, row) for _, _, row in kept),
        groups=groups,
        bound=bound,
    )


def _marks(entry: Benchmark, rows: Sequence[Row]) -> list[str]:
    """What a participant may share with relatives."""
    return [f"{column} {value}" for column in entry.cohort.relatives for row in rows if (value := cell(row, column))]


def _phenotypes(task: Task, entry: Benchmark, store: LabelSource) -> Phenotypes:
    """The benchmark's files, or the store's participants.tsv where that has the columns."""
    cohort = entry.cohort
    if task.phenotypes:
        table = read_phenotypes(cohort, task.phenotypes)
        ask = f"give {cohort.file} of {cohort.title} ({cohort.where})"
    else:
        rows = [{**_with_official_names(row, cohort), _PARTICIPANT: name} for name, row in store.participants.items()]
        table = collect(replace(cohort, ids=(_PARTICIPANT,), prefixes=("sub", *cohort.prefixes)), rows, str(store.root / PARTICIPANTS_FILE))
        table = replace(table, cohort=cohort)
        ask = f"name {cohort.file} with --phenotypes (from {cohort.where})"
    lacking = [name for name in entry.columns if column_key(name) not in table.columns]
    if lacking:
        raise InputError(f"{table.files}: has no column {', '.join(lacking)}, which task {task.name} reads; {ask}.")
    return table


def _with_official_names(row: Mapping[str, str], cohort: Cohort) -> dict[str, str]:
    """Cells of a row of participants.tsv by `column_key`, those that BIDS names otherwise also under the names of the cohort's own file."""
    cells = {column_key(name): text for name, text in row.items()}
    return {column_key(name): cells[bids] for name, bids in cohort.bids.items() if bids in cells} | cells


def _known(entry: Benchmark, row: Row) -> dict[str, str]:
    """What baselines may use of a participant, under the names they know."""
    cohort = entry.cohort
    told = {"age": age_in_years(cell(row, cohort.age)), "sex": cell(row, cohort.sex), "site": cell(row, cohort.site)}
    return {name: text for name, text in told.items() if text}


def _subjects(store: LabelSource, sessions: Sequence[SessionInfo], having: str, told: str = "") -> NDArray[np.str_]:
    subjects = np.array([session.subject for session in sessions], dtype=np.str_)
    if len(np.unique(subjects)) < 2:
        raise InputError(f"{store.root}: {len(np.unique(subjects))} subject with {having}; at least two are needed{told}.")
    return subjects


def primary_metric(task: Task, target: Target) -> str:
    """The metric that ranks models: threshold-free for two classes, indifferent to class sizes for more."""
    if task.primary:
        return task.primary
    if target.kind == "regression":
        return REGRESSION_METRICS[0]
    if target.kind == "identification":
        return IDENTIFICATION_METRICS[0]
    return CLASSIFICATION_METRICS[0] if len(np.unique(target.labels)) == 2 else CLASSIFICATION_METRICS[1]


def _labels(task: Task, cells: Sequence[str]) -> tuple[TaskKind, NDArray[Any]]:
    """A column of numbers with more than `_MAX_CLASSES_OF_NUMBERS` distinct values is a regression, anything else classes."""
    numbers = _numbers(cells)
    many = numbers is not None and len(np.unique(numbers)) > _MAX_CLASSES_OF_NUMBERS
    kind: TaskKind = task.kind or ("regression" if many else "classification")
    if kind == "classification":
        return kind, np.array(cells, dtype=np.str_)
    if numbers is None:
        raise InputError(f"{task.name}: column {task.column} holds text, so it cannot be regressed; correct the column or choose another.")
    return kind, numbers


def _require_one_spelling(store: LabelSource, task: Task, subjects: NDArray[np.str_], labels: NDArray[Any]) -> None:
    """Refuse classes that differ only in case, blanks, or how a number is written: they would be predicted from each other.

    Raises
    ------
    InputError
        If there are any; all spellings are named, with how many participants have each.
    """
    counts = Counter(label for _, label in set(zip(subjects.tolist(), labels.tolist(), strict=True)))
    spellings: dict[str | float, list[str]] = {}
    for label in sorted(counts, key=lambda text: (text.casefold(), text.swapcase())):
        number = _numbers([label])
        spellings.setdefault(" ".join(label.casefold().split()) if number is None else float(number[0]), []).append(label)
    several = [label for group in spellings.values() if len(group) > 1 for label in group]
    if several:
        told = ", ".join(f"{label!r} ({counts[label]} participant{'' if counts[label] == 1 else 's'})" for label in several)
        where = store.root / PARTICIPANTS_FILE
        raise InputError(f"{where}: column {task.column} spells one class in several ways, {told}; write each class in one way.")


def _numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _strata(task: Task, store: LabelSource, sessions: Sequence[SessionInfo]) -> NDArray[np.str_] | None:
    """Unbalanced sites cost accuracy and add noise: sex by tangent connectivity of three sites, AUC 0.785 without and 0.804 with."""
    rows = [store.participants.get(session.subject, {}) for session in sessions]
    names = {name.lower(): name for row in rows for name in row}
    column = task.strata or names.get(_SITE, "")
    if not column or column == task.column:
        return None
    return np.array([row.get(column, "") for row in rows], dtype=np.str_)
