"""The image that `slimbrain prep` would take for each run of a source: its space, its TR, and why this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimbrain.errors import SlimbrainError
from slimbrain.prep.runs import Failure, Run, file_of
from slimbrain.prep.source import IMAGE_SUFFIXES
from slimbrain.prep.timing import stated_time
from slimbrain.store import ROI

COLUMNS = ("file", "space", "tr", "why")
SAYS_NOTHING = "not said: give --tr"


REFUSED = "refused: "
"""How `why` begins for a file that `prep` refuses."""


def describe_taken(root: Path, runs: Sequence[Run], refused: Sequence[Failure]) -> list[dict[str, str]]:
    """One row per run, then one per file that is refused; of files without a TR in their metadata the header is read.

    Parameters
    ----------
    root : Path
        Folder that names are given relative to.
    """
    rows, failures = [], list(refused)
    for run in runs:
        try:
            tr = _tr(run)
        except SlimbrainError as error:
            failures.append(Failure(file_of(root, run), str(error)))
            continue
        why = f"refused without --tr; {_why(run)}" if tr == SAYS_NOTHING else _why(run)
        rows.append({"file": file_of(root, run), "space": _space(run), "tr": tr, "why": why})
    return rows + [{"file": each.file, "space": "n/a", "tr": "n/a", "why": f"{REFUSED}{each.reason}"} for each in failures]


def _space(run: Run) -> str:
    origin = run.record.get("SpaceFrom")
    # Of series of regions, the space that they were taken from.
    space = str(run.record.get("SourceSpace") or run.entities.get("space", "not said"))
    return f"{space} ({origin})" if origin else space


def _tr(run: Run) -> str:
    if (stated := stated_time(run.image, run.sidecar, run.tr_from)) is not None:
        return f"{stated:g} s ({run.tr_from})"
    # Tables and arrays of series, and rows of Brainmarks, have no header that could say it.
    if run.image.suffix == ".arrow" or (run.entities.get("space") == ROI and not run.image.name.endswith(IMAGE_SUFFIXES)):
        return SAYS_NOTHING
    header = run.reader(run).header_tr
    return SAYS_NOTHING if header is None else f"{header:g} s (header)"


def _why(run: Run) -> str:
    reasons = [run.chosen_because or "the only one of its run", *run.notes]
    return "; ".join(reason.removesuffix(".") for reason in reasons)
