"""Is this machine, and a store on it, fit for the work, and how long will the work take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from slimbrain.config import Preset, TrainConfig
from slimbrain.doctor import machine
from slimbrain.doctor.speed import Rate, temporal_rate, voxel_rates
from slimbrain.errors import SlimbrainError
from slimbrain.governance.provenance import CONFIG_FILE
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, is_sealed
from slimbrain.store import ROI, Store
from slimbrain.store.verify import verify
from slimbrain.train import pick_device

_TYPICAL_FRAMES = 300
"""Frames per session without a store: 3.6 minutes."""

_TYPICAL_SESSIONS = 1000
"""Sessions to estimate for without a store."""

_RESOLUTION = {"tiny": "8mm"}
"""Lattice that a preset is meant for; 2 mm where none is named here."""

_ESTIMATE = "the measured rate times the work, one sample at a time; reading, logging and saving come on top"


@dataclass
class Checkup:
    """What `slimbrain doctor` found.

    Attributes
    ----------
    facts : dict of str to Any
        Name and value of everything that was looked at, in order.
    rates : dict of str to float
        Windows per second of each kind of work that was timed.
    problems : list of str
        What makes the machine or the store unfit, one sentence each.

    Examples
    --------
    >>> found = Checkup(facts={"torch": "2.13.0"}, problems=["no space is left in the folder of the store"])
    >>> found.to_dict()["fit"]
    False
    """

    facts: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What `slimbrain doctor --json` prints.

        Returns
        -------
        dict of str to object
            The facts, `windows_per_second` by kind of work, `problems`, and `fit`: whether there are none.
        """
        return {**self.facts, "windows_per_second": self.rates, "fit": not self.problems, "problems": self.problems}


def examine(preset: Preset, store: Path | None = None, device: str = "auto", resolution: str | None = None) -> Checkup:
    """Look at versions, memory, disk, devices and a store, and time a training step of both stages.

    Parameters
    ----------
    preset : Preset
        Whose networks are timed, and whose steps the estimates are for.
    store : Path or None
        Checked from end to end, and timed with, if given; a model folder is checked alone.
    device : str
        Auto, cpu or cuda.
    resolution : str or None
        Lattice to time with where no store says, such as `4mm`; the one that the preset is meant for if None.

    Returns
    -------
    Checkup
        Its `facts`, its `rates` in windows per second, and its `problems`; fit if there are none.

    Raises
    ------
    InputError
        If there is no such device or lattice.

    Examples
    --------
    >>> from pathlib import Path
    >>> from slimbrain.config import load_preset
    >>> from slimbrain.doctor import examine
    >>> found = examine(load_preset("tiny"), Path("store"), device="cpu")
    >>> sorted(found.rates), found.facts["store"]
    (['embed', 'pretrain temporal', 'pretrain voxel'], '3 sessions, 3 with a checksum, 0 problems')
    """
    chosen = pick_device(device)
    found = Checkup()
    found.facts, found.problems = machine.versions()
    for name, (fact, problems) in {"memory": machine.memory(), "disk": machine.disk(store or Path())}.items():
        found.facts[name] = fact
        found.problems += problems
    found.facts |= {"cores": machine.cores(), **machine.devices()}
    if store and (store / CONFIG_FILE).is_file():
        _check_model(found, store)
        store = None
    opened = _check_store(found, store, preset) if store else None
    try:
        _time(found, preset, opened, chosen, resolution or _RESOLUTION.get(preset.name, "2mm"))
    except SlimbrainError as error:
        found.problems.append(str(error))
    return found


def _check_model(found: Checkup, folder: Path) -> None:
    """Check a model's seal and that two inputs get different outputs; `from_pretrained` refuses a model where they do not."""
    try:
        model = from_pretrained(folder)
    except SlimbrainError as error:
        found.problems.append(str(error))
        return
    found.facts["model"] = f"{type(model).__name__}, distinguishes two inputs"
    found.facts["model's seal"] = "whole" if is_sealed(folder) else "none: changes of its config.json cannot be detected"


def _check_store(found: Checkup, root: Path, preset: Preset) -> Store | None:
    """Check every session's SHA-256 and contract; the store, unless it is none."""
    try:
        store, verdict = Store(root), verify(root)
        sessions = store.sessions
    except SlimbrainError as error:
        found.problems.append(str(error))
        return None
    sealed = len(sessions) - len(verdict.unsealed)
    found.facts["store"] = f"{len(sessions)} sessions, {sealed} with a checksum, {len(verdict.problems)} problems"
    found.facts |= {f"store's {name}": value for name, value in store.contract.to_dict().items()}
    found.problems += [problem.reason for problem in verdict.problems]
    # Series without voxels are for stage 1, which needs one window and not k.
    least = preset.window.frames * (1 if store.contract.lattice == ROI else preset.window.k)
    if short := [info.key for info in sessions if info.n_frames < least]:
        found.facts["too short"] = f"{len(short)} sessions under {least} frames, first {short[0]}"
    if len(short) == len(sessions):
        found.problems.append(f"{root}: has no session of {least} frames, which preset {preset.name} needs; prepare longer runs into it.")
    return store


def _time(found: Checkup, preset: Preset, store: Store | None, device: torch.device, resolution: str) -> None:
    frames, channels, grid = _TYPICAL_FRAMES, 0, None
    if store and store.sessions:
        frames = round(sum(info.n_frames for info in store.sessions) / len(store.sessions))
        channels = len(store.channels(store.sessions[0].key).names)
    if store is None or store.contract.lattice != ROI:
        grid = store.grid if store else Grid.mni152(resolution)
    where = f"{grid.lattice.id}, {grid.n_voxels} voxels" if grid else f"{channels} channels"
    found.facts["timed with"] = f"preset {preset.name} on {device}, {where}"
    frames = max(frames, preset.window.frames)
    temporal = temporal_rate(preset, channels or (grid.n_cells if grid else 1), frames, device)
    _add_rate(found, "temporal", temporal, preset.train_temporal)
    if grid:
        training, embedding = voxel_rates(preset, grid, device)
        _add_rate(found, "voxel", training, preset.train_voxel)
        sessions = len(store.sessions) if store else _TYPICAL_SESSIONS
        windows, found.rates["embed"] = sessions * preset.window.k, embedding.per_second
        found.facts["embed"] = f"{embedding.seconds:.3g} s per clip, {embedding.per_second:.3g} windows per second"
        found.facts["embed, estimate"] = f"{_duration(embedding.hours(windows))} for {sessions:,} sessions, {windows:,} windows"
    found.facts["estimates are"] = _ESTIMATE


def _add_rate(found: Checkup, stage: str, rate: Rate, config: TrainConfig) -> None:
    """Add a stage's measured rate, and the time that the preset's number of steps would take."""
    name, size = f"pretrain {stage}", config.batch * config.accumulate
    windows, found.rates[name] = config.steps * size * rate.windows, rate.per_second
    found.facts[name] = f"{rate.seconds:.3g} s forward, backward and update, {rate.per_second:.3g} windows per second ({config.precision})"
    work = f"{config.steps:,} steps of {size} sessions, {windows:,} windows"
    found.facts[f"{name}, estimate"] = f"{_duration(rate.hours(windows))} for {work}"


def _duration(hours: float) -> str:
    """Hours in words that do not promise more digits than an estimate has."""
    if hours < 1:
        minutes = round(hours * 60)
        return "about a minute" if minutes < 2 else f"about {minutes} minutes"
    return f"about {hours:.1f} hours" if hours < 10 else f"about {float(f'{hours:.2g}'):,.0f} hours"
