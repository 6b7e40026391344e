"""Signals to stop: which steps are waited for, and that one which takes longer than the sender waits is given up with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from train_samples import assert_same_run, settings

from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import pretrain, stop
from slimbrain.train.checkpoint import saved_steps
from slimbrain.train.stop import StopSignals

LONG_S, SHORT_S = 600.0, 0.05


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], threading.Event]:
    """Exit codes that the process would have ended with, and an event for the first."""
    codes: list[int] = []
    told = threading.Event()

    def note(code: int) -> None:
        codes.append(code)
        told.set()

    monkeypatch.setattr(stop.os, "_exit", note)
    return codes, told


def test_a_step_that_does_not_end_is_given_up(exits: tuple[list[int], threading.Event], capfd: pytest.CaptureFixture[str]) -> None:
    codes, told = exits
    with StopSignals(SHORT_S, lambda: "last words") as signals:
        assert not signals.came
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(LONG_S) and signals.came
    assert codes == [128 + signal.SIGTERM] and capfd.readouterr().err == "last words\n"


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGUSR1, False)])
def test_a_step_that_ends_and_one_with_time_are_waited_for(
    number: signal.Signals, ends: bool, exits: tuple[list[int], threading.Event]
) -> None:
    """SIGUSR1 says that there is time left, SIGTERM that a kill follows."""
    codes, told = exits
    with StopSignals(SHORT_S, lambda: "last words") as signals:
        if ends:
            signals.step_ended()
        os.kill(os.getpid(), number)
        assert not told.wait(10 * SHORT_S) and signals.came
    assert codes == []


def test_other_signals_and_what_was_there_before_are_left_alone(exits: tuple[list[int], threading.Event]) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    try:
        with StopSignals(SHORT_S, lambda: "last words") as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert not exits[1].wait(4 * SHORT_S) and not signals.came
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == [signal.SIGUSR2] and exits[0] == []
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


STUCK = """
import os, signal, sys, time
from pathlib import Path
from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import Loop, pretrain

root, run, at, *overrides = sys.argv[1:]
step = Loop._step

def stuck(self, number, batches):
    if number == int(at):
        # One operation that takes ten minutes: the main thread runs no Python meanwhile, and so no handler of a signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    return step(self, number, batches)

Loop._step = stuck
pretrain("temporal", Store(root), load_preset("tiny", overrides), Path(run), seed=3, device="cpu")
"""


@pytest.mark.parametrize(
    ("at", "words"),
    [
        pytest.param(1, "no state was saved yet, so --resume auto starts from step 0", marks=pytest.mark.slow),
        (4, "--resume auto resumes from step 3"),
    ],
)
def test_a_run_in_a_step_of_ten_minutes_ends_and_loses_that_step_alone(
    at: int, words: str, training_store: Store, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    run, overrides = tmp_path / "run", settings(stop_grace_s=0.5)
    command = [sys.executable, "-c", STUCK, str(training_store.root), str(run), str(at), *overrides]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "SIGTERM" in line]
    assert line.startswith(f"{run}: ") and "train_temporal.stop_grace_s" in line and line.endswith(words), line
    assert saved_steps(run / "state") == [3] * (at > 3)
    pretrain("temporal", training_store, load_preset("tiny", overrides), run, seed=3, resume=True, device="cpu")
    assert_same_run(trained("temporal"), run)
