"""Maps on disk: NIfTI, region table, picture, and a JSON record, written last, so that a map with a record is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.disk.atomic import write_atomic, write_json, write_text
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import InputError
from slimbrain.evaluate.stats import metric_words
from slimbrain.explain.regions import COLUMNS
from slimbrain.grid import Grid

_GROUP = "group"
"""In place of a session's key in the names of an average's files."""

_SESSIONS_FOLDER = "sessions"
_IMAGE_SUFFIX, _RECORD_SUFFIX = "_map.nii.gz", "_map.json"


@dataclass(frozen=True)
class MapName:
    """The files of one map.

    Attributes
    ----------
    folder : Path
        Where they lie.
    stem : str
        `<session key or group>_desc-<method>`.
    """

    folder: Path
    stem: str

    @property
    def image(self) -> Path:
        return self.folder / f"{self.stem}{_IMAGE_SUFFIX}"

    @property
    def by_window(self) -> Path:
        """4D, one volume per window."""
        return self.folder / f"{self.stem}_windows.nii.gz"

    @property
    def regions(self) -> Path:
        return self.folder / f"{self.stem}_regions.tsv"

    @property
    def picture(self) -> Path:
        return self.folder / f"{self.stem}_map.png"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.stem}{_RECORD_SUFFIX}"


def session_map(out: Path, key: str, method: str) -> MapName:
    return MapName(out / _SESSIONS_FOLDER, f"{key}_desc-{method}")


def group_map(out: Path, method: str) -> MapName:
    return MapName(out, f"{_GROUP}_desc-{method}")


def write_map(path: Path, values: NDArray[Any], grid: Grid) -> Path:
    """Write (P, V) or (W, P, V) values as float32 NIfTI with the lattice's affine, whose space is marked as MNI."""
    image: Any = grid.to_nifti(values)
    image.header.set_xyzt_units("mm")
    for place in (image.set_sform, image.set_qform):
        place(grid.lattice.affine, code="mni")
    return write_atomic(path, image.to_filename)


def read_map(path: Path, grid: Grid) -> NDArray[Any]:
    """(P, V) values of a 3D map that `write_map` wrote."""
    import nibabel

    image: Any = nibabel.load(path)
    return grid.pack(np.asarray(image.dataobj))


def write_regions(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    return write_text(path, format_tsv(COLUMNS, rows))


def write_record(path: Path, facts: Mapping[str, Any]) -> Path:
    return write_json(path, facts)


def read_record(path: Path) -> dict[str, Any] | None:
    """A map's record; None if there is none that can be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def trust(record: Mapping[str, Any]) -> str:
    """Held-out score of what a map explains, and how many participants the model was trained on, in words; empty if unknown."""
    return "; ".join(filter(None, (_held_out(record.get("decided_by") or {}), _overlap(record))))


def _held_out(decided: Mapping[str, Any]) -> str:
    if "mean" in decided:
        return f"held-out {metric_words(decided['metric'])} {decided['mean']:.2f} [{decided['low']:.2f}, {decided['high']:.2f}]"
    return "its held-out score is not known" if decided else ""


def _overlap(record: Mapping[str, Any]) -> str:
    seen = record.get("in_training")
    return f"trained on {seen} of {record['participants']} participants" if seen else ""


@dataclass(frozen=True)
class MapEntry:
    """One map of a folder, for a report.

    Attributes
    ----------
    title : str
        One line.
    method : str
        As `slimbrain explain --method`.
    session : str
        Key of the session; empty for an average.
    average : str
        What the average is of: one of `averages.NAMES`, or a contrast in words; empty for a single session.
    sessions : int
        How many were averaged; 0 for a single session.
    unit : str
        Unit of the values.
    task : str
        What is predicted, where a decision is explained.
    explains_decision : bool
        Whether values have a sign, for or against the decision.
    atlas : str
        Where the regions are from.
    commands : tuple of str
        Command lines that made the table of participants, if there was one, and the map; empty where it was made from Python.
    held_out, overlap : str
        How well what is explained predicts people it was not fitted on, and how many of them the model was pretrained on, in words;
        empty if unknown. `note` has both.
    weights_sha256 : str
        Of the model; empty where it is not known.
    decided_by : mapping of str to object
        The held-out `metric`, `mean`, `low` and `high` of what is explained, as far as known; empty where it is no decision.
    image, picture : Path or None
        NIfTI and PNG; None where there is none.
    rows : tuple of dict
        Rows of the region table, the largest share first.
    """

    title: str
    method: str
    session: str
    average: str
    sessions: int
    unit: str
    task: str
    explains_decision: bool
    atlas: str
    commands: tuple[str, ...]
    held_out: str
    overlap: str
    weights_sha256: str
    decided_by: Mapping[str, Any]
    image: Path | None
    picture: Path | None
    rows: tuple[dict[str, str], ...]

    @property
    def note(self) -> str:
        """How far to trust it (`trust`)."""
        return "; ".join(filter(None, (self.held_out, self.overlap)))


def list_maps(folder: str | Path) -> list[MapEntry]:
    """What `explain_store`, or `slimbrain explain --out`, left in a folder.

    Parameters
    ----------
    folder : str or Path
        The `out` of it.

    Returns
    -------
    list of MapEntry
        Averages first, then sessions by key.

    Raises
    ------
    InputError
        If there is no map.

    Examples
    --------
    >>> from slimbrain.explain import list_maps
    >>> [(entry.title, entry.sessions) for entry in list_maps("maps")][0]
    ('JEPA surprise: mean, 3 sessions', 3)
    """
    folder = Path(folder)
    entries = [entry for path in _records(folder) if (entry := _entry(path))]
    if not entries:
        raise InputError(f"{folder}: holds no map; give the folder of `slimbrain explain --out`.")
    return entries


def map_entry(image: Path) -> MapEntry | None:
    """What `slimbrain explain` recorded of an image that it wrote; None for any other."""
    if not image.name.endswith(_IMAGE_SUFFIX):
        return None
    return _entry(image.with_name(image.name.removesuffix(_IMAGE_SUFFIX) + _RECORD_SUFFIX))


def holds_maps(folder: Path) -> bool:
    """Whether `list_maps` has something to look at."""
    return next(_records(folder), None) is not None


def _records(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob(f"{_GROUP}_desc-*{_RECORD_SUFFIX}"))
    yield from sorted((folder / _SESSIONS_FOLDER).glob(f"*_desc-*{_RECORD_SUFFIX}"))


def _entry(path: Path) -> MapEntry | None:
    record = read_record(path)
    if record is None:
        return None
    name = MapName(path.parent, path.name.removesuffix(_RECORD_SUFFIX))
    image, picture = (found if found.exists() else None for found in (name.image, name.picture))
    rows = tuple(read_tsv(name.regions)) if name.regions.exists() else ()

    def words(part: str) -> str:
        return str(record.get(part) or "")

    return MapEntry(
        title=words("title") or name.stem,
        method=words("method"),
        session=words("session"),
        average=words("average"),
        # A single session's record has its number of windows, not of sessions.
        sessions=record["sessions"] if isinstance(record.get("sessions"), int) else 0,
        unit=words("unit"),
        task=words("task"),
        explains_decision=bool(record.get("decided_by")),
        atlas=words("atlas"),
        commands=tuple(map(str, record.get("commands") or ())),
        held_out=_held_out(record.get("decided_by") or {}),
        overlap=_overlap(record),
        weights_sha256=str((record.get("model") or {}).get("weights_sha256") or ""),
        decided_by=record.get("decided_by") or {},
        image=image,
        picture=picture,
        rows=rows,
    )
