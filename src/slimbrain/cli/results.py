"""`slimbrain evaluate` and `report`: what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import OUT, PARTICIPANTS, STORE, THREADS, TOP, WINDOWS, arguments, open_store, set_threads, typed_command

METHOD = Annotated[
    list[str] | None,
    typer.Option(help="`probe` (linear, frozen), `attention` (over frozen tokens), `finetune`, or `identify`; repeat for several rows."),
]
EPOCHS = Annotated[int | None, typer.Option(min=1, help="Most epochs of fine-tuning; 30 if not given.")]


def _list_tasks(asked: bool) -> None:
    if asked:
        from slimbrain.evaluate.listing import as_records, as_text

        print(json.dumps(as_records(), indent=2) if "--json" in arguments else as_text())
        raise typer.Exit


def evaluate(
    store: STORE,
    model: Annotated[list[str], typer.Option(help="Model folder or hub id; the first is compared with the best baseline.")],
    task: Annotated[str, typer.Option(help="`column:NAME` of participants.tsv, `identity`, or a benchmark of `--list`.")],
    out: OUT,
    method: METHOD = None,
    windows: WINDOWS = None,
    k: TOP = None,
    epochs: EPOCHS = None,
    device: Annotated[str, typer.Option(help="Where to fine-tune: auto, cpu or cuda.")] = "auto",
    participants: PARTICIPANTS = None,
    phenotypes: Annotated[list[Path] | None, typer.Option(help="Phenotype file of the benchmark's cohort; repeat for several.")] = None,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Also participants seen in pretraining; the table says so.")] = False,
    listed: Annotated[bool, typer.Option("--list", is_eager=True, callback=_list_tasks, help="Print the benchmarks and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: THREADS = None,
) -> None:
    """Predict a label from a model, split by subject, next to every baseline; writes JSON and a markdown table.

    Refused: participants whom a model was pretrained on, and one recording under two names.

    Example: `slimbrain evaluate store/ --task column:sex --model runs/voxel/model --windows windows.tsv --out sex.json`
    """
    from slimbrain.atomic import write_json, write_text
    from slimbrain.evaluate.compare import to_markdown
    from slimbrain.evaluate.finetune import FinetuneConfig
    from slimbrain.evaluate.methods import Options, Tuning, evaluate_models

    set_threads(threads)
    config = FinetuneConfig() if epochs is None else FinetuneConfig(epochs=epochs)
    options = Options(windows, k, method or (), phenotypes or (), allow_seen, Tuning(config, device, out.with_suffix(".folds")))
    result = evaluate_models(open_store(store, participants), task, model, options)
    write_json(out, result)
    write_text(out.with_suffix(".md"), to_markdown(result))
    print(json.dumps(result, indent=2) if as_json else to_markdown(result))


def report(
    out: OUT,
    store: Annotated[Path | None, typer.Option(help="Store, for data and QC.")] = None,
    windows: Annotated[Path | None, typer.Option(help="Window table from `slimbrain rank`.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a pretraining run; repeat for several.")] = None,
    evaluation: Annotated[list[Path] | None, typer.Option(help="JSON from `slimbrain evaluate`; repeat for several.")] = None,
    truth: Annotated[Path | None, typer.Option(help="truth.json of a simulated cohort.")] = None,
    participants: PARTICIPANTS = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "slimbrain report",
) -> None:
    """Write one HTML page about data, windows, training and results; it needs no network.

    Example: `slimbrain report --store store/ --windows windows.tsv --run runs/voxel --evaluation sex.json --out report.html`
    """
    from slimbrain.prep.exclusion import EXCLUDED_FILE
    from slimbrain.prep.run import FAILURES_FILE
    from slimbrain.report.inputs import ReportInputs
    from slimbrain.report.page import write_report
    from slimbrain.store import Store

    failures, excluded = (store / name if store and (store / name).exists() else None for name in (FAILURES_FILE, EXCLUDED_FILE))
    inputs = ReportInputs(
        store=None if store is None else open_store(store, participants) if participants else Store(store),
        windows=windows,
        runs=tuple(run or ()),
        evaluations=tuple(evaluation or ()),
        failures=failures,
        excluded=excluded,
        truth=truth,
        commands=(typed_command(),),
        title=title,
    )
    print(write_report(out, inputs))
