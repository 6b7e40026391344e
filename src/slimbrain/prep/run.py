"""Turn the runs of a source into a store: each run by itself, so that one that fails never stops the rest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim
from slimbrain.disk.shards import Shard
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError
from slimbrain.governance.ledger import entries_of, warning
from slimbrain.grid import Grid
from slimbrain.prep.batch import outcomes
from slimbrain.prep.bids_filter import read_bids_filter
from slimbrain.prep.declared import Declared, declare, readmit, renew
from slimbrain.prep.exclusion import EXCLUDED_FILE, ExcludedRun, write_table
from slimbrain.prep.layouts import choose_layout, find_recordings
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.runs import Failure, Filters, Run, file_of
from slimbrain.prep.session import Job, PreparedRun, RunOutcome, died, prepare_run
from slimbrain.prep.timing import TARGET_TR_S
from slimbrain.progress import track
from slimbrain.store import Store
from slimbrain.store.description import DESCRIPTION_FILE
from slimbrain.store.manifest import session_key
from slimbrain.store.participants import PARTICIPANT, PARTICIPANTS_FILE, merge_participants, unmatched
from slimbrain.store.parts import collect_parts, part_names
from slimbrain.store.purge import finish_withdrawals
from slimbrain.store.subjects import with_prefix
from slimbrain.store.verify import sweep
from slimbrain.store.withdrawn import withdrawn

FAILURES_FILE = "failures.tsv"

_PLACE_IN_FILE = re.compile(r" \([^()]*\)$|: line \d+$")
"""What a name in the table of failures has after the file: which of several recordings, or which line."""


@dataclass(frozen=True)
class PrepSummary:
    """What became of every run: now in the store, already there, left out by a limit on quality, or refused.

    Runs of participants who were withdrawn are refused as well, and stand apart: no table of the store may name them.
    """

    prepared: list[PreparedRun] = field(default_factory=list)
    skipped: list[PreparedRun] = field(default_factory=list)
    excluded: list[ExcludedRun] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    withdrawn: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 if a run could not be used; one that the user's limits leave out is what was asked for."""
        return 1 if self.failures or self.withdrawn else 0


def prepare(source: str | Path, out: str | Path, options: PrepOptions | None = None) -> PrepSummary:
    """Prepare every run of a source that the options select.

    Runs whose source files and options are those of the session already stored are skipped, so the same command resumes
    an interrupted batch. Several processes may work on one store: each takes runs that no other has in hand, and waits for
    those at the end. What cannot be used is listed in `OUT/failures.tsv` and on standard error, what a limit on quality leaves
    out in `OUT/excluded.tsv`. Limits hold for the whole store: a stored session that is beyond one is taken out of it.
    With `shard`, only that part of the runs is prepared, and `collect` has to list the sessions of all parts.

    Parameters
    ----------
    source : str or Path
        A folder or file in one of the layouts of `slimbrain.prep.layouts`.
    out : str or Path
        Store to make or to add to.
    options : PrepOptions or None
        Which runs, and what is made of them; all runs at 2 mm if None.

    Returns
    -------
    PrepSummary
        Runs that were `prepared`, `skipped`, `excluded`, refused (`failures`) or `withdrawn`. A run that fails does not stop the others.

    Raises
    ------
    InputError
        If there is nothing to prepare.
    StoreError, ContractError
        If the store cannot be written, or was made with another mask or resolution.

    Examples
    --------
    >>> from slimbrain.prep import PrepOptions, prepare
    >>> summary = prepare("fmriprep", "prepared", PrepOptions(resolution="8mm"))
    >>> [run.key for run in summary.prepared], summary.failures
    (['sub-001_task-rest_space-MNI152NLin6Asym'], [])
    """
    batch = _Batch.of(Path(source), Path(out), options or PrepOptions())
    summary = _ready_store(batch)

    def waits(number: int) -> None:
        _say(f"{out}: another process prepares {number} of these runs; waiting for it.")

    jobs = batch.jobs(batch.runs)
    shorter, nprocs = "more processes (--nprocs), or fewer participants at first (--participant-label)", batch.options.nprocs
    for outcome in track(outcomes(jobs, prepare_run, died, waits, nprocs), "prep", len(jobs), shorter, nprocs):
        _report(outcome)
        getattr(summary, outcome.kind).append(outcome.value)
    _write_tables(batch, summary)
    return summary


@dataclass(frozen=True)
class _Batch:
    """What one command has to do.

    Attributes
    ----------
    out : Path
        The store.
    options : PrepOptions
        As given.
    layout : Layout
        How the source is laid out.
    found : Recordings
        All runs of the source that the options select.
    shard : Shard
        Which of them are this command's.
    declared : Declared
        Terms of the data.
    runs : list of Run
        This command's runs, with all that belongs to them.
    unusable : list of Failure
        What cannot be used.
    """

    out: Path
    options: PrepOptions
    layout: Layout
    found: Recordings
    shard: Shard
    declared: Declared
    runs: list[Run]
    unusable: list[Failure]

    @classmethod
    def of(cls, source: Path, out: Path, options: PrepOptions) -> _Batch:
        """Find the runs; nothing is written."""
        layout = choose_layout(source, options.layout)
        found = find_recordings(source, layout, query_of(options))
        shard = Shard.parse(options.shard) if options.shard else Shard(1, 1)
        return cls(out, options, layout, found, shard, declare(found.root, options), *own_runs(layout, found, shard))

    @property
    def part(self) -> str:
        """Under which name this command lists its sessions by itself; empty where it is the whole."""
        return self.shard.name if self.shard.of > 1 else ""

    def jobs(self, runs: Sequence[Run]) -> list[Job]:
        return [Job(self.found.root, self.out, run, self.options, self.declared, self.part) for run in runs]


def _ready_store(batch: _Batch) -> PrepSummary:
    """Open or make the store, tidy it and bring participants in; what cannot be used starts the summary."""
    _open_store(batch)
    if not batch.part or any(batch.shard.of != Shard.of_name(name) for name in part_names(batch.out)):
        # What other shards than these listed would be prepared again, and its terms forgotten.
        collect(batch.out)
    if batch.options.readmit:
        # Whoever is named need not be in this shard.
        cohorts = {f"sub-{job.run.entities['sub']}": job.terms.known_cohort for job in batch.jobs(batch.found.runs)}
        readmit(batch.out, batch.options.readmit, cohorts)
    summary = PrepSummary(failures=list(batch.unusable))
    if batch.shard.number == 1:
        summary.failures.extend(_merge_participants(batch))
    for failure in summary.failures:
        _say(failure.reason)
    return summary


def _write_tables(batch: _Batch, summary: PrepSummary) -> None:
    """Bring terms and the tables of the store up to what this command found."""
    _renew_terms(batch, summary)
    for rows in _all(summary):
        rows.sort(key=lambda row: row.file)
    with claim(batch.out, EXCLUDED_FILE, wait=True):
        write_table(batch.out)
    _record_failures(batch.found.root, batch.out, summary)
    store = Store(batch.out, batch.part)
    if unknown := warning(entries_of(store, store.sessions)):
        _say(unknown)


def collect(out: Path) -> int:
    """Tidy a store: list what shards prepared in its manifest, remove what killed processes left, finish withdrawals.

    Returns
    -------
    int
        How many sessions were listed.

    Raises
    ------
    StoreError
        If `out` is no store, or cannot be written.
    """
    listed = collect_parts(Store(out).root)
    sweep(out)
    finish_withdrawals(out)
    return listed


def own_runs(layout: Layout, found: Recordings, shard: Shard) -> tuple[list[Run], list[Failure]]:
    """The runs of this part of the batch with all that belongs to them, and what cannot be used."""
    runs, doubles = _without_doubles(found.root, found.runs)
    if shard.of > 1:
        runs = shard.take(runs, [bytes_of(run) for run in runs])
    described, damaged = layout.describe(found.root, runs)
    # What belongs to no run is the first shard's.
    return described, [*damaged, *([*found.failures, *doubles] if shard.number == 1 else ())]


def bytes_of(run: Run) -> int:
    """What a run weighs when shards are made: its image, since reading it is most of the work."""
    try:
        return run.image.stat().st_size
    except OSError:
        return 0


def query_of(options: PrepOptions) -> RecordingQuery:
    """What the options ask of a layout."""
    entities = read_bids_filter(options.bids_filter_file) if options.bids_filter_file else {}
    filters = Filters(options.participant_label, options.session_id, options.task_id, options.space, options.res, entities)
    return RecordingQuery(filters, options.mask_source, options.channels, options.atlas)


def _open_store(batch: _Batch) -> None:
    out, options = batch.out, batch.options
    if batch.layout.regions and (out / DESCRIPTION_FILE).exists():
        # Region-of-interest sessions live beside voxel sessions; the store checks their TR as it writes them.
        Store(out)
        return
    grid = None
    if not batch.layout.regions:
        grid = Grid.from_nifti(options.mask, options.resolution) if options.mask else Grid.mni152(options.resolution)
    Store.create(out, grid, TARGET_TR_S, sources=[batch.found.root.resolve().as_uri()])


def _without_doubles(root: Path, runs: list[Run]) -> tuple[list[Run], list[Failure]]:
    """Keep the first of runs whose names differ only by entities that a session's name does not carry."""
    first: dict[str, Run] = {}
    failures = []
    for run in runs:
        taken = first.setdefault(session_key(run.entities), run)
        if taken is not run:
            other = f"{taken.image.name} ({taken.place})" if taken.place else taken.image.name
            reason = f"{run.name}: would be stored under the same name as {other}; keep one of them in the tree."
            failures.append(Failure(file_of(root, run), reason))
    return list(first.values()), failures


def _renew_terms(batch: _Batch, summary: PrepSummary) -> None:
    """Put what was there already under what is said now; a session whose terms clash with it is a failure."""
    clashes = renew(batch.out, [row.key for row in summary.skipped], batch.declared, batch.part)
    for row in [row for row in summary.skipped if row.key in clashes]:
        summary.skipped.remove(row)
        summary.failures.append(Failure(row.file, f"{row.file}: {clashes[row.key]}"))
        _say(summary.failures[-1].reason)


def _merge_participants(batch: _Batch) -> list[Failure]:
    """Add the source's participants and their columns to the store's; a table that cannot be used costs itself alone."""
    source, rows = batch.found.root / PARTICIPANTS_FILE, batch.found.participants
    if rows is None and not source.is_file():
        return []
    # The runs tell the cohort: who was withdrawn is not added.
    gone, cohort = withdrawn(batch.out), next((job.terms.known_cohort for job in batch.jobs(batch.runs[:1])), "")
    try:
        told = batch.found.read_participants()
    except InputError as error:
        return [Failure(PARTICIPANTS_FILE, str(error))]
    living = [row for row in told if not gone.find(with_prefix(row[PARTICIPANT]), cohort)]
    merge_participants(batch.out, living)
    if rows is None:
        _warn_of_unmatched(batch, source, {row[PARTICIPANT] for row in living})
    return []


def _warn_of_unmatched(batch: _Batch, source: Path, people: set[str]) -> None:
    """Say which rows of the source's table match no run and which runs match no row."""
    gone = withdrawn(batch.out)
    subjects = {label for run in batch.found.runs if not gone.find(label := f"sub-{run.entities['sub']}", "")}
    # Who asked for some participants knows that the others are not among them.
    chosen = people & subjects if batch.options.participant_label else people
    for line in unmatched(chosen, subjects):
        _say(f"warning: {source}: {line}")


def _all(summary: PrepSummary) -> list[list[Any]]:
    return [summary.prepared, summary.skipped, summary.excluded, summary.failures, summary.withdrawn]


def _record_failures(root: Path, out: Path, summary: PrepSummary) -> None:
    """Write the table of failures; rows of this source that another command, or process, met and this one did not look at stay."""
    seen = {row.file for rows in _all(summary) for row in rows}
    with claim(out, FAILURES_FILE, wait=True):
        earlier = read_tsv(out / FAILURES_FILE) if (out / FAILURES_FILE).is_file() else []
        others = [row for row in earlier if (file := row.get("file")) and file not in seen and _is_there(root, file)]
        rows = sorted([*others, *map(vars, summary.failures)], key=lambda row: str(row["file"]))
        write_text(out / FAILURES_FILE, format_tsv(("file", "reason"), rows))


def _is_there(root: Path, file: str) -> bool:
    return os.path.lexists(root / file) or os.path.lexists(root / _PLACE_IN_FILE.sub("", file))


def _report(outcome: RunOutcome) -> None:
    if isinstance(outcome.value, Failure):
        _say(outcome.value.reason)
    elif isinstance(outcome.value, ExcludedRun):
        for breach in outcome.value.breaches:
            _say(f"excluded: {breach.reason}")
    else:
        for warning in outcome.value.warnings:
            _say(f"warning: {warning}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
