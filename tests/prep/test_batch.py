"""Jobs in many processes: every one has its outcome, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from slimbrain.prep.batch import outcomes

Job = tuple[str, str]


def work(job: Job, wait: bool) -> str | None:
    """A job called `busy` is another's until waited for; `fatal` kills its process; `unlucky` does so the first time."""
    name, folder = job
    if name == "busy" and not wait:
        return None
    if name == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "unlucky":
        once = Path(folder) / "once"
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return f"{name} done{' after waiting' if wait else ''}"


def died(job: Job) -> str:
    return f"{job[0]} died"


def run(names: list[str], folder: Path, nprocs: int) -> tuple[list[str], list[int]]:
    waited: list[int] = []
    return list(outcomes([(name, str(folder)) for name in names], work, died, waited.append, nprocs)), waited


@pytest.mark.parametrize("nprocs", [1, 2])
def test_what_another_has_in_hand_comes_last(nprocs: int, tmp_path: Path) -> None:
    done, waited = run(["busy", "a", "b"], tmp_path, nprocs)
    assert sorted(done[:2]) == ["a done", "b done"] and done[2:] == ["busy done after waiting"]
    assert waited == [1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "fatal", "b", "c", "busy"], ["a done", "b done", "busy done after waiting", "c done", "fatal died"]),
        pytest.param(["unlucky", "a", "b"], ["a done", "b done", "unlucky done"], marks=pytest.mark.slow),
    ],
)
def test_a_job_that_kills_its_process_fails_alone_and_gets_a_second_try(names: list[str], expected: list[str], tmp_path: Path) -> None:
    assert sorted(run(names, tmp_path, 2)[0]) == expected


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    assert run([], tmp_path, 2) == ([], [])
