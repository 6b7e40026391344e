"""A tab-separated table of images, for everything that no other layout knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.prep.bids import read_json, read_table
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings
from slimbrain.prep.runs import Failure, Run, as_label, require_mni152
from slimbrain.prep.source import IMAGE_SUFFIXES
from slimbrain.prep.timing import TR_TOLERANCE_S

_NEEDED = ("path", "participant_id", "space")
_OPTIONAL = ("session_id", "task", "run", "tr", "confounds", "events")
_ENTITY_COLUMNS = {"sub": "participant_id", "ses": "session_id", "task": "task", "run": "run"}


def _matches(source: Path) -> bool:
    return source.is_file() and source.suffix == ".tsv"


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """One run per row; a row that cannot be used is skipped by itself.

    Raises
    ------
    InputError
        If the table cannot be read, has no rows, lacks a column or has one that is not known.
    """
    rows = [{name: "" if value in (None, MISSING) else value.strip() for name, value in row.items()} for row in read_table(source)]
    if not rows:
        raise InputError(f"{source}: lists no image; write a header and one row per image, separated by tabs.")
    _check_columns(source, rows[0])
    runs, failures = [], []
    for number, row in enumerate(rows, start=2):
        try:
            runs.append(_run(source, row))
        except InputError as error:
            failures.append(Failure(f"{source.name}: line {number}", f"{source}: line {number}: {error}"))
    return Recordings(source.parent, runs, failures)


def _check_columns(source: Path, row: Mapping[str, Any]) -> None:
    if missing := [name for name in _NEEDED if name not in row]:
        advice = " (name the template of each image, for example MNI152NLin6Asym)" if "space" in missing else ""
        raise InputError(f"{source}: has no column {', '.join(missing)}{advice}; add it.")
    if unknown := [name for name in row if name not in _NEEDED + _OPTIONAL]:
        known = ", ".join(_NEEDED + _OPTIONAL)
        raise InputError(
            f"{source}: column {', '.join(map(repr, unknown))} is not known; the columns are {known}, and what describes participants "
            "goes into a participants.tsv beside the table."
        )


def _run(source: Path, row: Mapping[str, str]) -> Run:
    if not row["path"] or not as_label(row["participant_id"].removeprefix("sub-")):
        raise InputError("has no path or no participant_id; fill it in, or delete the line.")
    image = source.parent / row["path"]
    if not image.name.endswith(IMAGE_SUFFIXES):
        raise InputError(f"{image} is not NIfTI; convert it to .nii.gz.")
    entities = {entity: as_label(row.get(column, "").removeprefix(f"{entity}-")) for entity, column in _ENTITY_COLUMNS.items()}
    entities["space"] = require_mni152(row["space"], str(image))
    sidecar, sidecars = _sidecar(image, row.get("tr", ""))
    return Run(
        image=image,
        entities={entity: label for entity, label in entities.items() if label},
        sidecar=sidecar,
        sidecars=sidecars,
        confounds=_named(source, row, "confounds"),
        events=_named(source, row, "events"),
        tr_from="table" if row.get("tr") else "sidecar",
        tr_column=f"the column tr of {source.name}",
        record={"Layout": TABLE.name},
    )


def _named(source: Path, row: Mapping[str, str], column: str) -> Path | None:
    path = source.parent / row[column] if row.get(column) else None
    if path is not None and not path.is_file():
        raise InputError(f"{path} is named as {column} but is not there; correct the path, or leave the cell empty.")
    return path


def _sidecar(image: Path, tr: str) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The JSON file beside the image, if any, with the table's TR in it."""
    path = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    sidecars = (path,) if path.is_file() else ()
    sidecar = read_json(path) if sidecars else {}
    if tr:
        try:
            seconds = float(tr)
        except ValueError as error:
            raise InputError(f"tr {tr!r} is not a number of seconds; correct it.") from error
        stated = sidecar.get("RepetitionTime", seconds)
        if not isinstance(stated, (int, float)) or abs(stated - seconds) > TR_TOLERANCE_S:
            raise InputError(f"tr is {tr} but {path} gives {stated!r}; correct one of them.")
        sidecar["RepetitionTime"] = seconds
    return sidecar, sidecars


TABLE = Layout("table", "a file *.tsv with columns path, participant_id, space", _matches, _find)
