"""What slimbrain does on a GPU: correctness, speed and memory, in at most 8 minutes, on the first machine that has one.

    python benchmarks/gpu.py [--only steps,memory] [--swift DIR] [--out FILE.jsonl]
    python benchmarks/gpu.py --quick --device cpu      # the same program, small, anywhere

Every section runs in a process of its own, so that one that fails, hangs or upsets the device leaves the others alone. Standard output
has one JSON object per line: cases as in the other benchmarks, and `{"section", "failed"}` for what did not run to its end. A table
follows on standard error. It needs torch, slimbrain's sources and what they import; pytest for the first section. docs/gpu.md has the
predictions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "tests": 100.0,
    "steps": 110.0,
    "memory": 50.0,
    "variants": 100.0,
    "loader": 40.0,
    "temporal": 30.0,
    "curves": 50.0,
    "launches": 40.0,
}
"""Most seconds for each section, in order of what one wants to know first; 480 s leave 40 s of their sum unused."""

BUDGET_S = 480.0
LEAST_S = 5.0
"""With less time left than this a section is not started."""

CPU_PATIENCE = 10.0
"""The limits above are a GPU's; on the CPU, where only whether a section runs is of interest, they are this many times as long."""


def run_section(name: str, arguments: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Run a section in a process of its own, pass its lines on as they come, and return them."""
    command = [sys.executable, __file__, "--section", name, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    found, started = [], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found.append(json.loads(line))
        code = process.wait()
        ran_out = not killer.is_alive()
        killer.cancel()
    if (ran_out or code) and not any("failed" in line for line in found):
        cause = f"stopped after {seconds:.0f} s" if ran_out else f"ended with exit code {code}"
        found.append({"section": name, "failed": cause})
        print(json.dumps(found[-1]), flush=True)
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return found


def section_in_this_process(name: str, options: argparse.Namespace) -> int:
    """Print a section's cases; what fails is said in one line, with the traceback on standard error."""
    import gpu_cases

    machine = gpu_cases.Machine.describe(options.device, options.quick, options.swift)
    try:
        for case in getattr(gpu_cases, f"{name}_cases")(machine):
            case.print()
    except Exception as error:  # whatever went wrong is a finding
        traceback.print_exc()
        print(json.dumps({"section": name, "failed": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    return 0


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """All cases, for people."""
    for line in lines:
        if "failed" in line:
            print(f"{line['section']:<34} FAILED: {line['failed']}", file=sys.stderr)
        else:
            value, against = f"{line['value']:g} {line['unit']}", f"{line['against']} {line['against_value']:g}"
            print(f"{line['case']:<34} {value:>22}   {against:<34} ratio {line['ratio']:g}", file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--swift", type=Path, help="a checkout of SwiFT, to be timed in the same run")
    parser.add_argument("--out", type=Path, help="write the lines here, too")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - SECTIONS.keys():
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    return options


def main() -> int:
    options = parse()
    if options.section:
        return section_in_this_process(options.section, options)
    arguments = ["--device", options.device, *(["--quick"] if options.quick else [])]
    arguments += ["--swift", str(options.swift)] if options.swift else []
    patience = CPU_PATIENCE if options.device == "cpu" else 1.0
    budget = patience * BUDGET_S
    ends, lines = time.perf_counter() + budget, []
    for name in options.only.split(","):
        left = ends - time.perf_counter()
        if left < LEAST_S:
            lines.append({"section": name, "failed": f"not started: {budget:.0f} s are over"})
            print(json.dumps(lines[-1]), flush=True)
            continue
        lines += run_section(name, arguments, min(patience * SECTIONS[name], left))
    print_table(lines)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return int(any("failed" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
