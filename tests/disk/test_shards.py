"""Parts of a batch: every item is one's, and parts weigh about the same."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbrain.disk.shards import Shard, balanced
from slimbrain.errors import InputError


@given(st.lists(st.integers(0, 10**12), max_size=40), st.integers(1, 7))
def test_every_item_belongs_to_one_shard_in_the_order_given(sizes: list[int], parts: int) -> None:
    items = list(range(len(sizes)))
    taken = [Shard(number, parts).take(items, sizes) for number in range(1, parts + 1)]
    assert sorted(item for mine in taken for item in mine) == items
    assert all(mine == sorted(mine) for mine in taken)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 3))
def test_the_heaviest_part_is_within_grahams_bound_of_the_best(sizes: list[int], parts: int) -> None:
    def heaviest(owners: tuple[int, ...]) -> int:
        return max(sum(size for size, owner in zip(sizes, owners, strict=True) if owner == part) for part in range(parts))

    best = min(heaviest(owners) for owners in product(range(parts), repeat=len(sizes)))
    assert heaviest(tuple(balanced(sizes, parts))) <= (4 / 3 - 1 / (3 * parts)) * best + 1e-9


def test_one_long_run_gets_a_shard_of_its_own() -> None:
    assert Shard(1, 2).take("abcd", [1, 9, 1, 1]) == ["b"]


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "a/b", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no part of a whole"):
        Shard.parse(text)


def test_a_shard_reads_as_it_is_written() -> None:
    assert Shard.parse("3/16") == Shard(3, 16) and str(Shard(3, 16)) == "3/16" and Shard(3, 16).name == "0003-of-0016"
