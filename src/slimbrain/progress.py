"""Progress of long work: a rich bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")

_PLAIN_LINE_SECONDS = 10.0
"""A log file gets at most one line in this many seconds, so that a night's run stays readable."""


_LONG_SECONDS = 600.0
"""What lasts longer is said to, in a sentence of its own, as soon as the rate is known."""


def track(items: Iterable[_Item], label: str, total: int | None = None, shorter: str = "", at_once: int = 1) -> Iterator[_Item]:
    """Yield `items`, showing on standard error how many are done and how long the rest may take.

    Parameters
    ----------
    items : Iterable
        What is worked on, one at a time.
    label : str
        What the work is called.
    total : int or None
        How many there are, where `items` cannot say.
    shorter : str
        How a user makes the work shorter. Where the first items show that more than ten minutes are to come, one line says how
        long, and this; none if it is empty.
    at_once : int, default 1
        How many items are worked on side by side: before so many are done, their rate is not known.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    pace = _Pace(label, total, shorter, at_once)
    if sys.stderr.isatty():
        yield from _track_rich(items, label, total, pace)
    else:
        yield from _track_plain(items, label, total, pace)


@dataclass
class _Pace:
    """How long the rest of some work will take, and the one line that says so where that is long.

    Attributes
    ----------
    label, total, shorter, at_once
        As for `track`.
    told : bool
        Whether the line was given out.
    """

    label: str
    total: int | None
    shorter: str
    at_once: int
    told: bool = False

    def left(self, done: int, seconds: float) -> float | None:
        """Seconds that the rest takes if it is as fast as what is done; None where nobody knows how much there is."""
        return seconds / done * (self.total - done) if self.total else None

    def warning(self, done: int, seconds: float) -> str | None:
        """The line, once: when at least ten seconds tell the rate and more than ten minutes are left."""
        left = self.left(done, seconds)
        early = done < self.at_once or seconds < _PLAIN_LINE_SECONDS
        if self.told or early or not self.shorter or left is None or left <= _LONG_SECONDS:
            return None
        self.told = True
        return f"{self.label} will take about {_in_words(left)} more; to make it shorter: {self.shorter}."


def _track_rich(items: Iterable[_Item], label: str, total: int | None, pace: _Pace) -> Iterator[_Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for done, item in enumerate(bar.track(items, total=total), start=1):
            yield item
            if warning := pace.warning(done, time.monotonic() - started):
                bar.console.print(warning, markup=False, highlight=False)


def _track_plain(items: Iterable[_Item], label: str, total: int | None, pace: _Pace) -> Iterator[_Item]:
    started = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if warning := pace.warning(done, now - started):
            print(warning, file=sys.stderr, flush=True)
        if now - last >= _PLAIN_LINE_SECONDS:
            last = now
            left = pace.left(done, now - started)
            rest = "" if left is None else f", about {_in_words(left)} left"
            print(f"{label}: {done}{f'/{total}' if total else ''}{rest}", file=sys.stderr, flush=True)
    print(f"{label}: {done} done in {_in_words(time.monotonic() - started, '.1f')}", file=sys.stderr, flush=True)


def _in_words(seconds: float, digits: str = ".0f") -> str:
    """A duration in seconds, in minutes from 2 min on, or in hours from 2 h on."""
    if seconds < 120:
        return f"{seconds:{digits}} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
