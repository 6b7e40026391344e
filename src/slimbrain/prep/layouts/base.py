"""What every layout gives: how to tell that a folder or file has it, and the runs that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slimbrain.prep.runs import Failure, Filters, Run
from slimbrain.store.participants import PARTICIPANTS_FILE, read_people


@dataclass(frozen=True)
class RecordingQuery:
    """What the user asked for, as far as finding runs needs it.

    Attributes
    ----------
    filters : Filters
        Which runs to take.
    mask_source : Path or None
        Mask that the voxels of a file without coordinates are listed in.
    channels : str or None
        Table of region names and places, or `none`.
    atlas : str or None
        The atlas whose series are taken, where a source has those of several.
    """

    filters: Filters = field(default_factory=Filters)
    mask_source: Path | None = None
    channels: str | None = None
    atlas: str | None = None


@dataclass(frozen=True)
class Recordings:
    """What a layout found.

    Attributes
    ----------
    root : Path
        Folder that names of files are given relative to.
    runs : list of Run
        Recordings that can be opened.
    failures : list of Failure
        Files that cannot be used, with reasons.
    participants : list of mapping or None
        Rows for `participants.tsv` by column; those of the source's own table if None.
    """

    root: Path
    runs: list[Run]
    failures: list[Failure] = field(default_factory=list)
    participants: list[Mapping[str, str]] | None = None

    def read_participants(self) -> list[Mapping[str, str]]:
        """Rows for `participants.tsv`; none if nothing tells any.

        Raises
        ------
        InputError
            If the source's own table cannot be used.
        """
        if self.participants is not None:
            return self.participants
        table = self.root / PARTICIPANTS_FILE
        return list(read_people(table).values()) if table.is_file() else []


def _described_already(root: Path, runs: Sequence[Run]) -> tuple[list[Run], list[Failure]]:
    """For layouts whose runs are listed with all that belongs to them."""
    return list(runs), []


@dataclass(frozen=True)
class Layout:
    """One way in which people keep preprocessed recordings.

    Attributes
    ----------
    name : str
        What `--layout` calls it.
    looks_for : str
        The names by which it is recognised, for messages.
    matches : callable
        Whether a folder or file has it; looks at names alone.
    find : callable
        Lists its runs; those that the filters leave out may be among them, unless `filters_itself`.
    filters_itself : bool
        The filters decide which image of a run is taken.
    regions : bool
        Its recordings are region-of-interest series.
    describe : callable
        Adds to runs, in the folder that `Recordings` names, what has to be searched for; a shard asks for its own runs alone. Returns them
        and those for which it cannot be read.
    """

    name: str
    looks_for: str
    matches: Callable[[Path], bool]
    find: Callable[[Path, RecordingQuery], Recordings]
    filters_itself: bool = False
    regions: bool = False
    describe: Callable[[Path, Sequence[Run]], tuple[list[Run], list[Failure]]] = _described_already


def files_matching(root: Path, patterns: Iterable[str]) -> Iterable[Path]:
    """Files below `root` that match any of the glob patterns, pattern by pattern, in order of their names."""
    for pattern in patterns:
        yield from sorted(path for path in root.glob(pattern) if path.is_file() or path.is_symlink())
