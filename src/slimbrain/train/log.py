"""metrics.jsonl and tensorboard: one line for each interval between logged steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_text
from slimbrain.errors import InputError

METRICS_FILE = "metrics.jsonl"


class Tally:
    """Sums since the last logged line, from which that line's means are made; saved with the state, so that a resumed run logs the same."""

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums = dict(sums or {})

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Mean of everything that has a count, under `NAME count`; then start again."""
        counts = {name: self.sums[f"{name} count"] for name in self.sums if f"{name} count" in self.sums}
        means = {name: self.sums[name] / count for name, count in counts.items() if count}
        self.sums = {}
        return means


class Log:
    """Writer of a run's lines; those after the step that a run resumes from are dropped. Only the first process writes."""

    def __init__(self, run: Path, done: int, writes: bool) -> None:
        self._writes = writes
        if not writes:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = run / METRICS_FILE
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] < done))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 -- closed by __exit__
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()
            self._board.close()

    def write(self, line: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in line.items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, line["step"])


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; a last line that a killed run left half written is not counted.

    Parameters
    ----------
    run : Path
        Folder of the run.

    Returns
    -------
    list of dict
        Per logged step, counted from 0, its `step`, `loss` and whatever the stage logs; empty if the run logged nothing yet.

    Raises
    ------
    InputError
        If a line is not what training writes.

    Examples
    --------
    >>> from pathlib import Path
    >>> from slimbrain.train import read_metrics
    >>> [(line["step"], line["loss"]) for line in read_metrics(Path("runs/voxel"))]
    [(0, 1.0), (10, 0.8)]
    """
    path = run / METRICS_FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [_metrics(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def _metrics(text: bytes, place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if isinstance(line, dict) and type(line.get("step")) is int:
            return line
        reason = "it has no step"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise InputError(f"{place} is damaged ({reason}); restore the file, or remove that line.")
