"""How often each session was trained on: counted where a step ends, over all processes and restarts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from slimbrain.train.distributed import add_up


class Seen:
    """Counts of the samples that steps were made of, each by the session it came from.

    Parameters
    ----------
    keys : all sessions that can be drawn, in an order that a restart repeats.
    before : counts that the state a run resumes from was saved with; None if it was saved without.
    """

    def __init__(self, keys: Sequence[str], before: Sequence[int] | None) -> None:
        self._place = {key: number for number, key in enumerate(keys)}
        self._before = None if before is None else list(before)
        self._here = [0] * len(self._place)

    def add(self, keys: Iterable[str]) -> None:
        """Take in the samples of a step that this process computed."""
        for key in keys:
            self._here[self._place[key]] += 1

    def counts(self, device: torch.device) -> list[int] | None:
        """Of each session in order, by all processes, each of which must ask; None if what came before is not known."""
        together = add_up(torch.tensor(self._here, dtype=torch.int64, device=device)).tolist()
        return None if self._before is None else [before + now for before, now in zip(self._before, together, strict=True)]

    def by_key(self, device: torch.device) -> Mapping[str, int] | None:
        """The same by session."""
        counts = self.counts(device)
        return None if counts is None else dict(zip(self._place, counts, strict=True))
