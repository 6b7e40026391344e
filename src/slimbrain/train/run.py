"""A run: its folder and settings, the loop, and the model that comes out."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from slimbrain import __version__
from slimbrain.config import RUN_FILE, Preset
from slimbrain.data.draws import ClipDraws, Draws
from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError
from slimbrain.governance.ledger import LEDGER, TIMES, entries_of, times_by_person
from slimbrain.governance.provenance import MODEL_FOLDER, REMEMBERED, Person, Provenance, people_in, remember
from slimbrain.models.hub import save_pretrained
from slimbrain.models.size import require_memory, temporal_step_bytes, voxel_step_bytes
from slimbrain.store import ROI, Store
from slimbrain.train.checkpoint import whole_weights
from slimbrain.train.distributed import barrier, broadcast, local_device, process_group, rank, world_size
from slimbrain.train.lock import run_lock
from slimbrain.train.loop import Loop
from slimbrain.train.stages import Stage, TemporalStage, VoxelStage


def pretrain(
    stage_name: str,
    store: Store,
    preset: Preset,
    run: Path,
    seed: int = 0,
    resume: bool = False,
    ranked: Mapping[str, Sequence[int]] | None = None,
    device: str = "auto",
    workers: int = 0,
    commands: Sequence[str] = (),
) -> dict[str, float]:
    """Train one stage on a store and export the model to RUN/model.

    Where `torchrun` or Slurm started several processes, each of them calls this with the same arguments; the first writes the files.

    Parameters
    ----------
    stage_name : str
        `temporal`, stage 1, which reads channel series; or `voxel`, stage 2, which needs a store with voxels.
    store : Store
        What to train on; `Store.select` leaves participants out.
    preset : Preset
        Network, objective and loop, from `load_preset`.
    run : Path
        Folder of the run: `run.json`, `metrics.jsonl`, `state` to resume from, and `model` at the end.
    seed : int
        Of the weights, draws and masks.
    resume : bool
        Resume the run in `run`, or start it if there is none; a folder that holds a run is refused otherwise.
    ranked : mapping of str to sequence of int, or None
        Stage 2: windows of each session by its key, best first, as in a window table; drawn at random if None.
    device : str
        `auto` (CUDA where there is one), or a device of torch such as `cpu`.
    workers : int
        Processes that load data; this one does if 0.
    commands : sequence of str
        Command lines to record in `run.json`: what made the table of participants, if there was one, and this run.

    Returns
    -------
    dict of str to float
        The last line of `metrics.jsonl`: `step`, `loss`, `std` and `effective_rank` of the tokens, and what else the stage logs.

    Raises
    ------
    InputError
        If the run folder holds another run, one that is not to be resumed, or one that another process is training, or if the settings
        do not fit the store, the device or the memory.
    CollapseError
        If tokens became alike; see `train.guard`.
    SystemExit
        With 0, once the step is finished and saved, if SIGTERM or SIGUSR1 came.

    Examples
    --------
    >>> from pathlib import Path
    >>> import slimbrain
    >>> from slimbrain.config import load_preset
    >>> from slimbrain.train import pretrain
    >>> preset = load_preset("tiny", ["train_temporal.steps=2", "train_temporal.batch=1"])
    >>> last = pretrain("temporal", slimbrain.Store("store"), preset, Path("runs/first"), device="cpu")
    >>> last["step"], type(slimbrain.from_pretrained("runs/first/model")).__name__
    (1, 'TemporalExtractor')
    """
    chosen = local_device(pick_device(device))
    with process_group(chosen), run_lock(run):
        last = _train(stage_name, store, preset, run, seed, resume, ranked, chosen, workers, commands)
    if last is None:
        raise SystemExit(0)
    return last


def _train(
    stage_name: str,
    store: Store,
    preset: Preset,
    run: Path,
    seed: int,
    resume: bool,
    ranked: Mapping[str, Sequence[int]] | None,
    device: torch.device,
    workers: int,
    commands: Sequence[str],
) -> dict[str, float] | None:
    """One process's part; a function of its own, so that nothing of it outlives the group of processes."""
    _require_memory(stage_name, store, preset, device)
    stage = TemporalStage(store, preset, seed) if stage_name == "temporal" else VoxelStage(store, preset, seed, ranked)
    config = preset.train_temporal if stage_name == "temporal" else preset.train_voxel
    settings = {
        "stage": stage_name,
        "preset": preset.model_dump(mode="json"),
        "seed": seed,
        "store": store.contract.to_dict(),
        "sessions": len(stage.draws.sessions),
        "held_out_sessions": len(stage.draws.held_out),
        "training_set": _training_set(stage.draws),
    }
    settings["mixture"] = _described(stage.draws)
    if rank() == 0:
        for note in stage.draws.notes:
            print(note, file=sys.stderr)
    people = {Person(info.subject, store.cohort(info)) for info in (*stage.draws.sessions, *stage.draws.held_out)}
    if refusal := broadcast(_claim(run, settings, resume, commands, remember(sorted(people))) if rank() == 0 else None):
        raise InputError(refusal)
    loop = Loop(stage, config, run, device, workers)
    last = loop.fit()
    if last is None:
        return None
    weights, drawn = whole_weights(stage.model), loop.session_counts.by_key(device)
    if rank() == 0:
        save_pretrained(stage.model, run / MODEL_FOLDER, _provenance(stage, store, preset, seed, last, drawn), weights)
    barrier()
    return last


def _require_memory(stage_name: str, store: Store, preset: Preset, device: torch.device) -> None:
    """Refuse a step that cannot fit before the network is built; the stage itself refuses a store that lacks something."""
    sessions = store.sessions
    if stage_name == "temporal" and sessions:
        frames = sum(info.n_frames for info in sessions) // len(sessions)
        needed = temporal_step_bytes(preset, frames, len(store.channels(sessions[0].key).names))
        advice = "lower train_temporal.batch (and raise accumulate by as much), temporal.width or temporal.depth"
    elif stage_name == "voxel" and store.contract.lattice != ROI:
        shards = world_size() if preset.train_voxel.parallel == "fsdp2" else 1
        needed = voxel_step_bytes(preset, store.grid.n_patches, store.grid.voxels_per_patch, shards)
        advice = "lower train_voxel.batch (and raise accumulate by as much), window.k, voxel.embed or voxel.depths (see `slimbrain plan`)"
    else:
        return
    require_memory(f"pretrain {stage_name}: a step with these settings", needed, advice, device)


def _provenance(stage: Stage, store: Store, preset: Preset, seed: int, last: Mapping[str, float], counted: Mapping[str, int]) -> Provenance:
    """Where the weights come from; participants as salted hashes, recordings as signatures."""
    # Held-out sessions shaped the mixture, though no gradient, so an evaluation on them would not be clean either.
    sessions = [*stage.draws.sessions, *stage.draws.held_out]
    people = people_in(store, sessions)
    config = preset.train_temporal if stage.name == "temporal" else preset.train_voxel
    counts = {"sessions": len(stage.draws.sessions), "subjects": len(people), "steps": config.steps}
    training = {"stage": stage.name, "preset": preset.name, **counts, "seed": seed, "last": last, REMEMBERED: remember(people)}
    drawn = {info.key: counted.get(info.key, 0) for info in sessions}
    training[LEDGER] = [entry.to_dict() for entry in entries_of(store, sessions, drawn)]
    training[TIMES] = times_by_person(store, sessions, drawn)
    if components := _described(stage.draws):
        had = stage.draws.mixture.had(config.steps * stage.draws.pace.per_step)
        draws = dict(zip(stage.draws.mixture.cohorts, had, strict=True))
        training["mixture"] = [{**component, "draws": draws[component["name"]]} for component in components]
    if stage.name == "temporal":
        training["saliency"] = preset.saliency.model_dump()
    grid = None if store.contract.lattice == "roi" else store.grid
    return Provenance(store.contract, preset.window, grid, training)


def _described(draws: Draws) -> list[dict[str, Any]] | None:
    """The components of the mixture as run.json and the model have them; None where cohorts are not distinguished."""
    config = draws.sampling.mixture or draws.sampling
    if config.by is None and draws.sampling.mixture is None:
        return None
    named = draws.sampling.mixture.components if draws.sampling.mixture else None
    rows = []
    for name in draws.mixture.cohorts:
        own, aside = (
            [info for info, component in zip(sessions, names, strict=True) if component == name]
            for sessions, names in ((draws.sessions, draws.cohorts), (draws.held_out, draws.held_out_cohorts))
        )
        counts = {"sessions": len(own), "subjects": len({info.subject for info in own}), "held_out_sessions": len(aside)}
        which = {"filter": named[name].filter} if named else {"by": config.by}
        rows.append({"name": name, **which, "weight": (draws.weights or {}).get(name, 1.0), **counts})
    return rows


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: this machine has no such device ({str(error).splitlines()[0]}); use cpu or auto.") from error


def _training_set(draws: Draws) -> str:
    """A hash of the sessions, cohorts and windows drawn from: with others it would not be the same run."""
    ranked = draws.ranked if isinstance(draws, ClipDraws) else None
    windows = None if ranked is None else [list(map(int, ranked[info.key])) for info in draws.sessions]
    drawn = [[(info.key, info.n_frames, cohort) for info, cohort in zip(draws.sessions, draws.cohorts, strict=True)], windows]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16]


def _claim(run: Path, settings: Mapping[str, Any], resume: bool, commands: Sequence[str], remembered: Mapping[str, Any]) -> str | None:
    """Write run.json, or check that it belongs to the same run; why not, in one sentence.

    Parameters
    ----------
    remembered : mapping of str to Any
        Participants by hash, so that a run that never exported a model can be found by whom it was trained on.
    """
    path = run / RUN_FILE
    if path.exists():
        if not resume:
            return f"{run}: holds a run already; add --resume auto to resume it, or choose another --out."
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in settings.items() if before.get(name) != json.loads(json.dumps(value))]
        except (ValueError, AttributeError, RecursionError) as error:
            return f"{path}: is damaged ({error}); restore it, or train into another folder."
        if changed:
            return (
                f"{run}: was started with another {', '.join(changed)}; resume it with the settings in {RUN_FILE}, or choose another --out."
            )
        return None
    versions = {"slimbrain": __version__, "torch": torch.__version__, "python": platform.python_version()}
    made = {"commands": list(commands), "versions": versions}
    how = {**made, "threads": torch.get_num_threads(), "processes": world_size(), REMEMBERED: remembered}
    write_json(path, {**settings, **how})
    return None
