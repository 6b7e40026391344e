"""`slimbrain demo`, `run`, `inspect` and `doctor`: the first minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import PRESET, SEED, THREADS, one_of, print_facts, require_model_there, set_threads

_SHOWN_RUNS = 20
"""Runs of a source that `inspect` lists on a terminal."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is made.")] = Path("demo-run"),
    quick: Annotated[bool, typer.Option("--quick", help="A small cohort and hardly any training: every step, in under a minute.")] = False,
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Simulate a cohort and run everything on it, in a few minutes on a CPU.

    Example: `slimbrain demo --out demo-run`, then open demo-run/report.html.
    """
    from slimbrain.cli import run_command
    from slimbrain.demo import run_demo

    set_threads(threads)
    run_demo(out, seed, run_command, quick)


def run(
    source: Annotated[Path, typer.Argument(help="Recordings that `slimbrain prep` reads, or a store.", show_default=False)],
    task: Annotated[str, typer.Option(help="`column:NAME` of participants.tsv, or another task of `slimbrain evaluate`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the store, the results and report.html.")],
    model: Annotated[
        str,
        typer.Option(
            callback=require_model_there,
            help="Model folder or hub id. If not given: the one that comes with slimbrain or, if it was trained on some of these "
            "participants, one pretrained on half of them.",
        ),
    ] = "",
    preset: Annotated[str, PRESET] = "tiny",
    resolution: Annotated[
        str, typer.Option(help="Lattice of the store: 2mm, 4mm, 8mm or 8mm-p1; stage 1 reads 16 mm cells of any of them.")
    ] = "8mm",
    layout: Annotated[str, typer.Option(help="As for `slimbrain prep`.")] = "auto",
    tr: Annotated[float | None, typer.Option(help="Seconds per frame, where the files do not say.")] = None,
    channels: Annotated[str | None, typer.Option(help="TSV of region names and places (name, x, y, z), or none.")] = None,
    atlas: Annotated[str | None, typer.Option(help="Atlas to take, where a source has series of several.")] = None,
    denoise: Annotated[str, typer.Option(help="none, simple or scrubbing (fMRIPrep confounds).")] = "none",
    nprocs: Annotated[int, typer.Option(min=1, help="Runs prepared in parallel.")] = 1,
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Go from recordings to a page with a result: prep, embed, evaluate and report with defaults; each command is printed.

    Run again, it resumes: steps that are done are not repeated while their inputs are the same.

    Example: `slimbrain run fmriprep/ --task column:sex --out results/`
    """
    from slimbrain.cli import run_command
    from slimbrain.pipeline import OwnData, run_own_data

    set_threads(threads)
    given = {"layout": layout, "tr": tr, "channels": channels, "atlas": atlas, "denoise": denoise, "nprocs": nprocs}
    defaults: dict[str, object] = {"layout": "auto", "denoise": "none", "nprocs": 1}
    prep = {name: value for name, value in given.items() if value is not None and value != defaults.get(name)}
    print(f"\nOpen {run_own_data(OwnData(source, task, model, preset, resolution, prep, seed), out, run_command)}")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="Recordings, store, run, model (of the package: its name), training state, image, or a file that slimbrain wrote.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file or folder is, what it holds, and which command reads it; for recordings, the image taken for each run, and why.

    Example: `slimbrain inspect store/`
    """
    from slimbrain.disk.tsv import format_tsv
    from slimbrain.doctor import inspect_path
    from slimbrain.doctor.look import RUNS, WITHOUT_TR
    from slimbrain.doctor.recordings import COLUMNS

    facts = inspect_path(path, None if as_json else _SHOWN_RUNS)
    runs = [] if as_json else facts.pop(RUNS, [])
    print_facts(facts, as_json)
    if runs:
        print(f"\n{format_tsv(COLUMNS, runs)}", end="")
        left = sum(facts.get(name, 0) for name in ("usable runs", WITHOUT_TR, "refused")) - len(runs)
        print(f"... and {left} more; --json lists all" if left else "", end="\n" if left else "")


def doctor(
    store: Annotated[
        Path | None, typer.Argument(help="Store to check and to measure speed with, or a model to check.", show_default=False)
    ] = None,
    preset: Annotated[str, PRESET] = "tiny",
    resolution: Annotated[
        str | None,
        typer.Option(
            help="Lattice to measure speed with: 2mm, 4mm, 8mm or 8mm-p1; the store's, or the one the preset is for, if not given.",
            autocompletion=one_of("2mm", "4mm", "8mm", "8mm-p1"),
        ),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting, e.g. train_voxel.steps=500.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=one_of("auto", "cpu", "cuda"))] = "auto",
    threads: THREADS = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, and a store, and estimate how fast a preset trains here and how long its steps would take.

    Exit code 1, with the reason, if a check fails.

    Example: `slimbrain doctor store/ --preset small`
    """
    from slimbrain.config import load_preset
    from slimbrain.doctor import examine

    set_threads(threads)
    found = examine(load_preset(preset, overrides), store, device, resolution)
    print_facts(found.to_dict() if as_json else found.facts, as_json)
    if not as_json:
        print("\n".join(f"unfit: {problem}" for problem in found.problems) or "fit")
    raise typer.Exit(1 if found.problems else 0)
