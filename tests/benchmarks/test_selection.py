"""Selectors that the benchmark compares our scores with, against plain loops and planted windows."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def selection() -> Iterator[ModuleType]:
    """benchmarks/ is no package; its programs import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("selection")


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_top_k_holds_the_highest_in_order_of_time(selection: ModuleType, values: list[int], k: int) -> None:
    chosen = selection.top_k(np.array(values), k)
    assert len(chosen) == min(k, len(values))
    assert (np.diff(chosen) > 0).all()
    assert sorted((values[i] for i in chosen), reverse=True) == sorted(values, reverse=True)[:k]


def test_highest_variance_finds_the_loud_windows(selection: ModuleType) -> None:
    series = np.random.default_rng(0).standard_normal((43, 6)) * 0.1 + 5
    series[8:12] += 3
    series[30:31] -= 8
    assert selection.highest_variance(series, 4, 2).tolist() == [2, 7]


def test_highest_dvars_finds_the_jump_and_not_the_plateau(selection: ModuleType) -> None:
    series = np.random.default_rng(0).standard_normal((43, 6)) * 0.1
    series[14:] += 5
    assert selection.highest_dvars(series, 4, 1).tolist() == [3]
    series[24] += 9
    assert selection.highest_dvars(series, 4, 2).tolist() == [3, 6]
