"""The ledger: whose data a store holds or a checkpoint was trained on, how much of it, and under what terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.store import SessionInfo, Store
from slimbrain.store.manifest import LEDGER_COLUMNS
from slimbrain.store.records import Governance, checked_governance
from slimbrain.store.subjects import subject_hash
from slimbrain.store.terms import NO, UNKNOWN, YES, Terms, obstacles, strictest

LEDGER = "ledger"
"""Field of a checkpoint's `training` that holds its entries."""

TIMES = "times_seen"
"""Field of a checkpoint's `training`: how often recordings of each participant were drawn, by hash."""

FINE_TUNED = "fine_tuned_for"
"""Field of a checkpoint's `training`: the task, if it was fine-tuned."""

_ANSWERS = {NO: "no", YES: "yes"}
DISCLAIMER = "read from a table of what licences say, conservatively; not legal advice"


@dataclass(frozen=True)
class LedgerEntry:
    """All sessions under one record.

    Attributes
    ----------
    governance : Governance
        The record.
    subjects, sessions : int, optional
        How many; None where a model does not say.
    seconds : float, optional
        Of recording, each session once.
    times_seen : int, optional
        How often training drew one of the sessions; None for a store, or if nobody counted.
    """

    governance: Governance
    subjects: int | None
    sessions: int | None
    seconds: float | None = None
    times_seen: int | None = None

    def to_dict(self) -> dict[str, Any]:
        counts = {"subjects": self.subjects, "sessions": self.sessions, "seconds": self.seconds, TIMES: self.times_seen}
        return {**self.governance.model_dump(mode="json"), **counts}


def entries_of(store: Store, sessions: Sequence[SessionInfo], seen: Mapping[str, int] | None = None) -> list[LedgerEntry]:
    """One entry a record, by cohort.

    Parameters
    ----------
    seen : mapping, optional
        How often each session was drawn, by key.
    """
    groups: dict[Governance, list[SessionInfo]] = {}
    # A hundred thousand sessions have a few records: rows that say the same are looked up once.
    looked_up: dict[tuple[str, ...], Governance] = {}
    for info in sessions:
        cells = tuple(info.qc.get(name, MISSING) for name in LEDGER_COLUMNS)
        record = looked_up.get(cells) or store.governance(info)
        if cells[-1] not in ("", MISSING):
            looked_up[cells] = record
        groups.setdefault(record, []).append(info)
    return sorted(
        (
            LedgerEntry(
                record,
                len({info.subject for info in members}),
                len(members),
                round(sum(info.n_frames * info.tr for info in members), 3),
                None if seen is None else sum(seen[info.key] for info in members),
            )
            for record, members in groups.items()
        ),
        key=lambda entry: (entry.governance.cohort, entry.governance.name),
    )


def times_by_person(store: Store, sessions: Sequence[SessionInfo], seen: Mapping[str, int]) -> dict[str, int]:
    """How often recordings of each participant were drawn, by the hash that the checkpoint remembers them by."""
    times: dict[str, int] = {}
    for info in sessions:
        name = subject_hash(info.subject, store.cohort(info))
        times[name] = times.get(name, 0) + seen[info.key]
    return dict(sorted(times.items()))


def times_drawn(training: Mapping[str, Any], label: str, cohort: str) -> int | None:
    """How often training drew recordings of a participant, by what a checkpoint says; None if nobody counted, as in fine-tuning.

    Not at all, if they were held out to weigh a mixture by.
    """
    times = training.get(TIMES)
    if not isinstance(times, dict) or FINE_TUNED in training:
        return None
    return next((times[name] for name in (subject_hash(label, cohort), subject_hash(label)) if name in times), None)


def entries_from(training: Mapping[str, Any]) -> list[LedgerEntry]:
    """What a checkpoint says of its data; one entry of unknowns where it has no ledger.

    Raises
    ------
    InputError
        If the ledger is damaged.
    """
    rows = training.get(LEDGER)
    if rows is None:
        return [LedgerEntry(Governance(), training.get("subjects"), training.get("sessions"))]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("config.json: the ledger, by which the model answers for its data, is damaged; export the model again.")
    counts = ("subjects", "sessions", "seconds", TIMES)
    return [
        LedgerEntry(
            checked_governance({name: value for name, value in row.items() if name not in counts}, "config.json: ledger"),
            *(row.get(name) for name in counts),
        )
        for row in rows
    ]


def joint_terms(entries: Iterable[LedgerEntry]) -> Terms:
    """What is permitted with all of the data together: of each answer the strictest."""
    return strictest(entry.governance.terms for entry in entries)


def terms_lines(entries: Sequence[LedgerEntry]) -> list[str]:
    """What the union of the terms allows, and which cohorts decide, in sentences."""
    terms = joint_terms(entries)
    lines = []
    for question, name in (("Commercial use", "commercial"), ("Derivatives", "derivatives"), ("Redistribution", "redistribution")):
        answer = getattr(terms, name)
        deciding = [_short(entry) for entry in entries if getattr(entry.governance.terms, name) is answer]
        because = "" if answer is YES else f" ({_some(deciding)})"
        lines.append(f"{question}: {_ANSWERS.get(answer, 'not known to be permitted')}{because}.")
    lines.append(f"Sources must be named: {'yes' if terms.attribution else 'no'}.")
    lines += [f"Must be passed on under {licence} alone." for licence in sorted(terms.share_alike)]
    lines += [f"In the way: {limit}." for limit in sorted(terms.limits)]
    return lines


def blocking(entries: Sequence[LedgerEntry], licence: str) -> list[tuple[LedgerEntry, list[str]]]:
    """Entries that keep what is made from all of them from being given away under a licence, with reasons.

    Parameters
    ----------
    licence : str
        As `terms.canonical_licence` writes it.
    """
    found = [(entry, obstacles(entry.governance.terms, licence)) for entry in entries]
    return [(entry, reasons) for entry, reasons in found if reasons]


def gaps(entries: Iterable[LedgerEntry]) -> dict[str, int]:
    """For how many sessions nobody knows the licence, and the consent; nothing where all is known."""
    counts: dict[str, int] = {}
    for entry in entries:
        for name in entry.governance.gaps:
            counts[name] = counts.get(name, 0) + (entry.sessions or 0)
    return {name: counts[name] for name in ("licence", "consent") if name in counts}


def summary(entries: Sequence[LedgerEntry]) -> str:
    """The ledger in three short answers, for reports."""
    if not entries:
        return "The ledger is empty."
    told = [entry.governance for entry in entries]
    unknown, n_sessions = gaps(entries), sum(entry.sessions or 0 for entry in entries)
    parts = []
    for name, values in {
        "cohort": [said.cohort for said in told],
        "licence": [said.licence for said in told],
        "consent": [scope for said in told for scope in said.consent],
    }.items():
        known = sorted({value for value in values if value != UNKNOWN})
        missing = f"unknown for {unknown[name]} of {n_sessions} sessions" if name in unknown else ""
        parts.append(f"{name}: {'; '.join(part for part in (_some(known), missing) if part) or UNKNOWN}")
    return f"{'. '.join(part[:1].upper() + part[1:] for part in parts)}."


def warning(entries: Sequence[LedgerEntry]) -> str:
    """What a command says aloud where terms are unknown; empty where all is known."""
    unknown = gaps(entries)
    if not unknown:
        return ""
    n_sessions = sum(entry.sessions or 0 for entry in entries)
    what = " and ".join(f"the {name} of {count} of {n_sessions} sessions" for name, count in unknown.items())
    return (
        f"UNKNOWN: nobody says {what}; put a governance.yaml at the root of the data, give --license and --consent, "
        "or set it with `slimbrain ledger STORE --set FILE` (docs/ledger.md)."
    )


def _short(entry: LedgerEntry) -> str:
    said = entry.governance
    consent = "" if said.consent == ("broad-research",) else f", consent {','.join(said.consent)}"
    return f"{said.cohort}: {said.licence}{consent}"


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first few of them, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
