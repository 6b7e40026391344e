"""`slimbrain demo`, `inspect` and `doctor`: the first minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import OUT, SEED, THREADS, print_facts, set_threads


def demo(out: OUT = Path("demo-run"), seed: SEED = 0, threads: THREADS = None) -> None:
    """Simulate a cohort and run everything on it, in a few minutes on a CPU.

    Example: `slimbrain demo --out demo-run`, then open demo-run/report.html.
    """
    from slimbrain.cli import run_command
    from slimbrain.demo import run_demo

    set_threads(threads)
    run_demo(out, seed, run_command)


def inspect(
    path: Annotated[Path, typer.Argument(help="Store, model folder, run, NIfTI, safetensors or window table.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file or folder is and what it holds.

    Example: `slimbrain inspect store/`
    """
    from slimbrain.doctor import inspect_path

    print_facts(inspect_path(path), as_json)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say whether this machine is fit: versions, devices, memory, disk, and a training step that is timed.

    Example: `slimbrain doctor`
    """
    from slimbrain.doctor import examine

    print_facts(examine(), as_json)
