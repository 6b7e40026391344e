"""Progress is shown on standard error, and what is tracked passes through unchanged."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from slimbrain import progress
from slimbrain.progress import track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it 4 s later."""
    ticks = itertools.count(start=0.0, step=4.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("items", [[], [3], list(range(50))], ids=len)
def test_items_pass_through_in_order(
    items: list[int], terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(track(items, "label")) == items
    assert list(track(iter(items), "label")) == items
    captured = capsys.readouterr()
    assert captured.out == "" and "label" in captured.err


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    list(track("abcdefgh", "prep"))
    lines = capsys.readouterr().err.splitlines()
    # 4 s an item: the first line comes when 12 s have passed, after 3 of 8 items; 5 more at 4 s each are left.
    assert lines == ["prep: 3/8, about 20 s left", "prep: 6/8, about 8 s left", "prep: 8 done in 36.0 s"]


# --- more than ten minutes to come


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still but for what a test lets pass."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def warned(passes: Callable[[float], None], seconds: Sequence[float], capsys: pytest.CaptureFixture[str], **how: Any) -> list[str]:
    """Warnings where items take these times, each with the number of the item at whose end it came."""
    lines = []
    items = track(seconds, "explain", **how)
    for number, one in enumerate(items):
        lines += [f"{number}: {line}" for line in said(capsys) if "more; to make" in line]
        passes(one)
    return lines + [f"end: {line}" for line in said(capsys) if "more; to make" in line]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines on standard error, without what moves a terminal's cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_says_so_once_after_its_first_item(
    terminal: bool, slow_clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of 25 items takes 180 s: 24 x 180 s = 72 min are to come."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    lines = warned(slow_clock, [180.0] * 25, capsys, shorter="--k 1")
    assert lines == ["1: explain will take about 72 min more; to make it shorter: --k 1."]


def test_many_short_items_are_long_work_too(slow_clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    """One second each: after ten of 4,000 the rate is known."""
    assert warned(slow_clock, [1.0] * 4000, capsys, shorter="x") == ["10: explain will take about 66 min more; to make it shorter: x."]


@pytest.mark.parametrize(
    ("seconds", "how"),
    [
        ([20.0] * 30, {"shorter": "x"}),
        ([180.0] * 25, {}),
        ([180.0, *[0.0] * 7, 180.0], {"shorter": "x", "at_once": 8}),
    ],
    ids=["ten minutes in all", "no way to make it shorter", "eight at once"],
)
def test_other_work_is_not_announced(
    seconds: list[float], how: dict[str, Any], slow_clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert warned(slow_clock, seconds, capsys, **how) == []


def test_finished_items_do_not_hide_that_the_rest_is_long(slow_clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    """Of 200 sessions 100 have their maps already; the others take a minute each: said once thirteen of them are done."""
    (line,) = warned(slow_clock, [0.0] * 100 + [60.0] * 100, capsys, shorter="x")
    # After n slow ones, 60 n / (100 + n) x (100 - n) s are left: 566 s after 12, 601 s after 13.
    assert line.startswith("113: explain will take about 10 min more")


def test_without_a_total_no_end_is_promised(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    list(track(iter("abc"), "prep"))
    assert capsys.readouterr().err.splitlines() == ["prep: 3", "prep: 3 done in 16.0 s"]


def test_a_given_total_counts(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    list(track(iter("abc"), "prep", total=6))
    assert capsys.readouterr().err.splitlines()[0] == "prep: 3/6, about 12 s left"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (3700, "62 min"), (7199, "120 min"), (9000, "2.5 h")]
)
def test_long_times_are_told_in_minutes_and_hours(seconds: float, words: str) -> None:
    assert progress._in_words(seconds) == words


def test_items_are_drawn_one_at_a_time() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    next(iter(track(source(), "label")))
    assert drawn == [0]


def test_errors_in_the_loop_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        for number in track([0], "label"):
            1 / number
