"""A program that lets a command be killed at moments told to it, runs it again, and says what its folder then holds.

Beside `prep_victim.py`, for commands that write into one folder and nowhere else. Reads one JSON object (see `main`), prints one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prep_victim import distinct, event_of, forked, killed_at_event, store_files


def main() -> None:
    """Take `argv` of a command, `modules` to import, the folder `out` that it writes into, `moments` and `log`.

    A moment is a share of all events (`{"event": 0.5}`) or of the whole time (`{"time": 0.5}`). Nothing is killed twice before one event.
    """
    plan = json.load(sys.stdin)
    out, log = Path(plan["out"]), Path(plan["log"])
    from slimbrain.cli import run_command

    def command() -> int:
        return run_command(plan["argv"])

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    def run(work: Callable[[], object]) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(forked(work, log), 0)[1])

    # Imports alone, which later runs share: once torch has computed here it has threads, and a forked child would wait for them for ever.
    for module in plan["modules"]:
        importlib.import_module(module)
    fresh()
    counted, started = out.with_name("events"), time.monotonic()
    assert run(lambda: killed_at_event(0, out, command, counted)) == 0, log.read_text()
    n_events, seconds = int(counted.read_text()), time.monotonic() - started
    reference, results = store_files(out), []
    for moment in distinct(plan["moments"], {"nothing": n_events}):
        fresh()
        if "event" in moment:
            number = event_of(moment, n_events)
            status = run(lambda number=number: killed_at_event(number, out, command))  # type: ignore[misc]
        else:
            child = forked(command, log)
            time.sleep(moment["time"] * seconds)
            # It may have ended before: the machine is not equally fast at all times.
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = store_files(out)
        results.append({"moment": moment, "status": status, "left": left, "again": run(command), "files": store_files(out)})
    print(json.dumps({"events": n_events, "reference": reference, "results": results}))


if __name__ == "__main__":
    main()
