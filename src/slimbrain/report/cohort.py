"""The section on what went in where the store holds series of regions: who is in it, how long and how steady the series are, copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from slimbrain.disk.tsv import MISSING as NOT_THERE
from slimbrain.governance.duplicates import find_duplicates
from slimbrain.governance.fingerprint import signature
from slimbrain.governance.ledger import entries_of, summary
from slimbrain.progress import track
from slimbrain.report.blocks import Block, Column, Figure, Fold, Heading, Prose, Section, Table, TableBuilder, count, number
from slimbrain.report.figures import Marks, carpet
from slimbrain.report.inputs import Material
from slimbrain.report.recorded import SessionFacts
from slimbrain.report.small_plots import Panel, small_plots
from slimbrain.store import Store

_FloatArray = npt.NDArray[Any]

_TITLE = "Who and what is in it"

_PEOPLE = {"sex": ("sex", "gender"), "age": ("age",), "site": ("site", "site_id", "center"), "diagnosis": ("diagnosis", "dx", "group")}
"""What is drawn of participants, and the columns of participants.tsv that may hold it, the first that is there."""

_FD_COLUMNS = ("fd_mean", "mean_fd", "func_mean_fd")

_BOXES = 1.5
"""A step between frames is a spike from so many interquartile ranges above the upper quartile."""

_N_CARPETS, _N_LISTED, _N_PAIRS = 4, 10, 20


@dataclass(frozen=True)
class _Measured:
    """One session: TR and minutes as recorded, the size of steps between frames, spikes among them, channels without a signal."""

    facts: SessionFacts
    tr: float
    frames: int
    dvars: float
    spikes: float
    silent: int
    fd: float | None
    signature: str

    @property
    def minutes(self) -> float:
        return self.frames * self.tr / 60


def build(material: Material, others: Sequence[Block]) -> Section:
    """People, series, copies, and the least steady series.

    Parameters
    ----------
    others : sequence of Block
        What else is known of what went in, such as refused runs.
    """
    store = material.store
    assert store is not None
    people = {subject: store.participants.get(subject, {}) for subject in dict.fromkeys(one.info.subject for one in material.sessions)}
    measured = [_measure(store, one, people[one.info.subject]) for one in track(material.sessions, "report: series of regions")]
    blocks: list[Block] = [Prose(_told(material, measured)), *_people(people), *_series(measured), *others, *_copies(store, measured)]
    blocks += [Prose(summary(entries_of(store, [one.info for one in material.sessions]))), *_least_steady(store, material, measured)]
    return Section("data", _TITLE, tuple(blocks))


def _measure(store: Store, facts: SessionFacts, person: Mapping[str, str]) -> _Measured:
    series = store.coarse(facts.info.key)
    live = series.std(axis=0) > 0
    steps = np.sqrt((np.diff(series[:, live], axis=0).astype(np.float64) ** 2).mean(axis=1)) if live.any() else np.zeros(1)
    lower, upper = np.percentile(steps, (25, 75))
    fd = next((value for name in _FD_COLUMNS if (value := _number(person.get(name, ""))) is not None), None)
    return _Measured(
        facts,
        facts.source_tr,
        facts.source_frames,
        float(steps.mean()),
        float((steps > upper + _BOXES * (upper - lower)).mean()),
        int((~live).sum()),
        fd,
        signature(series) if live.any() else "",
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _told(material: Material, measured: Sequence[_Measured]) -> str:
    subjects = {one.facts.info.subject for one in measured}
    channels = sorted({material.store.channels(one.facts.info.key).mm.shape[0] for one in measured[:1]}) if material.store else []
    minutes = [one.minutes for one in measured]
    trs = sorted({one.tr for one in measured})
    recorded = f"TR {trs[0]:g} s" if len(trs) == 1 else f"{len(trs)} TRs from {trs[0]:g} to {trs[-1]:g} s"
    silent = sum(one.silent > 0 for one in measured)
    least, most = (f"{value:.1f}" for value in (min(minutes), max(minutes)))
    long = f"{least} minutes each" if least == most else f"{least} to {most} minutes (median {np.median(minutes):.1f})"
    quiet = f"; {count(silent, 'session has', 'sessions have')} channels without a signal" if silent else ""
    return (
        f"{count(len(measured), 'session')} of {count(len(subjects), 'participant')}, {channels[0]} channels in the first; recorded "
        f"with {recorded}, {long}{quiet}."
    )


def _people(people: Mapping[str, Mapping[str, str]]) -> list[Block]:
    """Small plots of what participants.tsv says, if it says anything that has a place here."""
    panels = []
    for title, names in _PEOPLE.items():
        for name in names:
            values = [row.get(name, "") for row in people.values()]
            known = [value for value in values if value not in ("", NOT_THERE)]
            if known:
                panels.append(_panel(title, known, len(values) - len(known)))
                break
    if not panels:
        return [Prose("The store has no participants.tsv with sex, age, site or diagnosis, so who the participants are is not shown.")]
    alt = "Who the participants are. " + " ".join(panel.words for panel in panels)
    return [Heading("Participants"), Figure(small_plots(panels, "people", alt), alt, alt)]


def _panel(title: str, known: Sequence[str], missing: int) -> Panel:
    numbers = [_number(value) for value in known]
    unknown = f" ({missing} unknown)" if missing else ""
    # A few whole numbers are codes of classes.
    if title == "age" and all(value is not None for value in numbers):
        return Panel.of_numbers(f"age, years{unknown}", [value for value in numbers if value is not None])
    return Panel.of_names(f"{title}{unknown}", known)


_MEASURES = (
    ("TR as recorded (s)", "tr", 2),
    ("frames as recorded", "frames", 0),
    ("minutes", "minutes", 1),
    ("DVARS of channels (SD)", "dvars", 2),
    ("spikes (% of frames)", "spikes", 1),
    ("silent channels", "silent", 0),
    ("mean FD (mm)", "fd", 2),
)


def _series(measured: Sequence[_Measured]) -> list[Block]:
    """How long, how fast and how steady: a table of all, and its distributions."""
    table = TableBuilder(
        "Series of all sessions. DVARS: root mean square over channels of the step between stored frames, in standard deviations; spikes: "
        f"steps over the upper quartile of their session by {_BOXES:g} interquartile ranges; silent: without any change; FD: from "
        "participants.tsv",
        (Column("measure"), *(Column(name, True) for name in ("lowest", "median", "highest", "sessions"))),
    )
    panels = []
    for title, name, digits in _MEASURES:
        values = [100 * one.spikes if name == "spikes" else getattr(one, name) for one in measured]
        known = [float(value) for value in values if value is not None]
        if known:
            ends = (number(float(value), digits) for value in np.percentile(known, (0, 50, 100)))
            table.add([title, *ends, f"{len(known):,}"])
            if name != "frames" and len(known) > 2 and max(known) > min(known):
                panels.append(Panel.of_numbers(title, known))
    alt = "Distributions over sessions. " + " ".join(panel.words for panel in panels)
    drawn = [Figure(small_plots(panels, "series", alt), alt, alt)] if panels else []
    return [Heading("Series"), table.build(), *drawn]


def _copies(store: Store, measured: Sequence[_Measured]) -> list[Block]:
    """Recordings that stand there twice."""
    by_key = {one.facts.info.key: one for one in measured}
    found = find_duplicates(store, list(by_key), lambda key: by_key[key].signature)
    if not found:
        return [Prose("No recording is in the store twice, neither as the same file nor with the same content.")]
    columns = (Column("recording"), Column("also stands as"), Column("evidence"))
    table = TableBuilder(f"{count(len(found), 'likely copy', 'likely copies')}: one recording under two names", columns)
    for pair in found[:_N_PAIRS]:
        table.add([by_key[pair.first.key].facts.label, by_key[pair.second.key].facts.label, pair.evidence])
    more = f" The first {_N_PAIRS} are listed." if len(found) > _N_PAIRS else ""
    words = f"Take each recording once, with --drop-duplicates of slimbrain pretrain and evaluate.{more}"
    return [Heading("Copies"), table.build(), Prose(words)]


def _least_steady(store: Store, material: Material, measured: Sequence[_Measured]) -> list[Block]:
    """The sessions with warnings, most spikes or most motion, and the carpets of the first of them."""
    by_spikes, by_motion = rankdata([-one.spikes for one in measured]), rankdata([-(one.fd or 0.0) for one in measured])
    rank = dict(zip((one.facts.info.key for one in measured), np.minimum(by_spikes, by_motion), strict=True))
    worst = sorted(measured, key=lambda one: (-len(one.facts.warnings), rank[one.facts.info.key], one.facts.info.key))[:_N_LISTED]
    blocks: list[Block] = [_listed(worst)]
    figures = []
    for place, one in enumerate(worst[:_N_CARPETS]):
        info = one.facts.info
        series, heights = store.coarse(info.key), store.channels(info.key).mm[:, 2]
        alt = f"Carpet plot of {one.facts.label}: {series.shape[1]} channels over {len(series) * info.tr:.0f} s."
        figures.append(Figure(carpet(series, heights, info.tr, {}, _chosen(material, info.key), f"carpet-{place}", alt), alt, alt))
    return [*blocks, Fold(f"Carpet plots of {count(len(figures), 'session')} of these", tuple(figures))]


def _chosen(material: Material, key: str) -> Marks:
    rows = material.windows.get(key, ())
    return Marks(chosen=[(row.onset_s, row.duration_s) for row in rows if row.among(material.k)])


def _listed(worst: Sequence[_Measured]) -> Fold:
    heads = ("minutes", "TR (s)", "DVARS (SD)", "spikes (%)", "silent channels", "mean FD (mm)", "warnings")
    table = TableBuilder(
        f"The {len(worst)} sessions with warnings, most spikes or most motion", (Column("session"), *(Column(head, True) for head in heads))
    )
    for one in worst:
        cells = [number(one.minutes, 1), f"{one.tr:g}", number(one.dvars, 2), number(100 * one.spikes, 1), str(one.silent)]
        table.add([one.facts.label, *cells, number(one.fd, 2), str(len(one.facts.warnings))])
    warned = TableBuilder("Warnings of slimbrain prep", (Column("session"), Column("warning")))
    for one in worst:
        for warning in one.facts.warnings:
            warned.add([one.facts.label, warning])
    parts: list[Table] = [table.build(), *([warned.build()] if warned.rows else [])]
    return Fold(f"The {len(worst)} sessions to look at first", tuple(parts))
