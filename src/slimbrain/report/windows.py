"""The section on stage 1: the scores of all windows, the chosen ones, and the events in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.progress import track
from slimbrain.report.blocks import (
    Block,
    Column,
    Data,
    Explorer,
    Figure,
    Fold,
    Prose,
    Section,
    Table,
    TableBuilder,
    count,
    number,
    probability,
)
from slimbrain.report.explorer import Happened, describe
from slimbrain.report.figures import window_scores
from slimbrain.report.inputs import MAX_DETAILED, N_WORST, Material, has_voxels
from slimbrain.report.recall import Recall, pooled, session_recall
from slimbrain.report.recorded import SessionSeries, session_series
from slimbrain.report.window_maps import choose_blocks, encode_windows
from slimbrain.simulate import SessionTruth
from slimbrain.store import ROI

_FloatArray = npt.NDArray[Any]

_TITLE = "Stage 1: which windows were chosen"

_N_OPEN = 1
"""Sessions whose scores are shown at once; the rest can be unfolded."""

_EVENTS, _PLANTED, _FLAGGED = "events", "planted peaks", "flagged"
_WINDOW_BLOCKS = "window-blocks"
"""Id on the page of the positions of the cubes of the mean maps."""

_HOW_TO_MOVE = "Move the pointer over the scores, or the slider under them (arrow keys, Home and End), to see the details of a window."

_MOTION_WORDS = "frames with framewise displacement over 0.5 mm or a DVARS spike, or excluded by scrubbing"


def build(material: Material) -> Section:
    """Recall of planted events if they are known, then the scores session by session."""
    if not material.windows:
        empty = "the window table has no row; slimbrain rank writes one per window, --windows adds the table."
        none = "no window table was given; slimbrain rank writes one, --windows adds it."
        return Section("windows", _TITLE, absent=empty if material.inputs.windows else none)
    assert material.inputs.windows is not None
    n_windows = sum(len(rows) for rows in material.windows.values())
    blocks: list[Block] = [
        Prose(
            f"Stage 1 scored {count(n_windows, 'window')} of {count(len(material.windows), 'session')}; "
            f"the {material.k} best of each session are chosen for stage 2. "
            "Informativeness: how well the others are reconstructed from a window. Novelty: how badly it is reconstructed from the others. "
            "Explained: how much of its energy the others reconstruct. The score is a weighted sum of their z-scores and of that of DVARS, "
            "the largest change from frame to frame, which counts against a window; weights and the order in which windows are taken "
            "are those of the preset, or of the command that ranked them."
        ),
        Prose(f"All scores are in {material.inputs.windows.name}, one line per window."),
        *_motion_blocks(material),
        *_recall_blocks(material),
        *_score_blocks(material),
    ]
    return Section("windows", _TITLE, tuple(blocks))


def recalls(material: Material) -> dict[str, Recall]:
    """Recall of each session with known truth and an event that peaks in one of its windows."""
    found = {}
    for key, rows in material.windows.items():
        truth = material.planted(key)
        if truth is not None:
            recall = session_recall(rows, material.k, truth)
            if recall.events:
                found[key] = recall
    return found


def recall_sentence(total: Recall) -> str:
    """Events in the chosen windows, against chance."""
    return (
        f"The chosen windows hold {total.found} of {count(total.events, 'planted event')} ({100 * total.recall:.1f} %); as "
        f"many random windows hold {100 * total.expected:.1f} % on average, and at least as many with probability {probability(total.p)}."
    )


def _motion_blocks(material: Material) -> list[Block]:
    """Whether the chosen windows are those in which the head moved."""
    flagged, frames = np.zeros(2), np.zeros(2)
    for key, rows in material.windows.items():
        series = _series(material, key)
        for row in rows if len(series.times) else ():
            for place, counts in enumerate((row.among(material.k), True)):
                if counts:
                    stop = row.onset_s + row.duration_s
                    flagged[place] += np.count_nonzero((series.flagged >= row.onset_s) & (series.flagged < stop))
                    frames[place] += np.count_nonzero((series.times >= row.onset_s) & (series.times < stop))
    if not frames.all():
        return []
    chosen, everywhere = 100 * flagged / frames
    return [
        Prose(
            f"Flagged frames ({_MOTION_WORDS}) are {chosen:.1f} % of those in chosen windows, {everywhere:.1f} % of those in all: "
            "many more among the chosen would mean that motion was chosen."
        )
    ]


def _recall_blocks(material: Material) -> list[Block]:
    found = recalls(material)
    if not found:
        return []
    total = pooled(found.values())
    return [Prose(recall_sentence(total)), Fold("Planted events found, session by session", (_recall_table(material, found, total),))]


def _recall_table(material: Material, found: Mapping[str, Recall], total: Recall) -> Table:
    heads = ("windows", "chosen", "planted events", "found", "recall (%)", "random (%)", "p")
    table = TableBuilder(
        "Planted events whose response peaks in a chosen window. Random: expected share for as many windows drawn at random; "
        "p: probability that these hold at least as many events. Both are exact.",
        (Column("session"), *(Column(head, True) for head in heads)),
    )
    if len(found) <= MAX_DETAILED:
        for key, recall in found.items():
            table.add([material.labels[key], *_recall_cells(recall)])
    table.add(["all sessions", *_recall_cells(total)], mark="total")
    return table.build()


def _recall_cells(recall: Recall) -> list[str]:
    counts = (recall.n_windows, recall.k, recall.events, recall.found)
    return [*(f"{value:,}" for value in counts), number(100 * recall.recall, 1), number(100 * recall.expected, 1), probability(recall.p)]


def _score_blocks(material: Material) -> list[Block]:
    keys = list(material.windows)
    note = ""
    if len(keys) > MAX_DETAILED:
        ranked = [session.info.key for session in material.worst_first if session.info.key in material.windows]
        keys = (ranked or keys)[:N_WORST]
        note = f" Of {len(material.windows)} sessions, {len(keys)} are shown: those with the worst quality."
    intro = (
        f"Blue shading marks the {material.k} chosen windows. Below the scores, where known: framewise displacement (FD); {_EVENTS} at "
        f"their onset, as recorded; {_PLANTED} of simulated responses; {_FLAGGED}, that is, {_MOTION_WORDS}.{note}"
    )
    blocks, maps = _maps(material, keys)
    explorers = [_explorer(material, key, place, maps.get(key)) for place, key in enumerate(track(keys, "report: scores of windows"))]
    folded = explorers[_N_OPEN:]
    more = [Fold(f"Scores of {count(len(folded), 'more session')}", tuple(folded))] if folded else []
    return [Prose(intro), Prose(_HOW_TO_MOVE, on_screen=True), *blocks, *explorers[:_N_OPEN], *more]


def _maps(material: Material, keys: Sequence[str]) -> tuple[list[Block], dict[str, dict[str, Any]]]:
    """Mean maps of the windows of sessions with images, and the words and data that go with them."""
    store, known = material.store, {session.info.key: session.info for session in material.sessions}
    windows = {key: material.windows[key] for key in keys if key in known and known[key].space != ROI}
    if store is None or not windows or not has_voxels(store):
        return [], {}
    blocks = choose_blocks(store, windows)
    maps = dict(track(encode_windows(store, blocks, windows), "report: maps of windows", len(windows)))
    words = (
        f"The small maps are the mean signal of the window under the cursor, in cubes of {blocks.edge_mm:g} mm. Voxels are z-scored over "
        "their session: red lies above a place's own mean, blue below it; each session has a scale of its own, in standard deviations (SD)."
    )
    without = len(keys) - len(maps)
    why = "to keep the page small, or because the store lacks their frames"
    left_out = f" {count(without, 'session has', 'sessions have')} no maps here, {why}." if without else ""
    return [Prose(words + left_out), Data(_WINDOW_BLOCKS, blocks.to_json())], maps


def _explorer(material: Material, key: str, place: int, maps: Mapping[str, Any] | None) -> Explorer:
    rows, label, series = material.windows[key], material.labels[key], _series(material, key)
    ticks, happened = _ticks(material, key, series), _happened(material, key, series)
    chosen = ", ".join(f"{row.onset_s:.0f}" for row in rows if row.among(material.k))
    marks = "; ".join(f"{len(seconds)} {name}" for name, seconds in ticks.items() if len(seconds))
    alt = f"Scores of {len(rows)} windows of {label}; chosen windows begin at {chosen} s{'; ticks: ' + marks if marks else ''}."
    caption = f"{label}: {len(rows)} windows of {rows[0].duration_s:.2f} s, of which those that begin at {chosen} s were chosen."
    motion = (happened.times, happened.fd) if len(happened.fd) else None
    figure = Figure(window_scores(rows, material.k, ticks, f"scores-{place}", alt, motion), caption, alt)
    value = describe(label, rows, material.k, happened)
    return Explorer(f"explorer-{place}", figure, label, value | ({"maps": maps} if maps else {}), maps is not None)


def _happened(material: Material, key: str, series: SessionSeries) -> Happened:
    planted = material.planted(key)
    peaks = [(event.peak_s, f"planted {event.kind}, peak") for event in planted.events] if planted else []
    fd = series.traces.get("fd", np.empty(0))
    return Happened(series.times[: len(fd)], fd, series.flagged, [*series.events, *peaks])


def _ticks(material: Material, key: str, series: SessionSeries) -> dict[str, _FloatArray]:
    """Seconds to mark: recorded events, peaks of planted ones, and flagged frames, as far as they are known."""
    planted = material.planted(key)
    return {
        _EVENTS: _seconds([onset for onset, _ in series.events]),
        _PLANTED: _seconds(_peaks(planted)),
        _FLAGGED: series.flagged,
    }


def _series(material: Material, key: str) -> SessionSeries:
    """Empty where the session is in no store that was given."""
    if material.store is None or all(session.info.key != key for session in material.sessions):
        return SessionSeries()
    return session_series(material.store, key)


def _peaks(planted: SessionTruth | None) -> Sequence[float]:
    return [event.peak_s for event in planted.events] if planted else []


def _seconds(values: Sequence[float]) -> _FloatArray:
    return np.asarray(list(values), dtype=np.float64)
