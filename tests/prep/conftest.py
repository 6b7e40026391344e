"""A small derivative for the tests of preparation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prep_samples import Array, affine, head_series, save

from slimbrain.grid import Grid

WriteRun = Callable[..., Path]


@pytest.fixture
def bids_dir(tmp_path: Path) -> Path:
    """Root of the derivative that `write_run` fills; its name has a space and letters outside ASCII."""
    return tmp_path / "dérivés fMRI"


@pytest.fixture
def write_run(bids_dir: Path) -> WriteRun:
    """Write one run of 14 voxels of 16 mm a side, which cover the whole box, with a head in MNI space."""

    def write(
        sub: str = "sub-01",
        *,
        middle: str = "_task-rest",
        space: str = "_space-MNI152NLin6Asym",
        data: Array | None = None,
        frames: int = 20,
        tr: float | None = 0.72,
        header_tr: float = 0.0,
        seed: int = 0,
    ) -> Path:
        stem = f"{sub}{middle}{space}_desc-preproc_bold"
        session = [part for part in middle.split("_") if part.startswith("ses-")]
        folder = bids_dir.joinpath(sub, *session, "func")
        data = head_series(frames, seed) if data is None else data
        path = save(folder / f"{stem}.nii.gz", data, affine(16.0), header_tr)
        if tr is not None:
            (folder / f"{stem}.json").write_text(json.dumps({"RepetitionTime": tr}))
        return path

    return write


@pytest.fixture(scope="session")
def mask8(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small brain of `grid8` as a file."""
    return grid8.save_mask(tmp_path_factory.mktemp("mask") / "mask.nii.gz")
