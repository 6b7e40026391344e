"""How many planted events the chosen windows hold, and how many the same number of random windows would."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimbrain.saliency import WindowRow
from slimbrain.simulate import SessionTruth

_Distribution = NDArray[np.float64]


@dataclass(frozen=True)
class Recall:
    """Planted events of one session, or of several added up.

    Attributes
    ----------
    n_windows, k : int
        All windows, and windows chosen.
    events : int
        Events whose response peaks within a window; one in the dropped tail cannot be found.
    found : int
        Events in chosen windows.
    by_chance : array
        (events + 1,) probability that k random windows hold 0, 1, ... events.
    """

    n_windows: int
    k: int
    events: int
    found: int
    by_chance: _Distribution

    @property
    def recall(self) -> float:
        """Share of the events found; not a number without events."""
        return self.found / self.events if self.events else math.nan

    @property
    def expected(self) -> float:
        """Share that random windows find on average: k / N in each session, weighted by its events."""
        return float(self.by_chance @ np.arange(len(self.by_chance))) / self.events if self.events else math.nan

    @property
    def p(self) -> float:
        """Probability that random windows find at least as many."""
        return min(1.0, float(self.by_chance[self.found :].sum()))


def session_recall(rows: Sequence[WindowRow], k: int, truth: SessionTruth) -> Recall:
    """Events found by the k best of one session's windows, in order of time."""
    # A window of one frame that lasts as long as the window: the table has seconds, not frames.
    counts = truth.events_per_window(1, rows[0].duration_s, len(rows))
    chosen = np.array([row.among(k) for row in rows])
    k = min(k, len(rows))
    return Recall(len(rows), k, int(counts.sum()), int(counts[chosen].sum()), chance(counts.tolist(), k))


def chance(counts: Sequence[int], k: int) -> _Distribution:
    """Exact distribution of the events that k of the windows hold when every choice of k is equally likely.

    Parameters
    ----------
    counts : sequence of int
        (N,) events in each window.
    k : int
        Windows chosen, at most N.

    Returns
    -------
    (sum(counts) + 1,) probabilities of 0, 1, ... events. `ways[j, h]` counts choices of j windows with h events.
    """
    total = sum(counts)
    ways = np.zeros((k + 1, total + 1))
    ways[0, 0] = 1.0
    for events in counts:
        # From the right-hand side as it was: a window is chosen once at most.
        ways[1:, events:] += ways[:-1, : total + 1 - events].copy()
    return np.asarray(ways[k] / math.comb(len(counts), k))


def pooled(recalls: Iterable[Recall]) -> Recall:
    """Sessions added up; their random choices are independent, so the distributions are convolved."""
    recalls = list(recalls)
    distribution = np.ones(1)
    for one in recalls:
        distribution = np.convolve(distribution, one.by_chance)
    n_windows, k, events, found = (sum(getattr(one, name) for one in recalls) for name in ("n_windows", "k", "events", "found"))
    return Recall(n_windows, k, events, found, distribution)
