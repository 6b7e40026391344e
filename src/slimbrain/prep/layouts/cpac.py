"""C-PAC's images in the Preprocessed Connectomes Project (ABIDE): `SITE_SUBJECT_func_preproc.nii.gz`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from slimbrain.errors import InputError
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.runs import Failure, Run
from slimbrain.store.participants import PARTICIPANTS_FILE

_FOLDERS = ("", "*/", "*/*/", "*/*/func_preproc/", "Outputs/*/*/func_preproc/", "*/Outputs/*/*/func_preproc/")
"""From the folder of one strategy up to the one that holds the release's `Outputs/PIPELINE/STRATEGY/func_preproc`."""

_PATTERNS = tuple(f"{folder}*_func_preproc.nii*" for folder in _FOLDERS)
_NAME = re.compile(r"(?P<site>\w+)_(?P<sub>\d{5,7})_func_preproc\.nii(?:\.gz)?")
_STRATEGY = re.compile(r"(?:no)?filt_(?:no)?global")
_OTHER_PIPELINES = ("ccs", "dparsf", "niak")
_SPACE = "MNI152NLin6Asym"
_SPACE_FROM = "C-PAC (FSL's MNI152 template)"


def _images(source: Path) -> list[Path]:
    return list(dict.fromkeys(path for path in files_matching(source, _PATTERNS) if _NAME.fullmatch(path.name)))


def _matches(source: Path) -> bool:
    return any(_NAME.fullmatch(path.name) for path in files_matching(source, _PATTERNS))


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """One run per participant.

    Raises
    ------
    InputError
        If a recording is there in several versions: how it was cleaned is for the user to choose.
    """
    images = _images(source)
    _require_one_version(source, images)
    runs, failures = [], []
    for image in images:
        others = [pipeline for pipeline in _OTHER_PIPELINES if pipeline in image.relative_to(source.parent).parts]
        if others:
            reason = f"{image}: is of the pipeline {others[0]}, whose template is not known here; list it in a table with its space."
            failures.append(Failure(image.relative_to(source).as_posix(), reason))
        else:
            runs.append(_run(image))
    sites = [{"participant_id": f"sub-{run.entities['sub']}", "site": str(run.record["Site"])} for run in runs]
    return Recordings(source, runs, failures, None if (source / PARTICIPANTS_FILE).is_file() else list(sites))


def _require_one_version(source: Path, images: list[Path]) -> None:
    folders: dict[str, list[str]] = defaultdict(list)
    for image in images:
        folders[image.name].append(image.parent.relative_to(source).as_posix())
    if several := [places for places in folders.values() if len(places) > 1]:
        raise InputError(
            f"{source}: holds the same recordings from several strategies ({', '.join(several[0])}); name the folder of one of them."
        )


def _run(image: Path) -> Run:
    name = _NAME.fullmatch(image.name)
    assert name is not None
    strategy = next((part for part in reversed(image.parts) if _STRATEGY.fullmatch(part)), None)
    record = {"Layout": CPAC.name, "SpaceFrom": _SPACE_FROM, "Site": name["site"]} | ({"Strategy": strategy} if strategy else {})
    return Run(image=image, entities={"sub": name["sub"], "task": "rest", "space": _SPACE}, record=record)


CPAC = Layout("cpac", "SITE_SUBJECT_func_preproc.nii.gz, up to Outputs/cpac/STRATEGY/func_preproc/ deep", _matches, _find)
