"""`slimbrain evaluate` and `report`: what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import (
    PARTICIPANTS,
    STORE,
    THREADS,
    TOP,
    WINDOWS,
    commands_from,
    open_store,
    require_model_there,
    set_threads,
    temporal_or_shipped,
    typed_command,
    typed_line,
)
from slimbrain.cli.outputs import require_own_output
from slimbrain.errors import InputError

_METHOD = Annotated[
    list[str] | None,
    typer.Option(help="`probe` (linear, frozen), `attention` (over frozen tokens), `finetune`, or `identify`; repeat for several rows."),
]
_NOTHING_TO_REPORT = (
    "report: there is nothing to report on; name a folder that slimbrain wrote, or give --store, --run, --windows, --evaluation, "
    "--explained or --map."
)
_EPOCHS = Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs of fine-tuning; 30 if not given.")]


def _list_tasks(context: typer.Context, asked: bool) -> None:
    if asked:
        from slimbrain.evaluate.listing import as_records, as_text

        print(json.dumps(as_records(), indent=2) if "--json" in typed_line(context).words else as_text())
        raise typer.Exit


def evaluate(
    context: typer.Context,
    store: STORE,
    task: Annotated[
        str, typer.Option(help="`column:NAME` of participants.tsv or sessions.tsv, `identity`, `events`, or a benchmark of `--list`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write; a table in markdown lies beside it.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            callback=require_model_there,
            help="Model folder or hub id; repeat for several: the first is compared with the best baseline. The stage 1 model that comes "
            "with slimbrain if not given.",
        ),
    ] = None,
    method: _METHOD = None,
    windows: WINDOWS = None,
    k: TOP = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(help="Embeddings from `slimbrain embed` with the same --windows and --k, to be reused; repeat for several."),
    ] = None,
    epochs: _EPOCHS = None,
    save: Annotated[
        Path | None, typer.Option(help="With --method finetune: folder for the first model, fine-tuned on all labelled participants.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to fine-tune: auto, cpu or cuda.")] = "auto",
    participants: PARTICIPANTS = None,
    phenotypes: Annotated[list[Path] | None, typer.Option(help="Phenotype file of the benchmark's cohort; repeat for several.")] = None,
    group: Annotated[
        str,
        typer.Option(help="Column of participants.tsv; participants who share a value (a family) are never split between train and test."),
    ] = "",
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Also participants that a model was trained on; the table counts them.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out copies of recordings: both where labels disagree, else one.")
    ] = False,
    split: Annotated[str, typer.Option(help="`5-fold`, another number of folds, or `70/10/20`; the task's own if not given.")] = "",
    labelled: Annotated[
        str, typer.Option(help="Numbers of labelled participants, e.g. `30,60,120`, for a curve; each point is tested on all others.")
    ] = "",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How often participants are divided at random: 3 times, or 5 with --labelled, if not given.")
    ] = None,
    leave_out: Annotated[
        str, typer.Option(help="Column of participants.tsv, such as `site`: each of its values is tested by models trained on all others.")
    ] = "",
    transfer_to: Annotated[
        Path | None, typer.Option(help="Another store, which is tested; this one is trained on. They may not share participants.")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames per window, if windows, not whole runs, are the samples: for states (`column:task`, `events`)."),
    ] = None,
    baselines: Annotated[
        str, typer.Option(help="`default`, or `all`: PoSCE, matrix power, co-skewness and connectivity less confounds as well.")
    ] = "default",
    pretraining_people: Annotated[
        Path | None,
        typer.Option(
            help="Table of participants of the store, or another store: linear pretraining learns from them, not the model's own."
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", is_eager=True, callback=_list_tasks, help="Print the benchmarks and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: THREADS = None,
) -> None:
    """Predict a label from a model, split by subject, next to every baseline; writes JSON and a markdown table.

    Refused: participants that a model was trained on, and one recording under two names.

    Example: `slimbrain evaluate store/ --task column:sex --model runs/voxel/model --windows windows.tsv --out sex.json`
    """
    _require_own(out, task)
    opened = open_store(store, participants)
    # Only now, since it loads torch: a store with a typo would wait for that.
    from slimbrain.disk.atomic import write_text
    from slimbrain.embed.features import read_embeddings
    from slimbrain.evaluate.designs import Design
    from slimbrain.evaluate.finetune import FinetuneConfig
    from slimbrain.evaluate.methods import Options, Tuning, evaluate_models
    from slimbrain.evaluate.result import write_result
    from slimbrain.evaluate.table import to_markdown
    from slimbrain.governance.provenance import FOLDS_SUFFIX

    set_threads(threads)
    config = FinetuneConfig() if epochs is None else FinetuneConfig(epochs=epochs)
    tuning = Tuning(config, device, out.with_suffix(FOLDS_SUFFIX), save)
    design = Design(split, labelled, seeds, leave_out, transfer_to, frames)
    known = (allow_overlap, drop_duplicates, tuning, design, baselines, pretraining_people)
    options = Options(windows, k, method or (), phenotypes or (), group, embeddings or (), *known)
    result = evaluate_models(opened, task, model or [temporal_or_shipped(None)], options)
    embedded = [line for path in options.embeddings for line in read_embeddings(path).commands]
    *chosen_by, typed = commands_from(participants, typed_command(context))
    result = result.model_copy(update={"commands": tuple(dict.fromkeys((*chosen_by, *embedded, typed)))})
    write_result(out, result)
    write_text(out.with_suffix(".md"), to_markdown(result))
    print(json.dumps(result.to_dict(), indent=2) if as_json else to_markdown(result))


def _require_own(out: Path, task: str) -> None:
    """Refuse to write over another task's result, or over what is none."""
    from slimbrain.evaluate.result import read_result

    held = require_own_output(out, read_result, "evaluate")
    if held is not None and held.task != task:
        raise InputError(f"{out}: holds the result of {held.task}; choose another --out, or delete it.")


def predict(
    store: STORE,
    model: Annotated[
        str, typer.Option(callback=require_model_there, help="Folder of `slimbrain evaluate --method finetune --save`, or a hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", help="TSV file to write.")],
    windows: WINDOWS = None,
    k: TOP = None,
    participants: PARTICIPANTS = None,
    threads: THREADS = None,
) -> None:
    """Predict a label for every session by a fine-tuned model; writes a table. For research: nothing here is a diagnosis.

    Example: `slimbrain predict store/ --model tuned/ --windows windows.tsv --out predictions.tsv`
    """
    from slimbrain.disk.atomic import write_text
    from slimbrain.disk.tsv import format_tsv
    from slimbrain.evaluate.tuned import IN_TRAINING, load_tuned, predict_store

    set_threads(threads)
    rows = predict_store(open_store(store, participants), load_tuned(model), windows, k)
    write_text(out, format_tsv(list(rows[0]), rows))
    known = sum(row[IN_TRAINING] == "yes" for row in rows)
    print(f"{len(rows)} sessions in {out}" + (f", {known} of them from participants that the model was trained on" if known else ""))


def report(
    context: typer.Context,
    found_in: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders and files to look through: a demo, stores, runs, results.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; report.html in the first folder if not given.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store, for data and QC.")] = None,
    windows: Annotated[Path | None, typer.Option(help="Window table from `slimbrain rank`.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a pretraining run; repeat for several.")] = None,
    evaluation: Annotated[list[Path] | None, typer.Option(help="JSON from `slimbrain evaluate`; repeat for several.")] = None,
    truth: Annotated[Path | None, typer.Option(help="truth.json of a simulated cohort.")] = None,
    maps: Annotated[list[Path] | None, typer.Option("--map", help="NIfTI map in MNI space, for the viewer; repeat for several.")] = None,
    explained: Annotated[list[Path] | None, typer.Option("--explained", help="Folder of `slimbrain explain`; repeat for several.")] = None,
    participants: PARTICIPANTS = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "slimbrain report",
) -> None:
    """Write one HTML page about data, windows, training, results and maps; it needs no network.

    Folders are searched for results; options add to what is found, or choose among it.

    Example: `slimbrain report demo-run/`, or `slimbrain report --store store/ --run runs/voxel --evaluation sex.json --out report.html`
    """
    from slimbrain.report.discover import all_of, discover, only, require_there
    from slimbrain.report.place import require_page
    from slimbrain.store import Store

    sources, given = found_in or [], {"--store": [store], "--windows": [windows], "--run": run, "--evaluation": evaluation}
    given |= {"--truth": [truth], "--map": maps, "--explained": explained}
    if not (sources or store or windows or run or evaluation or maps or explained):
        raise InputError(_NOTHING_TO_REPORT)
    require_there({option: list(filter(None, paths or ())) for option, paths in given.items()})
    page = out or _beside(sources)
    if page:
        require_own_output(page, require_page, "report")
    _require_readable(run or (), evaluation or ())
    found = discover(sources)
    for line in found.lines():
        typer.echo(line, err=True)
    if page is None:
        raise InputError("report: does not know where to write; give --out, or name a folder to report on.")
    root = store or only(found.stores, "stores", "--store")
    opened = None if root is None else open_store(root, participants) if participants else Store(root)
    windows = windows or only(found.windows, "window tables", "--windows")
    truth = truth or only(found.truths, "truths", "--truth")
    # Only now, since they load torch: a path with a typo would wait for that.
    from slimbrain.prep.exclusion import EXCLUDED_FILE
    from slimbrain.prep.run import FAILURES_FILE
    from slimbrain.report import ReportInputs, write_report

    failures, excluded = (root / name if root and (root / name).exists() else None for name in (FAILURES_FILE, EXCLUDED_FILE))
    inputs = ReportInputs(
        store=opened,
        windows=windows,
        runs=all_of(run, found.runs),
        evaluations=all_of(evaluation, found.evaluations),
        failures=failures,
        excluded=excluded,
        truth=truth,
        maps=all_of(maps, found.maps),
        explained=all_of(explained, found.explained),
        commands=(typed_command(context),),
        title=title,
    )
    if inputs.shows_nothing:
        raise InputError(_NOTHING_TO_REPORT)
    print(write_report(page, inputs))


def _require_readable(runs: Iterable[Path], evaluations: Iterable[Path]) -> None:
    """Refuse what options name and is no run or no result."""
    from slimbrain.evaluate.result import read_result
    from slimbrain.report.recorded import read_settings

    for folder in runs:
        read_settings(folder)
    for path in evaluations:
        read_result(path)


def _beside(sources: Sequence[Path]) -> Path | None:
    """report.html in the first folder that was named."""
    from slimbrain.report.place import REPORT_FILE

    return next((path / REPORT_FILE for path in sources if path.is_dir()), None)
