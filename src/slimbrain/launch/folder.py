"""The folder of a launch: what was cut, what became of each shard, and the logs. The client and the jobs meet here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimbrain.disk.atomic import write_json
from slimbrain.errors import StoreError

_PLAN_FILE, _JOBS_FILE, TABLE_FILE = "launch.json", "jobs.json", "table.tsv"
_SHARDS_FOLDER, _LOGS_FOLDER = "shards", "logs"

State = Literal["waiting", "running", "requeued", "retried", "done", "failed", "stopped", "lost"]
FINAL: tuple[State, ...] = ("done", "failed", "stopped", "lost")
"""`requeued` after a signal and `retried` after a failure are in the queue again. `stopped` by a signal and not queued again; `lost`
ended without a state. Only the client calls a shard lost."""


@dataclass(frozen=True)
class ShardState:
    """What a shard's job says of itself.

    Attributes
    ----------
    state : State
        See `State`.
    requeues : int
        How often it was stopped, saved and requeued.
    failures : int
        How often its command failed since it was submitted last.
    exit_code : int or None
        Exit code of the command, once it has ended.
    node : str
        Where it ran last.
    seconds : float
        Duration of its last run.
    """

    state: State = "waiting"
    requeues: int = 0
    failures: int = 0
    exit_code: int | None = None
    node: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Submitted:
    """What the client knows of a shard; in a file of its own, since the job may write at the same moment.

    Attributes
    ----------
    job : str
        Its number in the queue, or of its process; empty before it was submitted.
    submissions : int
        How often it was submitted.
    """

    job: str = ""
    submissions: int = 0


@dataclass(frozen=True)
class LaunchPlan:
    """What the jobs need to know.

    Attributes
    ----------
    command : tuple of str
        Words after `slimbrain`, as they were typed.
    shards : mapping
        Words after `slimbrain` of each shard.
    distributed, result : bool, str
        As of `Work`; the result's path, empty for a command that does not save.
    processes : int
        Processes that `torchrun` starts on each node.
    grace_s : int
        Seconds that a command has to save, once it is told to.
    inputs : str
        Checksum of what is divided among the shards (`Work`).
    finished : bool
        Everything was done and gathered; the same command starts again from the beginning.
    """

    command: tuple[str, ...]
    shards: Mapping[str, tuple[str, ...]]
    distributed: bool
    result: str
    processes: int
    grace_s: int
    inputs: str = ""
    finished: bool = False

    @property
    def saves(self) -> bool:
        """Whether a signal makes the command save, to resume from there."""
        return bool(self.result)


class LaunchFolder:
    """Reads and writes the files of a launch."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def logs(self) -> Path:
        return self.root / _LOGS_FOLDER

    def read_plan(self) -> LaunchPlan | None:
        """What was launched here before; None if nothing was."""
        record = _read(self.root / _PLAN_FILE)
        if record is None:
            return None
        shards = {name: tuple(words) for name, words in record["shards"].items()}
        return LaunchPlan(**{**record, "command": tuple(record["command"]), "shards": shards})

    def write_plan(self, plan: LaunchPlan) -> None:
        write_json(self.root / _PLAN_FILE, asdict(plan))

    def read(self, shard: str) -> ShardState:
        record = _read(self._path(shard))
        return ShardState(**record) if record else ShardState()

    def update(self, shard: str, **changes: Any) -> ShardState:
        """Change what is known of a shard."""
        state = replace(self.read(shard), **changes)
        write_json(self._path(shard), asdict(state))
        return state

    def read_jobs(self) -> dict[str, Submitted]:
        """What was submitted, by shard."""
        return {shard: Submitted(**record) for shard, record in (_read(self.root / _JOBS_FILE) or {}).items()}

    def write_jobs(self, jobs: Mapping[str, Submitted]) -> None:
        write_json(self.root / _JOBS_FILE, {shard: asdict(submitted) for shard, submitted in jobs.items()})

    def forget(self) -> None:
        """Drop all states; logs stay."""
        (self.root / _JOBS_FILE).unlink(missing_ok=True)
        for path in (self.root / _SHARDS_FOLDER).glob("*.json"):
            path.unlink()

    def _path(self, shard: str) -> Path:
        return self.root / _SHARDS_FOLDER / f"{shard}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete the folder {path.parent}, and launch again.") from error
