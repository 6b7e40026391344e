"""The image that `slimbrain prep` would take for each run of a source: its space, its TR, and why this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimbrain.errors import SlimbrainError
from slimbrain.prep.runs import Failure, Run, file_of
from slimbrain.prep.source import IMAGE_SUFFIXES, open_source

COLUMNS = ("file", "space", "tr", "why")
SAYS_NOTHING = "not said: give --tr"


def describe_taken(root: Path, runs: Sequence[Run], refused: Sequence[Failure], shown: int | None = None) -> list[dict[str, str]]:
    """One row per run, the usable ones first; of images without metadata the header is read, and nothing else.

    Parameters
    ----------
    root : Path
        Folder that names are given relative to.
    shown : int, optional
        Stop after so many rows.
    """
    rows = [{"file": file_of(root, run), "space": _space(run), "tr": _tr(run), "why": _why(run)} for run in runs[:shown]]
    left = None if shown is None else shown - len(rows)
    return rows + [{"file": each.file, "space": "n/a", "tr": "n/a", "why": f"refused: {each.reason}"} for each in refused[:left]]


def _space(run: Run) -> str:
    origin = run.record.get("SpaceFrom")
    # Of series of regions, the space that they were taken from.
    space = str(run.record.get("SourceSpace") or run.entities.get("space", "not said"))
    return f"{space} ({origin})" if origin else space


def _tr(run: Run) -> str:
    stated = run.sidecar.get("RepetitionTime")
    if isinstance(stated, int | float):
        return f"{stated:g} s ({run.tr_from})"
    if not run.image.name.endswith(IMAGE_SUFFIXES):
        return "the file's own, or --tr"
    try:
        header = open_source(run.image).header_tr
    except SlimbrainError as error:
        return f"cannot be opened: {error}"
    return SAYS_NOTHING if header is None else f"{header:g} s (header)"


def _why(run: Run) -> str:
    reasons = [run.chosen_because or "the only one of its run", *run.notes]
    return "; ".join(reason.removesuffix(".") for reason in reasons)
