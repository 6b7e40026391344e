"""A cohort whose label is how fast the brain fluctuates, and small models that were never trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.governance.provenance import Provenance
from slimbrain.grid import Grid
from slimbrain.models.hub import save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

Array = npt.NDArray[Any]

WINDOW = WindowConfig(frames=8, k=3)
CARRY = {"fast": 0.1, "slow": 0.95}
"""Autocorrelation from frame to frame of each group."""


@dataclass(frozen=True)
class Cohort:
    """Images, the store that `slimbrain prep` made of them, and models that fit it."""

    root: Path
    images: tuple[Path, ...]
    groups: tuple[str, ...]
    subjects: tuple[str, ...]

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def voxel(self) -> Path:
        return self.root / "voxel"

    @property
    def temporal(self) -> Path:
        return self.root / "temporal"


def series(grid: Grid, frames: int, carry: float, seed: int) -> Array:
    """(X, Y, Z, T) int16: a head that is bright in the brain, each voxel an AR(1) process around its level."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*grid.mask.shape, frames))
    for frame in range(1, frames):
        noise[..., frame] = carry * noise[..., frame - 1] + np.sqrt(1 - carry**2) * noise[..., frame]
    level = rng.uniform(800, 1200, grid.mask.shape)[..., None]
    return np.asarray((level + 40 * noise) * np.where(grid.mask, 1, 0.1)[..., None], np.int16)


def write_image(path: Path, data: Array, affine: Array, tr: float = 0.72) -> Path:
    """Write NIfTI with the TR in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return path


def write_cohort(root: Path, grid: Grid, subjects: int, frames: int = 80) -> tuple[tuple[Path, ...], tuple[str, ...], tuple[str, ...]]:
    """Two sessions of each participant as a BIDS derivative; images, the group of each, and its participant."""
    images, groups, names = [], [], []
    for number in range(subjects):
        group = "slow" if number % 4 in (1, 2) else "fast"
        for session in (1, 2):
            name = f"sub-{number:02d}_ses-{session}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
            path = root / f"sub-{number:02d}" / f"ses-{session}" / "func" / name
            data = series(grid, frames, CARRY[group], 10 * number + session)
            images.append(write_image(path, data, grid.lattice.affine))
            groups.append(group)
            names.append(f"sub-{number:02d}")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}))
    return tuple(images), tuple(groups), tuple(names)


def write_models(root: Path, grid: Grid) -> None:
    """A stage 2 and a stage 1 model with random weights."""
    torch.manual_seed(0)
    provenance = Provenance(Contract(grid.lattice.id, grid.hash, "MNI152", 0.72), WINDOW, grid, {"stage": "voxel"})
    config = HieraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), mlp_ratio=2, recompute=False)
    voxel = HieraJEPA(config, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2), 8)
    save_pretrained(voxel, root / "voxel", provenance)
    temporal = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=8))
    save_pretrained(temporal, root / "temporal", provenance)
