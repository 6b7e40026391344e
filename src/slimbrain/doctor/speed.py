"""Windows per second that a preset trains and embeds on this machine, measured, and how long given work would take at that rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from slimbrain.config import Preset, TrainConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import typical_mask
from slimbrain.doctor.machine import timed
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.progress import track
from slimbrain.store.contract import NATIVE_TR_BAND_S
from slimbrain.train.loop import AUTOCAST

_TR_S = 0.72
"""TR of the simulated noise; in `NATIVE_TR_BAND_S`, and the speed does not depend on it."""
assert NATIVE_TR_BAND_S[0] < _TR_S < NATIVE_TR_BAND_S[1]

_PASSES = 4
"""The first warms up and is not counted; of the others the fastest counts, since other programs can only slow one down."""

_ENOUGH_SECONDS = 30.0
"""No further pass is begun after this long."""


@dataclass(frozen=True)
class Rate:
    """What was measured of one kind of work.

    Attributes
    ----------
    seconds : float
        Seconds per micro-batch of one sample.
    windows : int
        Windows that the sample holds.
    loss : float
        Value in the last pass; 0 where nothing is learnt.
    """

    seconds: float
    windows: int
    loss: float = 0.0

    @property
    def per_second(self) -> float:
        return self.windows / self.seconds

    def hours(self, windows: float) -> float:
        """Hours for this many windows, at this rate."""
        return windows / self.per_second / 3600


def voxel_rates(preset: Preset, grid: Grid, device: torch.device) -> tuple[Rate, Rate]:
    """Stage 2 on noise: a training step (both passes, optimiser, running mean) and an embedding of one clip."""
    frames = preset.window.frames * preset.window.k
    torch.manual_seed(0)
    model = HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch).to(device)
    optimizer = torch.optim.AdamW((weights for weights in model.parameters() if weights.requires_grad), lr=preset.train_voxel.lr)
    clip = Clip(torch.randn(frames, *grid.voxel_mask.shape, dtype=torch.float16), torch.arange(frames) * _TR_S, grid)
    mask, _ = typical_mask(grid, preset, frames)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(preset.train_voxel, device):
            loss = model([clip], [mask]).loss
        loss.backward()
        optimizer.step()
        model.update_target(preset.jepa.ema_start)
        return float(loss.detach())

    def embed() -> float:
        with torch.inference_mode():
            model.encoder([clip])
        return 0.0

    return _measured(step, preset.window.k, device, "stage 2, training"), _measured(embed, preset.window.k, device, "stage 2, embedding")


def temporal_rate(preset: Preset, channels: int, frames: int, device: torch.device) -> Rate:
    """Stage 1 on noise: a training step on one session of this many frames and channels."""
    torch.manual_seed(0)
    model = TemporalExtractor(preset.temporal).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.train_temporal.lr)
    series, places = torch.randn(1, frames, channels, device=device), torch.randn(channels, 3, device=device) * 50
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(preset.train_temporal, device):
            loss, _ = temporal_loss(model, series, places, _TR_S, generator)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return _measured(step, frames // preset.window.frames, device, "stage 1, training")


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """The precision that a run of this configuration would use."""
    return torch.autocast(device.type, dtype=AUTOCAST[config.precision]) if config.precision in AUTOCAST else nullcontext()


def _measured(step: Callable[[], float], windows: int, device: torch.device, label: str) -> Rate:
    """The fastest of some passes.

    Raises
    ------
    InputError
        If a pass does not fit into memory, or its loss is no number.
    """
    started = time.monotonic()
    seconds: list[float] = []
    losses: list[float] = []
    try:
        for _ in track(range(_PASSES), label):
            if len(seconds) > 1 and time.monotonic() - started > _ENOUGH_SECONDS:
                break
            seconds.append(timed(lambda: losses.append(step()), device))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(f"{label}: does not fit into the memory of {device}; take a smaller --preset or another --device.") from error
    if not math.isfinite(losses[-1]):
        raise InputError(f"{label}: the loss is {losses[-1]} on {device}; choose --set train_voxel.precision=float32, or another --device.")
    return Rate(min(seconds[1:] or seconds), windows, losses[-1])
