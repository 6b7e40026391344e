"""Stops a run that collapses or learns nothing, so that its last good state is kept."""

from __future__ import annotations

from collections.abc import Mapping


class CollapseGuard:
    """Counts logged lines in a row, after warm-up, on which a number is below its floor.

    Parameters
    ----------
    floors : mapping of str to float
        Lowest value of a logged number, by its name; nothing is watched if empty.
    patience : int
        Number of bad lines in a row that count as a collapse.
    warmup : int
        Steps whose lines are not looked at.
    bad_lines : int
        Bad lines that a resumed run ended with.
    after : mapping of str to int
        Steps that a number has to reach its floor, where it needs more than the warm-up.
    """

    def __init__(
        self, floors: Mapping[str, float], patience: int, warmup: int, bad_lines: int = 0, after: Mapping[str, int] | None = None
    ) -> None:
        self.floors, self.patience, self.warmup, self.bad_lines = dict(floors), patience, warmup, bad_lines
        self.after = dict(after or {})

    @property
    def healthy(self) -> bool:
        """Whether the last line was good, so that a state saved now is worth resuming from."""
        return self.bad_lines == 0

    @property
    def collapsed(self) -> bool:
        return self.bad_lines >= self.patience

    def update(self, line: Mapping[str, float | None]) -> None:
        """Take one logged line into account."""
        if (line["step"] or 0) >= self.warmup:
            self.bad_lines = self.bad_lines + 1 if self.symptoms(line) else 0

    def symptoms(self, line: Mapping[str, float | None]) -> list[str]:
        """What is too low, as text."""
        low = self.low(line)
        return [f"{name.replace('_', ' ')} {value:.3g} under {self.floors[name]:g}" for name, value in low.items()]

    def low(self, line: Mapping[str, float | None]) -> dict[str, float]:
        """Numbers under their floors, by name."""
        step = line["step"] or 0
        watched = [name for name in self.floors if step >= self.after.get(name, 0)]
        return {name: value for name in watched if (value := line.get(name)) is not None and value < self.floors[name]}
