"""One run becomes a session of the store, is found there unchanged, or is refused in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from slimbrain.disk.locks import claim
from slimbrain.disk.seal import sha256
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.prep.bids import read_events
from slimbrain.prep.declared import Declared
from slimbrain.prep.denoise import Confounds, Strategy, load_confounds
from slimbrain.prep.exclusion import ExcludedRun, drop_record, judge, read_record, write_record
from slimbrain.prep.likeness import template_likeness
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.quality import assess
from slimbrain.prep.roi import prepare_roi
from slimbrain.prep.runs import Failure, RoiSeries, Run, file_of, relative
from slimbrain.prep.source import Source
from slimbrain.prep.timing import TR_TOLERANCE_S, TimeAxis, Timed, repetition_time, require_length
from slimbrain.prep.volume import prepare_image
from slimbrain.store import SessionInfo, Store
from slimbrain.store.description import COHORT
from slimbrain.store.manifest import session_key
from slimbrain.store.records import Governance, keep_records
from slimbrain.store.withdrawn import refusal, withdrawn
from slimbrain.store.write import remove_session, write_roi_session, write_session

_SOURCE_SHA256 = "SourceSha256"
"""Field of the sidecar: SHA-256 of every file that was read, by its name below the source. It stays in the store: the sum of a public file
would tell whose it is."""

_MAX_NAMED = 5
"""Channels that a warning names; the rest it counts."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is in the store.

    Attributes
    ----------
    file : str
        Its image, relative to the source.
    key : str
        Its session in the store.
    warnings : tuple of str
        What the user should know about it.
    """

    file: str
    key: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A run and all that is needed to prepare it, as it goes to a worker process.

    Attributes
    ----------
    root, out : Path
        The source, and the store.
    declared : Declared
        What is said of the terms of the source's data.
    part : str
        Under which sessions are listed (`Store`).
    """

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
        return file_of(self.root, self.run)


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run: the list of the summary that it goes into, and what stands there."""

    kind: Literal["prepared", "skipped", "excluded", "failures", "withdrawn"]
    value: PreparedRun | ExcludedRun | Failure


def died(job: Job) -> RunOutcome:
    """What is said of a run that takes its worker process down."""
    reason = f"{job.run.name}: its worker process died, most often for want of memory; use fewer --nprocs or a coarser --resolution."
    return RunOutcome("failures", Failure(job.file, reason))


def prepare_run(job: Job, wait: bool = False) -> RunOutcome | None:
    """Take a run as it is in the store, or as it was excluded, where nothing changed; else read its image and prepare it.

    Parameters
    ----------
    job : Job
        The run.
    wait : bool
        Whether to wait for another process that has it in hand.

    Returns
    -------
    RunOutcome or None
        What became of it, errors included; None if another process has it in hand and `wait` is off.
    """
    try:
        with claim(job.out, job.key, wait) as mine:
            if not mine:
                return None
            if (gone := _withdrawn(job)) is not None:
                return gone
            store, fingerprint = Store(job.out, job.part), _fingerprint(job)
            if (known := _unchanged(job, store, fingerprint)) is not None:
                return known
            drop_record(store.root, job.key)
            made = _store_run(job, store, job.run.reader(job.run), fingerprint)
            return RunOutcome("excluded" if isinstance(made, ExcludedRun) else "prepared", made)
    except Exception as error:
        # Also what was not foreseen: it must not cost the other runs of a night.
        return RunOutcome("failures", Failure(job.file, _reason(job, error)))


def _reason(job: Job, error: Exception) -> str:
    """Why a run failed, in one sentence that names it."""
    name = job.run.name
    if isinstance(error, SlimbrainError):
        return str(error) if str(job.run.image) in str(error) else f"{name}: {error}"
    if isinstance(error, MemoryError):
        return f"{name}: needs more memory than there is; run fewer at once (--nprocs), or use a coarser --resolution."
    what = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
    return f"{name}: met a fault of slimbrain ({what}); leave the run out, and report this with the file's header."


def _withdrawn(job: Job) -> RunOutcome | None:
    """The refusal of a participant who was withdrawn."""
    subject = f"sub-{job.run.entities['sub']}"
    record = withdrawn(job.out).find(subject, job.terms.known_cohort)
    return RunOutcome("withdrawn", Failure(job.file, refusal(job.out, subject, record))) if record else None


def _unchanged(job: Job, store: Store, fingerprint: dict[str, Any]) -> RunOutcome | None:
    """A run that is in the store, or was excluded, and whose files and options are the same."""
    stored = _stored(store, job, fingerprint)
    known = store.sidecar(job.key) if stored is not None else _excluded_before(store, job, fingerprint)
    if known is not None and (excluded := _exclude(job, store, known)) is not None:
        return RunOutcome("excluded", excluded)
    return RunOutcome("skipped", PreparedRun(job.file, job.key)) if stored is not None else None


def _excluded_before(store: Store, job: Job, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured of the run when it was excluded, if nothing has changed since."""
    record = None if job.options.force else read_record(store.root, job.key)
    return record if record and all(record.get(name) == value for name, value in fingerprint.items()) else None


def _exclude(job: Job, store: Store, sidecar: dict[str, Any]) -> ExcludedRun | None:
    """Write down the run and take its session, if there is one, out of the store, if a limit asks for it."""
    measured = sidecar.get("QC")
    breaches = judge(job.run.name, measured, job.options, measured.get("gap", "")) if measured else ()
    if not breaches:
        return None
    excluded = ExcludedRun(job.file, job.key, breaches)
    write_record(store.root, excluded, sidecar)
    remove_session(store, job.run.entities)
    return excluded


def _fingerprint(job: Job) -> dict[str, Any]:
    """What must be unchanged for a stored session to stand: the files read and the options that shape the result."""
    files = []
    for path in job.run.files:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}); fetch or restore it.") from error
        files.append({"Path": relative(job.root, path), "Size": status.st_size, "ModifiedNs": status.st_mtime_ns})
    return {"SourceFiles": files, "Options": _shaping_options(job.options)}


def _shaping_options(options: PrepOptions) -> dict[str, Any]:
    """Options that shape what is stored; one that came later is named only where it is used, so that older sessions still stand."""
    return options.model_dump(include={"tr", "denoise"}) | ({"flag_nonfinite": True} if options.flag_nonfinite else {})


def _stored(store: Store, job: Job, fingerprint: dict[str, Any]) -> SessionInfo | None:
    info = store.find(job.key)
    if info is None or job.options.force or not store.is_whole(job.key):
        return None
    sidecar = store.sidecar(job.key)
    unchanged = all(sidecar.get(name) == value for name, value in fingerprint.items())
    return info if unchanged and info.n_frames >= job.options.window_frames else None


def _store_run(job: Job, store: Store, source: Source | RoiSeries, fingerprint: dict[str, Any]) -> PreparedRun | ExcludedRun:
    tr, origin = repetition_time(source, job.run.sidecar, job.options.tr, job.run.tr_from, column=job.run.tr_column)
    terms = job.declared.for_new(store, job.key, job.terms)
    keep_records(store.root, [terms])
    said = {"SourceRepetitionTime": tr, "SourceRepetitionTimeFrom": origin, COHORT: terms.known_cohort}
    said[_SOURCE_SHA256] = {relative(job.root, path): _checksum(path) for path in job.run.files}
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
    job: Job, store: Store, source: Source, known: dict[str, Any], warnings: list[str], terms: Governance
) -> PreparedRun | ExcludedRun:
    run, options, tr = job.run, job.options, known["SourceRepetitionTime"]
    times = TimeAxis(source.n_frames, tr)
    require_length(source.path, times, options.window_frames)
    confounds = load_confounds(run, options.denoise, source.n_frames)
    prepared = prepare_image(source, store.grid, tr, confounds, store.root, options.flag_nonfinite)
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
        "EventsFile": relative(job.root, run.events) if run.events else None,
        "Warnings": warnings,
    }
    if (excluded := _exclude(job, store, sidecar)) is not None:
        return excluded
    qc = {**quality.scalars, "n_warnings": len(warnings), **terms.cells()}
    info = write_session(store, run.entities, prepared.voxels, prepared.mean, prepared.std, prepared.tr, sidecar=sidecar, qc=qc)
    return PreparedRun(job.file, info.key, tuple(f"{run.name}: {warning}" for warning in warnings))


def _prepare_regions(
    job: Job, store: Store, source: RoiSeries, known: dict[str, Any], warnings: list[str], terms: Governance
) -> PreparedRun:
    run = job.run
    if job.options.denoise != "none":
        raise InputError(f"{run.name}: --denoise {job.options.denoise} needs the image and its confounds; use --denoise none.")
    times = TimeAxis(len(source.values), known["SourceRepetitionTime"])
    require_length(source.path, times, job.options.window_frames)
    prepared = prepare_roi(source, times, job.options.flag_nonfinite)
    warnings = [*warnings, *prepared.warnings]
    if prepared.empty:
        more = len(prepared.empty) - _MAX_NAMED
        names = ", ".join(prepared.empty[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        warnings = [*warnings, f"{len(prepared.empty)} of {len(source.channels.names)} channels have no signal and are 0: {names}."]
    moments = {"ChannelMean": prepared.mean.tolist(), "ChannelStd": prepared.std.tolist()}
    described = {"TaskName": run.entities.get("task", ""), **run.record, "SourceShape": list(source.values.shape)}
    sidecar = {**described, **_time_record(times), **known, **moments, "Warnings": warnings}
    qc = {"n_warnings": len(warnings), **terms.cells()}
    info = write_roi_session(store, run.entities, prepared.series, source.channels, times.tr, sidecar=sidecar, qc=qc)
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
