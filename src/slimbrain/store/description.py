"""What a store says of itself, in `dataset_description.json` with its contract, and of each session, in a JSON sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimbrain import __version__
from slimbrain.errors import StoreError
from slimbrain.store.contract import Contract

DESCRIPTION_FILE = "dataset_description.json"

DATA_BYTES, DATA_SHA256 = "DataBytes", "DataSha256"
"""Fields of a sidecar: size and SHA-256 of the data file as it was written."""

COHORT = "Cohort"
"""Field of a sidecar: the study of the participant. `sub-01` of another study is another person."""


def describe(contract: Contract, sources: Sequence[str]) -> dict[str, Any]:
    """The description of a new store."""
    return {
        "Name": "slimbrain store",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "slimbrain", "Version": __version__}],
        "SourceDatasets": [{"URL": source} for source in sources],
        "Slimbrain": contract.to_dict(),
    }


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a store.

    Raises
    ------
    StoreError
        If there is none that can be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); point at the output of `slimbrain prep`."
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: does not hold a JSON object; point at the output of `slimbrain prep`.")
    return value


def cohort_from_sidecar(sidecar: Path) -> str:
    """The cohort that a sidecar names; empty where it names none, or cannot be read."""
    try:
        return str(read_object(sidecar).get(COHORT) or "")
    except StoreError:
        return ""
