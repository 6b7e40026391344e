"""What preparation works on: runs, whatever layout they were found in, and which of them are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.source import Source, open_source
from slimbrain.store import Channels

_FloatArray = npt.NDArray[Any]

MNI152 = re.compile(r"MNI152[0-9A-Za-z]*")
"""Templates that count as one family: they differ by millimetres, and which one is recorded."""

IMAGE_ENTITIES = ("space", "res", "den", "desc", "cohort")
"""BIDS entities that name a version of a run; all others name the run itself."""

_COUNTED_ENTITIES = ("run", "echo", "res")
"""Entities whose labels are numbers: `run-01` is run 1."""

_PRESENT = "*"
"""In a filter: the entity must be there, whatever its label."""


@dataclass(frozen=True)
class RoiSeries:
    """One recording as series of the regions of a parcellation.

    Attributes
    ----------
    path : Path
        The file that messages name.
    values : ndarray
        (T, C), as stored by whoever made it.
    channels : Channels
        Names and MNI places of the columns.
    header_tr : float or None
        Seconds per frame, None if the file does not say.
    notes : tuple of str
        What the user should know about the file.
    """

    path: Path
    values: _FloatArray
    channels: Channels
    header_tr: float | None
    notes: tuple[str, ...] = ()


def _open_image(run: Run) -> Source:
    """The reader of a run whose image is NIfTI."""
    return open_source(run.image)


@dataclass(frozen=True)
class Run:
    """One recording: the file to read, how, and what lies beside it.

    Attributes
    ----------
    image : Path
        The file that holds it, or the first of them.
    entities : dict
        BIDS entities, in order (`sub`, `ses`, `task`, ..., `space`).
    sidecar : dict
        JSON metadata; `RepetitionTime` is believed over the file's own.
    sidecars : tuple of Path
        The files that metadata came from.
    confounds : Path or None
        fMRIPrep's table of confounds, if there is one.
    events : Path or None
        Table of events, if there is one.
    motion : Path or None
        Table of one displacement in mm per frame, for layouts without such confounds.
    parts : tuple of Path
        Further files that are read to make the run.
    place : str
        Which recording of the file it is, where one file holds several.
    reader : callable
        Opens it; sent to worker processes, so a function or a frozen dataclass.
    tr_from : str
        Where `RepetitionTime` comes from.
    tr_column : str
        Where the layout lets the user state it, beside the files; empty if nowhere.
    notes : tuple of str
        What the user should know before anything is read.
    record : mapping
        What the layout adds to the session's sidecar.
    chosen_because : str
        Why this image and not another of the same run; empty where there is no other.
    """

    image: Path
    entities: dict[str, str]
    sidecar: dict[str, Any] = field(default_factory=dict)
    sidecars: tuple[Path, ...] = ()
    confounds: Path | None = None
    events: Path | None = None
    motion: Path | None = None
    parts: tuple[Path, ...] = ()
    place: str = ""
    reader: Callable[[Run], Source | RoiSeries] = _open_image
    tr_from: str = "sidecar"
    tr_column: str = ""
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    chosen_because: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read to make the run."""
        return (self.image, *self.parts, *self.sidecars, *(path for path in (self.confounds, self.events, self.motion) if path))

    @property
    def name(self) -> str:
        """The recording in words, for messages."""
        return _printable(f"{self.image}{f' ({self.place})' if self.place else ''}")


@dataclass(frozen=True)
class Failure:
    """A file that could not be used, and why, in one sentence; both without characters that break a line or a table."""

    file: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", _printable(self.file))
        object.__setattr__(self, "reason", _printable(self.reason))


@dataclass(frozen=True)
class Filters:
    """Which runs to take; empty means all. Labels may carry their prefix (`sub-01`) or not.

    Attributes
    ----------
    participant_label, session_id, task_id : sequence of str
        Labels to take.
    space, res : str or None
        Template and resolution of the image, as BIDS names have them.
    entities : mapping
        For any BIDS entity the labels to take; `_PRESENT` stands for any, None for runs without the entity.
    """

    participant_label: Sequence[str] = ()
    session_id: Sequence[str] = ()
    task_id: Sequence[str] = ()
    space: str | None = None
    res: str | None = None
    entities: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)


def is_wanted(entities: Mapping[str, str], filters: Filters) -> bool:
    """Whether a run passes the filters on what names the run; what names a version of its image is not looked at."""
    labels = {"sub": filters.participant_label, "ses": filters.session_id, "task": filters.task_id}
    named = all(not wanted or entities.get(name) in {label.removeprefix(f"{name}-") for label in wanted} for name, wanted in labels.items())
    return named and all(_passes(entities, name, wanted) for name, wanted in filters.entities.items() if name not in IMAGE_ENTITIES)


def is_wanted_version(entities: Mapping[str, str], filters: Filters) -> bool:
    """Whether an image passes the filters on space, resolution and the other `IMAGE_ENTITIES`."""
    given: dict[str, tuple[str | None, ...]] = {name: wanted for name, wanted in filters.entities.items() if name in IMAGE_ENTITIES}
    exact = [(name, (value,)) for name, value in (("space", filters.space), ("res", filters.res)) if value]
    return all(_passes(entities, name, wanted) for name, wanted in [*given.items(), *exact])


def _passes(entities: Mapping[str, str], name: str, wanted: Sequence[str | None]) -> bool:
    label = entities.get(name)
    return any(label is None if value is None else label is not None and _same(name, label, value) for value in wanted)


def _same(name: str, label: str, value: str) -> bool:
    value = value.removeprefix(f"{name}-")
    counted = name in _COUNTED_ENTITIES and label.isdecimal() and value.isdecimal()
    return value == _PRESENT or label == value or (counted and int(label) == int(value))


def _printable(text: str) -> str:
    """Text with escapes for what would break a line, a table, or UTF-8: a file's name may hold anything."""
    return text if text.isprintable() else "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def file_of(root: Path, run: Run) -> str:
    """The run in tables: its image below the source's root, and its place there if the image holds several."""
    return _printable(f"{relative(root, run.image)}{f' ({run.place})' if run.place else ''}")


def relative(root: Path, path: Path) -> str:
    """The path below the source's root, or whole where a table names one elsewhere."""
    return _printable((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())


def parse_entities(name: str) -> dict[str, str]:
    """Entities of a BIDS file name: `sub-01_task-rest_bold.nii.gz` -> `{"sub": "01", "task": "rest"}`."""
    pairs = (part.partition("-") for part in name.split("_")[:-1])
    return {key: value for key, dash, value in pairs if dash}


def as_label(text: str) -> str:
    """A name as a BIDS label, which may hold letters and digits alone: `HCA_001` -> `HCA001`."""
    return "".join(character for character in text if character.isalnum())


def require_mni152(space: str, what: str) -> str:
    """The space, if it is one of the MNI152 family.

    Raises
    ------
    InputError
        If it is native, a surface, a pediatric or any other template.
    """
    if not MNI152.fullmatch(space):
        raise InputError(
            f"{what}: is in {space or 'native space (none is named)'}, not in the MNI152 family (MNI152NLin6Asym, MNI152NLin2009cAsym, "
            "MNI152Lin, ...); normalise it to one of these."
        )
    return space
