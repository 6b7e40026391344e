"""Other people's trees, small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prep_samples import Array, affine, brain_series, save

from slimbrain.prep import PrepSummary

Prep = Callable[..., PrepSummary]

EDGE = 14
"""Voxels a side, of 16 mm: they cover the whole box of the lattice."""


def series(frames: int = 12, seed: int = 0) -> Array:
    """(X, Y, Z, T) noise around a level."""
    return brain_series((EDGE,) * 3, frames, seed)


def write_image(path: Path, frames: int = 12, tr: float = 0.72, seed: int = 0) -> Path:
    """A 4D image that covers the brain, with the TR in its header alone."""
    return save(path, series(frames, seed), affine(16.0), tr)


def write_hcp_run(root: Path, subject: str = "100307", run: str = "rfMRI_REST1_LR", suffix: str = "_hp2000_clean", **image: float) -> Path:
    """One run where the HCP pipelines put it."""
    return write_image(root / subject / "MNINonLinear" / "Results" / run / f"{run}{suffix}.nii.gz", **image)


def write_table(path: Path, *rows: dict[str, str]) -> Path:
    """A tab-separated table with the columns of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
