"""The tables of results/*.csv: one line per method and metric of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_text
from slimbrain.evaluate.result import Estimate, as_result

COLUMNS = ("task", "cohort", "n", "split", "labelled", "method", "metric", "mean", "low", "high", "seconds", "version", "commit")
CANNOT = "cannot"
"""Stands for the mean of a method that an evaluation cannot have."""
DIFFERENCE = "difference: "
"""Begins the method of a row that says how far ours is from the best baseline."""


def rows_of(task: str, done: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lines of the CSV: every row of the table, or of its curve, ours minus the best baseline, and what cannot be."""
    result = as_result(task, done["result"])
    cohort = f"{result.cohort} to {result.tested_on}" if result.tested_on else result.cohort
    fixed = {
        "task": task,
        "cohort": cohort,
        "n": str(result.n_subjects),
        "split": result.split,
        "labelled": "",
        "seconds": str(done["seconds"]),
        "version": result.version,
        "commit": done["commit"],
    }
    lines: list[dict[str, str]] = []
    tables = [(str(point.labelled), point.rows, point.best_baseline, point.differences) for point in result.labelled]
    for labelled, rows, best, gaps in tables or [("", result.rows, result.best_baseline, result.differences)]:
        lines += [_line(fixed, labelled, f"{row.model}: {row.method}", row) for row in rows]
        against = f"{best.model}: {best.method}"
        lines += [_line(fixed, labelled, f"{DIFFERENCE}{gap.model}: {gap.method} minus {against}", gap) for gap in gaps]
    for one in result.cannot:
        lines.append({**fixed, "method": f"{one.model}: {one.method}", "metric": result.metrics[0], "mean": CANNOT, "low": "", "high": ""})
    return lines


def _line(fixed: Mapping[str, str], labelled: str, method: str, value: Estimate) -> dict[str, str]:
    numbers = {name: "" if (each := getattr(value, name)) is None else f"{each:.4f}" for name in ("mean", "low", "high")}
    return {**fixed, "labelled": labelled, "method": method, "metric": value.metric, **numbers}


def write_csv(folder: Path, cohort: str, lines: Sequence[Mapping[str, str]]) -> Path:
    """One cohort's table, replaced as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [",".join(COLUMNS), *(",".join(_quoted(line[name]) for name in COLUMNS) for line in lines)]
    return write_text(folder / f"{cohort}.csv", "\n".join(rows) + "\n")


def _quoted(cell: str) -> str:
    return f'"{cell}"' if "," in cell else cell
