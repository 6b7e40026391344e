"""What a folder says of itself: `dataset_description.json`, as BIDS has it, with the contract of a store in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimbrain import __version__
from slimbrain.errors import StoreError
from slimbrain.store.contract import Contract

DESCRIPTION_FILE = "dataset_description.json"


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
