"""Small stores for tests, written without `slimbrain prep`: a few networks with random courses, z-scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.store.write import write_session

FloatArray = npt.NDArray[np.float64]
SPACE = "MNI152NLin6Asym"
TR_S = 0.72
PEAK_KIB = "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
"""Code for a process of its own. Not `ru_maxrss`, which starts at the size of the process that started it: growth would hide below."""


def entities(subject: str, run: int = 1) -> dict[str, str]:
    return {"sub": subject, "task": "rest", "run": str(run), "space": SPACE}


def network_series(grid: Grid, frames: int, seed: int) -> FloatArray:
    """(T, P, V): four smooth networks with random courses and some noise, z-scored, 0 outside the mask."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, 3)) * 50
    weights = np.exp(-((grid.patches.mm[:, None] - centres) ** 2).sum(-1) / 2 / 40**2)
    courses = np.cumsum(generator.normal(size=(frames, 4)), axis=0)
    series = (courses @ weights.T)[..., None] + 0.3 * generator.normal(size=(frames, grid.n_patches, grid.voxels_per_patch))
    return np.where(grid.voxel_mask, (series - series.mean(0)) / series.std(0), 0.0)


def write_run(store: Store, frames: int = 40, subject: str = "01", run: int = 1, seed: int = 0, **qc: object) -> None:
    shape = store.grid.voxel_mask.shape
    voxels = network_series(store.grid, frames, seed)
    write_session(store, entities(subject, run), voxels, np.full(shape, 100.0), np.ones(shape), store.contract.tr, qc=qc)


def make_store(root: Path, grid: Grid, subjects: int = 3, frames: int = 40, tr: float = TR_S) -> Store:
    """A store with one run a participant; the first runs are four frames longer, so that lengths differ."""
    store = Store.create(root, grid, tr)
    for number in range(1, subjects + 1):
        write_run(store, frames + 4 * (number < subjects), f"{number:02d}", seed=number)
    return store


def files_but_commands(root: Path) -> dict[str, bytes]:
    """What a store's files hold, but for page, locks, and the commands that wrote it, which name where they wrote."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name not in ("report.html", ".lock")]
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    description = json.loads(found["dataset_description.json"])
    description["GeneratedBy"][0].pop("CommandLines", None)
    return {**found, "dataset_description.json": json.dumps(description).encode()}
