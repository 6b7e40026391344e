"""Which session and which windows draw number n takes: computed from n and a seed, with nothing to replay.

A run that stops in the middle of an epoch, a second process, and a worker that reads ahead all ask for draw n, and get the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.manifest import SessionInfo
from slimbrain.store import Store
from slimbrain.tsv import MISSING

IntArray = npt.NDArray[np.int64]

PERIOD = 1000
"""Draws after which the mixture of cohorts repeats: over any so many in a row, each cohort has its share to the draw."""

WHOLE = ("",)
"""The one cohort of a mixture that does not tell cohorts apart."""


@dataclass(frozen=True)
class Mixture:
    """Sessions in shuffled order, cohort by cohort, the cohorts interleaved by weight.

    Each cohort goes through its sessions epoch after epoch, every session once an epoch, in an order of the epoch's own; a
    cohort with more weight than sessions starts its next epoch sooner. Draws of a cohort are spread evenly: after any number
    of draws each cohort is within one of its share.

    Attributes
    ----------
    cohorts : their names, sorted.
    members : for each, the numbers of its sessions.
    quotas : for each, how many of `PERIOD` draws it has.
    seed : of the shuffling.
    """

    cohorts: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    quotas: tuple[int, ...]
    seed: int

    def session(self, draw: int) -> int:
        """The number of the session that draw number `draw` takes."""
        period, slot = divmod(draw, PERIOD)
        cohort_at, turn_at = schedule(self.quotas)
        cohort = int(cohort_at[slot])
        turn = period * self.quotas[cohort] + int(turn_at[slot])
        epoch, place = divmod(turn, len(self.members[cohort]))
        return self.members[cohort][int(_order(self.seed, self.cohorts[cohort], epoch, len(self.members[cohort]))[place])]


def mix(labels: Sequence[str], seed: int, weights: Mapping[str, float] | None = None) -> Mixture:
    """Interleave cohorts.

    Parameters
    ----------
    labels : the cohort of each session.
    seed : of the shuffling.
    weights : how often a cohort is drawn, relative to the others; 0 leaves it out. All alike if None.

    Raises
    ------
    InputError
        If cohorts and weights do not belong together, or a weight is too small to be drawn at all.
    """
    present = sorted(set(labels))
    weights = dict.fromkeys(present, 1.0) if weights is None else weights
    _require_same(present, weights)
    cohorts = tuple(name for name in present if weights[name] > 0)
    if not cohorts:
        raise InputError("sampling.weights: all are 0, so there is nothing to draw; give a cohort some weight.")
    quotas = apportion([weights[name] for name in cohorts], PERIOD)
    if 0 in quotas:
        name = cohorts[quotas.index(0)]
        raise InputError(f"sampling.weights: {name} would have under one in {PERIOD} draws; give it more weight, or 0 to leave it out.")
    members = tuple(tuple(number for number, label in enumerate(labels) if label == name) for name in cohorts)
    return Mixture(cohorts, members, quotas, seed)


def _require_same(present: Sequence[str], weights: Mapping[str, float]) -> None:
    there = ", ".join(present)
    if missing := sorted(set(present) - set(weights)):
        raise InputError(f"sampling.weights: has none for cohort {missing[0]}; give one to each of {there} (0 leaves it out).")
    if unknown := sorted(name for name in set(weights) - set(present) if weights[name] > 0):
        raise InputError(f"sampling.weights: no session that can be trained on is of cohort {unknown[0]}; there are {there}.")


def apportion(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole shares of a total in proportion to weights, by the largest remainder; the first of equals wins."""
    # Exact, so that equal weights have equal remainders.
    parts = [Fraction(weight) for weight in weights]
    exact = [part * total / sum(parts) for part in parts]
    shares = [math.floor(value) for value in exact]
    for cohort in sorted(range(len(parts)), key=lambda cohort: shares[cohort] - exact[cohort])[: total - sum(shares)]:
        shares[cohort] += 1
    return tuple(shares)


@lru_cache(maxsize=16)
def schedule(quotas: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Spread the draws of cohorts evenly over a period.

    Draw m goes, of the cohorts that would not run ahead of their share by one, to the one that falls behind first (Tijdeman
    1980, the chairman assignment problem), so that after m draws each has had its share to less than one.

    Parameters
    ----------
    quotas : draws of each cohort; their sum is the period.

    Returns
    -------
    For each draw, its cohort, and how many draws that cohort had before it.
    """
    period = sum(quotas)
    had = [0] * len(quotas)
    cohort_at, turn_at = np.empty(period, np.int64), np.empty(period, np.int64)
    for draw in range(period):
        # In whole numbers, so that no rounding decides.
        ready = [cohort for cohort, quota in enumerate(quotas) if had[cohort] * period < (draw + 1) * quota]
        chosen = min(ready, key=lambda cohort: (-(-(had[cohort] + 1) * period // quotas[cohort]), cohort))
        cohort_at[draw], turn_at[draw] = chosen, had[chosen]
        had[chosen] += 1
    return cohort_at, turn_at


@lru_cache(maxsize=64)
def _order(seed: int, cohort: str, epoch: int, count: int) -> IntArray:
    """Order of a cohort's sessions in one of its epochs; by the cohort's name, so that another cohort beside it changes nothing."""
    return np.random.default_rng((seed, 0, epoch, *cohort.encode())).permutation(count)


def cohorts_of(store: Store, sessions: Sequence[SessionInfo], column: str | None) -> list[str]:
    """The cohort of each session: its value in a column of `sessions.tsv`, else its participant's in `participants.tsv`.

    Raises
    ------
    InputError
        If neither table has the column, or a session has no value there.
    """
    if column is None:
        return [WHOLE[0]] * len(sessions)
    found = [_cell(store, info, column) for info in sessions]
    if all(value is None for value in found):
        raise InputError(
            f"sampling.by: neither sessions.tsv nor participants.tsv of {store.root} has a column {column}; name one of theirs."
        )
    lacking = [info.key for info, value in zip(sessions, found, strict=True) if value in (None, "", MISSING)]
    if lacking:
        count = f"{len(lacking)} sessions have" if len(lacking) > 1 else "1 session has"
        raise InputError(
            f"sampling.by: {count} no {column}, first {lacking[0]}; fill it in, or leave the participant out (--participants)."
        )
    return [str(value) for value in found]


def _cell(store: Store, info: SessionInfo, column: str) -> str | None:
    row = {"task": info.task, "run": info.run, "space": info.space, "session_id": info.session, "participant_id": info.subject, **info.qc}
    return row.get(column, store.participants.get(info.subject, {}).get(column))


def spread_windows(n_windows: int, k: int, generator: np.random.Generator) -> IntArray:
    """k of n windows at equal distances, to a window, from a random start; each window is as likely as any other.

    Systematic sampling: the i-th is floor((i + u) n / k) with one u in [0, 1) for all.
    """
    return np.floor((np.arange(k) + generator.random()) * n_windows / k).astype(np.int64)
