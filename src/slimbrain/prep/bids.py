"""Find the runs of a BIDS derivative, and for each the one image to use and the files that belong to it."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain.errors import InputError

SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
"""Best first; another template of the MNI152 family comes after these."""

FAMILY = re.compile(r"MNI152\w*")
SUFFIXES = (".nii.gz", ".nii")
IMAGE_ENTITIES = ("space", "res", "den", "desc", "cohort")
"""Entities that name a version of a run; all others name the run itself."""


@dataclass(frozen=True)
class Run:
    """One recording: the image to read and what lies beside it.

    Attributes
    ----------
    image : 4D NIfTI file in MNI space.
    entities : BIDS entities of its name, in order (`sub`, `ses`, `task`, ..., `space`).
    sidecar : JSON metadata, inherited down the tree.
    sidecars : the files that metadata came from.
    confounds : fMRIPrep's table of confounds, if there is one.
    events : table of events, if there is one.
    """

    image: Path
    entities: dict[str, str]
    sidecar: dict[str, Any] = field(default_factory=dict)
    sidecars: tuple[Path, ...] = ()
    confounds: Path | None = None
    events: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that was read to make the run."""
        return (self.image, *self.sidecars, *(path for path in (self.confounds, self.events) if path))


@dataclass(frozen=True)
class Failure:
    """A file that could not be used, and why, in one sentence."""

    file: str
    reason: str


@dataclass(frozen=True)
class Filters:
    """Which runs to take; empty means all. Labels may carry their prefix (`sub-01`) or not."""

    participant_label: Sequence[str] = ()
    session_id: Sequence[str] = ()
    task_id: Sequence[str] = ()
    space: str | None = None


def find_runs(bids_dir: str | Path, filters: Filters | None = None) -> tuple[list[Run], list[Failure]]:
    """List the runs below `sub-*/[ses-*/]func/`, one image a run.

    Of several images of one run the template decides (`SPACES`, then other MNI152), then `desc-preproc` over no `desc` over
    another, then 2 mm over the rest.

    Returns
    -------
    Usable runs sorted by image, and runs that have no image in MNI152 space.

    Raises
    ------
    InputError
        If the folder does not exist, or holds no run that passes the filters.
    """
    bids_dir, filters = Path(bids_dir), filters or Filters()
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir}: is not a folder; give the root of a BIDS derivative, the folder that holds sub-*.")
    versions: dict[tuple[tuple[str, str], ...], list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for image in _bold_images(bids_dir):
        entities = parse_entities(image.name)
        if "sub" in entities and _wanted(entities, filters):
            run_entities = tuple((name, value) for name, value in entities.items() if name not in IMAGE_ENTITIES)
            versions[run_entities].append((image, entities))
    if not versions:
        raise InputError(f"{bids_dir}: holds no sub-*/[ses-*/]func/*_bold.nii[.gz] that passes the filters; check folder and labels.")
    runs: list[Run] = []
    failures: list[Failure] = []
    for candidates in versions.values():
        try:
            runs.append(_describe(bids_dir, *_choose(candidates, filters.space)))
        except InputError as error:
            failures.append(Failure(str(candidates[0][0].relative_to(bids_dir)), str(error)))
    return sorted(runs, key=lambda run: run.image), failures


def _bold_images(bids_dir: Path) -> list[Path]:
    from nilearn.interfaces.bids import get_bids_files

    found = get_bids_files(glob.escape(str(bids_dir)), file_tag="bold", file_type="nii*", modality_folder="func")
    return sorted(path for path in map(Path, found) if path.name.endswith(SUFFIXES))


def parse_entities(name: str) -> dict[str, str]:
    """Entities of a BIDS file name: `sub-01_task-rest_bold.nii.gz` -> `{"sub": "01", "task": "rest"}`."""
    pairs = (part.partition("-") for part in name.split("_")[:-1])
    return {key: value for key, dash, value in pairs if dash}


def _wanted(entities: dict[str, str], filters: Filters) -> bool:
    wanted = {"sub": filters.participant_label, "ses": filters.session_id, "task": filters.task_id}
    return all(not labels or entities.get(name) in {label.removeprefix(f"{name}-") for label in labels} for name, labels in wanted.items())


def _choose(candidates: Sequence[tuple[Path, dict[str, str]]], space: str | None) -> tuple[Path, dict[str, str]]:
    usable = [(path, entities) for path, entities in candidates if FAMILY.fullmatch(entities.get("space", ""))]
    if space:
        usable = [(path, entities) for path, entities in usable if entities["space"] == space]
    if not usable:
        present = ", ".join(sorted({entities.get("space", "native (no space in the name)") for _, entities in candidates}))
        wanted = space or "the MNI152 family (MNI152NLin6Asym, MNI152NLin2009cAsym, ...)"
        raise InputError(f"{candidates[0][0]}: the run is in {present}, not in {wanted}; normalise it, or choose another --space.")
    return min(usable, key=_preference)


def _preference(candidate: tuple[Path, dict[str, str]]) -> tuple[int, int, int, str]:
    path, entities = candidate
    space, desc, res = entities["space"], entities.get("desc", ""), entities.get("res", "")
    return (
        SPACES.index(space) if space in SPACES else len(SPACES),
        0 if desc == "preproc" else 1 if not desc else 2,
        0 if res in ("2", "02") else 1,
        str(path),
    )


def _describe(bids_dir: Path, image: Path, entities: dict[str, str]) -> Run:
    sidecars = tuple(_inherited(bids_dir, image, entities, "bold.json"))
    sidecar: dict[str, Any] = {}
    for path in sidecars:
        sidecar.update(_read_json(path))
    return Run(
        image=image,
        entities=entities,
        sidecar=sidecar,
        sidecars=sidecars,
        confounds=next(iter(_confounds(image, entities)), None),
        events=next(reversed(_inherited(bids_dir, image, entities, "events.tsv")), None),
    )


def _inherited(bids_dir: Path, image: Path, entities: dict[str, str], ending: str) -> list[Path]:
    """Files that hold for the image by BIDS' inheritance principle, most general first."""
    found: list[Path] = []
    folders = [image.parent, *image.parent.parents]
    for folder in reversed(folders[: folders.index(bids_dir) + 1]):
        here = [path for path in folder.glob(f"*{ending}") if path.name == ending or path.name.endswith(f"_{ending}")]
        found += sorted(_applicable(here, entities), key=lambda path: (len(parse_entities(path.name)), path.name))
    return found


def _applicable(paths: Iterable[Path], entities: dict[str, str]) -> list[Path]:
    return [path for path in paths if parse_entities(path.name).items() <= entities.items()]


def _confounds(image: Path, entities: dict[str, str]) -> list[Path]:
    run = {name: value for name, value in entities.items() if name not in IMAGE_ENTITIES}
    # fMRIPrep called the table `regressors` before version 20.2.
    tables = [path for ending in ("timeseries", "regressors") for path in image.parent.glob(f"*_desc-confounds_{ending}.tsv")]
    return sorted(_applicable(tables, {**run, "desc": "confounds"}), key=lambda path: (-len(parse_entities(path.name)), path.name))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); correct or remove it.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object; correct or remove it.")
    return value


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table that came with the recording, by column name.

    Raises
    ------
    InputError
        If it is not a readable table.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a tab-separated table ({error}); correct or remove it.") from error
    return [{name: value for name, value in row.items() if name is not None} for row in rows]


def read_events(path: Path) -> list[dict[str, Any]]:
    """Onset and duration in seconds and trial type of each event.

    Raises
    ------
    InputError
        If a row has no number as onset.
    """
    events = []
    for number, row in enumerate(read_table(path), start=2):
        try:
            onset, duration = float(row["onset"]), _number(row.get("duration", ""))
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: line {number} has no usable onset or duration ({error}); correct or remove the table.") from error
        events.append({"onset": onset, "duration": duration, "trial_type": row.get("trial_type", "")})
    return events


def _number(text: str) -> float:
    return 0.0 if text in ("", "n/a") else float(text)
