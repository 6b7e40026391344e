"""fMRIPrep's filter file: which runs to take, by BIDS entity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimbrain.errors import InputError

_ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "space": "space",
    "resolution": "res",
    "density": "den",
    "cohort": "cohort",
    "description": "desc",
    "segmentation": "seg",
    "atlas": "atlas",
}
"""Name in a filter file -> entity of a file name; the entity's own name is taken too."""

_FIXED = {"datatype": "func", "suffix": "bold"}
"""Keys that a filter for BOLD runs often spells out; with another value it would take nothing."""

_IGNORED = ("extension",)

_Filter = dict[str, tuple[str | None, ...]]


def read_bids_filter(path: Path) -> _Filter:
    """The part `bold` of a filter file, `{"bold": {"task": "rest", "run": [1, 2], "acquisition": null}}`.

    Values are labels, numbers or lists of them; `null` asks for runs without the entity, `"*"` for any label. Parts for other
    kinds of images do not concern prepared runs.

    Returns
    -------
    _Filter
        Labels to take by the entity's short name, None among them for runs without it.

    Raises
    ------
    InputError
        If it is no JSON object of objects, has no part `bold`, or names what is no entity.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); give a filter file as fMRIPrep takes it.") from error
    if not isinstance(parts, dict) or not isinstance(parts.get("bold"), dict):
        raise InputError(f'{path}: has no part "bold"; write {{"bold": {{"task": "rest"}}}}.')
    wanted: _Filter = {}
    for name, value in parts["bold"].items():
        if name in _IGNORED or (name in _FIXED and _FIXED[name] in (value if isinstance(value, list) else [value])):
            continue
        entity = _ENTITIES.get(name, name)
        if entity not in _ENTITIES.values():
            known = ", ".join(_ENTITIES)
            raise InputError(f"{path}: {name}: {json.dumps(value)} is no filter for prepared BOLD runs; filter by {known}.")
        wanted[entity] = tuple(_label(path, name, item) for item in (value if isinstance(value, list) else [value]))
    return wanted


def _label(path: Path, name: str, value: Any) -> str | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise InputError(f"{path}: {name} has the value {json.dumps(value)}; give a label, a number, null, or a list of these.")
    return None if value is None else str(value)
