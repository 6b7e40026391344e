"""What a store says of itself, in `dataset_description.json` with its contract, and of each session, in a JSON sidecar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimbrain import __version__
from slimbrain.disk.atomic import write_json
from slimbrain.disk.locks import locked
from slimbrain.errors import StoreError
from slimbrain.store.contract import Contract

DESCRIPTION_FILE = "dataset_description.json"

DATA_BYTES, DATA_SHA256 = "DataBytes", "DataSha256"
"""Fields of a sidecar: size and SHA-256 of the data file as it was written."""

_GENERATED_BY = "GeneratedBy"

COMMANDS = "CommandLines"
"""Field of what generated a folder: command lines that wrote into it, or into what it was made from, in order."""

CONTRACT = "Slimbrain"
"""Field of the description: the store's contract. No other folder has one."""

COHORT = "Cohort"
"""Field of a sidecar: the study of the participant. `sub-01` of another study is another person."""


def describe(contract: Contract, sources: Sequence[str]) -> dict[str, Any]:
    """The description of a new store."""
    return {
        "Name": "slimbrain store",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        _GENERATED_BY: [{"Name": "slimbrain", "Version": __version__}],
        "SourceDatasets": [{"URL": source} for source in sources],
        CONTRACT: contract.to_dict(),
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


def is_store(folder: Path) -> bool:
    """Whether a folder has the description of a store; one that is damaged counts, so that who opens it says what is wrong with it."""
    try:
        return f'"{CONTRACT}"' in (folder / DESCRIPTION_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def recorded_commands(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Command lines that made a store, in order, from its description."""
    writers = description.get(_GENERATED_BY)
    lines = writers[0].get(COMMANDS) if isinstance(writers, list) and writers and isinstance(writers[0], dict) else None
    return tuple(map(str, lines)) if isinstance(lines, list) else ()


def commands_in(folder: Path) -> tuple[str, ...]:
    """Command lines that made a folder; none where it has no description that can be read."""
    try:
        return recorded_commands(read_object(folder / DESCRIPTION_FILE))
    except StoreError:
        return ()


def record_commands(root: Path, *commands: str) -> None:
    """Add command lines to those that made a store, each once, however often and by how many processes it is run."""
    with locked(root):
        description = read_object(root / DESCRIPTION_FILE)
        known = recorded_commands(description)
        writers = description.get(_GENERATED_BY)
        new = [command for command in dict.fromkeys(commands) if command not in known]
        if new and isinstance(writers, list) and writers and isinstance(writers[0], dict):
            writers[0][COMMANDS] = [*known, *new]
            write_json(root / DESCRIPTION_FILE, description)


def cohort_from_sidecar(sidecar: Path) -> str:
    """The cohort that a sidecar names; empty where it names none, or cannot be read."""
    try:
        return str(read_object(sidecar).get(COHORT) or "")
    except StoreError:
        return ""
