"""Progress is shown on standard error, and what is tracked passes through unchanged."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

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
