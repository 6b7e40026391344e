"""Whose session is this? Find each subject's session among one session of everybody, by correlation; nothing is trained.

After Finn et al. 2015 (doi 10.1038/nn.4135): one occasion is the gallery, another the query, then the other way round. Vectors are
demeaned over the gallery, so that what all brains share does not count as likeness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.base import clone

from slimbrain.errors import InputError
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.stats import Floats, OutOfFold
from slimbrain.store import SessionInfo, Store

_SMALLEST_PEOPLE = 3
"""With two subjects in the gallery, demeaning makes their vectors opposite: chance could look like skill."""


@dataclass(frozen=True)
class Pairing:
    """Two sessions of every subject who has both.

    Attributes
    ----------
    occasions : tuple[str, str]
        What the two are called, such as `task-rest1` and `task-rest2`.
    subjects : tuple[str, ...]
        N participants.
    keys : tuple[tuple[str, str], ...]
        (first, second) session keys of each.
    left_out : int
        Sessions that are no part of it.
    """

    occasions: tuple[str, str]
    subjects: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    left_out: int

    @property
    def flat(self) -> list[str]:
        """The 2 N keys, all of the first occasion before all of the second."""
        return [pair[side] for side in (0, 1) for pair in self.keys]

    def describe(self) -> str:
        """One line for a result file."""
        return f"gallery {self.occasions[0]}, query {self.occasions[1]}, and the other way round; nothing is fitted on labels"


def pair_sessions(store: Store, occasions: Sequence[str] = (), keys: Sequence[str] | None = None) -> Pairing:
    """Pick the two occasions that most subjects have, or the two that are named.

    Parameters
    ----------
    occasions : Sequence[str], default ()
        Two names; of pairs that as many subjects have, the first in alphabetical order is taken if empty.
    keys : Sequence[str] or None
        Sessions to consider, all by default.

    Raises
    ------
    InputError
        If an occasion is not in the store, or fewer than `_SMALLEST_PEOPLE` subjects have both.
    """
    found: Mapping[str, dict[str, str]] = defaultdict(dict)
    sessions = store.sessions if keys is None else [store.session(key) for key in keys]
    for info in sessions:
        found[_occasion(info)].setdefault(info.subject, info.key)
    if unknown := [name for name in occasions if name not in found]:
        raise InputError(f"{store.root}: has no sessions called {unknown[0]}; there are {', '.join(sorted(found))}.")
    candidates = [(occasions[0], occasions[1])] if occasions else list(combinations(sorted(found), 2))
    shared = {pair: sorted(found[pair[0]].keys() & found[pair[1]].keys()) for pair in candidates}
    best = max(shared, key=lambda pair: len(shared[pair]), default=("", ""))
    subjects = shared.get(best, [])
    if len(subjects) < _SMALLEST_PEOPLE or best[0] == best[1]:
        raise InputError(
            f"{store.root}: {len(subjects)} subjects have two different sessions to tell them by; "
            f"identification needs {_SMALLEST_PEOPLE} with the same two."
        )
    pairs = tuple((found[best[0]][subject], found[best[1]][subject]) for subject in subjects)
    return Pairing(best, tuple(subjects), pairs, len(sessions) - 2 * len(subjects))


def _occasion(info: SessionInfo) -> str:
    """What a session is called apart from whose it is: `ses-1_task-rest_run-2`, say."""
    return "_".join(part for part in info.key.split("_") if part.partition("-")[0] in ("ses", "task", "run"))


def identify(features: FeatureSet, pairing: Pairing) -> OutOfFold:
    """Likeness of every query to every session of the gallery, in both directions.

    Parameters
    ----------
    features : FeatureSet
        One entry for each of `pairing.flat`; a transform (the tangent's mean) is fitted on the gallery.

    Returns
    -------
    2 N rows: fold 0 has the first occasion as its gallery, fold 1 the second.
    """
    n = len(pairing.subjects)
    if len(features) != 2 * n:
        raise InputError(f"{features.model} ({features.method}): {len(features)} rows for {2 * n} sessions; give one of each.")
    sides = features.data[:n], features.data[n:]
    likeness = np.concatenate([_likeness(features, gallery, query) for gallery, query in (sides, sides[::-1])])
    fold = np.repeat([0, 1], n)[None]
    ones = np.ones((1, 2 * n))
    names = np.array([*pairing.subjects, *pairing.subjects], dtype=np.str_)
    return OutOfFold(names, np.tile(np.arange(n), 2).astype(np.float64), likeness[None], fold, ones, np.inf * ones, (), gallery=True)


def _likeness(features: FeatureSet, gallery: Floats, query: Floats) -> Floats:
    """(queries, gallery) correlations."""
    if features.transform is not None:
        transform: Any = clone(features.transform).fit(gallery)
        gallery, query = transform.transform(gallery), transform.transform(query)
    if not (np.isfinite(gallery).all() and np.isfinite(query).all()):
        raise InputError(f"{features.model} ({features.method}): features hold NaN or infinity; drop those sessions or embed them again.")
    mean = gallery.mean(axis=0)
    likeness: Floats = _unit_rows(query - mean) @ _unit_rows(gallery - mean).T
    # A tie that is broken by the order of a sum is still a tie.
    return np.round(likeness, 12)


def _unit_rows(x: Floats) -> Floats:
    """Rows without their mean, of length 1, or 0 where a row says nothing."""
    # One number per session has no correlation; its sign relative to the gallery's mean remains.
    x = x - x.mean(axis=1, keepdims=True) if x.shape[1] > 1 else x
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = np.divide(x, length, out=np.zeros_like(x), where=length > 1e-12)
    return unit
