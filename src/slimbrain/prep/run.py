"""Turn the runs of a BIDS derivative into a store: each run by itself, so that one that fails never stops the rest."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from slimbrain.atomic import write_text
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.grid import Grid
from slimbrain.prep.bids import Failure, Filters, Run, find_runs, read_events, read_table
from slimbrain.prep.denoise import Confounds, Strategy, load_confounds
from slimbrain.prep.exclusion import ExcludedRun, Limits, drop_record, judge, read_record, write_record, write_table
from slimbrain.prep.likeness import template_likeness
from slimbrain.prep.quality import Quality, assess
from slimbrain.prep.source import TR_TOLERANCE_S, Source, open_source, repetition_time
from slimbrain.prep.volume import SPLINE_ORDER, TARGET_TR_S, Prepared, TimeAxis, prepare_image
from slimbrain.progress import track
from slimbrain.store import MISSING, PARTICIPANTS_FILE, SessionInfo, Store, format_tsv, session_key

FAILURES_FILE = "failures.tsv"
PARTICIPANT = "participant_id"


class PrepOptions(Limits):
    """What `slimbrain prep` lets one choose."""

    participant_label: tuple[str, ...] = Field((), description="only these participants, with or without `sub-`")
    session_id: tuple[str, ...] = Field((), description="only these sessions, with or without `ses-`")
    task_id: tuple[str, ...] = Field((), description="only these tasks, with or without `task-`")
    space: str | None = Field(None, description="only images in this template, for example MNI152NLin6Asym")
    resolution: Literal["2mm", "4mm", "8mm"] = "2mm"
    mask: Path | None = Field(None, description="brain mask in MNI space; nilearn's MNI152 mask if not given")
    tr: float | None = Field(None, gt=0, description="seconds a frame, where neither sidecar nor header says")
    window_frames: int = Field(8, ge=1, description="a run shorter than one window is refused")
    warn_coverage: float = Field(0.95, ge=0, le=1, description="share of the mask under which a run is kept with a warning")
    denoise: Strategy = Field("none", description="nuisance regression with fMRIPrep's confounds")
    nprocs: int = Field(1, ge=1, description="runs worked on at once")
    force: bool = Field(False, description="prepare again what the store already has")


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
    """What became of every run: now in the store, already there, left out by a limit on quality, or refused."""

    prepared: list[PreparedRun] = field(default_factory=list)
    skipped: list[PreparedRun] = field(default_factory=list)
    excluded: list[ExcludedRun] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 if a run could not be used; one that the user's limits leave out is what was asked for."""
        return 1 if self.failures else 0


@dataclass(frozen=True)
class _Job:
    bids_dir: Path
    out: Path
    run: Run
    options: PrepOptions

    @property
    def file(self) -> str:
        return self.run.image.relative_to(self.bids_dir).as_posix()


@dataclass(frozen=True)
class _Outcome:
    kind: Literal["prepared", "skipped", "excluded", "failures"]
    value: PreparedRun | ExcludedRun | Failure


def prepare(bids_dir: str | Path, out: str | Path, options: PrepOptions | None = None) -> PrepSummary:
    """Prepare every run of a BIDS derivative that the options select.

    Runs whose source files and options are those of the session already stored are skipped, so the same command resumes
    an interrupted batch. What cannot be used is listed in `OUT/failures.tsv` and on standard error, what a limit on quality
    leaves out in `OUT/excluded.tsv`. Limits hold for the whole store: a stored session that is beyond one is taken out of it.

    Parameters
    ----------
    bids_dir : root of the derivative, the folder that holds `sub-*`.
    out : store to make or to add to.

    Raises
    ------
    InputError
        If there is nothing to prepare.
    StoreError, ContractError
        If the store cannot be written, or was made with another mask or resolution.
    """
    bids_dir, out, options = Path(bids_dir), Path(out), options or PrepOptions()
    filters = Filters(options.participant_label, options.session_id, options.task_id, options.space)
    runs, failures = find_runs(bids_dir, filters)
    grid = Grid.from_nifti(options.mask, options.resolution) if options.mask else Grid.mni152(options.resolution)
    Store.create(out, grid, TARGET_TR_S, sources=[bids_dir.resolve().as_uri()])
    runs, doubles = _without_doubles(bids_dir, runs)
    summary = PrepSummary(failures=[*failures, *doubles, *_merge_participants(bids_dir, out)])
    for failure in summary.failures:
        _say(failure.reason)
    jobs = [_Job(bids_dir, out, run, options) for run in runs]
    for outcome in track(_outcomes(jobs, options.nprocs), "prep", total=len(jobs)):
        _report(outcome)
        getattr(summary, outcome.kind).append(outcome.value)
    rows: list[Any]
    for rows in (summary.prepared, summary.skipped, summary.excluded, summary.failures):
        rows.sort(key=lambda row: row.file)
    write_table(out)
    write_text(out / FAILURES_FILE, format_tsv(("file", "reason"), [vars(failure) for failure in summary.failures]))
    return summary


def _outcomes(jobs: list[_Job], nprocs: int) -> Iterator[_Outcome]:
    if nprocs == 1 or len(jobs) < 2:
        yield from map(_work, jobs)
        return
    # Spawned, not forked: the parent may hold threads and locks of torch or BLAS.
    with ProcessPoolExecutor(min(nprocs, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                job = futures[future]
                reason = f"{job.run.image}: a worker process died, most often for want of memory; run the same command with fewer --nprocs."
                yield _Outcome("failures", Failure(job.file, reason))


def _work(job: _Job) -> _Outcome:
    try:
        return _work_on(job)
    except SlimbrainError as error:
        return _Outcome("failures", Failure(job.file, str(error)))
    except MemoryError:
        reason = f"{job.run.image}: needs more memory than there is; run fewer at once (--nprocs), or use a coarser --resolution."
        return _Outcome("failures", Failure(job.file, reason))


def _work_on(job: _Job) -> _Outcome:
    """Take a run as it is in the store, or as it was excluded, where nothing changed; else prepare it."""
    store, key = Store(job.out), session_key(job.run.entities)
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
    breaches = judge(str(job.run.image), measured, job.options, measured.get("gap", "")) if measured else ()
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
        files.append({"Path": path.relative_to(job.bids_dir).as_posix(), "Size": status.st_size, "ModifiedNs": status.st_mtime_ns})
    return {"SourceFiles": files, "Options": job.options.model_dump(include={"tr", "denoise"})}


def _stored(store: Store, job: _Job, fingerprint: dict[str, Any]) -> SessionInfo | None:
    key = session_key(job.run.entities)
    info = next((info for info in store.sessions if info.key == key), None)
    if info is None or job.options.force or not (store.root / info.path).is_file():
        return None
    if not (store.root / info.path).with_suffix(".json").is_file():
        return None
    sidecar = store.sidecar(key)
    unchanged = all(sidecar.get(name) == value for name, value in fingerprint.items())
    return info if unchanged and info.n_frames >= job.options.window_frames else None


def _prepare_run(job: _Job, store: Store, fingerprint: dict[str, Any]) -> PreparedRun | ExcludedRun:
    run, options = job.run, job.options
    source = open_source(run.image)
    tr, origin = repetition_time(source, run.sidecar, options.tr)
    times = TimeAxis(source.n_frames, tr)
    _require_length(source, times, options.window_frames)
    confounds = load_confounds(run, options.denoise, source.n_frames)
    prepared = prepare_image(source, store.grid, tr, confounds, scratch=store.root)
    quality = assess(prepared, store.grid, run, times, options.warn_coverage, template_likeness(source), confounds)
    events, event_warnings = _events(run)
    warnings = [*quality.warnings, *_tr_warnings(source, tr, origin), *event_warnings]
    sidecar = {
        **_provenance(run, source, tr, origin, times),
        **fingerprint,
        "Denoise": _denoise_record(options.denoise, confounds),
        "QC": quality.record(),
        "Series": quality.series,
        "Events": events,
        "EventsFile": run.events.relative_to(job.bids_dir).as_posix() if run.events else None,
        "Warnings": warnings,
    }
    if (excluded := _exclude(job, store, sidecar)) is not None:
        return excluded
    info = _write(store, run, prepared, sidecar, quality, len(warnings))
    return PreparedRun(job.file, info.key, tuple(f"{run.image}: {warning}" for warning in warnings))


def _require_length(source: Source, times: TimeAxis, window_frames: int) -> None:
    if times.n_frames < window_frames:
        raise InputError(f"{source.path}: gives {times.n_frames} frames of {times.tr:g} s, under a window ({window_frames}); leave it out.")
    if source.n_frames <= SPLINE_ORDER:
        raise InputError(f"{source.path}: has {source.n_frames} frames, a cubic spline needs {SPLINE_ORDER + 1}; leave it out.")


def _write(store: Store, run: Run, prepared: Prepared, sidecar: dict[str, Any], quality: Quality, n_warnings: int) -> SessionInfo:
    qc = {**quality.scalars, "n_warnings": n_warnings}
    return store.write_session(run.entities, prepared.voxels, prepared.mean, prepared.std, prepared.tr, sidecar=sidecar, qc=qc)


def _provenance(run: Run, source: Source, tr: float, origin: str, times: TimeAxis) -> dict[str, Any]:
    return {
        "TaskName": run.entities.get("task", ""),
        "Space": run.entities["space"],
        "SourceShape": list(source.shape),
        "SourceVoxelSize": [round(float(size), 4) for size in source.voxel_mm],
        "SourceOrientation": source.orientation,
        "SourceRepetitionTime": tr,
        "SourceRepetitionTimeFrom": origin,
        "TimeResampling": "none" if times.keeps else "interpolating cubic B-spline",
    }


def _denoise_record(strategy: Strategy, confounds: Confounds | None) -> dict[str, Any]:
    if confounds is None:
        return {"Strategy": strategy}
    flagged = [frame for frame, kept in enumerate(confounds.kept) if not kept]
    return {"Strategy": strategy, "Regressors": list(confounds.names), "FlaggedFrames": flagged}


def _tr_warnings(source: Source, tr: float, origin: str) -> list[str]:
    if origin == "sidecar" and source.header_tr is not None and abs(source.header_tr - tr) > TR_TOLERANCE_S:
        return [f"its header gives TR {source.header_tr:g} s where its sidecar gives {tr:g} s; the sidecar was believed."]
    return []


def _events(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """The run's events; a table that cannot be read costs the events, not the run."""
    if run.events is None:
        return [], []
    try:
        return read_events(run.events), []
    except InputError as error:
        return [], [str(error)]


def _without_doubles(bids_dir: Path, runs: list[Run]) -> tuple[list[Run], list[Failure]]:
    """Keep the first of runs whose names differ only by entities that a session's name does not carry."""
    first: dict[str, Run] = {}
    failures = []
    for run in runs:
        taken = first.setdefault(session_key(run.entities), run)
        if taken is not run:
            reason = f"{run.image}: would be stored under the same name as {taken.image.name}; keep one of them in the tree."
            failures.append(Failure(run.image.relative_to(bids_dir).as_posix(), reason))
    return list(first.values()), failures


def _merge_participants(bids_dir: Path, out: Path) -> list[Failure]:
    """Add the source's participants and their columns to the store's; the source wins where both have a value."""
    source = bids_dir / PARTICIPANTS_FILE
    if not source.is_file():
        return []
    try:
        rows = read_table(source)
        merged = {row[PARTICIPANT]: row for row in (read_table(out / PARTICIPANTS_FILE) if (out / PARTICIPANTS_FILE).is_file() else [])}
        for row in rows:
            name = row[PARTICIPANT] if row[PARTICIPANT].startswith("sub-") else f"sub-{row[PARTICIPANT]}"
            merged[name] = {**merged.get(name, {}), **row, PARTICIPANT: name}
    except KeyError:
        return [Failure(PARTICIPANTS_FILE, f"{source}: has no column {PARTICIPANT}; add it, or remove the table.")]
    except InputError as error:
        return [Failure(PARTICIPANTS_FILE, str(error))]
    columns = list(dict.fromkeys([PARTICIPANT, *(name for row in merged.values() for name in row)]))
    complete = [{name: value or MISSING for name, value in row.items()} for row in merged.values()]
    write_text(out / PARTICIPANTS_FILE, format_tsv(columns, complete))
    return []


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
