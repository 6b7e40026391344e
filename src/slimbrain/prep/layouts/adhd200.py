"""ADHD-200 from the Athena pipeline: `SUBJECT/sfnwmrdaSUBJECT_session_1_rest_1.nii.gz`."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.runs import Run, is_wanted_version

_PATTERNS = tuple(f"{folder}*wmrda*_session_*_rest_*.nii*" for folder in ("", "*/", "*/*/"))
_NAME = re.compile(r"(?P<desc>sf?nwmrda)(?P<sub>\d+)_session_(?P<ses>\d+)_rest_(?P<run>\d+)\.nii(?:\.gz)?")
_FILTERED = "sfnwmrda"
"""Band-pass filtered, 0.009-0.08 Hz; without the f, not."""

_SPACE = "MNI152"
_SPACE_FROM = "the Athena pipeline (MNI space at 4 mm; which template is not known)"


def _matches(source: Path) -> bool:
    return any(_NAME.fullmatch(path.name) for path in files_matching(source, _PATTERNS))


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """One image per run: the one that is not band-pass filtered where both are there, as no other layout's images are.

    A filter on `description` (`sfnwmrda`) takes the other.
    """
    versions: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for image in files_matching(source, _PATTERNS):
        if name := _NAME.fullmatch(image.name):
            run = _run(image, name)
            if is_wanted_version(run.entities, request.filters):
                versions[name["sub"], name["ses"], name["run"], image.parent.as_posix()].append(run)
    runs = [_unfiltered(candidates) for candidates in versions.values()]
    return Recordings(source, runs)


def _unfiltered(candidates: list[Run]) -> Run:
    run = min(candidates, key=lambda run: run.entities["desc"] == _FILTERED)
    return replace(run, chosen_because="the one without band-pass filter" if len(candidates) > 1 else "")


def _run(image: Path, name: re.Match[str]) -> Run:
    entities = {"sub": name["sub"], "ses": name["ses"], "task": "rest", "run": name["run"], "space": _SPACE, "desc": name["desc"]}
    filtered = "0.009-0.08 Hz" if name["desc"] == _FILTERED else "none"
    return Run(image=image, entities=entities, record={"Layout": ADHD200.name, "SpaceFrom": _SPACE_FROM, "BandPass": filtered})


ADHD200 = Layout("adhd200", "[SITE/][SUBJECT/]s[f]nwmrdaSUBJECT_session_N_rest_N.nii[.gz]", _matches, _find)
