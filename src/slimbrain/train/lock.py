"""One training process, or group of processes, per run folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from slimbrain.disk.atomic import write_json
from slimbrain.disk.locks import CLAIMS_FOLDER, claim
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.train.distributed import broadcast, rank

_NAME = "pretrain"

_GRACE_S = 10.0
"""Processes that read ahead keep the lock of a killed run until they notice, which takes them 5 s."""


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Keep others out of a run folder for as long as the block lasts; the first process holds the lock for its group.

    Raises
    ------
    InputError
        If another process is training the run, naming it and its host; or if the folder cannot be locked.
    """
    with ExitStack() as held:
        if refusal := broadcast(_take(run, held) if rank() == 0 else ""):
            raise InputError(refusal)
        yield


def _take(run: Path, held: ExitStack) -> str:
    """Take the lock into `held`; why not, if it cannot be taken."""
    holder_file = run / CLAIMS_FOLDER / f"{_NAME}.json"
    deadline = time.monotonic() + _GRACE_S
    try:
        run.mkdir(parents=True, exist_ok=True)
        while not held.enter_context(claim(run, _NAME)):
            process, host = _holder(holder_file)
            if host != platform.node() or psutil.pid_exists(process) or time.monotonic() > deadline:
                return (
                    f"{run}: process {process} on {host} is training this run; wait until it has finished, stop it and add --resume auto, "
                    "or choose another --out."
                )
            time.sleep(0.2)
        write_json(holder_file, {"process": os.getpid(), "host": platform.node()})
    except (SlimbrainError, OSError) as error:
        return f"{run}: cannot be locked ({error}); choose an --out that you may write to." if isinstance(error, OSError) else str(error)
    held.callback(holder_file.unlink, missing_ok=True)
    return ""


def _holder(path: Path) -> tuple[int, str]:
    """Process and host of whoever holds the lock; it writes them a moment after it has taken it."""
    for _ in range(10):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return int(told["process"]), str(told["host"])
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.1)
    return -1, "an unknown host"
