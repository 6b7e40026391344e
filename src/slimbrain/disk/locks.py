"""Who works on what in a store: locks by name, which every process on the store respects and no killed one leaves behind.

`flock` by hand, not filelock: a claim's file is deleted when it is given back, and filelock recognises a deleted file by its count of
links, which NFS keeps (it renames a file that is still open), so that two processes held one claim (tests/disk/test_locks.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimbrain.errors import StoreError

CLAIMS_FOLDER = ".claims"
"""Holds one file per claim, while it is held."""

CLAIM_SUFFIX = ".lock"


@contextmanager
def claim(root: Path, name: str, wait: bool = False) -> Iterator[bool]:
    """Hold `name` in the store alone, or learn that another process has it.

    The system gives the lock back when the process ends, however it ends.

    Parameters
    ----------
    root : Path
        Folder of the store.
    name : str
        Key of a session, or name of a file in the store's root.
    wait : bool
        Until the other is done, rather than continue without.

    Yields
    ------
    Whether it is held; always True with `wait`.

    Raises
    ------
    StoreError
        If the folder is not writable or its file system has no locks.
    """
    path = root / CLAIMS_FOLDER / f"{name}{CLAIM_SUFFIX}"
    try:
        descriptor = _take(path, wait)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked ({error.strerror}); free space, or use a folder that you may write to and that has file locks."
        ) from error
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        # Deleted while held, so that nobody deletes the file of the next holder.
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the store's lock, so that two processes never write one manifest over the other's."""
    with open(root / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _take(path: Path, wait: bool) -> int | None:
    """Descriptor of the locked file; None if another process has it."""
    path.parent.mkdir(exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The lock of a file that was deleted meanwhile keeps nobody out.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
