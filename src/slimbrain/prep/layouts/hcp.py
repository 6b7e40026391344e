"""The Human Connectome Project's tree: `SUBJECT/MNINonLinear/Results/RUN/RUN[_hp2000_clean].nii.gz`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings
from slimbrain.prep.runs import Failure, Run, as_label

_RESULTS = "*/MNINonLinear/Results/*"
_RUN_NAME = re.compile(r"[rt]fMRI_(?P<task>[A-Za-z0-9]+)(?:_(?P<acq>[37]T))?_(?P<dir>LR|RL|AP|PA)")
_VISIT = re.compile(r"(?P<subject>.+)_(?P<session>V\d+)_(?:MR|F)\w*")
"""Lifespan and Aging name a visit `HCA6002236_V1_MR`."""

_CLEANED = re.compile(r"(_hp\d+\w*_clean(?P<reclean>_rclean)?(?P<temporal>_tclean)?)?")
"""What ICA-FIX adds to a run's name; `rclean` and `tclean` are later stages of it."""

_MOTION_FILE = "Movement_RelativeRMS.txt"
_SPACE = "MNI152NLin6Asym"
_SPACE_FROM = "HCP pipelines (MNINonLinear; FSL's MNI152 template)"


def _matches(source: Path) -> bool:
    return any(_images(folder) for folder in _folders(source))


def _folders(source: Path) -> Iterator[Path]:
    return (folder for folder in source.glob(_RESULTS) if folder.is_dir())


def _images(folder: Path) -> list[tuple[tuple[bool, bool, bool], Path]]:
    """Volumes of the run that the folder is named after, each with how far it was cleaned."""
    found = []
    for path in sorted(folder.glob("*.nii*")):
        stem, _, suffix = path.name.partition(".nii")
        if not stem.startswith(folder.name) or suffix not in ("", ".gz"):
            continue
        cleaned = _CLEANED.fullmatch(stem.removeprefix(folder.name))
        if cleaned:
            found.append(((bool(cleaned[0]), bool(cleaned["reclean"]), bool(cleaned["temporal"])), path))
    return found


def _find(source: Path, request: RecordingQuery) -> Recordings:
    runs: list[Run] = []
    failures: list[Failure] = []
    for folder in sorted(_folders(source)):
        images = _images(folder)
        if not images:
            continue
        name = _RUN_NAME.fullmatch(folder.name)
        if name is None:
            # HCP also joins the runs of a visit under one name; counted beside them, every frame would be there twice.
            if not any(_RUN_NAME.fullmatch(other.name) and _images(other) for other in folder.parent.iterdir() if other.is_dir()):
                failures.append(_unnamed(source, folder))
            continue
        runs.append(_run(folder, name, images))
    return Recordings(source, runs, failures)


def _unnamed(source: Path, folder: Path) -> Failure:
    reason = f"{folder}: is not named as one run of HCP (rfMRI_ or tfMRI_, task, and _LR, _RL, _AP or _PA); list it in a table instead."
    return Failure(folder.relative_to(source).as_posix(), reason)


def _run(folder: Path, name: re.Match[str], images: list[tuple[tuple[bool, bool, bool], Path]]) -> Run:
    subject = folder.parents[2].name
    visit = _VISIT.fullmatch(subject)
    parts = {"sub": visit["subject"] if visit else subject, "ses": visit["session"] if visit else ""}
    parts |= {"task": name["task"], "acq": name["acq"] or "", "dir": name["dir"], "space": _SPACE}
    (cleaned, *_), image = max(images)
    motion = folder / _MOTION_FILE
    raw = folder.name.startswith("rfMRI") and not cleaned
    return Run(
        image=image,
        entities={entity: as_label(value) for entity, value in parts.items() if value},
        motion=motion if motion.is_file() else None,
        notes=("is a resting run that ICA-FIX did not clean (no _hp..._clean image lies beside it).",) if raw else (),
        record={"Layout": HCP.name, "SpaceFrom": _SPACE_FROM, "SourceName": subject},
        chosen_because=f"the most cleaned of {len(images)} images" if len(images) > 1 else "",
    )


HCP = Layout("hcp", "SUBJECT/MNINonLinear/Results/RUN/RUN[_hp2000_clean].nii.gz", _matches, _find)
