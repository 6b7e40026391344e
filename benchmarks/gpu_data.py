"""Stores for `gpu.py`: noise at full size for the loader, and sessions with a signal on the 8 mm lattice for loss curves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from slimbrain.config import load_preset
from slimbrain.data.draws import ClipDraws
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.store.write import write_session

TR_S, SPACE = 0.72, "MNI152NLin6Asym"
SOURCES = 5
"""Hidden series that all voxels of a session follow."""


def clip_store(folder: Path, grid: Grid, frames: int) -> Store:
    """A session of noise."""
    shape = grid.voxel_mask.shape
    noise = np.random.default_rng(0).standard_normal((frames, *shape), dtype=np.float32) * grid.voxel_mask
    store = Store.create(folder, grid, TR_S)
    ones = np.ones(shape)
    write_session(store, {"sub": "01", "task": "rest", "space": SPACE}, noise.astype(np.float16), ones, ones, TR_S)
    return Store(folder)


def signal_store(folder: Path, sessions: int, frames: int = 200) -> Store:
    """Sessions whose voxels follow a few smooth series, so that there is something to predict."""
    grid, generator = Grid.mni152("8mm"), np.random.default_rng(0)
    shape = grid.voxel_mask.shape
    maps = generator.standard_normal((SOURCES, *shape))
    store = Store.create(folder, grid, TR_S)
    for number in range(sessions):
        walks = generator.standard_normal((frames, SOURCES)).cumsum(0)
        values = np.tensordot(walks - walks.mean(0), maps, 1) + generator.standard_normal((frames, *shape))
        values = (values - values.mean(0)) / values.std(0) * grid.voxel_mask
        names = {"sub": f"{number:02d}", "task": "rest", "space": SPACE}
        write_session(store, names, values.astype(np.float16), np.ones(shape), np.ones(shape), TR_S)
    return Store(folder)


def loader_rates(store: Store, device: torch.device, clips: int) -> Iterator[tuple[str, float]]:
    """Clips per second: read and masked by worker processes, and then also copied to the device."""
    preset = load_preset("base")
    draws = ClipDraws(store, preset.window, 0, preset.voxel.unit, preset.voxel.unit_frames, preset.jepa)
    workers = max(1, min(14, (os.cpu_count() or 2) - 1))
    yield "read", _rate(draws, workers, clips, None)
    yield "on_device", _rate(draws, workers, clips, device)


def _rate(draws: ClipDraws, workers: int, clips: int, device: torch.device | None) -> float:
    """The first clips, by which the workers have started, are not counted."""
    batches: Any = iter(DataLoader(draws, batch_size=None, sampler=range(clips + workers), num_workers=workers))
    for _ in range(workers):
        next(batches)
    started = time.perf_counter()
    for sample in batches:
        if device is not None:
            voxels = sample.clip.voxels.pin_memory() if device.type == "cuda" else sample.clip.voxels
            voxels.to(device, non_blocking=True)
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return clips / (time.perf_counter() - started)
