"""A Slurm of our own on one machine: munge, a controller and two nodes, as processes with ports, folders and a key of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
NODES = ("node1", "node2")
START_S = 30.0
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"}
"""Debian's daemons are in folders that a user's PATH may lack."""

CONFIGURATION = """\
ClusterName=slimbraintest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=6
MessageTimeout=4
KillWait=5
ReturnToService=2
MpiDefault=none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=1 RealMemory=1000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=1 RealMemory=1000
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""
"""One processor a node: one shard at a time. A job that is queued again waits for its credential to expire; a node that is gone counts as
down once several messages, each for MessageTimeout, had no answer."""


def missing_program() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    for program in PROGRAMS:
        if not shutil.which(program, path=ENVIRONMENT["PATH"]):
            return f"no {program}: install Debian's slurm-wlm and munge"
    return None


class SlurmCluster:
    """Starts it in a folder; `stop` ends every process of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.configuration = root, root / "slurm.conf"
        self._environment = {**ENVIRONMENT, "SLURM_CONF": str(self.configuration)}
        # In the environment of all that this cluster runs, and of nothing that another one does, whose nodes may be called the same.
        self._mark = f"SLURM_CONF={self.configuration}"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        (root / "state").mkdir(parents=True)
        # munge distrusts a path on which others may write.
        root.chmod(0o755)
        self._configure()

    def start(self) -> None:
        """Raise RuntimeError, with the end of the logs, unless all nodes are idle in time."""
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        places = {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.root / name}" for option, name in places.items()]
        self._daemon("munged", "munged", "--foreground", "--force", *options)
        self._until(lambda: (self.root / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))
        for node in NODES:
            self.start_node(node)
        self._until(lambda: self.say("sinfo", "--noheader", "--format", "%T").split() == ["idle"], "all nodes")

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.configuration))

    def kill_node(self, node: str) -> None:
        """As when its power goes: its daemon and everything that it started are gone at once, and nobody is told."""
        self._daemons.pop(node).kill()
        _kill(self._processes_of(node))

    def say(self, *command: str) -> str:
        """What a command of Slurm prints; empty if it fails, as it may while a daemon starts."""
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self._environment)
        return done.stdout if done.returncode == 0 else ""

    def wait_idle(self) -> None:
        """Until no job waits or runs, and all nodes are free."""
        self._until(lambda: not self.say("squeue", "--noheader").strip(), "an empty queue")
        self._until(lambda: set(self.say("sinfo", "--noheader", "--format", "%T").split()) == {"idle"}, "all nodes")

    def stop(self) -> None:
        if "slurmctld" in self._daemons:
            self.say("scancel", "--full", *self.say("squeue", "--noheader", "--format", "%A").split())
        for node in NODES:
            if node in self._daemons:
                self.kill_node(node)
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        # What would go on telling a controller that is gone how its job ended.
        _kill(_processes_with(self._mark))

    def _processes_of(self, node: str) -> Iterator[psutil.Process]:
        """What runs in jobs on a node, and the daemons that started these."""
        for process in _processes_with(self._mark, f"SLURMD_NODENAME={node}"):
            with suppress(psutil.Error):
                parent = process.parent()
                if parent is not None and parent.name() == "slurmstepd":
                    yield parent
            yield process

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.root / f"{name}.out", "ab") as said:
            self._daemons[name] = subprocess.Popen(command, env=self._environment, stdout=said, stderr=said)

    def _configure(self) -> None:
        ports = dict(zip(("controller", *NODES), free_ports(3), strict=True))
        host, user = socket.gethostname().split(".")[0], subprocess.check_output(["id", "--user", "--name"], text=True).strip()
        self.configuration.write_text(CONFIGURATION.format(host=host, user=user, root=self.root, **ports), encoding="utf-8")

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {START_S:g} s for {what}\n{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        paths = sorted([*self.root.glob("*.log"), *self.root.glob("*.out")])
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in paths)


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _processes_with(*variables: str) -> Iterator[psutil.Process]:
    """Processes that were started with each `NAME=value` in their environment, but for this one."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            given = {f"{name}={value}" for name, value in process.environ().items()}
            if given.issuperset(variables) and process.pid != os.getpid():
                yield process
