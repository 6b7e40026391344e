"""The section on what went in: QC of every session, excluded and refused runs, carpet plots, coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.governance.ledger import entries_of, gaps, summary
from slimbrain.prep.quality import FD_THRESHOLD_MM
from slimbrain.progress import track
from slimbrain.report import cohort
from slimbrain.report.blocks import Block, Column, Field, Figure, Fold, Heading, Prose, Section, Table, TableBuilder, count, number
from slimbrain.report.figures import FD_LABEL, Marks, carpet, mosaic
from slimbrain.report.inputs import N_WORST, Material, has_voxels
from slimbrain.report.recorded import SessionFacts, SessionSeries, session_series
from slimbrain.store import Store

_FloatArray = npt.NDArray[Any]

_TITLE = "Data and quality"

_N_OPEN = 1
"""Carpets shown at once; the rest can be unfolded."""

_N_ROWS_OPEN = 5
"""Longer tables are folded."""

_MEASURES = (
    Field("coverage", "coverage (%)", 1, 100.0),
    Field("tsnr", "tSNR", 1),
    Field("fd_mean", "mean FD (mm)", 3),
    Field("fd_max", "max FD (mm)", 2),
    Field("dvars_mean", "mean DVARS (SD)", 2),
    Field("spikes", "DVARS spikes", 0),
    Field("frozen_frames", "frozen frames", 0),
    Field("repeated_frames", "copied frames", 0),
    Field("flagged_share", "flagged (%)", 1, 100.0),
    Field("global_signal_std", "global signal SD", 1),
    Field("template_overlap", "overlap with template", 2),
)

_TRACES = (("fd", FD_LABEL), ("dvars", "DVARS (SD)"), ("global_signal", "global signal"))


def build(material: Material) -> Section:
    """Tables, then pictures."""
    store = material.store
    if store is None or not material.sessions:
        reason = (
            "the store holds no session; slimbrain prep adds some."
            if store
            else "no store was given; slimbrain prep makes one, --store adds it."
        )
        return Section("data", _TITLE, (*_excluded(material), *_failures(material)), absent=reason)
    if not has_voxels(store):
        return cohort.build(material, (*_excluded(material), *_failures(material)))
    blocks: list[Block] = [Prose(_whose(store, material))]
    if len(material.in_detail) < len(material.sessions):
        blocks += [_overview(material), Prose(f"Below are the worst {N_WORST} of these sessions: {_order()}.")]
    blocks += [_folded(_sessions(material), "Sessions, one by one"), *_warnings(material), *_excluded(material), *_failures(material)]
    blocks += [Heading("Mean image and coverage"), _coverage(store, material)]
    blocks += [Heading("Carpet plots"), *_carpets(store, material)]
    return Section("data", _TITLE, tuple(blocks))


def _whose(store: Store, material: Material) -> str:
    """The ledger, and how to fill its gaps: readers of the page must know what the data may be used for."""
    entries = entries_of(store, [session.info for session in material.sessions])
    way_out = " Set what is unknown with: slimbrain ledger STORE --set FILE." if gaps(entries) else ""
    return f"{summary(entries)}{way_out}"


def _order() -> str:
    return "those with warnings first, then by mean rank of coverage, tSNR, mean FD and DVARS spikes"


def _sessions(material: Material) -> Table:
    heads = ("frames", "TR (s)", "warnings", *(field.head for field in _MEASURES))
    table = TableBuilder(
        "Sessions in the store, with their quality measures. Coverage: share of the brain mask; "
        "SD: standard deviations of a voxel's own series; spikes are counted in frames. Flagged: share of frames with framewise "
        "displacement over 0.5 mm or a spike, frozen or copied ones, and those left out by scrubbing. "
        "Overlap: share of the brightest voxels that lie in the brain mask.",
        (Column("session"), *(Column(head, True) for head in heads)),
    )
    for session in material.in_detail:
        info = session.info
        measures = [field.show(session.qc) for field in _MEASURES]
        table.add([session.label, f"{info.n_frames:,}", f"{info.tr:g}", str(len(session.warnings)), *measures])
    return table.build()


def _overview(material: Material) -> Table:
    columns = (Column("measure"), *(Column(name, True) for name in ("lowest", "median", "highest", "sessions")))
    table = TableBuilder(f"All {len(material.sessions):,} sessions, by measure", columns)
    for field in _MEASURES:
        values = np.array([session.qc[field.key] for session in material.sessions if field.key in session.qc]) * field.scale
        if len(values):
            lowest, median, highest = (number(float(value), field.digits) for value in np.percentile(values, (0, 50, 100)))
            table.add([field.head, lowest, median, highest, f"{len(values):,}"])
    return table.build()


def _warnings(material: Material) -> list[Block]:
    rows = [(session.label, warning) for session in material.in_detail for warning in session.warnings]
    if not rows:
        return [Prose("slimbrain prep gave no warning about these sessions.")]
    table = TableBuilder("Warnings of slimbrain prep", (Column("session"), Column("warning")))
    for row in rows:
        table.add(row)
    return [_folded(table.build(), f"{count(len(rows), 'warning')} of slimbrain prep")]


def _folded(table: Table, title: str) -> Table | Fold:
    return Fold(title, (table,)) if len(table.rows) > _N_ROWS_OPEN else table


def _excluded(material: Material) -> tuple[Block, ...]:
    if material.inputs.excluded is None:
        return ()
    if not material.excluded:
        return (Prose("No run was excluded by a quality threshold."),)
    n_runs = len({row["session"] for row in material.excluded})
    table = TableBuilder(
        f"{count(n_runs, 'run')} excluded from the store by a quality threshold; they are not failures",
        (Column("left out"), Column("measure"), Column("value", True), Column("threshold", True)),
    )
    for row in material.excluded:
        table.add([row["session"], row["measure"], *(_four_digits(row[name]) for name in ("value", "threshold"))])
    return (_folded(table.build(), f"{count(n_runs, 'run')} excluded"),)


def _four_digits(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _failures(material: Material) -> tuple[Block, ...]:
    if material.inputs.failures is None:
        return ()
    if not material.failures:
        return (Prose("No run was refused."),)
    table = TableBuilder(f"{count(len(material.failures), 'run')} refused, and why", (Column("file"), Column("reason")))
    for row in material.failures:
        table.add(row)
    return (_folded(table.build(), f"{count(len(material.failures), 'run')} refused"),)


def _coverage(store: Store, material: Material) -> Figure:
    session = material.worst_first[0]
    mean, std = store.moments(session.info.key)
    share = Field("coverage", "", 1, 100.0).show(session.qc)
    where = f", missing {session.gap}" if session.gap else ""
    alt = f"Mean image of {session.label} in sagittal, coronal and axial cuts; data cover {share} % of the brain mask{where}."
    chosen = f", the first of all sessions in this order: {_order()}" if len(material.sessions) > 1 else ""
    whole = (std > 0)[store.grid.voxel_mask].all()
    lost = "Data cover all of it." if whole else f"Orange: mask without data ({share} % is covered{where})."
    caption = f"Mean image of {session.label} in template space{chosen}. Blue: outline of the brain mask. {lost} Left is left."
    return Figure(mosaic(store.grid, mean, std > 0, "mosaic", alt), caption, alt)


def _carpets(store: Store, material: Material) -> list[Block]:
    shown = material.in_detail
    intro = "Mean of each channel over time, from the bottom of the brain to its top. White and black lie two standard deviations "
    intro += f"from a channel's own mean. Dashed: framewise displacement of {FD_THRESHOLD_MM:g} mm. "
    intro += "Flagged: frames over it, with a DVARS spike, frozen, copied, or left out by scrubbing. "
    intro += "The global signal has the image's own unit."
    if material.windows:
        intro += f" Chosen: the {material.k} windows that stage 1 ranks first."
    if len(shown) < len(material.sessions):
        intro += f" Shown are {len(shown)} of {len(material.sessions)} sessions: {_order()}; slimbrain report --participants shows others."
    figures = [_carpet(store, material, session, place) for place, session in enumerate(track(shown, "report: carpet plots"))]
    folded = figures[_N_OPEN:]
    more = [Fold(f"Carpet plots of {count(len(folded), 'more session')}", tuple(folded))] if folded else []
    return [Prose(intro), *figures[:_N_OPEN], *more]


def _carpet(store: Store, material: Material, session: SessionFacts, place: int) -> Figure:
    series: _FloatArray = store.coarse(session.info.key)
    recorded = session_series(store, session.info.key)
    traces = {label: (recorded.times, recorded.traces[name]) for name, label in _TRACES if name in recorded.traces}
    marks = _marks(material, session, recorded)
    names = ", ".join(traces) or "no trace"
    parts = [
        count(len(marks.flagged), "flagged frame") if len(marks.flagged) else "",
        count(len(marks.chosen), "chosen window") if marks.chosen else "",
    ]
    marked = "".join(f", {part}" for part in parts if part)
    alt = f"Carpet plot of {session.label}: {series.shape[1]} channels over {len(series) * session.info.tr:.0f} s, below {names}{marked}."
    caption = f"{session.label}: {names}{marked}, and the carpet of {series.shape[1]:,} channels."
    svg = carpet(series, store.channels(session.info.key).mm[:, 2], session.info.tr, traces, marks, f"carpet-{place}", alt)
    return Figure(svg, caption, alt)


def _marks(material: Material, session: SessionFacts, recorded: SessionSeries) -> Marks:
    windows = material.windows.get(session.info.key, ())
    chosen = [(row.onset_s, row.duration_s) for row in windows if row.among(material.k)]
    return Marks(recorded.flagged, chosen, {FD_LABEL: FD_THRESHOLD_MM})
