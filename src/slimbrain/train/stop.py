"""Signals to stop: a step that is nearly done still ends and is saved, one that takes longer than the sender waits does not."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What Slurm sends at a time limit, and before it, on request."""

_KILLED_BY = 128
"""A shell's exit code for a program that a signal ended is this plus the signal's number."""


class StopSignals:
    """Receives signals to stop while the block lasts; only the main thread of a program receives them.

    After SIGTERM the sender kills: Slurm after its KillWait, container managers after their grace period. A step that has not ended by
    then is given up, with a sentence, which a kill would not leave. SIGUSR1 is sent long before a limit and has no such end: SIGTERM
    follows. The interpreter runs no handler while torch computes, so a thread watches the descriptor that signals are written to.

    Parameters
    ----------
    grace_s : float
        Seconds after SIGTERM for which the step may go on.
    last_words : callable
        What to print before the process ends without the step.
    """

    def __init__(self, grace_s: float, last_words: Callable[[], str]) -> None:
        self._grace_s, self._last_words = grace_s, last_words
        self._came, self._ended = False, threading.Event()

    @property
    def came(self) -> bool:
        """Whether this process was asked to stop."""
        return self._came

    def step_ended(self) -> None:
        """Say that the step has ended after a signal: what is left is saved, however long that takes."""
        self._ended.set()

    def __enter__(self) -> StopSignals:
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._heard, self._written = socket.socketpair()
            self._written.setblocking(False)
            self._fd_before = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._note) for number in _STOP_SIGNALS}
            self._watcher = threading.Thread(target=self._watch, name="stop signals", daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._listens:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._fd_before)
            # The thread reads the end of it, and closes its own side.
            self._written.close()
            # One that still runs when the interpreter ends makes it abort.
            self._watcher.join()

    def _note(self, *_: object) -> None:
        self._came = True

    def _watch(self) -> None:
        with self._heard, suppress(OSError):
            while numbers := self._heard.recv(64):
                if signal.SIGTERM in numbers and not self._ended.wait(self._grace_s):
                    print(self._last_words(), file=sys.stderr, flush=True)
                    os._exit(_KILLED_BY + signal.SIGTERM)


def ignore_stop_signals(_: int) -> None:
    """Data-loading processes ignore the signals and are ended by the loop: a signal to the group would otherwise cost it the step."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
