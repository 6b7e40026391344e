"""A program that lets `slimbrain prep` be killed at moments told to it, resumes it, and says what the store then holds.

It forks processes that have everything imported, so that thirty kills cost seconds; started as a program of its own, since
a test process has threads, with which forking is not safe. Reads one JSON object (see `main`), prints one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.truncate", "fcntl.flock"}
"""Python's audit events before which a process is killed; each is raised before the system is asked."""

MINUTE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
"""The report says when it was written."""


def store_files(out: Path) -> dict[str, str]:
    """SHA-256 by name of every file below a store; the report without the time of day. The store's own lock file is always empty."""
    contents = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(MINUTE.sub(b"", data)).hexdigest() for name, data in contents.items()}


def forked(work: Callable[[], object], log: Path) -> int:
    """Start `work` in a child; its process id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = int(work() or 0)  # type: ignore[call-overload]
    finally:
        os._exit(status)


def killed_at_event(number: int, out: Path, work: Callable[[], object], counted: Path | None = None) -> object:
    """Do `work`, and die before its event of that number on a file of the store; note how many there were if it lives."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in WRITES and (event == "fcntl.flock" or str(arguments[0]).startswith(str(out))):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    status = work()
    if counted:
        counted.write_text(str(seen))
    return status


def event_of(moment: dict[str, Any], n_events: int) -> int:
    return 1 + int(moment["event"] * n_events)


def distinct(moments: list[dict[str, Any]], n_events: dict[str, int]) -> list[dict[str, Any]]:
    """The moments without those that fall on the same event as an earlier one, of what was there before."""
    kept = {}
    for place, moment in enumerate(moments):
        before = moment.get("before", "nothing")
        kept.setdefault((before, event_of(moment, n_events[before]) if "event" in moment else f"time {place}"), moment)
    return list(kept.values())


def main() -> None:
    """Take `argv` of a prep, its `out`, `before` (what the store holds at first, or null), `moments` and `log`.

    A moment is a share of all events (`{"event": 0.5}`) or of the whole time (`{"time": 0.5}`). Nothing is killed twice before one event.
    """
    plan = json.load(sys.stdin)
    out, log = Path(plan["out"]), Path(plan["log"])
    from slimbrain.cli import run_command
    from slimbrain.disk.atomic import write_text
    from slimbrain.report import page

    # Its drawings take ten times as long as the preparation; what matters here is that a page is written, and of what.
    page.write_report = lambda path, inputs: write_text(path, str([info for info in inputs.store.sessions]))  # type: ignore[union-attr]

    def prep() -> int:
        return run_command(plan["argv"])

    def fresh(before: str | None) -> None:
        shutil.rmtree(out, ignore_errors=True)
        if before:
            shutil.copytree(before, out)

    def run(work: Callable[[], object]) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(forked(work, log), 0)[1])

    # The first run loads and caches everything that later ones have, in this process.
    assert prep() == plan["exit"], "the uninterrupted prep did not end as expected"
    counted = out.with_name("events")
    totals: dict[str, tuple[int, float]] = {}
    for name, before in plan["before"].items():
        fresh(before)
        started = time.monotonic()
        assert run(lambda: killed_at_event(0, out, prep, counted)) == plan["exit"]
        totals[name] = int(counted.read_text()), time.monotonic() - started
    reference = store_files(out)
    results = []
    for moment in distinct(plan["moments"], {name: events for name, (events, _) in totals.items()}):
        fresh(plan["before"][moment["before"]])
        n_events, seconds = totals[moment["before"]]
        if "event" in moment:
            number = event_of(moment, n_events)
            status = run(lambda number=number: killed_at_event(number, out, prep))  # type: ignore[misc]
        else:
            status, delay = 0, moment["time"] * seconds
            while status != -signal.SIGKILL:
                fresh(plan["before"][moment["before"]])
                child = forked(prep, log)
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                # It was done before: this machine is faster now than when the whole was timed.
                delay /= 2
        left = store_files(out) if out.exists() else {}
        results.append({"moment": moment, "status": status, "left": left, "resumed": run(prep), "files": store_files(out)})
    print(json.dumps({"reference": reference, "totals": totals, "results": results}))


if __name__ == "__main__":
    main()
