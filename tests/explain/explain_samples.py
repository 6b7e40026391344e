"""Tiny encoders in float64 on a slab of brain, and heads to explain, for exact comparisons."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.data.clip import Clip
from slimbrain.evaluate.probes import LinearRule
from slimbrain.explain import LinearHead, MapEntry
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hiera import Hiera
from slimbrain.models.jepa import HieraJEPA

TINY = {"embed": 4, "depths": (1, 1, 2, 1), "heads": (1, 1, 2, 2), "mlp_ratio": 2, "recompute": False}
FRAMES = 16


def slab() -> Grid:
    """Six units of the 8 mm lattice, none of the same size, 24 to 64 patches each and some with a rim."""
    mask = np.zeros((24, 24, 24), bool)
    mask[1:21, 3:14, 8:14] = True
    mask[2, 3:9, 8:14] = False
    mask[18:, 10:, 8:11] = False
    return Grid(LATTICES["8mm"], mask)


def record_of(entry: MapEntry) -> dict[str, Any]:
    """What stands in the JSON beside a map."""
    assert entry.image is not None
    record: dict[str, Any] = json.loads(entry.image.with_name(entry.image.name.replace("_map.nii.gz", "_map.json")).read_text())
    return record


def corner() -> Grid:
    """24 patches in four units: a gradient takes milliseconds."""
    mask = np.zeros((24, 24, 24), bool)
    mask[4:12, 6:11, 8:12] = True
    return Grid(LATTICES["8mm"], mask)


def encoder(seed: int = 0, unit: str = "unit", noise: float = 0.2, **settings: Any) -> Hiera:
    """Weights larger than at the start of training, by noise of this width, so that attention and norms are at work."""
    torch.manual_seed(seed)
    network = Hiera(HieraConfig.model_validate({**TINY, "unit": unit, **settings}), 8).double().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(noise * torch.randn_like(parameter))
    return network


def jepa(seed: int = 0, **settings: Any) -> HieraJEPA:
    """With the published targets, unless `settings` of `JepaConfig` say otherwise."""
    torch.manual_seed(seed)
    published = {"targets": "latents", "predictor": "joint", "hide": "places_and_times"}
    config = JepaConfig(**{**published, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, **settings})
    return HieraJEPA(HieraConfig.model_validate(TINY), config, 8).eval()


def clip(grid: Grid, frames: int = FRAMES, seed: int = 0) -> Clip:
    """Smooth courses and some noise, in two stretches of the session, z-scored as in a store."""
    rng = np.random.default_rng(seed)
    courses = np.cumsum(rng.normal(size=(frames, 3)), axis=0)
    values = np.einsum("tk,kpv->tpv", courses, rng.normal(size=(3, *grid.voxel_mask.shape))) + rng.normal(
        size=(frames, *grid.voxel_mask.shape)
    )
    values = np.where(grid.voxel_mask, (values - values.mean(0)) / values.std(0), 0.0)
    seconds = 0.72 * np.concatenate((np.arange(frames // 2), 40 + np.arange(frames // 2)))
    return Clip(torch.from_numpy(values), torch.from_numpy(seconds), grid)


def head(width: int, outputs: int = 2, pooling: str = "moments", seed: int = 0) -> LinearHead:
    """Random log-odds; those of class 1."""
    rng = np.random.default_rng(seed)
    parts = {"mean": 1, "moments": 3}[pooling]
    rule = LinearRule(rng.normal(size=(outputs, parts * width)), rng.normal(size=outputs))
    return LinearHead(rule, None if outputs == 1 else 1, pooling)
