"""A program that lets `withdraw` be killed before every single thing it does to a store, looks at what is left, and goes on.

Started as a program of its own, since forking is not safe beside a test process' threads. Takes a store and a folder to work in; prints
one JSON object: how many moments there were, at how many the withdrawal was recorded, and every fault found.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "prep"))
from prep_victim import WRITES, forked, store_files

from slimbrain.errors import StoreError
from slimbrain.governance.withdraw import withdraw
from slimbrain.store import Store
from slimbrain.store.withdrawn import withdrawn

VICTIM = "sub-02"


def killed_at_change(number: int, out: Path, counted: Path) -> int:
    """Withdraw, and die before the change of that number to a file of the store; note how many there were if it lives.

    Dying before something is only read leaves what dying before the next change leaves.
    """
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        # What is done to locks alone is done to nothing that is read.
        if event in WRITES and not reads and str(arguments[0]).startswith(str(out)) and not str(arguments[0]).endswith(".lock"):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    withdraw(out, VICTIM, "asked to")
    counted.write_text(str(seen))
    return 0


def contents(root: Path) -> dict[str, Any]:
    store = Store(root)
    return {info.key: (store.coarse(info.key).tolist(), store.governance(info).licence, info.subject) for info in store.sessions}


def faults(root: Path, before: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether the withdrawal is recorded, and what a reader meets that must not be."""
    found: list[str] = []
    recorded = bool(withdrawn(root))
    now = contents(root)
    wanted = {key: value for key, value in before.items() if not recorded or value[2] != VICTIM}
    if now != wanted:
        found.append(f"reads {sorted(now)} where it should read {sorted(wanted)}, or other numbers")
    store = Store(root)
    found += [f"{key} is not whole" for key in wanted if not store.is_whole(key)]
    for key in before.keys() - wanted.keys():
        try:
            store.coarse(key)
            found.append(f"{key} is read though its participant was withdrawn")
        except StoreError as error:
            found += [] if "was withdrawn on" in str(error) else [f"{key}: {error}"]
    return recorded, found


def main() -> None:
    template, out = Path(sys.argv[1]), Path(sys.argv[2])
    log, counted = out.with_name("log"), out.with_name("events")
    before = contents(template)

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(template, out)

    def run(number: int) -> int:
        child = forked(lambda: killed_at_change(number, out, counted), log)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    fresh()
    assert run(0) == 0, log.read_text()
    moments, reference = int(counted.read_text()), store_files(out)
    recorded, problems = 0, [f"uninterrupted: {fault}" for fault in faults(out, before)[1]]
    for number in range(1, moments + 1):
        fresh()
        if run(number) != -signal.SIGKILL:
            problems.append(f"{number}: was not killed")
        stands, found = faults(out, before)
        recorded += stands
        problems += [f"{number}: {fault}" for fault in found]
        if run(0) != 0 or (resumed := store_files(out)) != reference:
            problems.append(f"{number}: did not resume to the same end ({sorted(resumed.items() ^ reference.items())})")
    print(json.dumps({"moments": moments, "recorded": recorded, "problems": problems, "files": sorted(reference)}))


if __name__ == "__main__":
    main()
