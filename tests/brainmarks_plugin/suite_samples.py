"""Samples as Brainmarks gives them, made from volumes, and small models with fresh weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.governance.provenance import Provenance, subject_hash
from slimbrain.grid import Grid
from slimbrain.models.hub import save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

Array = np.ndarray[Any, Any]
SHAPE = (91, 109, 91)
WINDOW = WindowConfig(frames=4, k=3)
TEMPORAL = TemporalConfig(width=32, depth=1, heads=4, groups=8, window_frames=4)
VOXEL = HieraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), mlp_ratio=2, unit_frames=4, recompute=False)
JEPA = JepaConfig(predictor_width=32, predictor_depth=1, predictor_heads=2)


def save_models(
    folder: Path, grid: Grid, voxel: HieraConfig = VOXEL, window: WindowConfig = WINDOW, seen: Collection[str] = ()
) -> tuple[Path, Path]:
    """Folders of a stage 2 and a stage 1 model, of which stage 1 says that it was trained on the participants `seen`."""
    torch.manual_seed(0)
    provenance = Provenance(Contract(grid.lattice.id, grid.hash, "MNI152", 0.72), window, grid)
    stage2 = save_pretrained(HieraJEPA(voxel, JEPA, grid.voxels_per_patch), folder / "voxel", provenance)
    stage1 = TemporalExtractor(TEMPORAL)
    # Fresh, it rebuilds nothing, so that all windows would score the same.
    torch.nn.init.normal_(stage1.write.weight, std=0.1)
    trained = replace(provenance, training={"participants": {"unplaced": [subject_hash(subject) for subject in seen]}})
    return stage2, save_pretrained(stage1, folder / "temporal", trained)


def noise(frames: int, seed: int = 0) -> Array:
    """(T, X, Y, Z) float32 around 1000, with a spread of 1 to 40 that changes from voxel to voxel."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(0, np.log(40), SHAPE)).astype(np.float32)
    return 1000 + spread * rng.standard_normal((frames, *SHAPE), dtype=np.float32)


def sample(volumes: Array, brain: Array, tr: float = 0.72, **cells: Any) -> dict[str, Any]:
    """What HFDataset gives of a recording: vectors of arrays with axes (Z, Y, X), z-scored in float16.

    Parameters
    ----------
    volumes : (T, X, Y, Z).
    brain : (X, Y, Z) mask.
    """
    listed = volumes.transpose(0, 3, 2, 1)[:, brain.transpose(2, 1, 0)]
    mean, std = listed.mean(axis=0, keepdims=True), listed.std(axis=0, keepdims=True)
    z = ((listed - mean) / std).astype(np.float16)
    tensors = {name: torch.from_numpy(array) for name, array in (("bold", z), ("mean", mean), ("std", std))}
    return {"sub": "01", "tr": torch.tensor(tr, dtype=torch.float32), **tensors, **cells}
