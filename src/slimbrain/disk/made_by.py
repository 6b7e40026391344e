"""The command line that made a table, in a file beside it: a table has no room for it."""

from __future__ import annotations

import json
from pathlib import Path

from slimbrain import __version__
from slimbrain.disk.atomic import write_json


def record_maker(table: Path, name: str, command: str) -> Path:
    """Write a command line beside the table that it makes, to TABLE.NAME.json.

    Parameters
    ----------
    name : str
        Of the subcommand, such as `rank`.
    """
    return write_json(table.with_suffix(f".{name}.json"), {"Name": "slimbrain", "Version": __version__, "CommandLine": command})


def recorded_maker(table: Path | None, name: str) -> str:
    """The command line that made a table; empty where none was recorded, or there is no table."""
    if table is None:
        return ""
    try:
        record = json.loads(table.with_suffix(f".{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(record.get("CommandLine", "")) if isinstance(record, dict) else ""
