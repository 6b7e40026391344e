"""Questions to the ledger of a store or a model: what is in it, is someone in it, may it be given away, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain.errors import InputError
from slimbrain.governance.ledger import (
    DISCLAIMER,
    LedgerEntry,
    blocking,
    entries_from,
    entries_of,
    gaps,
    joint_terms,
    terms_lines,
    times_drawn,
)
from slimbrain.governance.provenance import Person, remembered_hashes, trained_on
from slimbrain.store import Store
from slimbrain.store.parts import collect_parts
from slimbrain.store.records import Governance, merged, read_governance
from slimbrain.store.select import Choice, choose_sessions
from slimbrain.store.subjects import is_hash, same_label, subject_hash, with_prefix
from slimbrain.store.terms import canonical_licence
from slimbrain.store.withdrawn import withdrawn
from slimbrain.store.write import assign

_MOST_NAMED = 20
"""Sessions that a text names; JSON names all."""


@dataclass(frozen=True)
class Ledger:
    """What a store or a model says of its data.

    Attributes
    ----------
    name : str
        What the user called it.
    kind : str
        `store` or `model`.
    entries : list of LedgerEntry
        One per record.
    hashes : frozenset of str
        Of the participants: of cohort and label, of the label alone where no cohort is known.
    labels : frozenset of str
        Hashes of the labels of all participants.
    store : Store, optional
        The store, if it is one.
    training : dict
        What the model says, if it is one.
    uncollected : int
        How many of the store's sessions shards prepared, and no reader sees yet.
    """

    name: str
    kind: str
    entries: list[LedgerEntry]
    hashes: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    store: Store | None = None
    training: dict[str, Any] = field(default_factory=dict)
    uncollected: int = 0

    @property
    def n_withdrawn(self) -> int:
        return len(withdrawn(self.store.root).active) if self.store else 0

    def to_dict(self) -> dict[str, Any]:
        terms = joint_terms(self.entries)
        return {
            "path": self.name,
            "kind": self.kind,
            "entries": [entry.to_dict() for entry in self.entries],
            "unknown": gaps(self.entries),
            "participants": len(self.hashes),
            "withdrawn": self.n_withdrawn,
            "uncollected": self.uncollected,
            "terms": {
                **{name: getattr(terms, name).name.lower() for name in ("commercial", "derivatives", "redistribution")},
                "attribution": terms.attribution,
                "share_alike": sorted(terms.share_alike),
                "limits": sorted(terms.limits),
            },
            "note": DISCLAIMER,
        }


def store_ledger(path: str | Path) -> Ledger:
    """The ledger of a store.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    listed = len(Store(path).sessions)
    # Data that lie there are answered for, whether or not they are in use yet.
    store = Store(path).with_uncollected()
    people = {(info.subject, store.cohort(info)) for info in store.sessions}
    hashes = frozenset(subject_hash(*person) for person in people)
    labels = frozenset(subject_hash(label) for label, _ in people)
    uncollected = len(store.sessions) - listed
    return Ledger(str(path), "store", entries_of(store, store.sessions), hashes, labels, store, uncollected=uncollected)


def model_ledger(source: str, training: dict[str, Any]) -> Ledger:
    """The ledger of a model, from what it says of its training (`slimbrain.models.hub.read_training`)."""
    hashes, labels = remembered_hashes(training)
    return Ledger(source, "model", entries_from(training), hashes, labels, training=training)


@dataclass(frozen=True)
class _Presence:
    """Whether a participant is in a ledger.

    Attributes
    ----------
    found : bool
        Yes or no.
    how : str
        In a sentence.
    """

    found: bool
    how: str


def contains(ledger: Ledger, subject: str, cohort: str = "") -> _Presence:
    """Look for a participant by the hash of the label, and of the cohort if it is given; better a false alarm than a miss.

    Parameters
    ----------
    subject : str
        `sub-01`, `01`, or a hash as checkpoints hold them.

    Raises
    ------
    InputError
        If the model does not remember whom it saw.
    """
    if ledger.kind == "model" and not ledger.hashes:
        raise InputError(f"{ledger.name}: does not say whom it was trained on, so nobody can tell; ask whoever trained it.")
    if is_hash(subject):
        found = subject in ledger.hashes | ledger.labels
        return _Presence(found, f"{ledger.name}: {'holds' if found else 'does not hold'} the hash {subject}.")
    label = with_prefix(subject)
    if ledger.store is not None:
        return _in_store(ledger, ledger.store, label, cohort)
    if not trained_on(ledger.training, [Person(label, cohort)]):
        return _Presence(False, f"{ledger.name}: was not trained on {label}{f' of {cohort}' if cohort else ''}.")
    count = times_drawn(ledger.training, label, cohort)
    often = f", whose recordings were drawn {count} times" if count is not None else ""
    sure = "" if cohort else " (a participant of that label; give --cohort to tell cohorts apart)"
    return _Presence(True, f"{ledger.name}: was trained on {label}{often}{sure}.")


def _in_store(ledger: Ledger, store: Store, label: str, cohort: str) -> _Presence:
    held = [info for info in store.sessions if same_label(info.subject, label) and (not cohort or store.cohort(info) in ("", cohort))]
    if held:
        return _Presence(True, f"{ledger.name}: holds {len(held)} sessions of {label}.")
    record = withdrawn(store.root).find(label, cohort)
    gone = f"; {label} was withdrawn on {record.date}" if record else ""
    return _Presence(False, f"{ledger.name}: holds no session of {label}{f' of {cohort}' if cohort else ''}{gone}.")


def compatibility(ledger: Ledger, licence: str) -> dict[str, Any]:
    """Whether what is made from the data may be given away under a licence, and what prevents it.

    Returns
    -------
    `compatible`; `licence` in SPDX' spelling; `blocks`: entries with `reasons` and, for a store, the keys of their `session_names`.

    Raises
    ------
    InputError
        If it is no licence.
    """
    try:
        name = canonical_licence(licence)
    except ValueError as error:
        raise InputError(f"--compatible-with {error}.") from error
    blocks = []
    for entry, reasons in blocking(ledger.entries, name):
        block = {**entry.to_dict(), "reasons": reasons}
        if ledger.store is not None:
            named = entry.governance.name
            block["session_names"] = [info.key for info in ledger.store.sessions if ledger.store.governance(info).name == named]
        blocks.append(block)
    if not ledger.entries:
        raise InputError(f"{ledger.name}: has no sessions, so there is nothing to give away; prepare some first.")
    return {"path": ledger.name, "licence": name, "compatible": not blocks, "blocks": blocks, "note": DISCLAIMER}


def difference(first: Ledger, second: Ledger) -> dict[str, Any]:
    """What one ledger has and another has not.

    Returns
    -------
    `only_first`, `only_second`: entries; `changed`: entries of one record with other counts; `participants`: numbers in the first
    alone, in the second alone, in both.
    """
    ours, theirs = ({entry.governance.name: entry for entry in ledger.entries} for ledger in (first, second))
    return {
        "first": first.name,
        "second": second.name,
        "only_first": [ours[name].to_dict() for name in ours if name not in theirs],
        "only_second": [theirs[name].to_dict() for name in theirs if name not in ours],
        "changed": [
            {"first": ours[name].to_dict(), "second": theirs[name].to_dict()}
            for name in ours
            if name in theirs and _counts(ours[name]) != _counts(theirs[name])
        ],
        "participants": {
            "only_first": len(first.hashes - second.hashes),
            "only_second": len(second.hashes - first.hashes),
            "both": len(first.hashes & second.hashes),
        },
    }


def _counts(entry: LedgerEntry) -> tuple[object, ...]:
    return entry.subjects, entry.sessions, entry.seconds


def set_governance(root: str | Path, file: Path, where: Sequence[str] = ()) -> int:
    """Put sessions of a store under the terms in a governance.yaml, all at one moment; what the file leaves out stays.

    Sessions that shards prepared and that were not collected yet are brought into the manifest first, so that none is left out.

    Parameters
    ----------
    where : sequence of str
        Filters on columns, as of `slimbrain store subset`; all sessions if none.

    Returns
    -------
    How many sessions.

    Raises
    ------
    InputError
        If the file is not accepted, no session passes, or a cohort that is known would become another.
    """
    new = read_governance(file)
    collect_parts(Store(root).root)
    store = Store(root)
    chosen: dict[str, Governance] = {}
    for info in choose_sessions(store, Choice(where=where)):
        try:
            chosen[info.key] = merged(store.governance(info), new, new.model_fields_set)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    assign(store.root, chosen)
    return len(chosen)


def as_text(ledger: Ledger) -> str:
    """A table of the entries, and what their union allows."""
    heads = ("cohort", "licence", "consent", "not for", "participants", "sessions", "hours", "times seen", "source")
    shown = [column for column, head in enumerate(heads) if head != "times seen" or ledger.kind == "model"]
    rows = [[row[column] for column in shown] for row in (heads, *map(_cells, ledger.entries))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if unknown := gaps(ledger.entries):
        lines += ["", *(f"UNKNOWN: the {name} of {count} sessions." for name, count in unknown.items())]
    if ledger.entries:
        lines += ["", f"Together ({DISCLAIMER}):", *(f"  {line}" for line in terms_lines(ledger.entries))]
    if ledger.uncollected:
        lines += ["", f"{ledger.uncollected} of the sessions were prepared by shards; `slimbrain store collect` brings them into use."]
    if ledger.n_withdrawn:
        lines += ["", f"{ledger.n_withdrawn} participants were withdrawn."]
    return "\n".join(lines)


def _cells(entry: LedgerEntry) -> tuple[str, ...]:
    said = entry.governance
    counts = ["?" if value is None else f"{value:,}" for value in (entry.subjects, entry.sessions)]
    hours = "?" if entry.seconds is None else f"{entry.seconds / 3600:.2f}"
    times = "?" if entry.times_seen is None else f"{entry.times_seen:,}"
    return (said.cohort, said.licence, ",".join(said.consent), ",".join(said.not_for) or "-", *counts, hours, times, said.source)


def compatibility_text(verdict: dict[str, Any]) -> str:
    """The answer, and what prevents it."""
    name = f"{verdict['path']}: what is made from these data may {'' if verdict['compatible'] else 'NOT '}be given away under "
    lines = [f"{name}{verdict['licence']} ({DISCLAIMER})."]
    for block in verdict["blocks"]:
        lines.append(f"{block['cohort']}, {block['licence']}, {block['sessions']} sessions: {'; '.join(block['reasons'])}.")
        keys = block.get("session_names", [])
        lines += [f"  {key}" for key in keys[:_MOST_NAMED]]
        lines += [f"  ... and {len(keys) - _MOST_NAMED} more; --json names all"] if len(keys) > _MOST_NAMED else []
    return "\n".join(lines)


def difference_text(found: dict[str, Any]) -> str:
    """What differs, a line each."""
    lines = []
    for name, sign in (("only_first", "-"), ("only_second", "+")):
        lines += [f"{sign} {_line(entry)}" for entry in found[name]]
    for pair in found["changed"]:
        lines += [f"- {_line(pair['first'])}", f"+ {_line(pair['second'])}"]
    people = found["participants"]
    lines.append(
        f"participants: {people['only_first']} in the first alone, {people['only_second']} in the second alone, {people['both']} in both"
    )
    return "\n".join(lines)


def _line(entry: dict[str, Any]) -> str:
    what = f"{entry['cohort']}, {entry['licence']}, {','.join(entry['consent'])}"
    return f"{what}: {entry['subjects']} participants, {entry['sessions']} sessions"
