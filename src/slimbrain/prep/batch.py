"""Jobs in several processes, which may share them with other commands: none is done twice at once, and none takes others down."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

_Job = TypeVar("_Job")
_Outcome = TypeVar("_Outcome")

_Work = Callable[[_Job, bool], _Outcome | None]
"""Does a job; None if another process is working on it, unless asked to wait for that."""


def outcomes(
    jobs: Sequence[_Job], work: _Work[_Job, _Outcome], died: Callable[[_Job], _Outcome], waits: Callable[[int], None], nprocs: int
) -> Iterator[_Outcome]:
    """Do all jobs: first those that no other process is working on, then, waiting for them, the others.

    Parameters
    ----------
    work : _Work
        A function of a module, since it may be called in another process.
    died : callable
        The outcome of a job that kills the process it runs in.
    waits : callable
        Called with the number of jobs that are waited for.
    nprocs : int
        Processes; with 1 the jobs are done in this one.
    """
    busy = []
    for job, outcome in _each(jobs, work, died, False, nprocs):
        if outcome is None:
            busy.append(job)
        else:
            yield outcome
    if busy:
        waits(len(busy))
    for _, outcome in _each(busy, work, died, True, nprocs):
        if outcome is not None:
            yield outcome


def _each(
    jobs: Sequence[_Job], work: _Work[_Job, _Outcome], died: Callable[[_Job], _Outcome], wait: bool, nprocs: int
) -> Iterator[tuple[_Job, _Outcome | None]]:
    """Every job with its outcome, as they come."""
    if nprocs == 1 or len(jobs) < 2:
        yield from ((job, work(job, wait)) for job in jobs)
        return
    with _pool(min(nprocs, len(jobs))) as pool:
        futures = {pool.submit(work, job, wait): job for job in jobs}
        for future in as_completed(futures):
            # A worker that dies takes with it all that is not done.
            with suppress(BrokenProcessPool):
                outcome = future.result()
                yield futures.pop(future), outcome
    # One at a time, to learn which of them kills its process.
    for job in futures.values():
        try:
            with _pool(1) as pool:
                yield job, pool.submit(work, job, wait).result()
        except BrokenProcessPool:
            yield job, died(job)


def _pool(n_workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the parent may hold threads and locks of torch or BLAS.
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Let this worker end when its parent does: one that was killed cannot tell it to."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
