"""Where the page goes, and how a page is recognised; light, so that another file is refused before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from slimbrain.errors import InputError

REPORT_FILE = "report.html"
"""Name of the page in a store, or in the first folder that was named."""

GENERATOR = '<meta name="generator" content="slimbrain">'
_HEAD_BYTES = 2**14


def require_page(path: Path) -> None:
    """Refuse a file that is not a page of `write_report`.

    Raises
    ------
    InputError
        Then.
    """
    with open(path, "rb") as file:
        if GENERATOR.encode() not in file.read(_HEAD_BYTES):
            raise InputError(f"{path}: is no page of slimbrain report; name one.")
