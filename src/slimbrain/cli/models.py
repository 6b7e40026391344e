"""`slimbrain pretrain`, `convert`, `plan`, `rank` and `embed`: what is done with models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import (
    PARTICIPANTS,
    PRESET,
    SEED,
    STORE,
    TEMPORAL_MODEL,
    THREADS,
    TOP,
    WINDOWS,
    commands_from,
    one_of,
    open_store,
    print_facts,
    require_model_there,
    set_threads,
    temporal_or_shipped,
    typed_command,
    whole_command,
)
from slimbrain.cli.outputs import require_own_output
from slimbrain.config import ALL_WINDOWS
from slimbrain.errors import InputError


def pretrain(
    context: typer.Context,
    stage: Annotated[
        str,
        typer.Argument(help="`temporal` (stage 1) or `voxel` (stage 2).", show_default=False, autocompletion=one_of("temporal", "voxel")),
    ],
    store: STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run (RUN below).")],
    preset: Annotated[str, PRESET] = "small",
    windows: Annotated[
        Path | None, typer.Option(help="Stage 2: window table from `slimbrain rank`; windows are drawn at random if not given.")
    ] = None,
    mixture: Annotated[Path | None, typer.Option(help="mixture.yaml: parts of the store and how often each is drawn.")] = None,
    resume: Annotated[
        str, typer.Option(help="`auto` resumes the run in --out, `never` refuses if there is one.", autocompletion=one_of("auto", "never"))
    ] = "never",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting, e.g. train_voxel.steps=500.")] = None,
    participants: PARTICIPANTS = None,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Take each recording under one participant only.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load data.")] = 0,
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
    from slimbrain.config import load_mixture, load_preset, with_mixture
    from slimbrain.governance.duplicates import copies_note, without_duplicates
    from slimbrain.governance.provenance import MODEL_FOLDER
    from slimbrain.saliency.choose import ranked_windows
    from slimbrain.train import RUN_FILE
    from slimbrain.train import pretrain as run_pretraining
    from slimbrain.train.distributed import rank as process_number

    set_threads(threads)
    chosen = load_preset(preset, overrides)
    if mixture is not None:
        chosen = with_mixture(chosen, load_mixture(mixture))
    opened = open_store(store, participants)
    if drop_duplicates:
        opened, copies = without_duplicates(opened)
        for pair in copies if process_number() == 0 else ():
            typer.echo(f"{pair.second.key} is {pair.first.key} ({pair.evidence}); {pair.second.subject} is left out", err=True)
    elif process_number() == 0 and not (out / RUN_FILE).exists() and (note := copies_note(opened)):
        typer.echo(note, err=True)
    ranked = ranked_windows(windows, opened, chosen.window) if windows else None
    commands = commands_from(participants, typed_command(context))
    last = run_pretraining(stage, opened, chosen, out, seed, resume == "auto", ranked, device, workers, commands)
    if process_number() == 0:
        health = f"std {last['std']:.3f}, effective rank {last['effective_rank']:.1f}"
        skill = f"skill {last['skill']:.3f}, " if "skill" in last else ""
        print(f"{skill}loss {last['loss']:.4f}, {health}; the model is in {out / MODEL_FOLDER}")


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The .pth file that SLIM-Brain's authors published.", show_default=False)],
    store: Annotated[Path, typer.Option(help="Store that the model is to read; 2 mm lattice.")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
) -> None:
    """Turn the published SLIM-Brain weights into a model folder for a store.

    The model then reads the brain alone, although its weights were trained with background (docs/published_weights.md).

    Example: `slimbrain convert slim_brain.pth --store store/ --out published/model`
    """
    from slimbrain.models.hub import save_pretrained
    from slimbrain.models.published import as_model, load_published
    from slimbrain.store import Store

    published = load_published(checkpoint)
    model = as_model(published, Store(store))
    assert model.provenance is not None
    save_pretrained(model, out, model.provenance)
    rest = f"; {len(published.left_out)} tensors that are not the encoder's were left out" if published.left_out else ""
    print(f"the model is in {out}{rest}")


def plan(
    preset: Annotated[str, PRESET] = "base",
    batch: Annotated[int, typer.Option(min=1, help="Clips per micro-batch.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip; the preset's if not given.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the preset's if not given.")] = None,
    visible: Annotated[
        float | None, typer.Option(help="Share of the brain that is visible to the context encoder; the preset's if not given.")
    ] = None,
    recompute: Annotated[
        bool | None, typer.Option(help="Recompute levels 1-2 in the backward pass; as the preset says if not given.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, or `cuda` with a table of the largest batches that fit; this machine needs no such device.")
    ] = "cuda",
    mask: Annotated[Path | None, typer.Option(help="Brain mask in MNI space; nilearn's MNI152 mask if not given.")] = None,
    resolution: Annotated[str, typer.Option(help="2mm, 4mm, 8mm or 8mm-p1.")] = "2mm",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting, e.g. voxel.embed=96.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate memory and FLOPs of a training step of stage 2 without running it; takes a minute or two at the published size.

    Example: `slimbrain plan --preset base --batch 4 --precision bfloat16`
    """
    from slimbrain.config import load_preset
    from slimbrain.doctor.plan import describe, plan_and_fit
    from slimbrain.grid import Grid

    options = {"jepa.context_fraction": visible, "voxel.recompute": recompute}
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
    chosen = load_preset(preset, [*(overrides or []), *given])
    precision = precision or chosen.train_voxel.precision
    grid = Grid.mni152(resolution) if mask is None else Grid.from_nifti(mask, resolution)
    made, fits = plan_and_fit(chosen, grid, batch, frames or chosen.window.frames * chosen.window.k, precision, device)
    print_facts(describe(made, fits, as_json), as_json)


def rank(
    context: typer.Context,
    store: STORE,
    out: Annotated[Path, typer.Option("--out", help="Window table to write (TSV).")],
    temporal: TEMPORAL_MODEL = None,
    novelty_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of novelty: score = z(informativeness) + weight * z(novelty) + weight * z(explained) - weight * z(DVARS)."
        ),
    ] = None,
    explained_weight: Annotated[float | None, typer.Option(help="Weight of the energy that other windows rebuild (explained).")] = None,
    dvars_weight: Annotated[
        float | None, typer.Option(help="Weight of the largest change between frames (DVARS), which is subtracted.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="exact: 2 N + 1 passes for N windows; fast: an estimate in a constant number of passes.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="How to choose windows: by score, apart (in time), or diverse (unlike each other).")
    ] = None,
    min_distance: Annotated[float | None, typer.Option(help="Minimum seconds between onsets, with --order apart.")] = None,
    diversity: Annotated[
        float | None, typer.Option(help="Weight of the similarity to windows already chosen, with --order diverse.")
    ] = None,
    per_run: Annotated[int | None, typer.Option(min=1, help="Maximum number of windows per run.")] = None,
    per_session: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of windows per scanning session, over all its runs.")
    ] = None,
    threads: THREADS = None,
) -> None:
    """Score every window of every session with stage 1, and rank them.

    Options that are not given are those of the preset that the model was trained with.

    Example: `slimbrain rank store/ --out windows.tsv`
    """
    from slimbrain.config import SaliencyConfig, checked_options
    from slimbrain.models.hub import from_pretrained, require_model
    from slimbrain.models.temporal import TemporalExtractor
    from slimbrain.saliency import rank_store, read_window_table, trained_saliency, write_window_table

    choices = {"novelty_weight": novelty_weight, "method": method, "order": order, "min_distance_s": min_distance}
    choices |= {"explained_weight": explained_weight, "dvars_weight": dvars_weight}
    choices |= {"diversity": diversity, "per_run": per_run, "per_session": per_session}
    given = checked_options(SaliencyConfig, choices, "slimbrain rank").model_dump(exclude_unset=True)
    require_own_output(out, read_window_table, "rank")
    set_threads(threads)
    opened, temporal = open_store(store, None), temporal_or_shipped(temporal)
    model = require_model(from_pretrained(temporal, opened.contract), TemporalExtractor, temporal)
    rows = rank_store(opened, model, trained_saliency(model).model_copy(update=given))
    write_window_table(out, rows, typed_command(context))
    left_out = sum(not row.chosen for row in rows)
    budget = f", {left_out} left out by the budget" if left_out else ""
    print(f"{len(rows)} windows of {len(opened.sessions)} sessions ranked in {out}{budget}")


def embed(
    context: typer.Context,
    store: STORE,
    out: Annotated[Path, typer.Option("--out", help="One file, NAME.npz, or a folder for a BIDS derivative: a table per session.")],
    model: Annotated[
        str | None,
        typer.Option(
            callback=require_model_there,
            help="RUN/model of a pretraining run, or a hub id; the stage 1 model that comes with slimbrain if not given.",
        ),
    ] = None,
    windows: WINDOWS = None,
    k: TOP = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Stage 1: both (default), connectome, tokens, axes, tangent or native. Stage 2: moments (default), mean or units; with a "
            "connectome also connectome (then the default), axes or tangent."
        ),
    ] = None,
    participants: PARTICIPANTS = None,
    shard: Annotated[str | None, typer.Option(help="Embed only this part of the sessions, e.g. 3/16, into a file named after it.")] = None,
    threads: THREADS = None,
) -> None:
    """Embed every session as one vector.

    Example: `slimbrain embed store/ --out embeddings.npz`
    """
    from dataclasses import replace

    from slimbrain.disk.shards import Shard
    from slimbrain.embed.derivative import write_derivative
    from slimbrain.embed.features import embed_store, feature_names, read_embeddings
    from slimbrain.embed.joining import is_npz, part_path, sessions_of
    from slimbrain.models.hub import from_pretrained

    as_npz = is_npz(out)
    set_threads(threads)
    opened = open_store(store, participants)
    if shard is not None:
        part = Shard.parse(shard)
        # Shards of a derivative share its folder.
        opened, out = sessions_of(opened, part), part_path(out, part) if as_npz else out
    require_own_output(out, read_embeddings, "embed")
    model = temporal_or_shipped(model)
    loaded = from_pretrained(model, opened.contract)
    embeddings = embed_store(opened, loaded, windows, k, pooling=pooling)
    if embeddings.all_alike():
        print(f"{model}: gives all {len(embeddings.keys)} sessions the same vector; use another model.", file=sys.stderr)
    embeddings = replace(embeddings, commands=commands_from(participants, whole_command(context)))
    if as_npz:
        embeddings.save(out, model)
    else:
        made = embeddings.pooling, embeddings.values.shape[1]
        write_derivative(out, embeddings, model, feature_names(loaded, *made), opened)
    print(f"{len(embeddings.keys)} sessions, {embeddings.values.shape[1]} dimensions, in {out}")


def group(
    store: STORE,
    out: Annotated[Path, typer.Option("--out", help="Table of groups to write (TSV).")],
    temporal: TEMPORAL_MODEL = None,
    k: Annotated[int, typer.Option("--k", min=2, help="Number of clusters.")] = 8,
    participants: PARTICIPANTS = None,
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Cluster sessions by their stage 1 features, for a mixture (`by: group`, `table: groups.tsv`).

    Example: `slimbrain group store/ --temporal runs/temporal/model --k 8 --out groups.tsv`
    """
    from slimbrain.embed.clusters import group_sessions, write_groups
    from slimbrain.models.hub import from_pretrained, require_model
    from slimbrain.models.temporal import TemporalExtractor

    set_threads(threads)
    opened, temporal = open_store(store, participants), temporal_or_shipped(temporal)
    model = require_model(from_pretrained(temporal, opened.contract), TemporalExtractor, temporal)
    groups = group_sessions(opened, model, k, seed)
    write_groups(out, groups)
    sizes = ", ".join(f"{name} {list(groups.values()).count(name)}" for name in sorted(set(groups.values())))
    print(f"{len(groups)} sessions in {k} groups ({sizes}), in {out}")


def connectome(
    store: STORE,
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    model: Annotated[
        str | None,
        typer.Option(
            callback=require_model_there,
            help="Model folder or hub id, of either stage; the stage 1 model that comes with slimbrain if not given.",
        ),
    ] = None,
    axes: Annotated[int, typer.Option(min=2, help="Maximum number of axes; there are fewer than participants.")] = 688,
    anchors: Annotated[
        int,
        typer.Option(
            min=2, max=1024, help="Maximum number of places at which the population is known; the file's size grows with its square."
        ),
    ] = 256,
    k: Annotated[
        int, typer.Option("--k", min=1, max=ALL_WINDOWS, help="Most windows per session that a stage 2 model is read by; all if not given.")
    ] = ALL_WINDOWS,
    participants: PARTICIPANTS = None,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Take each recording under one participant only.")] = False,
    seed: SEED = 0,
    threads: THREADS = None,
) -> None:
    """Fit the connectome readout of a model to a store, without labels and without training.

    Of stage 1 it reads the channels, in minutes; of stage 2 parcels, learnt from the store, of the patches that tokens decode to, or the
    cells (jepa.visible), which takes as long as to embed the sessions.

    Example: `slimbrain connectome store/ --model runs/voxel/model --out model`
    """
    from slimbrain.governance.duplicates import without_duplicates
    from slimbrain.models.hub import from_pretrained, save_pretrained
    from slimbrain.train.connectome import fit_connectome

    set_threads(threads)
    opened, model = open_store(store, participants), temporal_or_shipped(model)
    if drop_duplicates:
        opened, _ = without_duplicates(opened)
    made = fit_connectome(opened, from_pretrained(model), axes, seed, anchors, k)
    assert made.connectome is not None
    save_pretrained(made, out)
    print(f"{made.connectome.config.axes} axes of {len(opened.sessions.subjects)} participants; the model is in {out}")
