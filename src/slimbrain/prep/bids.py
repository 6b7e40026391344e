"""Find the runs of a BIDS derivative, and for each the one image to use and the files that belong to it."""

from __future__ import annotations

import csv
import glob
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slimbrain.errors import InputError
from slimbrain.prep.runs import IMAGE_ENTITIES, MNI152, Failure, Filters, Run, is_wanted, is_wanted_version, parse_entities
from slimbrain.prep.source import IMAGE_SUFFIXES

_SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
"""Best first; another template of the MNI152 family comes after these."""

_ECHO = "echo"

_Version = tuple[Path, dict[str, str]]
"""An image of a run and the entities of its name."""


class _Folders:
    """Files by the end of their names, each folder looked into once: every run asks for those at the root, where all participants lie."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], list[Path]] = {}

    def files(self, folder: Path, ending: str) -> list[Path]:
        """Files called `ending`, or something and `_ending`."""
        if (folder, ending) not in self._found:
            found = [path for path in folder.glob(f"*{ending}") if path.name == ending or path.name.endswith(f"_{ending}")]
            self._found[folder, ending] = found
        return self._found[folder, ending]


def list_runs(bids_dir: str | Path, filters: Filters | None = None) -> tuple[list[Run], list[Failure]]:
    """List the runs below `sub-*/[ses-*/]func/`, one image per run, by the names of the images alone.

    Of several images of one run the template decides (`_SPACES`, then other MNI152), then `desc-preproc` over no `desc` over
    another, then 2 mm over the rest. Echoes of one run are one recording: their combination is taken, and echoes alone only
    where the filters name them, or there is but one.

    Returns
    -------
    tuple of list of Run, list of Failure
        Usable runs sorted by image, and runs that have no image in MNI152 space, or several echoes and no combination.

    Raises
    ------
    InputError
        If the folder does not exist, or holds no run that passes the filters.
    """
    bids_dir, filters = Path(bids_dir), filters or Filters()
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir}: is not a folder; give the root of a BIDS derivative, the folder that holds sub-*.")
    recordings: dict[tuple[tuple[str, str], ...], list[_Version]] = defaultdict(list)
    for image in _bold_images(bids_dir):
        entities = parse_entities(image.name)
        if "sub" in entities and is_wanted(entities, filters):
            named = tuple((name, value) for name, value in entities.items() if name not in (*IMAGE_ENTITIES, _ECHO))
            recordings[named].append((image, entities))
    if not recordings:
        raise InputError(f"{bids_dir}: holds no sub-*/[ses-*/]func/*_bold.nii[.gz] that passes the filters; check folder and labels.")
    runs: list[Run] = []
    failures: list[Failure] = []
    for versions in recordings.values():
        try:
            for candidates in _by_echo(versions, filters):
                image, entities = _choose(candidates, filters)
                runs.append(Run(image, entities, chosen_because=_reason(image, candidates)))
        except InputError as error:
            failures.append(Failure(str(versions[0][0].relative_to(bids_dir)), str(error)))
    return sorted(runs, key=lambda run: run.image), failures


def describe_runs(bids_dir: Path, runs: Sequence[Run]) -> tuple[list[Run], list[Failure]]:
    """The runs with their metadata, confounds and events, which lie in folders that all have to be looked into.

    Returns
    -------
    tuple of list of Run, list of Failure
        Runs in the order given, and those whose metadata cannot be read.
    """
    folders, described, failures = _Folders(), [], []
    for run in runs:
        try:
            described.append(_describe(folders, bids_dir, run))
        except InputError as error:
            failures.append(Failure(str(run.image.relative_to(bids_dir)), str(error)))
    return described, failures


def _by_echo(versions: Sequence[_Version], filters: Filters) -> list[list[_Version]]:
    """The images to choose among, list by list for each session they give."""
    by_echo: dict[str, list[_Version]] = defaultdict(list)
    for version in versions:
        by_echo[version[1].get(_ECHO, "")].append(version)
    if "" in by_echo and _ECHO not in filters.entities:
        return [by_echo[""]]
    if len(by_echo) > 1 and _ECHO not in filters.entities:
        raise InputError(
            f"{versions[0][0]}: the run has echoes {', '.join(sorted(by_echo))} and no combination of them, and one recording must "
            "not count several times; combine them, or choose one with --bids-filter-file."
        )
    return list(by_echo.values())


def _bold_images(bids_dir: Path) -> list[Path]:
    from nilearn.interfaces.bids import get_bids_files

    found = get_bids_files(glob.escape(str(bids_dir)), file_tag="bold", file_type="nii*", modality_folder="func")
    return sorted(path for path in map(Path, found) if path.name.endswith(IMAGE_SUFFIXES))


def _choose(candidates: Sequence[_Version], filters: Filters) -> _Version:
    usable = [(path, entities) for path, entities in candidates if MNI152.fullmatch(entities.get("space", ""))]
    present = ", ".join(sorted({entities.get("space", "native (no space in the name)") for _, entities in candidates}))
    if filters.space:
        usable = [(path, entities) for path, entities in usable if entities["space"] == filters.space]
    if not usable:
        way_out = "have fMRIPrep write it (--output-spaces MNI152NLin2009cAsym), or normalise it"
        if filters.space:
            way_out = f"choose another --space, or {way_out}"
        wanted = filters.space or "the MNI152 family (MNI152NLin6Asym, MNI152NLin2009cAsym, ...)"
        raise InputError(f"{candidates[0][0]}: the run is in {present}, not in {wanted}; {way_out}.")
    wanted_versions = [(path, entities) for path, entities in usable if is_wanted_version(entities, filters)]
    if not wanted_versions:
        names = ", ".join(path.name for path, _ in usable)
        raise InputError(f"{usable[0][0]}: none of the images of the run ({names}) passes --res and --bids-filter-file; change these.")
    return min(wanted_versions, key=_preference)


def _reason(image: Path, candidates: Sequence[_Version]) -> str:
    """What the image has that the next best of the run has not; empty if it is the only one."""
    if len(candidates) == 1:
        return ""
    fit = sorted((each for each in candidates if MNI152.fullmatch(each[1].get("space", ""))), key=_preference)
    others = f"of {len(candidates)} images "
    if len(fit) == 1:
        return f"{others}the only one in an MNI152 space"
    if fit[0][0] != image:
        return f"{others}the one that the filters choose"
    (_, ours), (_, theirs) = fit[:2]
    names = ("space", "desc", "res")
    differing = next((name for name, one, two in zip(names, _preference(fit[0]), _preference(fit[1]), strict=False) if one != two), "")
    if not differing:
        return f"{others}the first by name"
    return f"{others}{_entity(ours, differing)} before {_entity(theirs, differing)}"


def _entity(entities: Mapping[str, str], name: str) -> str:
    return f"{name}-{entities[name]}" if name in entities else f"no {name}"


def _preference(candidate: _Version) -> tuple[int, int, int, str]:
    path, entities = candidate
    space, desc, res = entities["space"], entities.get("desc", ""), entities.get("res", "")
    return (
        _SPACES.index(space) if space in _SPACES else len(_SPACES),
        0 if desc == "preproc" else 1 if not desc else 2,
        0 if res in ("2", "02") else 1,
        str(path),
    )


def _describe(folders: _Folders, bids_dir: Path, run: Run) -> Run:
    sidecars = tuple(_inherited(folders, bids_dir, run.image, run.entities, "bold.json"))
    return replace(
        run,
        sidecar=_merged(sidecars),
        sidecars=sidecars,
        confounds=next(iter(_confounds(folders, run.image, run.entities)), None),
        events=next(reversed(_inherited(folders, bids_dir, run.image, run.entities, "events.tsv")), None),
    )


def describe_image(image: Path) -> Run:
    """One image by itself, with the metadata that hold for it.

    Where its name has a participant, by BIDS' inheritance principle from the folder that holds `sub-*` downwards; else the JSON file
    of its name.
    """
    entities = parse_entities(image.name)
    if "sub" not in entities:
        beside = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        return Run(image=image, entities={}, sidecar=_merged([beside] if beside.is_file() else []))
    root = next((folder.parent for folder in image.parents if folder.name == f"sub-{entities['sub']}"), image.parent)
    return Run(image=image, entities=entities, sidecar=_merged(_inherited(_Folders(), root, image, entities, "bold.json")))


def _merged(sidecars: Iterable[Path]) -> dict[str, Any]:
    """What JSON files say together, the later one where two say something."""
    merged: dict[str, Any] = {}
    for path in sidecars:
        merged.update(read_json(path))
    return merged


def _inherited(folders: _Folders, bids_dir: Path, image: Path, entities: Mapping[str, str], ending: str) -> list[Path]:
    """Files that hold for the image by BIDS' inheritance principle, most general first."""
    found: list[Path] = []
    above = [image.parent, *image.parent.parents]
    for folder in reversed(above[: above.index(bids_dir) + 1]):
        here = _applicable(folders.files(folder, ending), entities)
        found += sorted(here, key=lambda path: (len(parse_entities(path.name)), path.name))
    return found


def _applicable(paths: Iterable[Path], entities: Mapping[str, str]) -> list[Path]:
    return [path for path in paths if parse_entities(path.name).items() <= entities.items()]


def _confounds(folders: _Folders, image: Path, entities: Mapping[str, str]) -> list[Path]:
    run = {name: value for name, value in entities.items() if name not in IMAGE_ENTITIES}
    # fMRIPrep called the table `regressors` before version 20.2.
    tables = [path for ending in ("timeseries", "regressors") for path in folders.files(image.parent, f"desc-confounds_{ending}.tsv")]
    return sorted(_applicable(tables, {**run, "desc": "confounds"}), key=lambda path: (-len(parse_entities(path.name)), path.name))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that came with the recording.

    Raises
    ------
    InputError
        If it holds none.
    """
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


def read_relative_rms(path: Path) -> list[float]:
    """Displacement in mm of each frame against the one before, as the HCP pipelines write it, one line per frame.

    Raises
    ------
    InputError
        If it is not that.
    """
    try:
        return [float(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as one displacement per line ({error}); restore or remove it.") from error
