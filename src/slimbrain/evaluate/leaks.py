"""What would make a figure too good: subjects known from pretraining, one recording under two names, a subject on two sides of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from slimbrain.errors import InputError
from slimbrain.evaluate.result import Scoring
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import Split, SplitPolicy, outer_splits, pose
from slimbrain.evaluate.tasks import LabelSource, Target, Task, get_task, read_target
from slimbrain.governance.duplicates import Duplicate, bits_apart, find_duplicates
from slimbrain.governance.provenance import Match, Provenance, people_in
from slimbrain.store import Store

_NAMED = 3
"""Participants, or pairs, that a message names; the others are counted."""


@dataclass(frozen=True)
class Screened:
    """Who is to be evaluated, once they were found fit for it.

    Attributes
    ----------
    target : Target
        Their labels.
    in_training : int
        How many of them the model that knows most was pretrained on.
    unknown : tuple[str, ...]
        Models whose pretraining participants are not recorded.
    """

    target: Target
    in_training: int = 0
    unknown: tuple[str, ...] = ()


def screen(
    store: Store,
    task: Task,
    models: Mapping[str, Provenance | None],
    allow: bool = False,
    series: ChannelSeries | None = None,
    drop: bool = False,
    target: Target | None = None,
    others_only: bool = False,
) -> Screened:
    """Read the labels, and look at who is to be evaluated before hours of embedding: can they be divided, and are they new to the models?

    Parameters
    ----------
    models, allow : Mapping[str, Provenance or None] or bool
        As for `_require_no_overlap`.
    series : ChannelSeries or None
        The store's series; what is read here need not be read again.
    drop : bool, default False
        Leave out copied recordings, within the store and of the models' training, where they would be refused.
    target : Target or None
        The labels, where they were read before.
    others_only : bool, default False
        Leave out participants that a model was trained on, where they would be refused.

    Raises
    ------
    InputError
        If they cannot be labelled or divided, a model was trained on some of them, or one recording stands under two of them.
    """
    series, target = series or ChannelSeries(store), target or read_target(task, store)
    if others_only and not allow:
        met = {match.label for matches in _matches(store, target, models, series).values() for match in matches}
        known = {key for key, subject in zip(target.keys, target.subjects.tolist(), strict=True) if subject in met}
        if len(known) == len(target.keys):
            raise InputError(f"{store.root}: all participants with a label are known to the model from its training; evaluate on others.")
        target = target.without(known, "participant that a model was trained on")
    if drop:
        target = target.without(_copied_sessions(store, target, series), "one recording under two names (--drop-duplicates)")
        known = {match.label for matches in _matches(store, target, models, series).values() for match in matches if match.bits is not None}
        copied = {key for key, subject in zip(target.keys, target.subjects, strict=True) if subject in known}
        target = target.without(copied, "copy of a recording that a model was trained on (--drop-duplicates)")
    scoring_record(target, task.policy)
    in_training = _require_no_overlap(store, target, models, allow, series)
    _require_no_duplicates(store, target, series)
    unknown = [name for name, provenance in models.items() if not (provenance and provenance.remembers)]
    return Screened(target, in_training, tuple(unknown))


def require_labels(source: LabelSource, name: str) -> None:
    """Refuse a task whose labels `screen` would refuse, before anything is prepared or embedded.

    Parameters
    ----------
    source : LabelSource
        A store, or the roster of a source.
    name : str
        As `slimbrain evaluate --task`.

    Raises
    ------
    InputError
        If there is no such task, or the participants cannot be labelled or divided.
    """
    task = get_task(name, source=source)
    scoring_record(read_target(task, source), task.policy)


def _require_no_overlap(
    store: Store, target: Target, models: Mapping[str, Provenance | None], allow: bool, series: ChannelSeries | None = None
) -> int:
    """How many of the participants the model knows best was trained on.

    Parameters
    ----------
    target : Target
        Whose sessions are to be evaluated.
    models : Mapping[str, Provenance or None]
        What each model was trained on, by the name the user gave it.
    allow : bool
        Go on with those it was trained on.

    Raises
    ------
    InputError
        If there are any and `allow` is off; they are named, with what shows it.
    """
    series = series or ChannelSeries(store)
    found = _matches(store, target, models, series)
    for name, matches in found.items():
        if matches and not allow:
            evidence = _listed([_evidence(match, store, target, series) for match in matches])
            way = "evaluate on others (--participants), leave copies out (--drop-duplicates)"
            if len(matches) == target.n_subjects:
                way = "let `slimbrain run` pretrain a model on half of them and evaluate it on the others"
            raise InputError(
                f"{name}: was trained on {len(matches)} of the {target.n_subjects} participants to be evaluated: {evidence}; {way}, or add "
                "--allow-overlap, which the table then states."
            )
    return max((len(matches) for matches in found.values()), default=0)


def _matches(store: Store, target: Target, models: Mapping[str, Provenance | None], series: ChannelSeries) -> dict[str, list[Match]]:
    """The participants that each model was trained on."""
    people = people_in(store, [store.session(key) for key in target.keys], series.signature)
    return {name: provenance.matches(people) if provenance else [] for name, provenance in models.items()}


def _evidence(match: Match, store: Store, target: Target, series: ChannelSeries) -> str:
    """How a participant was recognised; by content, also which session of the store the model heard under another name."""
    if match.bits is None:
        return f"{match.label} by name"
    own = next(key for key in target.keys if store.session(key).subject == match.label and series.signature(key) == match.recording)
    everybody = ChannelSeries(Store(store.root))
    twins = (info.key for info in everybody.store.sessions if info.subject != match.label)
    heard = next((key for key in twins if everybody.signature(key) == match.known), None)
    whose = f"{heard}, which it was trained on" if heard else "a recording that it was trained on, which this store does not have"
    return f"{match.label} {bits_apart(match.bits)} between {own} and {whose}"


def _require_no_duplicates(store: Store, target: Target, series: ChannelSeries | None = None) -> None:
    """Refuse a recording that stands under two participants, who could fall on both sides of a split.

    For identification, one that stands there twice for one participant counts too: nothing is easier to find again.

    Raises
    ------
    InputError
        If there is one; both sessions are named.
    """
    pairs = _leaking_pairs(store, target, series or ChannelSeries(store))
    if not pairs:
        return
    named = _listed([f"{pair.first.key} and {pair.second.key} ({pair.evidence})" for pair in pairs])
    raise InputError(
        f"{store.root}: one recording stands under two names, which could be trained on and tested on: {named}; add --drop-duplicates "
        "(it leaves out both where labels disagree, else the later), name others with --participants, or give both to one participant."
    )


def _leaking_pairs(store: Store, target: Target, series: ChannelSeries) -> list[Duplicate]:
    within = target.kind == "identification"
    return [pair for pair in find_duplicates(store, target.keys, series.signature) if within or not pair.one_participant]


def _copied_sessions(store: Store, target: Target, series: ChannelSeries) -> set[str]:
    """Sessions to leave out: both participants of a pair whose labels disagree, of others the later participant or session."""
    label = dict(zip(target.keys, target.labels.tolist(), strict=True))
    pairs = _leaking_pairs(store, target, series)
    agree = [pair for pair in pairs if label[pair.first.key] == label[pair.second.key]]
    people = {info.subject for pair in pairs if pair not in agree for info in (pair.first, pair.second)}
    sessions: set[str] = set()
    for pair in agree:
        if pair.one_participant:
            if pair.first.key not in sessions:
                sessions.add(pair.second.key)
        elif pair.first.subject not in people:
            people.add(pair.second.subject)
    return sessions | {key for key in target.keys if store.session(key).subject in people}


def _listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def scoring_record(target: Target, policy: SplitPolicy) -> Scoring:
    """How often and after what the test subjects are scored, counted on the splits themselves.

    Raises
    ------
    InputError
        If all have one class, a subject is on two sides of a split, or is tested twice with one seed.
    """
    if target.kind == "identification":
        return Scoring(tests_per_seed=1, seeds=1, tuned_on="nothing", fitted_on="nothing")
    pose(target.labels, target.subjects, target.kind)
    most = 0
    for seed in policy.seeds:
        splits = outer_splits(target.subjects, target.labels, target.kind, policy, seed, target.strata, target.groups, target.blocks)
        tested = np.zeros(len(target.keys), dtype=np.int64)
        for split in splits:
            _require_apart(target, split)
            tested[split.test] += 1
        most = max(most, int(tested.max()))
    if most > 1:
        raise InputError(f"A subject is tested {most} times with one seed; this is a fault of slimbrain, report it.")
    tuned = "the validation subjects" if policy.kind == "70/10/20" else "inner folds of the training subjects"
    return Scoring(tests_per_seed=most, seeds=len(policy.seeds), tuned_on=tuned, fitted_on="the training subjects")


def _require_apart(target: Target, split: Split) -> None:
    """Refuse a split that has a subject, or subjects of one group, on two sides.

    Raises
    ------
    InputError
        If there is one.
    """
    names = target.subjects if target.groups is None else target.groups
    sides = {name: set(names[rows]) for name, rows in vars(split).items()}
    for (one, first), (other, second) in combinations(sides.items(), 2):
        if both := first & second:
            raise InputError(f"{min(both)}: is in {one} and in {other} of one split; this is a fault of slimbrain, report it.")
