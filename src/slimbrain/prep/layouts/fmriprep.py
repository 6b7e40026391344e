"""fMRIPrep's output, or any BIDS derivative: `sub-*/[ses-*/]func/*_bold.nii.gz`."""

from __future__ import annotations

from pathlib import Path

from slimbrain.prep.bids import describe_runs, list_runs
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.source import IMAGE_SUFFIXES

_PATTERNS = tuple(f"{folder}/func/*_bold{suffix}" for folder in ("sub-*", "sub-*/ses-*") for suffix in IMAGE_SUFFIXES)


def _matches(source: Path) -> bool:
    return any(True for _ in files_matching(source, _PATTERNS))


def _find(source: Path, request: RecordingQuery) -> Recordings:
    runs, failures = list_runs(source, request.filters)
    return Recordings(source, runs, failures)


BIDS = Layout("bids", "sub-*/[ses-*/]func/*_bold.nii[.gz]", _matches, _find, filters_itself=True, describe=describe_runs)
