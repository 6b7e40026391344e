"""Submit what is missing, wait for it, submit lost shards once more, gather; the same call again resumes where it was left.

A shard that fails is retried by its own job (`worker`), not here, so that this works with `--no-wait`, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import format_tsv
from slimbrain.errors import InputError
from slimbrain.launch.cluster import Cluster
from slimbrain.launch.folder import FINAL, TABLE_FILE, LaunchFolder, LaunchPlan, ShardState, Submitted
from slimbrain.launch.resources import Resources
from slimbrain.launch.work import Work

_POLL_S, _ASK_S = 1.0, 5.0
"""Between looks at the folder, and between questions to the queue, which hundreds of users ask."""

_TELL_S = 30.0

_TABLE_COLUMNS = ("shard", "state", "submissions", "failures", "requeues", "exit_code", "node", "seconds", "job")


@dataclass(frozen=True)
class LaunchOutcome:
    """What became of a launch.

    Attributes
    ----------
    states : mapping
        Of each shard, by name.
    table : str
        One line per shard that is not done.
    line : str
        What gathering said.
    waiting : bool
        Jobs are still queued or running (`--no-wait`).
    changed : bool
        The inputs changed while the shards ran, so some of them may be in no shard.
    """

    states: Mapping[str, ShardState]
    table: str
    line: str = ""
    waiting: bool = False
    changed: bool = False

    @property
    def exit_code(self) -> int:
        done = all(state.state == "done" for state in self.states.values())
        return 0 if self.waiting or (done and not self.changed) else 1


def launch(work: Work, resources: Resources, cluster: Cluster, folder: LaunchFolder, wait: bool = True) -> LaunchOutcome:
    """Run all shards of a command, and gather what they made.

    The same call again submits only what is not done and not queued. A launch that finished starts again from the beginning.

    Parameters
    ----------
    wait : bool
        Until all shards have ended; else return once they are submitted.

    Raises
    ------
    InputError
        If another process waits for the same launch, or the folder holds another command.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with claim(folder.root, "client") as mine:
        if not mine:
            raise InputError(f"{folder.root}: another process is waiting for this launch; wait for it, or end it.")
        plan = _plan(work, resources, folder)
        _submit_missing(plan, cluster, folder, ("failed", "stopped", "lost"))
        if not wait:
            return LaunchOutcome(_states(plan, folder), "", waiting=True)
        _wait(plan, cluster, folder)
        if any(state.state == "lost" for state in _states(plan, folder).values()):
            # Its job cannot try again: nothing is left of it.
            _submit_missing(plan, cluster, folder, ("lost",))
            _wait(plan, cluster, folder)
        return _gather(work, plan, folder)


def _plan(work: Work, resources: Resources, folder: LaunchFolder) -> LaunchPlan:
    result = str(work.result.absolute()) if work.result else ""
    plan = LaunchPlan(work.command, work.shards, work.distributed, result, resources.processes_per_node, resources.grace_s, work.inputs())
    before = folder.read_plan()
    if before is not None and not before.finished and (before.command, dict(before.shards)) != (plan.command, dict(plan.shards)):
        raise InputError(
            f"{folder.root}: holds an unfinished launch of another command, or of as many other shards; "
            "finish it with the same options, choose another --launch-folder, or delete it once none of its jobs is queued."
        )
    if before is not None and before.finished:
        folder.forget()
    elif before is not None and before.inputs != plan.inputs:
        # A file that came or grew moves others to other shards, which find what is done once it is gathered.
        work.gather(False)
        for shard in plan.shards:
            folder.update(shard, state="waiting")
    folder.write_plan(plan)
    return plan


def _states(plan: LaunchPlan, folder: LaunchFolder) -> dict[str, ShardState]:
    return {shard: folder.read(shard) for shard in plan.shards}


def _submit_missing(plan: LaunchPlan, cluster: Cluster, folder: LaunchFolder, again: Collection[str]) -> None:
    """Submit shards that never were, that are on no way any more, or that ended in one of the states `again`."""
    jobs, states = folder.read_jobs(), _states(plan, folder)
    alive = cluster.alive([each.job for each in jobs.values()]) if jobs else set()
    while any(state.state in again and jobs.get(shard, Submitted()).job in alive for shard, state in states.items()):
        # It has ended, and may hold its locks until it has left the queue.
        time.sleep(_POLL_S)
        alive = cluster.alive(alive)
    open_shards = [shard for shard, state in states.items() if state.state in again or state.state not in FINAL]
    missing = [shard for shard in open_shards if jobs.get(shard, Submitted()).job not in alive]
    if not missing:
        return
    for shard in missing:
        folder.update(shard, state="waiting", exit_code=None, failures=0)
    for shard, job in zip(missing, cluster.submit(folder, missing), strict=True):
        jobs[shard] = Submitted(job, jobs.get(shard, Submitted()).submissions + 1)
    folder.write_jobs(jobs)
    print(f"{folder.root}: {len(missing)} of {len(plan.shards)} shards submitted", file=sys.stderr, flush=True)


def _wait(plan: LaunchPlan, cluster: Cluster, folder: LaunchFolder) -> None:
    """Return once every shard has ended, well or not."""
    jobs = folder.read_jobs()
    asked = told = time.monotonic()
    gone: set[str] = set()
    while open_jobs := {jobs[shard].job: shard for shard, state in _states(plan, folder).items() if state.state not in FINAL}:
        now = time.monotonic()
        if now - asked > _ASK_S:
            asked, missing = now, set(open_jobs) - cluster.alive(open_jobs)
            # Twice, since a job leaves the queue a moment before its last state can be read on this machine.
            for job in missing & gone:
                folder.update(open_jobs[job], state="lost")
            gone = missing
        if now - told > _TELL_S:
            told = now
            print(f"{folder.root}: {_counts(_states(plan, folder))}", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


def _counts(states: Mapping[str, ShardState]) -> str:
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state.state] = counts.get(state.state, 0) + 1
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _gather(work: Work, plan: LaunchPlan, folder: LaunchFolder) -> LaunchOutcome:
    states, jobs = _states(plan, folder), folder.read_jobs()
    rows = [{"shard": shard, **vars(state), **vars(jobs[shard])} for shard, state in states.items()]
    write_text(folder.root / TABLE_FILE, format_tsv(_TABLE_COLUMNS, rows))
    done, changed = all(state.state == "done" for state in states.values()), work.inputs() != plan.inputs
    line = work.gather(done and not changed)
    if changed:
        line = f"{line}\n{folder.root}: the source changed since this was submitted; the same command again takes in what came."
    elif done:
        folder.write_plan(replace(plan, finished=True))
    table = "\n".join(_line(folder, shard, state, jobs[shard]) for shard, state in states.items() if state.state != "done")
    return LaunchOutcome(states, table, line, changed=changed)


def _line(folder: LaunchFolder, shard: str, state: ShardState, job: Submitted) -> str:
    """What became of a shard that is not done."""
    reasons = {"stopped": "by a signal, and not queued again", "lost": "ended without a state: killed, or out of memory"}
    why = reasons.get(state.state, f"exit code {state.exit_code}, {state.failures} times")
    return f"{shard}: {state.state} ({why}), last on {state.node or 'no node'}, submitted {job.submissions} times; see {_log(folder, job)}"


def _log(folder: LaunchFolder, job: Submitted) -> Path:
    return folder.logs / f"{job.job}_0_log.err"


def describe(shards: Mapping[str, Sequence[str]], n_shown: int = 3) -> str:
    """The first commands that the shards run, for `--dry-run`."""
    import shlex

    shown = [f"# {name}: slimbrain {shlex.join(words)}" for name, words in list(shards.items())[:n_shown]]
    rest = [f"# ... {len(shards) - n_shown} more"] if len(shards) > n_shown else []
    return "\n".join([*shown, *rest])
