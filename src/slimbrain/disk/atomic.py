"""Write files so that a reader, or a crash, only ever meets the old content or the new content, never half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"


FileVersion = tuple[int, int, int, int]


def file_version(path: Path) -> FileVersion:
    """What tells one content of a file from another without reading it.

    The time of the last change of its inode is part of it, which no program can set: the rest may be the same after a copy that keeps
    times, or where the number of a deleted file is used again.

    Raises
    ------
    OSError
        If there is no such file.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to fill; when the block ends it is flushed to disk and renamed to `path`.

    If the block raises, the temporary file is deleted and `path` stays as it was.

    Parameters
    ----------
    path : str or Path
        Final name; its folder is made if missing.

    Yields
    ------
    Path
        The temporary file. It carries the suffixes of `path`, since many writers choose their format by the suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        # Some writers (safetensors) put a private file of their own in place; readers should get what the umask grants.
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
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


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """`replacing` for a writer that takes the name of its file, such as `image.to_filename`; returns `path`."""
    with replacing(path) as temporary:
        write(temporary)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically, sorted as given, indented, with a final newline."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
