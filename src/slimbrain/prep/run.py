"""Turn the runs of a BIDS derivative into a store: each run by itself, so that one that fails never stops the rest."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from slimbrain.atomic import write_text
from slimbrain.claims import claim
from slimbrain.config import Config
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.gather import PARTICIPANT, merge_participants
from slimbrain.grid import Grid
from slimbrain.prep.batch import outcomes
from slimbrain.prep.bids import Failure, Filters, Run, find_runs, read_events, read_table
from slimbrain.prep.denoise import Confounds, Strategy, load_confounds
from slimbrain.prep.quality import Quality, assess
from slimbrain.prep.source import TR_TOLERANCE_S, Source, open_source, repetition_time
from slimbrain.prep.volume import SPLINE_ORDER, TARGET_TR_S, Prepared, TimeAxis, prepare_image
from slimbrain.progress import track
from slimbrain.store import PARTICIPANTS_FILE, SessionInfo, Store, format_tsv, read_tsv, session_key
from slimbrain.verify import sweep

FAILURES_FILE = "failures.tsv"


class PrepOptions(Config):
    """What `slimbrain prep` lets one choose."""

    participant_label: tuple[str, ...] = Field((), description="only these participants, with or without `sub-`")
    session_id: tuple[str, ...] = Field((), description="only these sessions, with or without `ses-`")
    task_id: tuple[str, ...] = Field((), description="only these tasks, with or without `task-`")
    space: str | None = Field(None, description="only images in this template, for example MNI152NLin6Asym")
    resolution: Literal["2mm", "4mm", "8mm"] = "2mm"
    mask: Path | None = Field(None, description="brain mask in MNI space; nilearn's MNI152 mask if not given")
    tr: float | None = Field(None, gt=0, description="seconds a frame, where neither sidecar nor header says")
    window_frames: int = Field(8, ge=1, description="a run shorter than one window is refused")
    min_coverage: float = Field(0.7, ge=0, le=1, description="share of the mask a run must cover")
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
    """What became of every run: now in the store, already there, or refused."""

    prepared: list[PreparedRun] = field(default_factory=list)
    skipped: list[PreparedRun] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
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
    kind: Literal["prepared", "skipped", "failures"]
    value: PreparedRun | Failure


def prepare(bids_dir: str | Path, out: str | Path, options: PrepOptions | None = None) -> PrepSummary:
    """Prepare every run of a BIDS derivative that the options select.

    Runs whose source files and options are those of the session already stored are skipped, so the same command resumes
    an interrupted batch. Several processes may work on one store: each takes runs that no other has in hand, and waits for
    those at the end. What cannot be used is listed in `OUT/failures.tsv` and on standard error.

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
    sweep(out)
    runs, doubles = _without_doubles(bids_dir, runs)
    summary = PrepSummary(failures=[*failures, *doubles, *_merge_participants(bids_dir, out)])
    for failure in summary.failures:
        _say(failure.reason)
    jobs = [_Job(bids_dir, out, run, options) for run in runs]

    def waits(number: int) -> None:
        _say(f"{out}: another process prepares {number} of these runs; waiting for it.")

    for outcome in track(outcomes(jobs, _work, _died, waits, options.nprocs), "prep", total=len(jobs)):
        _report(outcome)
        getattr(summary, outcome.kind).append(outcome.value)
    for rows in (summary.prepared, summary.skipped, summary.failures):
        rows.sort(key=lambda row: row.file)
    _record_failures(bids_dir, out, summary)
    return summary


def _died(job: _Job) -> _Outcome:
    reason = f"{job.run.image}: its worker process died, most often for want of memory; use fewer --nprocs or a coarser --resolution."
    return _Outcome("failures", Failure(job.file, reason))


def _work(job: _Job, wait: bool) -> _Outcome | None:
    """Prepare one run, unless it is there; None if another process has it in hand and `wait` is off."""
    image = job.run.image
    try:
        with claim(job.out, session_key(job.run.entities), wait) as mine:
            return _work_claimed(job) if mine else None
    except SlimbrainError as error:
        reason = str(error) if str(image) in str(error) else f"{image}: {error}"
    except MemoryError:
        reason = f"{image}: needs more memory than there is; run fewer at once (--nprocs), or use a coarser --resolution."
    except Exception as error:
        # Whatever nobody thought of: it must not cost the other runs of a night.
        what = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
        reason = f"{image}: met a fault of slimbrain ({what}); leave the run out, and report this with the file's header."
    return _Outcome("failures", Failure(job.file, reason))


def _work_claimed(job: _Job) -> _Outcome:
    store = Store(job.out)
    fingerprint = _fingerprint(job)
    stored = _stored(store, job, fingerprint)
    if stored is not None:
        return _Outcome("skipped", PreparedRun(job.file, stored.key))
    return _Outcome("prepared", _prepare_run(job, store, fingerprint))


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
    if info is None or job.options.force or not store.is_whole(key):
        return None
    sidecar = store.sidecar(key)
    unchanged = all(sidecar.get(name) == value for name, value in fingerprint.items())
    enough = float(info.qc.get("coverage", 0)) >= job.options.min_coverage and info.n_frames >= job.options.window_frames
    return info if unchanged and enough else None


def _prepare_run(job: _Job, store: Store, fingerprint: dict[str, Any]) -> PreparedRun:
    run, options = job.run, job.options
    source = open_source(run.image)
    tr, origin = repetition_time(source, run.sidecar, options.tr)
    times = TimeAxis(source.n_frames, tr)
    _require_length(source, times, options.window_frames)
    confounds = load_confounds(run, options.denoise, source.n_frames)
    prepared = prepare_image(source, store.grid, tr, confounds, scratch=store.root)
    quality = assess(prepared, store.grid, run, tr, options.warn_coverage)
    if prepared.coverage < options.min_coverage:
        where = f" (missing {quality.gap})" if quality.gap else ""
        share = f"{prepared.coverage:.1%} of the brain mask{where}, under {options.min_coverage:.1%}"
        raise InputError(f"{run.image}: covers {share}; check its space, or lower --min-coverage to take it.")
    events, event_warnings = _events(run)
    warnings = [*quality.warnings, *_tr_warnings(source, tr, origin), *event_warnings]
    sidecar = {
        **_provenance(run, source, tr, origin, times),
        **fingerprint,
        "Denoise": _denoise_record(options.denoise, confounds),
        "QC": {**quality.scalars, "gap": quality.gap},
        "Series": quality.series,
        "Events": events,
        "EventsFile": run.events.relative_to(job.bids_dir).as_posix() if run.events else None,
        "Warnings": warnings,
    }
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
    """Add the source's participants and their columns to the store's; a table that cannot be read costs itself alone."""
    source = bids_dir / PARTICIPANTS_FILE
    if not source.is_file():
        return []
    try:
        merge_participants(out, read_table(source))
    except KeyError:
        return [Failure(PARTICIPANTS_FILE, f"{source}: has no column {PARTICIPANT}; add it, or remove the table.")]
    except InputError as error:
        return [Failure(PARTICIPANTS_FILE, str(error))]
    return []


def _record_failures(bids_dir: Path, out: Path, summary: PrepSummary) -> None:
    """Write the table of failures; rows of this source that another command, or process, met and this one did not look at stay."""
    seen = {row.file for rows in (summary.prepared, summary.skipped, summary.failures) for row in rows}
    with claim(out, FAILURES_FILE, wait=True):
        earlier = read_tsv(out / FAILURES_FILE) if (out / FAILURES_FILE).is_file() else []
        others = [row for row in earlier if (file := row.get("file")) and file not in seen and os.path.lexists(bids_dir / file)]
        rows = sorted([*others, *map(vars, summary.failures)], key=lambda row: str(row["file"]))
        write_text(out / FAILURES_FILE, format_tsv(("file", "reason"), rows))


def _report(outcome: _Outcome) -> None:
    if isinstance(outcome.value, Failure):
        _say(outcome.value.reason)
    else:
        for warning in outcome.value.warnings:
            _say(f"warning: {warning}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
