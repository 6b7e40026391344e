"""`slimbrain explain`: where in the brain, and when, a model's output depends on its input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import (
    PARTICIPANTS,
    SEED,
    STORE,
    THREADS,
    TOP,
    WINDOWS,
    commands_from,
    open_store,
    require_model_there,
    set_threads,
    typed_command,
)


def explain(
    context: typer.Context,
    store: STORE,
    model: Annotated[
        str,
        typer.Option(
            callback=require_model_there, help="Model folder or hub id: of stage 2, fine-tuned or not, or of stage 1 for `channels`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the maps.")],
    method: Annotated[str, typer.Option(help="gradient, integrated, occlusion, surprise or channels.")] = "integrated",
    task: Annotated[
        str | None, typer.Option(help="Task of the probes, as in `slimbrain evaluate`; not needed for a fine-tuned model.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Class whose log-odds are explained; the second of two classes if not given.")] = None,
    windows: WINDOWS = None,
    k: TOP = None,
    participants: PARTICIPANTS = None,
    phenotypes: Annotated[list[Path] | None, typer.Option(help="Phenotype file of the benchmark's cohort; repeat for several.")] = None,
    atlas: Annotated[Path | None, typer.Option(help="NIfTI of numbered regions in MNI space; the encoder's units if not given.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of its regions: TSV with index and name, or a text file.")] = None,
    by_window: Annotated[bool, typer.Option("--by-window", help="Also a 4D image per session, one volume per window.")] = False,
    pictures: Annotated[str, typer.Option(help="PNG mosaics of: group, all (sessions too) or none.")] = "group",
    fwhm: Annotated[float, typer.Option(min=0, help="FWHM in mm of the Gaussian that smooths averages.")] = 0.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of integrated gradients; as many as it takes for 1 % error if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Write maps of what a model's output depends on (NIfTI, tables, pictures), per session and averaged; resumes where it stopped.

    The decision is that of a probe that was not trained on the subject, or of a fine-tuned model.

    Exit code 1 if a session could not be explained.

    Example: `slimbrain explain store/ --model runs/voxel/model --task column:sex --windows windows.tsv --out maps/sex`

    For a model that `slimbrain evaluate --method finetune --save tuned` saved: `slimbrain explain store/ --model tuned --out maps/tuned`
    """
    from slimbrain.explain import MapRequest, Output, explain_store

    set_threads(threads)
    request = MapRequest(method, task, target, windows, k, steps, seed, tuple(phenotypes or ()))
    output = Output(atlas, labels, by_window, pictures, fwhm, commands_from(participants, typed_command(context)))
    summary = explain_store(open_store(store, participants), model, request, output, out, device)
    known = f" {summary.trained_on} of them are of participants that the model was trained on." if summary.trained_on else ""
    print(f"{len(summary.made)} sessions explained, {len(summary.kept)} already there, {len(summary.refused)} left out; see {out}.{known}")
    raise typer.Exit(1 if summary.refused else 0)
