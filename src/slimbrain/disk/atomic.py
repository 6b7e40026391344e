"""Write files so that a reader, or a crash, only ever meets the old content or the new content, never half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place.

    Parameters
    ----------
    path : final name; its folder is made if missing.
    write : called once with the temporary path, which carries the suffixes of `path`, since many writers choose
        their format by the suffix.

    Returns
    -------
    `path` as a Path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        # Some writers (safetensors) put a private file of their own in place; readers should get what the umask grants.
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        # A hard link shares the permissions of the file it was made from, which are not ours to change.
        if temporary.stat().st_nlink == 1:
            temporary.chmod(mode)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # The system does not say which file it had no room for.
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically, sorted as given, indented, with a final newline."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
