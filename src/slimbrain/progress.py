"""Progress of long work: a rich bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

_Item = TypeVar("_Item")

_PLAIN_LINE_SECONDS = 10.0
"""A log file gets at most one line in this many seconds, so that a night's run stays readable."""


def track(items: Iterable[_Item], label: str, total: int | None = None) -> Iterator[_Item]:
    """Yield `items`, showing on standard error how many are done and how long the rest may take."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _track_rich(items, label, total)
    else:
        yield from _track_plain(items, label, total)


def _track_rich(items: Iterable[_Item], label: str, total: int | None) -> Iterator[_Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total)


def _track_plain(items: Iterable[_Item], label: str, total: int | None) -> Iterator[_Item]:
    started = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _PLAIN_LINE_SECONDS:
            last = now
            left = f", about {_in_words((now - started) / done * (total - done))} left" if total else ""
            print(f"{label}: {done}{f'/{total}' if total else ''}{left}", file=sys.stderr, flush=True)
    print(f"{label}: {done} done in {_in_words(time.monotonic() - started, '.1f')}", file=sys.stderr, flush=True)


def _in_words(seconds: float, digits: str = ".0f") -> str:
    """A duration in seconds, in minutes from 2 min on, or in hours from 2 h on."""
    if seconds < 120:
        return f"{seconds:{digits}} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
