"""Filters: what they hold for, against plain Python over the cells; and that nothing but comparisons of columns gets through."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbrain.errors import InputError
from slimbrain.store import filters
from slimbrain.store.filters import rows_that

COLUMNS = {
    "site": ["A", "B", "n/a", "C"],
    "age": ["20", "30", None, "44.5"],
    "list": ["x", "it's", "`@q", "a # b"],
    "empty": ["", "n/a", None, ""],
}


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("site == 'A'", [0]),
        ('site != "A"', [1, 3]),
        ("not site == 'A'", [1, 2, 3]),
        ("age >= 20 and age < 40", [0, 1]),
        ("20 < age <= 44.5", [1, 3]),
        ("-1 < age", [0, 1, 3]),
        ("age != 20", [1, 3]),
        ("site in ['A', 'C']", [0, 3]),
        ("site not in ('A', 'C')", [1]),
        ("age in [20, -30, 44.5]", [0, 3]),
        ("(age > 10 and (site == 'A' or site == 'B')) and not list == 'x'", [1]),
        ("list == '`@q'", [2]),
        ("list == \"it's\" or list == 'a # b'", [1, 3]),
        ("empty == 3", []),
        ("not empty == 3", [0, 1, 2, 3]),
        ("  site == 'A' ", [0]),
        ("site == 'A' and site == 'B'", []),
    ],
)
def test_rows_by_hand(expression: str, rows: list[int]) -> None:
    assert np.flatnonzero(rows_that(expression, COLUMNS, 4)).tolist() == rows


SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    **{"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    **{"in": lambda cell, values: cell in values, "not in": lambda cell, values: cell not in values},
}


def comparisons() -> st.SearchStrategy[tuple[str, Callable[[dict[str, Any]], bool]]]:
    """The text of a comparison, and what it means for a row of values."""

    def compare(column: str, sign: str, value: Any) -> tuple[str, Callable[[dict[str, Any]], bool]]:
        value = [value, value] if "in" in sign else value
        return f"{column} {sign} {value!r}", lambda row: row[column] is not None and SIGNS[sign](row[column], value)

    texts = st.builds(compare, st.just("word"), st.sampled_from(sorted(SIGNS)), st.text("ab '\"`@#\\é", max_size=3))
    numbers = st.builds(compare, st.just("number"), st.sampled_from(sorted(SIGNS)), st.integers(-3, 3) | st.floats(-3, 3))
    return texts | numbers


def joined(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    both = st.tuples(parts, parts)
    return (
        both.map(lambda two: (f"({two[0][0]}) and ({two[1][0]})", lambda row: two[0][1](row) and two[1][1](row)))
        | both.map(lambda two: (f"({two[0][0]}) or ({two[1][0]})", lambda row: two[0][1](row) or two[1][1](row)))
        | parts.map(lambda one: (f"not ({one[0]})", lambda row: not one[1](row)))
    )


@given(
    st.recursive(comparisons(), joined, max_leaves=5), st.lists(st.tuples(st.text("ab '`@é", max_size=2), st.integers(-3, 3)), min_size=1)
)
@settings(max_examples=80, deadline=None)
def test_any_expression_means_what_python_means(
    expression: tuple[str, Callable[[dict[str, Any]], bool]], rows: list[tuple[str, int]]
) -> None:
    text, meaning = expression
    # A filled cell that is no number, so that `word` is a column of texts; an empty number here and there.
    words = [*(word for word, _ in rows), "word"]
    numbers = [*(str(number) if number else "n/a" for _, number in rows), "1.5"]
    values = [
        {"word": word or None, "number": None if number == "n/a" else float(number)} for word, number in zip(words, numbers, strict=True)
    ]
    assert rows_that(text, {"word": words, "number": numbers}, len(words)).tolist() == [bool(meaning(row)) for row in values]


ATTACKS = [
    "@site == 'A'",
    "site == @secret",
    "__import__('os').system('true')",
    "site.str.contains('A')",
    "site.__class__ == 'A'",
    "site.__class__.__mro__[1].__subclasses__()",
    "().__class__ == age",
    "(lambda: 1)() == age",
    "[x for x in site] == 'A'",
    "age == (age := 3)",
    "f'{age}' == site",
    "age[0] == 1",
    "site if age else site",
    "age + 1 > 2",
    "2 ** 99 ** 99 > age",
    "'a' * 9999999999 == site",
    "sin(age) > 0",
    "age == open('x')",
    "site == b'A'",
    "age == 1j",
    "age == ...",
    "age is 3",
    "age == True",
    "site == None",
    "*age",
    "age = 3",
    "age == 3; import os",
    "import os",
    "await age == 3",
    "`site` == 'A'",
    "site == 'A' & age > 3",
    "~(age > 3)",
    "-age > 3",
    "not age",
    "age",
    "True",
    "'a' == 'a'",
    "1 < 2",
    "",
    "age in age",
    "site in 'A'",
    "site in []",
    "age in [[1]]",
    "site in [site]",
    "site == ['A']",
    "age == {1: 2}",
    "age ==\x00 3",
    "age == 1e999",
    "age == " + "9" * 1500,
    "not " * 400 + "age > 1",
    "(" * 300 + "age > 1" + ")" * 300,
    "age > 1 or " * 300 + "age > 1",
]


@pytest.mark.parametrize("expression", ATTACKS)
def test_what_is_no_comparison_never_reaches_pandas(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "A"  # noqa: F841 -- what `@secret` would find

    def reached(*_: object) -> None:
        raise AssertionError("pandas was asked")

    monkeypatch.setattr(filters, "_evaluate", reached)
    with pytest.raises(InputError, match=r"^filter "):
        rows_that(expression, COLUMNS, 4)


def test_pandas_alone_would_have_run_it() -> None:
    """Why the tree is checked first: the same words, given to pandas, call a method of the program around them."""
    import pandas

    ran: list[str] = []

    class Loud(str):
        def upper(self) -> str:
            ran.append("upper")
            return "A"

    frame = pandas.DataFrame({"site": ["A", "B"]})
    loud = Loud("x")  # noqa: F841
    assert len(frame.query("site == @loud.upper()", engine="python")) == 1 and ran == ["upper"]
    with pytest.raises(InputError):
        rows_that("site == @loud.upper()", COLUMNS, 4)


@pytest.mark.parametrize("name", ["list", "nan", "True_", "column_0", "has_column_0", "index", "inf", "é"])
def test_names_that_mean_something_to_pandas_are_plain_columns(name: str) -> None:
    assert rows_that(f"{name} == 'x'", {name: ["x", "y"]}, 2).tolist() == [True, False]


def test_refusals_say_what_to_write() -> None:
    with pytest.raises(InputError, match="no column ages; there are age, empty, list, site"):
        rows_that("ages > 3", COLUMNS, 4)
    with pytest.raises(InputError, match="compares numbers with texts; put texts in quotes"):
        rows_that("age == '30'", COLUMNS, 4)
    with pytest.raises(InputError, match="compares numbers with texts"):
        rows_that("site > 3", COLUMNS, 4)
    with pytest.raises(InputError, match="joined by and, or, not"):
        rows_that("site == 'A' && age > 3", COLUMNS, 4)


def test_long_lists_of_alternatives_are_read() -> None:
    expression = " or ".join(f"age == {number}" for number in range(60))
    assert rows_that(expression, COLUMNS, 4).tolist() == [True, True, False, False]


def test_a_column_is_of_numbers_only_if_every_filled_cell_is_one() -> None:
    assert rows_that("run == '1'", {"run": ["1", "two", "n/a"]}, 3).tolist() == [True, False, False]
    assert rows_that("run == 1", {"run": ["1", "01", "n/a"]}, 3).tolist() == [True, True, False]
    # Words that Python would read as numbers.
    assert rows_that("word == 'nan'", {"word": ["nan", "inf", "1"]}, 3).tolist() == [True, False, False]
