"""How often each session was trained on: counted where a step ends, over all processes and restarts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from slimbrain.train.distributed import all_reduce


class SessionCounts:
    """Counts of the samples that steps were made of, each by the session it came from.

    Parameters
    ----------
    keys : sequence of str
        All sessions that can be drawn, in an order that a restart repeats.
    before : sequence of int
        Counts that the state was saved with from which a run resumes.
    """

    def __init__(self, keys: Sequence[str], before: Sequence[int]) -> None:
        self._place = {key: number for number, key in enumerate(keys)}
        self._before = list(before)
        self._here = [0] * len(self._place)

    def add(self, keys: Iterable[str]) -> None:
        """Count the samples of a step that this process computed."""
        for key in keys:
            self._here[self._place[key]] += 1

    def counts(self, device: torch.device) -> list[int]:
        """Of each session in order, by all processes, each of which must ask."""
        together = all_reduce(torch.tensor(self._here, dtype=torch.int64, device=device)).tolist()
        return [before + now for before, now in zip(self._before, together, strict=True)]

    def by_key(self, device: torch.device) -> dict[str, int]:
        """The same by session."""
        return dict(zip(self._place, self.counts(device), strict=True))
