"""Resources of each shard, and how they are requested from Slurm and submitit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimbrain.errors import InputError

_TIME_FORMS = {
    "M": r"(?P<minutes>\d+)",
    "M:S": r"(?P<minutes>\d+):(?P<seconds>\d+)",
    "H:M:S": r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    "D-H": r"(?P<days>\d+)-(?P<hours>\d+)",
    "D-H:M": r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+)",
    "D-H:M:S": r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
}
"""Forms of a time that sbatch knows."""


@dataclass(frozen=True)
class Resources:
    """Resources of each shard.

    Attributes
    ----------
    partition, account, constraint, memory : str or None
        As for sbatch; the cluster's own choice if None. `memory` is per node.
    time : str
        Limit, in one of sbatch's forms.
    gpus, cpus : int or None
        Per node; `cpus` of the one task there.
    nodes : int
        Nodes of a pretraining.
    processes : int or None
        Per node, of a pretraining; one per GPU if None.
    sbatch : tuple of str
        Further lines, `qos=high` or `exclusive`, with or without `--`.
    parallel : int
        Shards that run at once, at most.
    grace_s : int
        Seconds before the time limit at which the job is told to save.
    """

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    memory: str | None = None
    time: str = "24:00:00"
    gpus: int = 0
    cpus: int | None = None
    nodes: int = 1
    processes: int | None = None
    sbatch: tuple[str, ...] = ()
    parallel: int = 256
    grace_s: int = 120

    @property
    def processes_per_node(self) -> int:
        return self.processes or max(1, self.gpus)

    @property
    def minutes(self) -> float:
        """The time limit.

        Raises
        ------
        InputError
            If it has none of sbatch's forms, or is over before a job would be told to save.
        """
        minutes = _minutes(self.time)
        if minutes * 60 <= self.grace_s:
            raise InputError(
                f"--time {self.time}: leaves no time before the last {self.grace_s} s (--grace), when a job is told to save; "
                "give more time, or less grace."
            )
        return minutes

    def for_slurm(self, name: str) -> dict[str, Any]:
        """Parameters of submitit's executor for Slurm: one task per node, told to save by SIGUSR1, requeued if its node dies."""
        _ = self.minutes
        given: dict[str, Any] = {"partition": self.partition, "account": self.account, "constraint": self.constraint, "mem": self.memory}
        given |= {"cpus_per_task": self.cpus, "gpus_per_node": self.gpus or None}
        lines: dict[str, Any] = {"time": self.time, "signal": f"USR1@{self.grace_s}", "requeue": True, **_lines(self.sbatch)}
        parameters: dict[str, Any] = {"job_name": name, "nodes": self.nodes, "ntasks_per_node": 1, "wckey": None}
        if self.nodes > 1:
            # A node that fails must not leave the others waiting for it until the time limit.
            parameters["srun_args"] = ["--kill-on-bad-exit=1"]
        parameters |= {"array_parallelism": self.parallel, "additional_parameters": lines}
        return parameters | {option: value for option, value in given.items() if value is not None}

    def for_processes(self) -> dict[str, Any]:
        """Parameters of submitit's executor for this machine."""
        return {"timeout_min": self.minutes, "signal_delay_s": self.grace_s, "gpus_per_node": self.gpus}


def _minutes(time: str) -> float:
    for form in _TIME_FORMS.values():
        if matched := re.fullmatch(form, time):
            given = {name: int(value) for name, value in matched.groupdict().items()}
            hours = given.get("days", 0) * 24 + given.get("hours", 0)
            return hours * 60 + given.get("minutes", 0) + given.get("seconds", 0) / 60
    raise InputError(f"--time {time}: is no time; write one as {', '.join(_TIME_FORMS)}, such as 24:00:00 or 2-12.")


def _lines(sbatch: tuple[str, ...]) -> Mapping[str, Any]:
    """`qos=high` and `exclusive` as names and values, which submitit writes as `#SBATCH` lines."""
    lines: dict[str, Any] = {}
    for line in sbatch:
        name, equals, value = line.removeprefix("#SBATCH").strip().lstrip("-").partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise InputError(f"--sbatch {line}: is no option of sbatch; write it by its long name, such as qos=high or exclusive.")
        lines[name] = value if equals else True
    return lines
