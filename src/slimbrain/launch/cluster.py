"""Where shards run: submitit hands them to Slurm or to processes of this machine, and each says which are still queued or running."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import psutil

from slimbrain.errors import InputError
from slimbrain.launch.folder import LaunchFolder
from slimbrain.launch.resources import Resources
from slimbrain.launch.worker import run_shard


class Cluster(Protocol):
    """A place where shards run."""

    def submit(self, folder: LaunchFolder, shards: Sequence[str]) -> list[str]:
        """Start shards; the number of each one's job."""

    def alive(self, jobs: Collection[str]) -> set[str]:
        """Of these jobs, those that are queued or running."""


class Slurm:
    """Jobs of a Slurm cluster; several shards are one array.

    Parameters
    ----------
    resources : Resources
        Resources of each shard.
    name : str
        Name of the job in the queue.

    Raises
    ------
    InputError
        If submitit or Slurm is not there.
    """

    def __init__(self, resources: Resources, name: str) -> None:
        self._parameters = resources.for_slurm(name)
        self._submitit = _submitit()

    def script(self, folder: LaunchFolder, n_shards: int) -> str:
        """The batch script that submitit will write."""
        from submitit.slurm.slurm import _make_sbatch_string

        executor = f"{_python()} -u -m submitit.core._submit {folder.logs.absolute()}"
        count: dict[str, Any] = {"map_count": n_shards} if n_shards > 1 else {}
        return _make_sbatch_string(command=executor, folder=folder.logs.absolute(), **self._parameters, **count)

    def submit(self, folder: LaunchFolder, shards: Sequence[str]) -> list[str]:
        try:
            executor = self._submitit.SlurmExecutor(folder.logs.absolute())
        except RuntimeError as error:
            raise InputError(
                "there is no srun on this machine; log in to one that submits jobs to Slurm, or use `slimbrain launch --local`."
            ) from error
        executor.update_parameters(**self._parameters)
        try:
            return _submit(executor, folder, shards)
        except self._submitit.core.utils.FailedJobError as error:
            said = " ".join(str(error).split())
            raise InputError(f"sbatch refused the job ({said}); see `--dry-run` for what it was asked.") from error

    def alive(self, jobs: Collection[str]) -> set[str]:
        command = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i"]
        asked = subprocess.run(command, check=False, capture_output=True, text=True)
        # A controller that does not answer for a while has lost no job.
        return set(jobs) & set(asked.stdout.split()) if asked.returncode == 0 else set(jobs)


class Processes:
    """Processes of this machine, one per shard, all at once."""

    def __init__(self, resources: Resources) -> None:
        if resources.nodes > 1:
            raise InputError(f"--nodes {resources.nodes}: --local has one machine; use --processes, or leave --local out.")
        self._parameters = resources.for_processes()
        self._submitit = _submitit()
        self._jobs: dict[str, Any] = {}

    def submit(self, folder: LaunchFolder, shards: Sequence[str]) -> list[str]:
        executor = self._submitit.LocalExecutor(folder.logs.absolute())
        executor.update_parameters(**self._parameters)
        return _submit(executor, folder, shards, self._jobs)

    def alive(self, jobs: Collection[str]) -> set[str]:
        return {job for job in jobs if (not self._jobs[job].done() if job in self._jobs else psutil.pid_exists(int(job)))}


def _submit(executor: Any, folder: LaunchFolder, shards: Sequence[str], kept: dict[str, Any] | None = None) -> list[str]:
    with executor.batch():
        jobs = [executor.submit(run_shard, str(folder.root.absolute()), shard) for shard in shards]
    if kept is not None:
        kept.update({job.job_id: job for job in jobs})
    return [job.job_id for job in jobs]


def _python() -> str:
    import shlex
    import sys

    return shlex.quote(sys.executable)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed, which hands jobs to Slurm; pip install 'slimbrain[slurm]'.") from error
    return submitit
