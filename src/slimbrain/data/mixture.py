"""Which sessions of a store are drawn in training, and for which cohort (by a column) or component of a mixture (by its filter)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slimbrain.config import MixtureConfig, SamplingConfig
from slimbrain.data.samplers import Weight, ever_drawn, limited, weight_at
from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.store import SessionInfo, SessionTable, Store
from slimbrain.store.filters import Cells, rows_that
from slimbrain.store.manifest import SUBJECT
from slimbrain.store.select import Columns

_FEWEST = 8
"""Of fewer participants none is held out to measure skill: each would be a large part of what can be learnt."""

_WHOLE = ""
"""The one cohort of a mixture without cohorts."""


@dataclass(frozen=True)
class Division:
    """Sessions with the name of the cohort or component that each is drawn as.

    Attributes
    ----------
    trained, drawn_as : SessionTable, list of str
        Those that are drawn, and as what.
    held_out, held_out_as : SessionTable, list of str
        Those that only measure how well they are predicted.
    weights : dict of str to Weight or None
        By name; alike if None.
    notes : list of str
        What the user should read.
    """

    trained: SessionTable
    drawn_as: list[str]
    held_out: SessionTable = field(default_factory=lambda: SessionTable.of(()))
    held_out_as: list[str] = field(default_factory=list)
    weights: dict[str, Weight] | None = None
    notes: list[str] = field(default_factory=list)


def divide(store: Store, sessions: Sequence[SessionInfo], sampling: SamplingConfig, seed: int, held_out: float = 0.0) -> Division:
    """Assign each session that can be trained on to its cohort or component.

    Parameters
    ----------
    seed : int
        Decides who is held out.
    held_out : float
        Share of participants who only measure skill; adaptive weights hold out their own, who then serve both.

    Raises
    ------
    InputError
        If columns, filters or weights do not fit the sessions.
    """
    config = sampling.mixture
    columns = Columns(store, sessions, config.table if config else None)
    if config is None:
        division = _without_idle(columns.sessions, _cohorts_of(columns, sampling.by), sampling.weights, [])
        return _set_aside(division, held_out, seed)
    if config.by is not None:
        division = _without_idle(columns.sessions, _cohorts_of(columns, config.by), config.weights, [])
    else:
        division = _by_components(columns, config)
    adaptive = config.adaptive
    division = _set_aside(division, held_out, seed) if adaptive is None else _hold_out(division, adaptive.held_out, seed)
    if config.most_repeats is not None:
        division.notes.extend(_lowered(division, config.most_repeats))
    return division


def _cohorts_of(columns: Columns, by: str | None) -> list[str]:
    """The cohort of each session: its value in a column.

    Raises
    ------
    InputError
        If no table has the column, or a session has no value there.
    """
    if by is None:
        return [_WHOLE] * len(columns.sessions)
    try:
        cells = columns[by]
    except KeyError as error:
        root = columns.store.root
        raise InputError(
            f"sampling.by: neither sessions.tsv nor participants.tsv of {root} has a column {by}; name one of theirs."
        ) from error
    if not {None, "", MISSING}.isdisjoint(cells):
        lacking = [info.key for info, value in zip(columns.sessions, cells, strict=True) if value in (None, "", MISSING)]
        count = f"{len(lacking)} sessions have" if len(lacking) > 1 else "1 session has"
        raise InputError(f"sampling.by: {count} no {by}, first {lacking[0]}; fill it in, or leave the participant out (--participants).")
    return [str(value) for value in cells]


def _without_idle(sessions: SessionTable, names: list[str], weights: Mapping[str, Weight] | None, notes: list[str]) -> Division:
    """Sessions of all components with a weight."""
    kept = dict(weights) if weights is not None else None
    idle = {name for name, weight in (kept or {}).items() if not ever_drawn(weight)}
    if idle:
        drawn = [place for place, name in enumerate(names) if name not in idle]
        sessions, names = sessions.take(drawn), [names[place] for place in drawn]
    return Division(sessions, names, weights=kept, notes=notes)


def _by_components(columns: Columns, config: MixtureConfig) -> Division:
    assert config.components is not None
    sessions, names = columns.sessions, list(config.components)
    known: dict[str, Cells] = {}
    passes = np.stack([rows_that(component.filter, columns, len(sessions), known) for component in config.components.values()])
    for name, passed in zip(names, passes, strict=True):
        if not passed.any():
            raise InputError(f"mixture: component {name}: no session that can be trained on passes {config.components[name].filter!r}.")
    matched = passes.sum(0)
    if (matched > 1).any() and config.overlap == "refuse":
        place = int(np.argmax(matched > 1))
        both = " and ".join(name for name, passed in zip(names, passes[:, place], strict=True) if passed)
        raise InputError(
            f"mixture: {_count(int((matched > 1).sum()))} in more than one component, first {sessions[place].key} in {both}; "
            "make their filters exclude each other, or take the first of them with overlap: first."
        )
    notes = []
    if (matched == 0).any():
        first = sessions[int(np.argmax(matched == 0))].key
        notes.append(f"mixture: {_count(int((matched == 0).sum()))} in no component and not trained on, first {first}.")
        if config.rest == "refuse":
            raise InputError(f"{notes[0][:-1]}; widen a filter, or allow it with rest: leave_out.")
    taken = np.flatnonzero(matched)
    chosen = passes.argmax(0)[taken]
    sizes = np.bincount(chosen, minlength=len(names))
    weights: dict[str, Weight] = {}
    for (name, component), size in zip(config.components.items(), sizes, strict=True):
        if not size:
            raise InputError(f"mixture: component {name}: all that pass its filter are taken by components before it; put it first.")
        weights[name] = float(size) if component.weight == "sessions" else component.weight
    drawn_as = [names[place] for place in chosen.tolist()]
    return _without_idle(sessions if len(taken) == len(sessions) else sessions.take(taken.tolist()), drawn_as, weights, notes)


def _count(sessions: int) -> str:
    return f"{sessions} sessions are" if sessions > 1 else "1 session is"


def _lowered(division: Division, cap: int) -> list[str]:
    """One sentence per component whose highest weight needs more repeats than are allowed."""
    counts = Counter(division.drawn_as)
    names, sizes = list(counts), list(counts.values())
    weights = [(division.weights or dict.fromkeys(names, 1.0))[name] for name in names]
    steps = sorted({0, *(step for weight in weights if isinstance(weight, Mapping) for step in weight)})
    notes: dict[str, tuple[float, float, float]] = {}
    for step in steps:
        asked = [weight_at(weight, step) for weight in weights]
        if not any(asked):
            continue
        for name, size, plain, share in zip(names, sizes, limited(asked, sizes, None), limited(asked, sizes, cap), strict=True):
            repeats = plain * sum(sizes) / size
            if repeats > cap and repeats > notes.get(name, (0.0, 0.0, 0.0))[0]:
                notes[name] = (repeats, plain, share)
    return [
        f"mixture: {name} would be drawn {repeats:.3g} times per session and epoch, most_repeats allows {cap}: "
        f"it gets {share:.1%} of draws instead of {plain:.1%}, the others share the rest by weight."
        for name, (repeats, plain, share) in notes.items()
    ]


def _hold_out(division: Division, share: float, seed: int) -> Division:
    """Hold out a share of each component's participants, at least one, with all their sessions."""
    people: dict[str, set[str]] = {}
    labels = division.trained.column(SUBJECT)
    for subject, name in zip(labels, division.drawn_as, strict=True):
        people.setdefault(name, set()).add(subject or "")
    aside: set[str] = set()
    for name, subjects in people.items():
        if len(subjects) < 2:
            raise InputError(f"mixture: {name} has one participant, so none can be held out; adaptive weights need two of each.")
        order = _shuffled(subjects, seed)
        aside |= set(order[: min(len(order) - 1, max(1, round(share * len(order))))])
    if bare := _left_bare(people, aside):
        raise InputError(f"mixture: all participants of {bare[0]} are held out for others; adaptive weights need participants of its own.")
    return _without(division, aside)


def _set_aside(division: Division, share: float, seed: int) -> Division:
    """Hold out a share of the participants, at least one of `_FEWEST` or more, and never the last one of a component."""
    people: dict[str, set[str]] = {}
    for subject, name in zip(division.trained.column(SUBJECT), division.drawn_as, strict=True):
        people.setdefault(name, set()).add(subject or "")
    everyone = set().union(*people.values())
    wanted = max(1, round(share * len(everyone))) if share and len(everyone) >= _FEWEST else 0
    aside: set[str] = set()
    for subject in _shuffled(everyone, seed):
        if len(aside) < wanted and not _left_bare(people, aside | {subject}):
            aside.add(subject)
    return _without(division, aside) if aside else division


def _shuffled(subjects: set[str], seed: int) -> list[str]:
    """In an order that depends on the seed and on each name alone."""
    return sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())


def _left_bare(people: Mapping[str, set[str]], aside: set[str]) -> list[str]:
    """Components of which everyone would be held out."""
    return sorted(name for name, subjects in people.items() if subjects <= aside)


def _without(division: Division, aside: set[str]) -> Division:
    """The division, with these participants held out."""
    labels = division.trained.column(SUBJECT)
    kept = [place for place, subject in enumerate(labels) if subject not in aside]
    names = [division.drawn_as[place] for place in kept]
    left = [place for place, subject in enumerate(labels) if subject in aside]
    return Division(
        division.trained.take(kept),
        names,
        division.trained.take(left),
        [division.drawn_as[place] for place in left],
        division.weights,
        division.notes,
    )
