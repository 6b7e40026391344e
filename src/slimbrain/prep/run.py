"""Turn the runs of a source into a store: each run by itself, so that one that fails never stops the rest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from slimbrain.atomic import write_text
from slimbrain.claims import claim
from slimbrain.description import DESCRIPTION_FILE
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.gather import PARTICIPANT, merge_participants
from slimbrain.governance import Governance, keep_records
from slimbrain.grid import Grid
from slimbrain.ledger import entries_of, warning
from slimbrain.manifest import SessionInfo, session_key
from slimbrain.parts import collect_parts, part_names
from slimbrain.prep.batch import outcomes
from slimbrain.prep.bids import read_events, read_table
from slimbrain.prep.bids_filter import read_bids_filter
from slimbrain.prep.declared import Declared, declare, readmit, renew
from slimbrain.prep.denoise import Confounds, Strategy, load_confounds
from slimbrain.prep.exclusion import EXCLUDED_FILE, ExcludedRun, Limits, drop_record, judge, read_record, write_record, write_table
from slimbrain.prep.layouts import AUTO, choose_layout, find_recordings
from slimbrain.prep.layouts.base import Layout, Request
from slimbrain.prep.likeness import template_likeness
from slimbrain.prep.quality import assess
from slimbrain.prep.roi import prepare_roi
from slimbrain.prep.runs import Failure, Filters, RoiSeries, Run
from slimbrain.prep.source import TR_TOLERANCE_S, Source, Timed, repetition_time
from slimbrain.prep.volume import TARGET_TR_S, TimeAxis, prepare_image, require_length
from slimbrain.progress import track
from slimbrain.purge import finish_withdrawals
from slimbrain.shards import Shard
from slimbrain.store import COHORT, PARTICIPANTS_FILE, Store, sha256
from slimbrain.subjects import with_prefix
from slimbrain.tombstones import refusal, withdrawn
from slimbrain.tsv import format_tsv, read_tsv
from slimbrain.verify import sweep

FAILURES_FILE = "failures.tsv"
SOURCE_SHA256 = "SourceSha256"
"""Field of the sidecar: SHA-256 of every file that was read, by its name below the source. It stays in the store: the sum of a public file
would tell whose it is."""

MAX_NAMED = 5
"""Channels that a warning names; the rest it counts."""

PLACE_IN_FILE = re.compile(r" \([^()]*\)$|: line \d+$")
"""What a name in the table of failures has after the file: which of several recordings, or which line."""


class PrepOptions(Limits):
    """What `slimbrain prep` lets one choose."""

    layout: str = Field(AUTO, description="how the source is laid out; recognised if auto")
    participant_label: tuple[str, ...] = Field((), description="only these participants, with or without `sub-`")
    session_id: tuple[str, ...] = Field((), description="only these sessions, with or without `ses-`")
    task_id: tuple[str, ...] = Field((), description="only these tasks, with or without `task-`")
    space: str | None = Field(None, description="only images in this template, for example MNI152NLin6Asym")
    res: str | None = Field(None, description="only images with this `res` in their BIDS name, for example 2")
    bids_filter_file: Path | None = Field(None, description="fMRIPrep's JSON of entities to take")
    mask_source: Path | None = Field(None, description="mask whose voxels a Brainmarks file lists")
    channels: str | None = Field(None, description="table of region names and places, or `none` where nobody knows them")
    resolution: Literal["2mm", "4mm", "8mm"] = "2mm"
    mask: Path | None = Field(None, description="brain mask in MNI space; nilearn's MNI152 mask if not given")
    tr: float | None = Field(None, gt=0, description="seconds a frame, where neither sidecar nor header says")
    window_frames: int = Field(8, ge=1, description="a run shorter than one window is refused")
    warn_coverage: float = Field(0.95, ge=0, le=1, description="share of the mask under which a run is kept with a warning")
    denoise: Strategy = Field("none", description="nuisance regression with fMRIPrep's confounds")
    nprocs: int = Field(1, ge=1, description="runs worked on at once")
    force: bool = Field(False, description="prepare again what the store already has")
    shard: str | None = Field(None, description="only this part of the runs, such as 3/16; `collect` lists what all parts prepared")
    governance: Path | None = Field(None, description="governance.yaml of the source; the one at its root if not given")
    cohort: str | None = Field(None, description="study that the participants are of")
    source_id: str | None = Field(None, description="where the data were got, for example a DOI")
    license: str | None = Field(None, description="SPDX id of the licence, or the name of a use agreement")
    consent: tuple[str, ...] = Field((), description="scopes of the participants' consent")
    not_for: tuple[str, ...] = Field((), description="who may not see the data")
    readmit: tuple[str, ...] = Field((), description="participants who were withdrawn and agreed anew, with or without `sub-`")


@dataclass(frozen=True)
class PreparedRun:
    """A run that is in the store.

    Attributes
    ----------
    file : its image, relative to the source.
    key : its session in the store.
    warnings : what the user should know about it.
    """

    file: str
    key: str
    warnings: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class _Job:
    root: Path
    out: Path
    run: Run
    options: PrepOptions
    declared: Declared
    part: str = ""

    @property
    def key(self) -> str:
        return session_key(self.run.entities)

    @property
    def terms(self) -> Governance:
        """What is said of the run's terms now."""
        return self.declared.of(self.root, self.run.record.get("Layout", ""))

    @property
    def file(self) -> str:
        return _file(self.root, self.run)


@dataclass(frozen=True)
class _Outcome:
    kind: Literal["prepared", "skipped", "excluded", "failures", "withdrawn"]
    value: PreparedRun | ExcludedRun | Failure


def prepare(source: str | Path, out: str | Path, options: PrepOptions | None = None) -> PrepSummary:
    """Prepare every run of a source that the options select.

    Runs whose source files and options are those of the session already stored are skipped, so the same command resumes
    an interrupted batch. Several processes may work on one store: each takes runs that no other has in hand, and waits for
    those at the end. What cannot be used is listed in `OUT/failures.tsv` and on standard error, what a limit on quality leaves
    out in `OUT/excluded.tsv`. Limits hold for the whole store: a stored session that is beyond one is taken out of it.
    With `shard`, only that part of the runs is prepared, and `collect` has to list the sessions of all parts.

    Parameters
    ----------
    source : a folder or file in one of the layouts of `slimbrain.prep.layouts`.
    out : store to make or to add to.

    Raises
    ------
    InputError
        If there is nothing to prepare.
    StoreError, ContractError
        If the store cannot be written, or was made with another mask or resolution.
    """
    source, out, options = Path(source), Path(out), options or PrepOptions()
    layout = choose_layout(source, options.layout)
    found = find_recordings(source, layout, _request(options))
    said = {"cohort": options.cohort, "source": options.source_id, "licence": options.license}
    declared = declare(found.root, options.governance, {**said, "consent": options.consent, "not_for": options.not_for})
    _open_store(out, layout, options, found.root)
    runs, doubles = _without_doubles(found.root, found.runs)
    shard = Shard.parse(options.shard) if options.shard else Shard(1, 1)
    # Who does a shard lists its sessions by themselves.
    part = shard.name if shard.of > 1 else ""
    if not part or any(shard.of != Shard.of_name(name) for name in part_names(out)):
        # What other shards than these listed would be prepared again, and its terms forgotten.
        collect(out)
    jobs = [_Job(found.root, out, run, options, declared, part) for run in runs]
    if options.readmit:
        readmit(out, options.readmit, {f"sub-{job.run.entities['sub']}": job.terms.known_cohort for job in jobs})
    if part:
        jobs = shard.take(jobs, [_bytes(job.run) for job in jobs])
    summary = PrepSummary()
    if shard.number == 1:
        # What concerns no single run is the first shard's.
        summary.failures.extend([*found.failures, *doubles, *_merge_participants(found.root, out, found.participants, jobs)])
    for failure in summary.failures:
        _say(failure.reason)

    def waits(number: int) -> None:
        _say(f"{out}: another process prepares {number} of these runs; waiting for it.")

    for outcome in track(outcomes(jobs, _work, _died, waits, options.nprocs), "prep", total=len(jobs)):
        _report(outcome)
        getattr(summary, outcome.kind).append(outcome.value)
    _renew_terms(out, summary, declared, part)
    for rows in _all(summary):
        rows.sort(key=lambda row: row.file)
    with claim(out, EXCLUDED_FILE, wait=True):
        write_table(out)
    _record_failures(found.root, out, summary)
    store = Store(out, part)
    if unknown := warning(entries_of(store, store.sessions)):
        _say(unknown)
    return summary


def collect(out: Path) -> int:
    """List the sessions that shards prepared in the store's manifest, and remove what killed ones left; how many were listed.

    Raises
    ------
    StoreError
        If `out` is no store, or cannot be written.
    """
    listed = collect_parts(Store(out).root)
    sweep(out)
    finish_withdrawals(out)
    return listed


def _bytes(run: Run) -> int:
    """What a run weighs when shards are made: its image, since reading it is most of the work."""
    try:
        return run.image.stat().st_size
    except OSError:
        return 0


def _request(options: PrepOptions) -> Request:
    entities = read_bids_filter(options.bids_filter_file) if options.bids_filter_file else {}
    filters = Filters(options.participant_label, options.session_id, options.task_id, options.space, options.res, entities)
    return Request(filters, options.mask_source, options.channels)


def _open_store(out: Path, layout: Layout, options: PrepOptions, root: Path) -> None:
    if layout.regions and (out / DESCRIPTION_FILE).exists():
        # Region-of-interest sessions live beside voxel sessions; the store checks their TR as it writes them.
        Store(out)
        return
    grid = None
    if not layout.regions:
        grid = Grid.from_nifti(options.mask, options.resolution) if options.mask else Grid.mni152(options.resolution)
    Store.create(out, grid, TARGET_TR_S, sources=[root.resolve().as_uri()])


def _relative(root: Path, path: Path) -> str:
    """The path below the source's root, or whole where a table names one elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _file(root: Path, run: Run) -> str:
    return f"{_relative(root, run.image)}{f' ({run.place})' if run.place else ''}"


def _died(job: _Job) -> _Outcome:
    reason = f"{job.run.name}: its worker process died, most often for want of memory; use fewer --nprocs or a coarser --resolution."
    return _Outcome("failures", Failure(job.file, reason))


def _work(job: _Job, wait: bool) -> _Outcome | None:
    """Prepare one run, unless it is there; None if another process has it in hand and `wait` is off."""
    name = job.run.name
    try:
        with claim(job.out, session_key(job.run.entities), wait) as mine:
            return _work_claimed(job) if mine else None
    except SlimbrainError as error:
        reason = str(error) if str(job.run.image) in str(error) else f"{name}: {error}"
    except MemoryError:
        reason = f"{name}: needs more memory than there is; run fewer at once (--nprocs), or use a coarser --resolution."
    except Exception as error:
        # Whatever nobody thought of: it must not cost the other runs of a night.
        what = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
        reason = f"{name}: met a fault of slimbrain ({what}); leave the run out, and report this with the file's header."
    return _Outcome("failures", Failure(job.file, reason))


def _work_claimed(job: _Job) -> _Outcome:
    """Take a run as it is in the store, or as it was excluded, where nothing changed; else prepare it."""
    store, key, subject = Store(job.out, job.part), job.key, f"sub-{job.run.entities['sub']}"
    if stone := withdrawn(job.out).find(subject, job.terms.known_cohort):
        return _Outcome("withdrawn", Failure(job.file, refusal(job.out, subject, stone)))
    fingerprint = _fingerprint(job)
    stored = _stored(store, job, fingerprint)
    known = store.sidecar(key) if stored is not None else _excluded_before(store, job, fingerprint)
    if known is not None and (excluded := _exclude(job, store, known)) is not None:
        return _Outcome("excluded", excluded)
    if stored is not None:
        return _Outcome("skipped", PreparedRun(job.file, key))
    drop_record(store.root, key)
    made = _prepare_run(job, store, fingerprint)
    return _Outcome("excluded" if isinstance(made, ExcludedRun) else "prepared", made)


def _excluded_before(store: Store, job: _Job, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured of the run when it was excluded, if nothing has changed since."""
    record = None if job.options.force else read_record(store.root, session_key(job.run.entities))
    return record if record and all(record.get(name) == value for name, value in fingerprint.items()) else None


def _exclude(job: _Job, store: Store, sidecar: dict[str, Any]) -> ExcludedRun | None:
    """Write down the run and take its session, if there is one, out of the store, if a limit asks for it."""
    measured = sidecar.get("QC")
    breaches = judge(job.run.name, measured, job.options, measured.get("gap", "")) if measured else ()
    if not breaches:
        return None
    excluded = ExcludedRun(job.file, session_key(job.run.entities), breaches)
    write_record(store.root, excluded, sidecar)
    store.remove_session(job.run.entities)
    return excluded


def _fingerprint(job: _Job) -> dict[str, Any]:
    """What must be unchanged for a stored session to stand: the files read and the options that shape the result."""
    files = []
    for path in job.run.files:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}); fetch or restore it.") from error
        files.append({"Path": _relative(job.root, path), "Size": status.st_size, "ModifiedNs": status.st_mtime_ns})
    return {"SourceFiles": files, "Options": job.options.model_dump(include={"tr", "denoise"})}


def _stored(store: Store, job: _Job, fingerprint: dict[str, Any]) -> SessionInfo | None:
    key = session_key(job.run.entities)
    info = store.find(key)
    if info is None or job.options.force or not store.is_whole(key):
        return None
    sidecar = store.sidecar(key)
    unchanged = all(sidecar.get(name) == value for name, value in fingerprint.items())
    return info if unchanged and info.n_frames >= job.options.window_frames else None


def _prepare_run(job: _Job, store: Store, fingerprint: dict[str, Any]) -> PreparedRun | ExcludedRun:
    source = job.run.reader(job.run)
    tr, origin = repetition_time(source, job.run.sidecar, job.options.tr, job.run.tr_from)
    terms = job.declared.for_new(store, job.key, job.terms)
    keep_records(store.root, [terms])
    said = {"SourceRepetitionTime": tr, "SourceRepetitionTimeFrom": origin, COHORT: terms.known_cohort}
    said[SOURCE_SHA256] = {_relative(job.root, path): _checksum(path) for path in job.run.files}
    warnings = [*job.run.notes, *source.notes, *_tr_warnings(source, tr, origin)]
    if isinstance(source, RoiSeries):
        return _prepare_regions(job, store, source, {**said, **fingerprint}, warnings, terms)
    return _prepare_image(job, store, source, {**said, **fingerprint}, warnings, terms)


def _checksum(path: Path) -> str:
    try:
        status = path.stat()
        return _checksum_once(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch or restore it.") from error


@lru_cache(maxsize=16)
def _checksum_once(path: Path, size: int, modified: int) -> str:
    """One file may hold thousands of recordings, which are prepared one after the other."""
    return sha256(path)


def _prepare_image(
    job: _Job, store: Store, source: Source, known: dict[str, Any], warnings: list[str], terms: Governance
) -> PreparedRun | ExcludedRun:
    run, options, tr = job.run, job.options, known["SourceRepetitionTime"]
    times = TimeAxis(source.n_frames, tr)
    require_length(source.path, times, options.window_frames)
    confounds = load_confounds(run, options.denoise, source.n_frames)
    prepared = prepare_image(source, store.grid, tr, confounds, scratch=store.root)
    quality = assess(prepared, store.grid, run, times, options.warn_coverage, template_likeness(source), confounds)
    events, event_warnings = _events(run)
    warnings = [*quality.warnings, *warnings, *event_warnings]
    sidecar = {
        **_provenance(run, source),
        **_time_record(times),
        **known,
        "Denoise": _denoise_record(options.denoise, confounds),
        "QC": quality.record(),
        "Series": quality.series,
        "Events": events,
        "EventsFile": _relative(job.root, run.events) if run.events else None,
        "Warnings": warnings,
    }
    if (excluded := _exclude(job, store, sidecar)) is not None:
        return excluded
    qc = {**quality.scalars, "n_warnings": len(warnings), **terms.cells()}
    info = store.write_session(run.entities, prepared.voxels, prepared.mean, prepared.std, prepared.tr, sidecar=sidecar, qc=qc)
    return PreparedRun(job.file, info.key, tuple(f"{run.name}: {warning}" for warning in warnings))


def _prepare_regions(
    job: _Job, store: Store, source: RoiSeries, known: dict[str, Any], warnings: list[str], terms: Governance
) -> PreparedRun:
    run = job.run
    if job.options.denoise != "none":
        raise InputError(f"{run.name}: --denoise {job.options.denoise} needs the image and its confounds; use --denoise none.")
    times = TimeAxis(len(source.values), known["SourceRepetitionTime"])
    require_length(source.path, times, job.options.window_frames)
    prepared = prepare_roi(source, times)
    if prepared.empty:
        names = ", ".join(prepared.empty[:MAX_NAMED]) + (", ..." if len(prepared.empty) > MAX_NAMED else "")
        warnings = [*warnings, f"{len(prepared.empty)} of {len(source.channels.names)} channels have no signal and are 0: {names}."]
    moments = {"ChannelMean": prepared.mean.tolist(), "ChannelStd": prepared.std.tolist()}
    described = {"TaskName": run.entities.get("task", ""), **run.record, "SourceShape": list(source.values.shape)}
    sidecar = {**described, **_time_record(times), **known, **moments, "Warnings": warnings}
    qc = {"n_warnings": len(warnings), **terms.cells()}
    info = store.write_roi_session(run.entities, prepared.series, source.channels, times.tr, sidecar=sidecar, qc=qc)
    return PreparedRun(job.file, info.key, tuple(f"{run.name}: {warning}" for warning in warnings))


def _provenance(run: Run, source: Source) -> dict[str, Any]:
    return {
        "TaskName": run.entities.get("task", ""),
        "Space": run.entities["space"],
        **run.record,
        "SourceShape": list(source.shape),
        "SourceVoxelSize": [round(float(size), 4) for size in source.voxel_mm],
        "SourceOrientation": source.orientation,
    }


def _time_record(times: TimeAxis) -> dict[str, Any]:
    return {"TimeResampling": "none" if times.keeps else "interpolating cubic B-spline"}


def _denoise_record(strategy: Strategy, confounds: Confounds | None) -> dict[str, Any]:
    if confounds is None:
        return {"Strategy": strategy}
    flagged = [frame for frame, kept in enumerate(confounds.kept) if not kept]
    return {"Strategy": strategy, "Regressors": list(confounds.names), "FlaggedFrames": flagged}


def _tr_warnings(source: Timed, tr: float, origin: str) -> list[str]:
    if origin not in ("header", "--tr") and source.header_tr is not None and abs(source.header_tr - tr) > TR_TOLERANCE_S:
        return [f"its header gives TR {source.header_tr:g} s where its {origin} gives {tr:g} s; the {origin} was believed."]
    return []


def _events(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """The run's events; a table that cannot be read costs the events, not the run."""
    if run.events is None:
        return [], []
    try:
        return read_events(run.events), []
    except InputError as error:
        return [], [str(error)]


def _without_doubles(root: Path, runs: list[Run]) -> tuple[list[Run], list[Failure]]:
    """Keep the first of runs whose names differ only by entities that a session's name does not carry."""
    first: dict[str, Run] = {}
    failures = []
    for run in runs:
        taken = first.setdefault(session_key(run.entities), run)
        if taken is not run:
            other = f"{taken.image.name} ({taken.place})" if taken.place else taken.image.name
            reason = f"{run.name}: would be stored under the same name as {other}; keep one of them in the tree."
            failures.append(Failure(_file(root, run), reason))
    return list(first.values()), failures


def _renew_terms(out: Path, summary: PrepSummary, declared: Declared, part: str) -> None:
    """Put what was there already under what is said now; a session whose terms clash with it is a failure."""
    clashes = renew(out, [row.key for row in summary.skipped], declared, part)
    for row in [row for row in summary.skipped if row.key in clashes]:
        summary.skipped.remove(row)
        summary.failures.append(Failure(row.file, f"{row.file}: {clashes[row.key]}"))
        _say(summary.failures[-1].reason)


def _merge_participants(root: Path, out: Path, rows: list[Mapping[str, str]] | None, jobs: Sequence[_Job]) -> list[Failure]:
    """Add the source's participants and their columns to the store's; a table that cannot be read costs itself alone.

    Parameters
    ----------
    rows : what the layout says of participants; the source's own table is read if None.
    jobs : the source's runs, which tell its cohort: who was withdrawn is not added.
    """
    source = root / PARTICIPANTS_FILE
    if rows is None and not source.is_file():
        return []
    gone, cohort = withdrawn(out), jobs[0].terms.known_cohort if jobs else ""
    try:
        told = read_table(source) if rows is None else rows
        living = [row for row in told if not gone.find(with_prefix(row[PARTICIPANT]), cohort)]
        merge_participants(out, living)
    except KeyError:
        return [Failure(PARTICIPANTS_FILE, f"{source}: has no column {PARTICIPANT}; add it, or remove the table.")]
    except InputError as error:
        return [Failure(PARTICIPANTS_FILE, str(error))]
    return []


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
    return os.path.lexists(root / file) or os.path.lexists(root / PLACE_IN_FILE.sub("", file))


def _report(outcome: _Outcome) -> None:
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
