"""A folder's seal: one JSON file that holds the SHA-256 and the size of each file, checked before any of them is parsed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from slimbrain.disk.atomic import write_text

SEAL_FILE = "seal.json"

_LARGEST_SEAL = 2**24
"""Bytes; the seal of 100,000 files is smaller."""


class BrokenSealError(ValueError):
    """A sealed file is not what was sealed.

    Attributes
    ----------
    file : str
        Its name.
    reason : str
        What is wrong with it, as the end of a sentence.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file, self.reason = file, reason


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_seal(folder: Path, names: Iterable[str]) -> Path:
    """Seal the files `names` of a folder as they are now; a reader trusts no other files."""
    return write_text(folder / SEAL_FILE, _text({name: _facts(folder / name) for name in sorted(names)}))


def check_seal(folder: Path, complete: bool = False, only: str | None = None) -> dict[str, str]:
    """Compare the sealed files of a folder with its seal.

    Parameters
    ----------
    folder : Path
        What `write_seal` sealed.
    complete : bool
        Whether the folder must hold nothing else.
    only : str, optional
        The one file to compare, where the others are not going to be read.

    Returns
    -------
    dict of str to str
        SHA-256 by file name.

    Raises
    ------
    OSError
        If a file cannot be read.
    BrokenSealError
        If the seal, or a file that it names, is missing or damaged, or the folder holds a file too many.
    """
    sealed = _read(folder / SEAL_FILE)
    for name in sealed if only is None else [only]:
        path = folder / name
        if not path.is_file():
            raise BrokenSealError(name, "is missing")
        facts = sealed.get(name)
        if facts is None or path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
            raise BrokenSealError(name, f"was cut short, damaged or exchanged: its SHA-256 is not the one in {SEAL_FILE}")
    others = {path.name for path in folder.iterdir()} - {SEAL_FILE, *sealed}
    if complete and others:
        raise BrokenSealError(min(others), "does not belong to it")
    return {name: str(facts["sha256"]) for name, facts in sealed.items()}


def _facts(path: Path) -> dict[str, str | int]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _text(files: dict[str, dict[str, str | int]]) -> str:
    return json.dumps({"files": files}, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> dict[str, dict[str, str | int]]:
    """Files by name; refused unless it is, to the byte, what `write_seal` writes."""
    if not path.is_file():
        raise BrokenSealError(SEAL_FILE, "is missing")
    if path.stat().st_size > _LARGEST_SEAL:
        raise BrokenSealError(SEAL_FILE, "is damaged")
    try:
        text = path.read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        sound = all(
            Path(name).name == name and set(facts) == {"sha256", "bytes"} and type(facts["bytes"]) is int for name, facts in files.items()
        )
        if sound and _text(files) == text:
            return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenSealError(SEAL_FILE, "is damaged") from error
    raise BrokenSealError(SEAL_FILE, "is damaged")
