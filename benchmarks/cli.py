"""How long `slimbrain --help` takes, beside a Python that does nothing.

python benchmarks/cli.py [--quick]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from case import Case

HELP = (sys.executable, "-c", "from slimbrain.cli import main; main()", "--help")
"""What the installed script does, without looking for it on the path."""

NOTHING = (sys.executable, "-c", "pass")


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 runs instead of 5")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 5
    seconds(HELP)  # the first run compiles and reads from disk
    ours, nothing = zip(*[(seconds(HELP), seconds(NOTHING)) for _ in range(repeats)], strict=True)
    detail = {
        "quick": quick,
        "repeats": repeats,
        "statistic": "median",
        "fastest": round(min(ours), 4),
        "python": platform.python_version(),
    }
    Case("cli/help_seconds", median(ours), "s", "python-c-pass", median(nothing), detail).print()


if __name__ == "__main__":
    main()
