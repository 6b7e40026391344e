"""A command killed up to thirty times at random moments: what its folder holds after the same command again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from slimbrain.disk.atomic import TEMPORARY_PREFIX

_N_KILLS, _N_BY_TIME = 30, 10


def assert_rerun_gives_the_same(words: Sequence[object], out: Path, log: Path, modules: Sequence[str]) -> None:
    """Kill the command before two in three of its writes and at other times; every rerun has to leave the same bytes.

    Parameters
    ----------
    words : sequence
        The command, which writes below `out` and nowhere else.
    modules : sequence of str
        What the command imports late, so that it is imported once and not in every run.
    """
    moment = random.Random(0).random
    moments = [{"event": moment()} for _ in range(_N_KILLS - _N_BY_TIME)] + [{"time": moment()} for _ in range(_N_BY_TIME)]
    plan = {"argv": [str(word) for word in words], "out": str(out), "log": str(log), "moments": moments, "modules": list(modules)}
    program = Path(__file__).with_name("command_victim.py")
    done = subprocess.run([sys.executable, str(program)], input=json.dumps(plan), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    results, reference = told["results"], finished(told["reference"])
    # The kills are worth something: all of those before a write hit, and they left less than the whole.
    by_event = [result for result in results if "event" in result["moment"]]
    assert [result["status"] for result in by_event] == [-signal.SIGKILL] * len(by_event)
    assert any(finished(result["left"]) != reference for result in by_event)
    for result in results:
        assert result["again"] == 0, result["moment"]
        assert finished(result["files"]) == reference, (result["moment"], sorted(result["files"].items() ^ reference.items()))


def finished(files: dict[str, str]) -> dict[str, str]:
    """Without the temporary files that a killed process leaves, which no command reads."""
    return {name: digest for name, digest in files.items() if not Path(name).name.startswith(TEMPORARY_PREFIX)}
