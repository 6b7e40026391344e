"""One of so many equal parts of a batch, as `--shard 3/16` names it: every process finds out by itself what is its own."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from slimbrain.errors import InputError

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/16` as a shard.

        Raises
        ------
        InputError
            If it is not of this form, or there is no such part.
        """
        matched = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(*map(int, matched.groups())) if matched else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise InputError(f"--shard {text}: is no part of a whole; write 3/16 for the third of sixteen.")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """The shard in names of files, which sort by number."""
        return f"{self.number:04d}-of-{self.of:04d}"

    @staticmethod
    def of_name(name: str) -> int:
        """Into how many the whole was divided, from the `name` of a part; 0 if it is none."""
        matched = re.fullmatch(r"\d+-of-(\d+)", name)
        return int(matched[1]) if matched else 0

    def take(self, items: Sequence[_Item], sizes: Sequence[int]) -> list[_Item]:
        """The items that are this shard's, in the order given.

        Parameters
        ----------
        sizes : sequence of int
            Bytes of each item; every process must see the same, or two take one item.
        """
        return [item for item, owner in zip(items, balanced(sizes, self.of), strict=True) if owner == self.number - 1]


def balanced(sizes: Sequence[int], parts: int) -> list[int]:
    """Which part each size belongs to, so that parts weigh about the same: the largest first, each to the lightest part.

    The heaviest part weighs at most 4/3 - 1/(3 parts) of the best possible (Graham, SIAM J. Appl. Math. 17, 1969).
    """
    lightest = [(0, part) for part in range(parts)]
    owners = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        weight, part = heapq.heappop(lightest)
        owners[place] = part
        heapq.heappush(lightest, (weight + sizes[place], part))
    return owners
