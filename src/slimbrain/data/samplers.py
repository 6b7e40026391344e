"""Which session draw number n takes: computed from a seed, weights and n, the same for any number of processes and workers.

What is exact, and in which sense: draws are whole, so weights are first rounded to whole draws in `_PERIOD` (fixed weights, and each
step of a schedule) or in an interval (adaptive weights), by the largest remainder. Those rounded weights are then met to less than one draw
after *every* draw: |draws of a cohort - sum of its weights so far| < 1. So over any stretch it is less than two off, and with fixed weights
any `_PERIOD` draws in a row hold exactly the rounded weights. Only a cap on repeats may shift a draw for a while (`Mixture`).
"""

from __future__ import annotations

import bisect
import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError

_IntArray = npt.NDArray[np.int64]
Weight = float | Mapping[int, float]
"""A number, or one by step: straight lines between, level before the first and after the last."""

_PERIOD = 1000
"""Draws to which weights are rounded."""

_FAR = 20 * _PERIOD
"""Draws that are computed one after the other before a jump is worth it."""

_NEVER = 2**62


@dataclass(frozen=True)
class Pace:
    """How draws fall on steps: `per_step` draws each, for `steps` steps."""

    per_step: int
    steps: int


# --- weights


def weight_at(weight: Weight, step: int) -> float:
    """A weight at a training step."""
    if not isinstance(weight, Mapping):
        return float(weight)
    steps = sorted(weight)
    return float(np.interp(step, steps, [weight[known] for known in steps]))


def ever_drawn(weight: Weight) -> bool:
    """Whether a weight is above 0 at any step."""
    return any(value > 0 for value in weight.values()) if isinstance(weight, Mapping) else weight > 0


def apportion(weights: Sequence[float], total: int, owed: Sequence[float] | None = None) -> tuple[int, ...]:
    """Whole shares of a total in proportion to weights, by the largest remainder; the first of equals wins.

    Parameters
    ----------
    owed : sequence of float or None
        What rounding kept from each before, which is added to its share; their sum is 0.
    """
    # In whole numbers, so that equal weights have equal remainders.
    parts, kept = _whole(weights), _whole([*(owed or [0.0] * len(weights)), 1.0])
    whole = sum(parts) * kept[-1]
    exact = [part * total * kept[-1] + debt * sum(parts) for part, debt in zip(parts, kept, strict=False)]
    shares = [max(0, value // whole) for value in exact]
    remainders = [value - share * whole for value, share in zip(exact, shares, strict=True)]
    for cohort in sorted(range(len(parts)), key=lambda cohort: -remainders[cohort])[: total - sum(shares)]:
        shares[cohort] += 1
    return tuple(shares)


def _whole(numbers: Sequence[float]) -> list[int]:
    """Whole numbers in exactly the proportion of these."""
    ratios = [number.as_integer_ratio() for number in numbers]
    common = max(below for _, below in ratios)
    # What is below is a power of two, for whatever float.
    return [above * (common // below) for above, below in ratios]


def limited(weights: Sequence[float], sizes: Sequence[int], cap: int | None) -> list[float]:
    """Shares of draws, sum 1, of which none draws its sessions more than `cap` times in an epoch of sum(sizes) draws.

    What a share loses goes to those that still have room, in proportion to their weights.

    Raises
    ------
    InputError
        If all that have weight together have too few sessions.
    """
    shares = [weight / math.fsum(weights) for weight in weights]
    if cap is None:
        return shares
    drawn = sum(size for size, weight in zip(sizes, weights, strict=True) if weight)
    if cap * drawn < sum(sizes):
        raise InputError(
            f"sampling.mixture: most_repeats {cap} leaves too few draws where only {drawn} of {sum(sizes)} sessions have a weight above 0; "
            "raise it, or give the others some weight there."
        )
    most = [cap * size / sum(sizes) for size in sizes]
    full: set[int] = set()
    while over := {cohort for cohort, share in enumerate(shares) if share > most[cohort]} - full:
        full |= over
        room = 1 - math.fsum(most[cohort] for cohort in full)
        rest = math.fsum(weights[cohort] for cohort in range(len(weights)) if cohort not in full)
        shares = [most[cohort] if cohort in full else weight / rest * room for cohort, weight in enumerate(weights)]
    return shares


@dataclass
class DrawOrder:
    """Weights over draws, as whole parts of a draw.

    Attributes
    ----------
    unit : int
        Parts a draw.
    starts : list of int
        First draw of each stretch of equal weights; the last one has no end.
    quotas : list of tuple of int
        For each stretch, the parts of each cohort; their sum is `unit`.
    horizon : int or None
        Draws for which weights are known; None if all are.
    """

    unit: int
    starts: list[int]
    quotas: list[tuple[int, ...]]
    horizon: int | None = None

    @classmethod
    def fixed(cls, weights: Sequence[float]) -> DrawOrder:
        return cls(_PERIOD, [0], [apportion(weights, _PERIOD)])

    @classmethod
    def scheduled(cls, by_step: Sequence[Sequence[float]], per_step: int) -> DrawOrder:
        """Weights that change from step to step.

        Parameters
        ----------
        by_step : sequence of sequence of float
            For each step, the weight of each cohort.
        per_step : int
            Draws per step.
        """
        plan = cls.fixed(by_step[0])
        for step, weights in enumerate(by_step):
            plan.append(step * per_step, apportion(weights, _PERIOD))
        return plan

    def append(self, start: int, quotas: tuple[int, ...]) -> None:
        """From draw `start` on, other weights."""
        if quotas != self.quotas[-1]:
            self.starts.append(start)
            self.quotas.append(quotas)

    def extend(self, draws: int, quotas: tuple[int, ...]) -> None:
        """Weights of the next `draws` draws of a plan with a horizon; their quotas are whole draws of these."""
        assert self.horizon is not None and sum(quotas) == draws == self.unit
        if self.horizon:
            self.append(self.horizon, quotas)
        else:
            self.starts, self.quotas = [0], [quotas]
        self.horizon += draws


# --- draws


class Mixture:
    """Sessions in shuffled order, cohort by cohort, the cohorts interleaved by weight.

    Draw m goes, of the cohorts that would not run ahead of their weights by one, to the one that falls behind first (Tijdeman 1980, the
    chairman assignment problem), so that after m draws each has had its weight to less than one. This holds for weights that change,
    as long as they are known ahead: cohort i's draw number j may be made once its weights have passed j and must be made before they pass
    j + 1, the intervals of no stretch ask for more draws than it has, and serving the earliest deadline first meets them all.
    An interval of adaptive weights begins and ends with every cohort having had its due, so that it need not know of the next one.

    Each cohort goes through its sessions pass after pass, every session once per pass, in an order of the pass's own; a cohort with more
    weight than sessions starts its next pass sooner.

    With a cap, no session is drawn more than `cap` times in an epoch, which is as many draws as there are sessions: one that has been
    waits until the next epoch, and a cohort all of whose sessions have been gives way for what is left of the epoch and catches up
    afterwards. Weights must leave room for it (`limited`); what then gives way is a draw or two at the end of an epoch.

    Parameters
    ----------
    cohorts : sequence of str
        Their names.
    members : sequence of sequence of int
        For each, the numbers of its sessions.
    plan : DrawOrder
        Weights.
    seed : int
        Seed of the shuffling.
    cap : int or None
        Most draws of one session in an epoch.
    """

    def __init__(
        self, cohorts: Sequence[str], members: Sequence[Sequence[int]], plan: DrawOrder, seed: int, cap: int | None = None
    ) -> None:
        self.cohorts, self.members, self.plan, self.seed, self.cap = tuple(cohorts), tuple(map(tuple, members)), plan, seed, cap
        self._restart(0)

    def session(self, draw: int) -> int:
        """The number of the session that draw number `draw` takes.

        Raises
        ------
        InputError
            If weights are not known so far ahead.
        """
        if self.plan.horizon is not None and draw >= self.plan.horizon:
            raise InputError(
                f"mixture: draw {draw} is asked for before its weights are known, {self.plan.horizon} are; "
                "raise adaptive.every, or use fewer --workers, which read ahead."
            )
        if not self._first <= draw <= self._first + len(self._drawn) + _FAR:
            self._restart(draw)
        while len(self._drawn) <= draw - self._first:
            self._draw()
        return self._drawn[draw - self._first]

    def shares_at(self, draw: int) -> dict[str, float]:
        """Weights in force at a draw, by cohort; their sum is 1."""
        stretch = bisect.bisect_right(self.plan.starts, draw) - 1
        return {name: quota / self.plan.unit for name, quota in zip(self.cohorts, self.plan.quotas[stretch], strict=True)}

    @property
    def changes(self) -> bool:
        """Whether weights change from step to step."""
        return len(self.plan.starts) > 1 or self.plan.horizon is not None

    def had(self, draws: int) -> tuple[int, ...]:
        """How often each cohort comes among the first `draws` draws."""
        if draws:
            self.session(draws - 1)
        of_session = {number: cohort for cohort, numbers in enumerate(self.members) for number in numbers}
        counts = list(self._had_before)
        for number in self._drawn[: draws - self._first]:
            counts[of_session[number]] += 1
        return tuple(counts)

    def extend(self, draws: int, quotas: tuple[int, ...]) -> None:
        """Weights of the next interval; see `DrawOrder.extend`."""
        self.plan.extend(draws, quotas)
        self._deadlines = [self._deadline(cohort) for cohort in range(len(self.cohorts))]

    def _restart(self, draw: int) -> None:
        """Go back to the beginning, or, where weights never change, to the period that holds a draw: no draw before it matters then."""
        periods = draw // self.plan.unit if not self.changes and self.cap is None else 0
        self._first, self._drawn, self._stretch = periods * self.plan.unit, array("q"), 0
        self._had = [periods * quota for quota in self.plan.quotas[0]]
        self._had_before = tuple(self._had)
        self._due = [0] * len(self.cohorts)
        self._passes = [had // len(numbers) for had, numbers in zip(self._had, self.members, strict=True)]
        self._decks: list[deque[int]] = [deque() for _ in self.cohorts]
        for cohort, numbers in enumerate(self.members):
            place = self._had[cohort] % len(numbers)
            if place:
                self._next_pass(cohort)
                for _ in range(place):
                    self._decks[cohort].popleft()
        self._seen: dict[int, int] = {}
        self._deadlines = [self._deadline(cohort) for cohort in range(len(self.cohorts))]

    def _draw(self) -> None:
        """Make the next draw."""
        draw = self._first + len(self._drawn)
        while self._stretch + 1 < len(self.plan.starts) and self.plan.starts[self._stretch + 1] <= draw:
            self._stretch += 1
        due, quotas = self._due, self.plan.quotas[self._stretch]
        for cohort, quota in enumerate(quotas):
            due[cohort] += quota
        candidates = range(len(due)) if self.cap is None else self._with_room(draw)
        ready = [cohort for cohort in candidates if due[cohort] > 0] or candidates
        chosen = min(ready, key=self._deadlines.__getitem__)
        self._drawn.append(self._take(chosen))
        due[chosen] -= self.plan.unit
        self._had[chosen] += 1
        self._deadlines[chosen] = self._deadline(chosen, draw + 1)

    def _with_room(self, draw: int) -> list[int]:
        """Cohorts that have sessions left in this epoch."""
        assert self.cap is not None
        if draw % sum(map(len, self.members)) == 0:
            self._seen, self._left = {}, [self.cap * len(numbers) for numbers in self.members]
        return [cohort for cohort, left in enumerate(self._left) if left]

    def _take(self, cohort: int) -> int:
        """The next session of a cohort that may still be drawn in this epoch."""
        deck = self._decks[cohort]
        if self.cap is None:
            if not deck:
                self._next_pass(cohort)
            return deck.popleft()
        self._left[cohort] -= 1
        place = 0
        while True:
            if place == len(deck):
                self._next_pass(cohort)
            if self._seen.get(deck[place], 0) < self.cap:
                break
            place += 1
        number = deck[place]
        del deck[place]
        self._seen[number] = self._seen.get(number, 0) + 1
        return number

    def _next_pass(self, cohort: int) -> None:
        """Put a cohort's sessions into its deck once more; by its name, so that another cohort beside it changes nothing."""
        numbers = self.members[cohort]
        generator = np.random.default_rng((self.seed, 0, self._passes[cohort], *self.cohorts[cohort].encode()))
        self._decks[cohort].extend(numbers[place] for place in generator.permutation(len(numbers)).tolist())
        self._passes[cohort] += 1

    def _deadline(self, cohort: int, done: int | None = None) -> int:
        """After how many draws a cohort's next one must have been made: when its weights reach one draw more than it had.

        Parameters
        ----------
        done : int or None
            Draws made.
        """
        plan = self.plan
        done = self._first + len(self._drawn) if done is None else done
        missing = plan.unit - self._due[cohort]
        for stretch in range(self._stretch, len(plan.starts)):
            quota = plan.quotas[stretch][cohort]
            start = max(done, plan.starts[stretch])
            length = plan.starts[stretch + 1] - start if stretch + 1 < len(plan.starts) else _NEVER
            if quota and -(-missing // quota) <= length:
                return start + -(-missing // quota)
            if length > 0:
                missing -= quota * length
        return _NEVER


def mix(
    labels: Sequence[str],
    seed: int,
    weights: Mapping[str, Weight] | None = None,
    pace: Pace | None = None,
    cap: int | None = None,
    interval: int | None = None,
) -> Mixture:
    """Interleave cohorts.

    Parameters
    ----------
    labels : sequence of str
        The cohort of each session.
    seed : int
        Seed of the shuffling.
    weights : mapping of str to Weight or None
        How often a cohort is drawn, relative to the others; 0 leaves it out. All alike if None.
    pace : Pace or None
        Draws per step and steps, where weights change from step to step.
    cap : int or None
        Most draws of one session in an epoch.
    interval : int or None
        Draws for which weights will be given at a time, with `Mixture.extend`; those given here are then not used.

    Raises
    ------
    InputError
        If cohorts and weights do not belong together, or a weight is too small to be drawn at all.
    """
    present = sorted(set(labels))
    weights = dict.fromkeys(present, 1.0) if weights is None else weights
    _require_same(present, weights)
    cohorts = tuple(name for name in present if ever_drawn(weights[name]))
    if not cohorts:
        raise InputError("sampling.weights: all are 0, so there is nothing to draw; give a cohort some weight.")
    numbers: dict[str, list[int]] = {name: [] for name in cohorts}
    for number, label in enumerate(labels):
        if label in numbers:
            numbers[label].append(number)
    members = list(numbers.values())
    if interval is not None:
        return Mixture(cohorts, members, DrawOrder(interval, [0], [(0,) * len(cohorts)], horizon=0), seed, cap)
    plan = _plan([weights[name] for name in cohorts], [len(own) for own in members], pace or Pace(1, 1), cap)
    if rare := [name for name, quotas in zip(cohorts, zip(*plan.quotas, strict=True), strict=True) if not any(quotas)]:
        raise InputError(f"sampling.weights: {rare[0]} would have under one in {_PERIOD} draws; give it more weight, or 0 to leave it out.")
    return Mixture(cohorts, members, plan, seed, cap)


def _plan(weights: Sequence[Weight], sizes: Sequence[int], pace: Pace, cap: int | None) -> DrawOrder:
    if not any(isinstance(weight, Mapping) for weight in weights):
        # Without a cap as they were given: dividing by their sum would cost the last digit.
        plain = [weight_at(weight, 0) for weight in weights]
        return DrawOrder.fixed(plain if cap is None else limited(plain, sizes, cap))
    last = max(max(weight) for weight in weights if isinstance(weight, Mapping))
    by_step = [[weight_at(weight, step) for weight in weights] for step in range(min(last + 1, pace.steps))]
    if empty := [step for step, parts in enumerate(by_step) if not any(parts)]:
        raise InputError(f"sampling.weights: all are 0 at step {empty[0]}; give a cohort some weight there.")
    return DrawOrder.scheduled([parts if cap is None else limited(parts, sizes, cap) for parts in by_step], pace.per_step)


def _require_same(present: Sequence[str], weights: Mapping[str, Weight]) -> None:
    there = ", ".join(present)
    if missing := sorted(set(present) - set(weights)):
        raise InputError(f"sampling.weights: has none for cohort {missing[0]}; give one to each of {there} (0 leaves it out).")
    if unknown := sorted(name for name in set(weights) - set(present) if ever_drawn(weights[name])):
        raise InputError(f"sampling.weights: no session that can be trained on is of cohort {unknown[0]}; there are {there}.")


def spread_windows(n_windows: int, k: int, generator: np.random.Generator) -> _IntArray:
    """k of n windows at equal distances, to a window, from a random start; each window is as likely as any other.

    Systematic sampling: the i-th is floor((i + u) n / k) with one u in [0, 1) for all.
    """
    return np.floor((np.arange(k) + generator.random()) * n_windows / k).astype(np.int64)
