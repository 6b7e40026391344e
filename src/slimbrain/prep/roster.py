"""Who and which runs a source has, before anything is prepared: told by file names and the table of participants alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimbrain.prep.layouts import choose_layout, find_recordings
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.quality import MEASURES
from slimbrain.prep.run import query_of
from slimbrain.prep.runs import Run
from slimbrain.store.manifest import LEDGER_COLUMNS, SessionInfo, session_key
from slimbrain.store.participants import PARTICIPANT
from slimbrain.store.subjects import with_prefix

LATER_COLUMNS = frozenset({*MEASURES, "n_warnings", *LEDGER_COLUMNS})
"""Columns of the table of sessions that only preparation fills."""


@dataclass(frozen=True)
class Roster:
    """Runs and participants of a source.

    Attributes
    ----------
    root : Path
        Folder of the source's table of participants.
    sessions : tuple of SessionInfo
        One per run, without frames, TR and measures of quality, which only preparation finds.
    participants : mapping
        Columns by participant (`sub-01`); empty if the source has no table.
    """

    root: Path
    sessions: tuple[SessionInfo, ...]
    participants: Mapping[str, Mapping[str, str]]


def read_roster(source: str | Path, options: PrepOptions | None = None) -> Roster:
    """List the runs that `prepare` would take, with what is known of their participants; no image is opened.

    Raises
    ------
    InputError
        If there is nothing to prepare, or the table of participants cannot be used.
    """
    options = options or PrepOptions()
    layout = choose_layout(Path(source), options.layout)
    found = find_recordings(Path(source), layout, query_of(options))
    people = {with_prefix(row[PARTICIPANT]): row for row in found.read_participants()}
    return Roster(found.root, tuple(map(_session, found.runs)), people)


def _session(run: Run) -> SessionInfo:
    tells = run.entities.get
    session = f"ses-{tells('ses')}" if tells("ses") else ""
    key, subject = session_key(run.entities), f"sub-{run.entities['sub']}"
    return SessionInfo(key, subject, session, tells("task", ""), tells("run", ""), tells("space", ""), n_frames=0, tr=0.0, path="")
