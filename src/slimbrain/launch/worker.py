"""A job: runs one shard as a program of its own, requeues it if it is stopped in time or fails, and records what became of it.

Slurm signals a job to save with SIGUSR1 before its time limit (`--signal`), or with SIGTERM when it is preempted; a cancelled job gets
SIGTERM too. Both are passed on. Slurm is then asked about the job: one that still counts as running is requeued.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from slimbrain.disk.locks import claim
from slimbrain.launch.folder import LaunchFolder, LaunchPlan, State

_STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""SIGUSR2 is what submitit's processes on this machine get before their limit."""

_POLL_S, _REMIND_S = 0.2, 5.0
"""A command that is still importing misses the signal to save, so it is sent again."""

_FIRST_PORT, _PORTS = 20000, 20000
_LOCAL_REQUEUE_CODE = 144
"""Exit code at which submitit's processes on this machine start again."""

_REQUEUED_CODE = 75
"""EX_TEMPFAIL of sysexits.h."""

_TRIES = 2
"""How often a shard may fail until it is given up: nodes fail, files do not mend themselves."""

_MAX_REQUEUES = 200
"""A job that never gets anywhere within its time must end some day; 200 days of 24 hours are longer than any training."""


def run_shard(root: str, shard: str) -> None:
    """Run one shard of the launch in folder `root`.

    Raises
    ------
    SystemExit
        With the command's exit code if it failed, so that Slurm knows; or if it was stopped, saved and perhaps queued again.
    """
    folder, first = LaunchFolder(Path(root)), _number("SLURM_PROCID") == 0
    plan = folder.read_plan()
    assert plan is not None
    with claim(folder.root, f"{shard}-{_number('SLURM_PROCID')}") as mine:
        if not mine:
            print(f"{shard}: another job works on this shard.", file=sys.stderr)
            return
        if first:
            folder.update(shard, state="running", node=_node(), exit_code=None)
        started = time.monotonic()
        code, stopped_by = _run(plan, shard)
        ended = {"seconds": round(time.monotonic() - started, 1), "node": _node(), "exit_code": code}
        # A command that ended well before the signal came is done. Of several nodes one may hear the signal, and all stop.
        unfinished = plan.saves and not code and not Path(plan.result).exists()
        if unfinished or (stopped_by is not None and code):
            # Of several nodes, those that are stopped since one failed leave it to that one.
            if first and folder.read(shard).state == "running":
                _requeue(folder, shard, stopped_by, ended)
            raise SystemExit(0)
        if code:
            _fail(folder, shard, ended)
            raise SystemExit(code)
        if first:
            folder.update(shard, state="done", **ended)


def _run(plan: LaunchPlan, shard: str) -> tuple[int, int | None]:
    """Exit code of the shard's command, and the number of the signal that ended it, if one did."""
    with _signals() as came:
        process = _start(plan, shard)
        told = -_REMIND_S
        while process.poll() is None:
            if came and time.monotonic() - told >= _REMIND_S:
                told = time.monotonic()
                _tell(process, signal.SIGUSR1 if plan.saves and signal.SIGTERM not in came else signal.SIGTERM, plan.saves)
            time.sleep(_POLL_S)
    # Slurm signals every process of a job: the command may have died of it before this one looked.
    died_of = -process.returncode if -process.returncode in _STOP_SIGNALS else None
    return process.returncode, came[0] if came else died_of


def _start(plan: LaunchPlan, shard: str) -> subprocess.Popen[bytes]:
    program = ["-m", "slimbrain", *plan.shards[shard]]
    nodes = _number("SLURM_JOB_NUM_NODES", 1)
    if plan.distributed and nodes * plan.processes > 1:
        program = ["-m", "torch.distributed.run", *_rendezvous(nodes, plan.processes), *program]
    # torchrun must live on while its processes save, and must not end them after its own 30 seconds: signals go to them alone.
    environment = {**os.environ, "PET_SIGNALS_TO_HANDLE": "SIGINT"} if plan.distributed else None
    with _ignoring(_STOP_SIGNALS if plan.saves else ()):
        return subprocess.Popen([sys.executable, *program], env=environment)


def _rendezvous(nodes: int, processes: int) -> list[str]:
    """How `torchrun` finds the other nodes, from what Slurm says: the first node starts the job, and so its address is known to all."""
    if nodes == 1:
        return ["--standalone", f"--nproc-per-node={processes}"]
    port = _FIRST_PORT + _number("SLURM_JOB_ID") % _PORTS
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    where = [f"--master-addr={address}", f"--master-port={port}"]
    return [f"--nnodes={nodes}", f"--node-rank={_number('SLURM_NODEID')}", f"--nproc-per-node={processes}", *where]


def _tell(process: subprocess.Popen[bytes], number: signal.Signals, saves: bool) -> None:
    """Ask the command to save, or to end where what it finished is saved already; SIGTERM also says that there is little time."""
    with suppress(psutil.NoSuchProcess):
        command = psutil.Process(process.pid)
        for each in [command, *command.children(recursive=True)] if saves else [command]:
            # One that ended meanwhile must not keep the signal from the others.
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)


def _requeue(folder: LaunchFolder, shard: str, stopped_by: int | None, ended: Mapping[str, Any]) -> None:
    """Requeue the job of a shard that was stopped, unless it was cancelled or its time is over."""
    local, requeues = os.environ.get("SUBMITIT_EXECUTOR") == "local", folder.read(shard).requeues
    wanted = stopped_by != signal.SIGTERM if local else _counts_as_running()
    again = wanted and requeues < _MAX_REQUEUES
    # Written before Slurm is asked, which ends this process as soon as it hears.
    folder.update(shard, state="requeued" if again else "stopped", requeues=requeues + again, **ended)
    if again:
        _queue_again(folder, shard, "stopped")


def _fail(folder: LaunchFolder, shard: str, ended: Mapping[str, Any]) -> None:
    """Queue the job of a shard that failed again, perhaps on another node, unless that was its last try."""
    with claim(folder.root, f"{shard}-end", wait=True):
        state = folder.read(shard)
        if state.state in ("retried", "failed"):
            # Another node's process has said so: one that fails takes the others with it.
            return
        failures = state.failures + 1
        folder.update(shard, state="retried" if failures < _TRIES else "failed", failures=failures, **ended)
    if failures < _TRIES:
        _queue_again(folder, shard, "failed")


def _queue_again(folder: LaunchFolder, shard: str, refused: State) -> None:
    """End this process and have its job run once more; where Slurm refuses that, the shard is in the state `refused`."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        raise SystemExit(_LOCAL_REQUEUE_CODE)
    asked = subprocess.run(["scontrol", "requeue", _job()], check=False)
    # A negative code is that of the signal with which Slurm ends all of the job, so the request was received.
    if asked.returncode > 0:
        folder.update(shard, state=refused)
    raise SystemExit(_REQUEUED_CODE)


def _counts_as_running() -> bool:
    """Whether Slurm has not ended this job: a cancelled one, or one beyond its limit, is completing."""
    try:
        asked = ["squeue", "--noheader", "--jobs", _job(), "--format", "%T"]
        answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    except OSError:
        return False
    return answer.stdout.strip() in ("RUNNING", "SIGNALING")


def _job() -> str:
    """This job as Slurm's commands name it: the number of an array's last element alone is that of the whole array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that receives the signals that ask to stop."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ignoring(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Programs started in this block ignore these signals until they say what to do with them: so `torchrun`, and Python's imports."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(variable: str, otherwise: int = 0) -> int:
    return int(os.environ.get(variable, otherwise))


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
