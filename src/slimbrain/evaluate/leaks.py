"""What would make a figure too good: subjects known from pretraining, one recording under two names, a subject on two sides of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.result import Scoring
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import Split, SplitPolicy, outer_splits
from slimbrain.evaluate.tasks import Target, Task, read_target
from slimbrain.governance.fingerprint import standardised
from slimbrain.governance.provenance import Person, Provenance, people_in
from slimbrain.store import Store
from slimbrain.store.description import DATA_SHA256

_DUPLICATE_CORRELATION = 0.999
"""Two recordings that agree better than this are one: the same person scanned again comes nowhere near."""

_CANDIDATE_LIKENESS = 0.8
"""Cosine of two sketches over which the series themselves are compared: of 258 recordings a copy at 0.999 has at least 0.995, two others at
most 0.51 (`governance.fingerprint`)."""

_Pair = tuple[str, str, str]
"""Two session keys and what shows that they are one recording."""


@dataclass(frozen=True)
class Screened:
    """Who is to be evaluated, once they were found fit for it.

    Attributes
    ----------
    target : their labels.
    in_pretraining : how many of them the model that knows most was pretrained on.
    unknown : models whose pretraining participants are not recorded.
    """

    target: Target
    in_pretraining: int = 0
    unknown: tuple[str, ...] = ()


def screen(
    store: Store, task: Task, models: Mapping[str, Provenance | None], allow: bool = False, series: ChannelSeries | None = None
) -> Screened:
    """Read the labels, and look at who is to be evaluated before hours of embedding: can they be divided, and are they new to the models?

    Parameters
    ----------
    models, allow : as for `require_unseen`.
    series : the store's series; what is read here need not be read again.

    Raises
    ------
    InputError
        If they cannot be labelled or divided, a model was pretrained on some of them, or one recording stands under two of them.
    """
    series, target = series or ChannelSeries(store), read_target(task, store)
    scoring_record(target, task.policy)
    people = people_in(store, [store.session(key) for key in target.keys], series.signature)
    in_pretraining = require_unseen(models, people, allow)
    require_no_duplicates(store, target, series)
    unknown = [name for name, provenance in models.items() if not (provenance and provenance.remembers)]
    return Screened(target, in_pretraining, tuple(unknown))


def require_unseen(models: Mapping[str, Provenance | None], people: Sequence[Person], allow: bool) -> int:
    """How many of the participants the model knows best was pretrained on.

    Parameters
    ----------
    models : what each model was trained on, by the name the user gave it.
    people : participants to be evaluated, from `people_in`.
    allow : go on with those it was pretrained on.

    Raises
    ------
    InputError
        If there are any and `allow` is off.
    """
    seen = {name: provenance.seen(people) if provenance else [] for name, provenance in models.items()}
    for name, labels in seen.items():
        if labels and not allow:
            raise InputError(
                f"{name}: was trained on {len(labels)} of the {len({person.label for person in people})} participants to be evaluated, "
                f"first {labels[0]}; evaluate on others (--participants), or add --allow-seen, which the table then states."
            )
    return max((len(labels) for labels in seen.values()), default=0)


def require_no_duplicates(store: Store, target: Target, series: ChannelSeries | None = None) -> None:
    """Refuse a recording that stands under two participants, who could fall on both sides of a split.

    For identification, one that stands there twice for one participant counts too: nothing is easier to find again.

    Raises
    ------
    InputError
        If there is one; both sessions are named.
    """
    owner = dict(zip(target.keys, target.subjects, strict=True))
    within = target.kind == "identification"
    pairs = [pair for pair in duplicates(store, target.keys, series) if within or owner[pair[0]] != owner[pair[1]]]
    if not pairs:
        return
    first, second, evidence = pairs[0]
    more = f" ({len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
    raise InputError(
        f"{store.root}: {first} and {second} are one recording ({evidence}){more}, which could be trained on and tested on; "
        "leave one of them out (--participants), or give both to one participant."
    )


def duplicates(store: Store, keys: Sequence[str], series: ChannelSeries | None = None) -> list[_Pair]:
    """Pairs of sessions with the same data file, or whose channel series correlate above `_DUPLICATE_CORRELATION`.

    Every series is read once and kept as a sketch of a few numbers; only pairs of like sketches are compared in full, over the frames
    that both have. A copy that starts at another frame, or was cleaned in another way, is not found.
    """
    found: dict[tuple[str, str], str] = {}
    by_content: dict[str, list[str]] = {}
    for key in keys:
        if content := store.sidecar(key).get(DATA_SHA256):
            by_content.setdefault(str(content), []).append(key)
    for same in by_content.values():
        found |= {pair: "their data files are the same" for pair in combinations(same, 2)}
    series = series or ChannelSeries(store)
    sketches = np.stack([series[key].sketch for key in keys]) if keys else np.zeros((0, 1))
    for row, column in _like(sketches):
        pair = keys[row], keys[column]
        if pair not in found and (r := correlation(store.coarse(pair[0]), store.coarse(pair[1]))) > _DUPLICATE_CORRELATION:
            found[pair] = f"their series correlate at {r:.4f}"
    return [(*pair, evidence) for pair, evidence in found.items()]


def correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson correlation of two (T, C) series over their common frames, each channel standardised; 0 where they cannot be compared."""
    if first.shape[1] != second.shape[1]:
        return 0.0
    frames = min(len(first), len(second))
    a, b = (standardised(values[:frames]) for values in (first, second))
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def scoring_record(target: Target, policy: SplitPolicy) -> Scoring:
    """How often and after what the test subjects are scored, counted on the splits themselves.

    Raises
    ------
    InputError
        If a subject is on two sides of a split, or is tested twice with one seed.
    """
    if target.kind == "identification":
        return Scoring(tests_per_seed=1, seeds=1, tuned_on="nothing", fitted_on="nothing")
    most = 0
    for seed in policy.seeds:
        splits = outer_splits(target.subjects, target.labels, target.kind, policy, seed, target.strata, target.groups)
        tested = np.zeros(len(target.keys), dtype=np.int64)
        for split in splits:
            require_apart(target, split)
            tested[split.test] += 1
        most = max(most, int(tested.max()))
    if most > 1:
        raise InputError(f"A subject is tested {most} times with one seed; this is a fault of slimbrain, report it.")
    tuned = "inner folds of the training subjects" if policy.kind == "k-fold" else "the validation subjects"
    return Scoring(tests_per_seed=most, seeds=len(policy.seeds), tuned_on=tuned, fitted_on="the training subjects")


def require_apart(target: Target, split: Split) -> None:
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


def _like(sketches: NDArray[np.float64], block: int = 1024) -> Iterator[tuple[int, int]]:
    """Pairs of rows with a cosine over `_CANDIDATE_LIKENESS`, each once."""
    for start in range(0, len(sketches), block):
        rows, columns = np.nonzero(sketches[start : start + block] @ sketches.T > _CANDIDATE_LIKENESS)
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if row < column:
                yield row, column
