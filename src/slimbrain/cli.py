"""The command line: parse, import late, call, print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from slimbrain import __version__
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.store_commands import commands as store_commands

app = typer.Typer(
    name="slimbrain",
    help="fMRI sessions into representations, from voxels, on modest hardware. Start with `slimbrain demo`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(store_commands, name="store")

OUT = Annotated[Path, typer.Option("--out", help="Where to write.")]
STORE = Annotated[Path, typer.Argument(help="Store made by `slimbrain prep`.", show_default=False)]
SEED = Annotated[int, typer.Option(help="Same seed, store and machine: same numbers.")]
THREADS = Annotated[int | None, typer.Option(help="CPU threads for torch; its own choice if not given.")]
TOP = Annotated[int | None, typer.Option("--k", min=1, help="Windows of a session to see; as many as in training if not given.")]
PARTICIPANTS = Annotated[Path | None, typer.Option(help="TSV with a column participant_id: only these participants.")]
WINDOWS = Annotated[
    str | None,
    typer.Option(help="Window table from `slimbrain rank`, or a stage 1 model to score them by; evenly spread windows if not given."),
]
METHOD = Annotated[
    list[str] | None,
    typer.Option(help="`probe` (linear, frozen), `attention` (over frozen tokens), `finetune`, or `identify`; repeat for several rows."),
]
EPOCHS = Annotated[int | None, typer.Option(min=1, help="Most epochs of fine-tuning; 30 if not given.")]
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; typer turns the interrupt into it."""

REPORT_FILE = "report.html"
"""What `slimbrain prep` writes into the store."""

_arguments: list[str] = []


def main() -> None:
    """Run the command line on this program's arguments."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. An error a user can act on is one sentence, unless `--debug` is among the arguments."""
    _arguments[:] = arguments
    try:
        app(_debug_first(_spread_lists(arguments)), prog_name="slimbrain")
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            print("slimbrain: interrupted; run the same command again to go on where it stopped.", file=sys.stderr)
        return int(leaving.code or 0)
    except (SlimbrainError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"slimbrain: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: SlimbrainError | OSError) -> str:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; free space, or choose a place that you may read and write."
    return str(error)


def _debug_first(arguments: Sequence[str]) -> list[str]:
    """Let `--debug` stand anywhere: it is added to the end of a command that has just failed."""
    others = [argument for argument in arguments if argument != "--debug"]
    return ["--debug", *others] if len(others) < len(arguments) else others


def _spread_lists(arguments: Sequence[str]) -> list[str]:
    """Let `--participant-label 01 02` stand for the option given twice, as in every BIDS App."""
    lists, spread, current = {"--participant-label", "--task-id", "--session-id"}, [], ""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        if argument.startswith("-"):
            # A list option without a value stays, to be refused; dropped, it would mean everybody.
            current = argument if argument in lists and not following.startswith("-") else ""
            spread += [] if current else [argument]
        else:
            spread += [current, argument] if current else [argument]
    return spread


def _show_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`run_command` looks for --debug itself."""


@app.command()
def demo(out: OUT = Path("demo-run"), seed: SEED = 0, threads: THREADS = None) -> None:
    """Simulate a cohort and run everything on it, in a few minutes on a CPU.

    Example: `slimbrain demo --out demo-run`, then open demo-run/report.html.
    """
    from slimbrain.demo import run_demo

    _set_threads(threads)
    run_demo(out, seed, run_command)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write the BIDS derivative to.", show_default=False)],
    subjects: Annotated[int, typer.Option(min=1, help="Participants.")] = 24,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions each.")] = 2,
    frames: Annotated[int, typer.Option(min=8, help="Frames a session.")] = 200,
    tr: Annotated[float, typer.Option(help="Seconds a frame.")] = 0.72,
    voxel_mm: Annotated[float, typer.Option(help="Voxel size in mm.")] = 8.0,
    orientation: Annotated[str, typer.Option(help="RAS or LAS.")] = "RAS",
    seed: SEED = 0,
) -> None:
    """Write a synthetic cohort with known truth, as fMRIPrep would.

    Example: `slimbrain simulate cohort --subjects 12 --sessions 2`
    """
    from pydantic import ValidationError

    from slimbrain.simulate import CohortSpec, simulate_cohort

    values = {
        "subjects": subjects,
        "sessions": sessions,
        "frames": frames,
        "tr": tr,
        "voxel_mm": voxel_mm,
        "orientation": orientation,
        "seed": seed,
    }
    try:
        spec = CohortSpec.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}; see `slimbrain simulate --help`.") from error
    simulate_cohort(out, spec)
    print(f"{subjects} participants, {subjects * sessions} sessions, truth in {out / 'truth.json'}")


@app.command()
def prep(
    source: Annotated[Path, typer.Argument(help="fMRIPrep, HCP or C-PAC folder, table of images, ...; see --layout.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Store to make or add to.", show_default=False)],
    level: Annotated[str, typer.Argument(help="Always `participant`, as in BIDS Apps.")] = "participant",
    layout: Annotated[str, typer.Option(help="auto, bids, hcp, cpac, adhd200, npz, brainmarks, roi or table.")] = "auto",
    participant_label: Annotated[list[str] | None, typer.Option(help="Only these participants, with or without sub-.")] = None,
    session_id: Annotated[list[str] | None, typer.Option(help="Only these sessions.")] = None,
    task_id: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    space: Annotated[str | None, typer.Option(help="Only images in this template, e.g. MNI152NLin6Asym.")] = None,
    res: Annotated[str | None, typer.Option(help="Only images with this res- in their BIDS name, e.g. 2.")] = None,
    bids_filter_file: Annotated[Path | None, typer.Option(help="fMRIPrep's JSON filter, e.g. {'bold': {'run': 1}}.")] = None,
    mask_source: Annotated[Path | None, typer.Option(help="Mask whose voxels a Brainmarks file lists.")] = None,
    channels: Annotated[str | None, typer.Option(help="TSV of region names and places (name, x, y, z), or none.")] = None,
    resolution: Annotated[str, typer.Option(help="Lattice: 2mm, 4mm or 8mm.")] = "2mm",
    mask: Annotated[Path | None, typer.Option(help="Brain mask in MNI space; nilearn's MNI152 mask if not given.")] = None,
    tr: Annotated[float | None, typer.Option(help="Seconds a frame, where the files do not say.")] = None,
    min_coverage: Annotated[float, typer.Option(help="Leave out runs that cover a smaller share of the mask.")] = 0.7,
    min_tsnr: Annotated[float | None, typer.Option(help="Leave out runs of a lower tSNR.")] = None,
    max_fd_mean: Annotated[float | None, typer.Option(help="Leave out runs that move more, in mm a frame.")] = None,
    max_flagged: Annotated[float | None, typer.Option(help="Leave out runs with a larger share of flagged frames.")] = None,
    min_template_overlap: Annotated[float | None, typer.Option(help="Leave out runs that overlap less with the MNI brain mask.")] = None,
    denoise: Annotated[str, typer.Option(help="none, simple or scrubbing (fMRIPrep confounds).")] = "none",
    nprocs: Annotated[int, typer.Option(min=1, help="Runs worked on at once.")] = 1,
    window_frames: Annotated[int, typer.Option(help="Shorter runs are refused.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is there.")] = False,
) -> None:
    """Bring preprocessed fMRI in MNI space into a store, however it is laid out; resumes where it stopped, and shares a store with others.

    Exit code 1 if a run could not be used (failures.tsv); runs that --min-... and --max-... leave out (excluded.tsv) do not count.

    Example: `slimbrain prep fmriprep/ store/ participant --participant-label 01 02 --nprocs 4`
    """
    from pydantic import ValidationError

    from slimbrain.claims import claim
    from slimbrain.prep.exclusion import EXCLUDED_FILE
    from slimbrain.prep.run import FAILURES_FILE, PrepOptions, prepare
    from slimbrain.report.inputs import ReportInputs
    from slimbrain.report.page import write_report
    from slimbrain.store import Store

    if level != "participant":
        raise InputError(f"{level}: slimbrain prep has no such level; write `participant` after the two folders.")
    values: dict[str, Any] = {
        "layout": layout,
        "space": space,
        "res": res,
        "bids_filter_file": bids_filter_file,
        "mask_source": mask_source,
        "channels": channels,
        "resolution": resolution,
        "mask": mask,
        "tr": tr,
        "min_coverage": min_coverage,
        "min_tsnr": min_tsnr,
        "max_fd_mean": max_fd_mean,
        "max_flagged": max_flagged,
        "min_template_overlap": min_template_overlap,
        "denoise": denoise,
    }
    values |= {"nprocs": nprocs, "window_frames": window_frames, "force": force}
    values |= {"participant_label": participant_label or [], "session_id": session_id or [], "task_id": task_id or []}
    try:
        options = PrepOptions.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"--{str(error.errors()[0]['loc'][0]).replace('_', '-')}: {error.errors()[0]['msg']}; see `slimbrain prep --help`."
        ) from error
    summary = prepare(source, out, options)
    store = Store(out)
    if store.sessions or summary.failures or summary.excluded:
        failures, excluded = out / FAILURES_FILE, out / EXCLUDED_FILE
        inputs = ReportInputs(store=store, failures=failures, excluded=excluded, commands=(_command(),), title="Data")
        with claim(out, REPORT_FILE, wait=True):
            write_report(out / REPORT_FILE, inputs)
    counts = f"{len(summary.prepared)} prepared, {len(summary.skipped)} already there, {len(summary.excluded)} excluded"
    print(f"{counts}, {len(summary.failures)} refused; see {out / REPORT_FILE}")
    raise typer.Exit(summary.exit_code)


@app.command()
def pretrain(
    stage: Annotated[str, typer.Argument(help="`temporal` (stage 1) or `voxel` (stage 2).", show_default=False)],
    store: STORE,
    out: OUT,
    preset: Annotated[str, typer.Option(help="tiny, small, base, paper, or a YAML file.")] = "small",
    windows: Annotated[Path | None, typer.Option(help="Stage 2: window table; all windows count as equal if not given.")] = None,
    resume: Annotated[str, typer.Option(help="`auto` goes on with the run in --out; `never` refuses to.")] = "never",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting, e.g. train_voxel.steps=500.")] = None,
    participants: PARTICIPANTS = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Pretrain one stage on a store; writes RUN/model, RUN/metrics.jsonl, RUN/state.

    Example: `slimbrain pretrain temporal store/ --preset small --out runs/temporal --resume auto`

    On many devices: `torchrun --nproc-per-node=4 -m slimbrain pretrain voxel ... --set train_voxel.accumulate=4`
    """
    if stage not in ("temporal", "voxel"):
        raise InputError(f"{stage}: there is no such stage; write `temporal` or `voxel`.")
    if resume not in ("auto", "never"):
        raise InputError(f"--resume {resume}: choose auto or never.")
    from slimbrain.config import load_preset
    from slimbrain.distributed import rank as process_number
    from slimbrain.evaluate.features import ranked_windows
    from slimbrain.train import MODEL_FOLDER
    from slimbrain.train import pretrain as run_pretraining

    _set_threads(threads)
    chosen = load_preset(preset, overrides)
    opened = _open(store, participants)
    ranked = ranked_windows(windows, opened, chosen.window) if windows else None
    last = run_pretraining(stage, opened, chosen, out, seed, resume == "auto", ranked, device, workers, _command())
    if process_number() == 0:
        health = f"std {last['std']:.3f}, effective rank {last['effective_rank']:.1f}"
        print(f"loss {last['loss']:.4f}, {health}; the model is in {out / MODEL_FOLDER}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The .pth file that SLIM-Brain's authors published.", show_default=False)],
    store: Annotated[Path, typer.Option(help="Store that the model is to read; 2 mm lattice.")],
    out: OUT,
) -> None:
    """Turn the published SLIM-Brain weights into a model folder for a store.

    Background is deleted then, which those weights were not trained for; docs/published_weights.md says how to run them as they were.

    Example: `slimbrain convert slim_brain.pth --store store/ --out published/model`
    """
    from slimbrain.models.hub import save_pretrained
    from slimbrain.models.published import as_model, load_published

    published = load_published(checkpoint)
    model = as_model(published, _open(store, None))
    assert model.provenance is not None
    save_pretrained(model, out, model.provenance)
    rest = f"; {len(published.left_out)} tensors that are not the encoder's were left out" if published.left_out else ""
    print(f"the model is in {out}{rest}")


@app.command()
def plan(
    preset: Annotated[str, typer.Option(help="tiny, small, base, paper, or a YAML file.")] = "base",
    batch: Annotated[int, typer.Option(min=1, help="Clips a micro-batch.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip; the preset's if not given.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the preset's if not given.")] = None,
    visible: Annotated[float | None, typer.Option(help="Share of the brain that the context sees; the preset's if not given.")] = None,
    recompute: Annotated[
        bool | None, typer.Option(help="Recompute stages 1-2 in the backward pass; as the preset says if not given.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, or `cuda` with a table of the largest batches that fit; it need not be there.")
    ] = "cuda",
    mask: Annotated[Path | None, typer.Option(help="Brain mask in MNI space; nilearn's MNI152 mask if not given.")] = None,
    resolution: Annotated[str, typer.Option(help="2mm, 4mm or 8mm.")] = "2mm",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting, e.g. voxel.embed=96.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a training step of stage 2 will cost, without running it; a minute or two at the published size.

    Example: `slimbrain plan --preset base --batch 4 --precision bfloat16`
    """
    from slimbrain.config import load_preset
    from slimbrain.grid import Grid
    from slimbrain.plan import describe, plan_and_fit

    options = {"jepa.context_fraction": visible, "voxel.recompute": recompute}
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
    chosen = load_preset(preset, [*(overrides or []), *given])
    precision = precision or chosen.train_voxel.precision
    grid = Grid.mni152(resolution) if mask is None else Grid.from_nifti(mask, resolution)
    made, fits = plan_and_fit(chosen, grid, batch, frames or chosen.window.frames * chosen.window.k, precision, device)
    _print(describe(made, fits, as_json), as_json)


@app.command()
def rank(
    store: STORE,
    temporal: Annotated[Path, typer.Option(help="Model folder of a stage 1 run.")],
    out: OUT,
    novelty_weight: Annotated[
        float | None, typer.Option(help="Score = z(informativeness) + this * z(novelty) + the explained weight * z(explained) - ...")
    ] = None,
    explained_weight: Annotated[float | None, typer.Option(help="... of the energy that other windows rebuild.")] = None,
    dvars_weight: Annotated[float | None, typer.Option(help="... of the largest change between frames, which is taken off.")] = None,
    method: Annotated[
        str | None, typer.Option(help="exact: 2 N + 1 passes for N windows. fast: an estimate, in as many passes for any N.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="Take windows by score, apart (in time), or diverse (unlike each other).")] = None,
    min_distance: Annotated[float | None, typer.Option(help="Least seconds between onsets, with --order apart.")] = None,
    diversity: Annotated[float | None, typer.Option(help="Weight of likeness to a window taken before, with --order diverse.")] = None,
    per_run: Annotated[int | None, typer.Option(help="Most windows of a run.")] = None,
    per_session: Annotated[int | None, typer.Option(help="Most windows of all runs of a scanning session.")] = None,
    threads: THREADS = None,
) -> None:
    """Score every window of every session with stage 1, and say in which order to take them.

    What is not given is as in the preset that the model was trained with.

    Example: `slimbrain rank store/ --temporal runs/temporal/model --out windows.tsv`
    """
    from slimbrain.config import SaliencyConfig, checked
    from slimbrain.models.hub import from_pretrained, require_model
    from slimbrain.models.temporal import TemporalExtractor
    from slimbrain.saliency import rank_store, trained_saliency, write_window_table
    from slimbrain.store import Store

    _set_threads(threads)
    opened = Store(store)
    model = require_model(from_pretrained(temporal, opened.contract), TemporalExtractor, temporal)
    choices = {"novelty_weight": novelty_weight, "method": method, "order": order, "min_distance_s": min_distance}
    choices |= {"explained_weight": explained_weight, "dvars_weight": dvars_weight}
    choices |= {"diversity": diversity, "per_run": per_run, "per_session": per_session}
    given = {name: value for name, value in choices.items() if value is not None}
    saliency = checked(SaliencyConfig, {**trained_saliency(model).model_dump(), **given}, "slimbrain rank")
    rows = rank_store(opened, model, saliency)
    write_window_table(out, rows)
    left_out = sum(not row.chosen for row in rows)
    budget = f", {left_out} left out by the budget" if left_out else ""
    print(f"{len(rows)} windows of {len(opened.sessions)} sessions ranked in {out}{budget}")


@app.command()
def embed(
    store: STORE,
    model: Annotated[str, typer.Option(help="Model folder of a run, or a hub id.")],
    out: OUT,
    windows: WINDOWS = None,
    k: TOP = None,
    pooling: Annotated[str, typer.Option(help="mean, moments, or units (every unit by itself).")] = "moments",
    participants: PARTICIPANTS = None,
    threads: THREADS = None,
) -> None:
    """Turn every session into a vector.

    Example: `slimbrain embed store/ --model runs/voxel/model --windows windows.tsv --out embeddings.npz`
    """
    from slimbrain.evaluate.features import embed_store
    from slimbrain.models.hub import from_pretrained

    _set_threads(threads)
    opened = _open(store, participants)
    loaded = from_pretrained(model, opened.contract)
    embeddings = embed_store(opened, loaded, windows, k, pooling=pooling)
    embeddings.save(out, model)
    print(f"{len(embeddings.keys)} sessions, {embeddings.values.shape[1]} numbers each, in {out}")


def _list_tasks(asked: bool) -> None:
    if asked:
        from slimbrain.evaluate.listing import as_records, as_text

        print(json.dumps(as_records(), indent=2) if "--json" in _arguments else as_text())
        raise typer.Exit


@app.command()
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

    _set_threads(threads)
    config = FinetuneConfig() if epochs is None else FinetuneConfig(epochs=epochs)
    options = Options(windows, k, method or (), phenotypes or (), allow_seen, Tuning(config, device, out.with_suffix(".folds")))
    result = evaluate_models(_open(store, participants), task, model, options)
    write_json(out, result)
    write_text(out.with_suffix(".md"), to_markdown(result))
    print(json.dumps(result, indent=2) if as_json else to_markdown(result))


@app.command()
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

    failures, excluded = (store / name if store and (store / name).exists() else None for name in (FAILURES_FILE, EXCLUDED_FILE))
    inputs = ReportInputs(
        store=_open(store, participants) if store else None,
        windows=windows,
        runs=tuple(run or ()),
        evaluations=tuple(evaluation or ()),
        failures=failures,
        excluded=excluded,
        truth=truth,
        commands=(_command(),),
        title=title,
    )
    print(write_report(out, inputs))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Store, model folder, run, NIfTI, safetensors or window table.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file or folder is and what it holds.

    Example: `slimbrain inspect store/`
    """
    from slimbrain.doctor import inspect_path

    _print(inspect_path(path), as_json)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say whether this machine is fit: versions, devices, memory, disk, and a training step that is timed.

    Example: `slimbrain doctor`
    """
    from slimbrain.doctor import examine

    _print(examine(), as_json)


def _open(root: Path, participants: Path | None):  # type: ignore[no-untyped-def]
    from slimbrain.store import Store, read_tsv

    store = Store(root)
    if participants is None:
        return store
    rows = read_tsv(participants)
    if not rows or "participant_id" not in rows[0]:
        raise InputError(f"{participants}: has no column participant_id; give a table with one, such as participants.tsv.")
    return store.select({row["participant_id"] for row in rows})


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}")


def _command() -> str:
    """The command being run, as it can be typed again."""
    return shlex.join(["slimbrain", *_arguments])


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
