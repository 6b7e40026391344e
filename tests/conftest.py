"""What all tests share: one thread each, the real recordings where there are any, and a small brain."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

# Before numpy and torch are first imported; commands that a test starts inherit them. Test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from slimbrain.grid import Grid
    from slimbrain.store import Store

torch.set_num_threads(1)

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis_settings.register_profile("slimbrain", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("slimbrain")

BRAINMARKS_SHAPE, BRAINMARKS_VOXELS = (91, 109, 91), 228_483
BRAINMARKS_AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


LONGEST_FIRST = (
    "tests/slurm/",
    "tests/evaluate/test_killed.py",
    "tests/benchmarks/",
    "tests/e2e/",
    "tests/train/test_distributed.py",
    "tests/embed/test_encoder.py",
)
"""Workers take whole files, so a long one that starts last would run alone at the end (`make test`, `make test-slow`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {place: number for number, place in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: next((rank[place] for place in rank if item.nodeid.startswith(place)), len(rank)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, metavar="N", help="skip tests that do not start within N seconds of the first (make check)")


@cache
def first_test_at() -> float:
    return time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--seconds")
    if limit is not None and time.monotonic() - first_test_at() > limit:
        pytest.skip(f"did not start within {limit:g} s; `make test` runs it")


SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings, which is no part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real recordings: the folder shared/data does not stand beside the checkout")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def grid8() -> Grid:
    """An ellipsoid about the size of a brain on the 8 mm lattice, off centre, so that no two sides have the same tables."""
    from slimbrain.grid import LATTICES, Grid

    lattice = LATTICES["8mm"]
    place = np.indices((lattice.edge,) * 3).reshape(3, -1).T
    centre, semi_axes = np.array([11.6, 12.3, 10.8]), np.array([8.5, 10.5, 8.0])
    inside = (((place - centre) / semi_axes) ** 2).sum(axis=1) < 1
    return Grid(lattice, inside.reshape((lattice.edge,) * 3))


@pytest.fixture(scope="session")
def training_store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three short runs to pretrain on; only to be read."""
    from store_samples import make_store

    return make_store(tmp_path_factory.mktemp("training"), grid8, frames=12)


@pytest.fixture(scope="session")
def trained(training_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a stage on `training_store` that one process made with `small_preset()` and seed 3; only to be read."""
    from train_samples import small_preset

    from slimbrain.train import pretrain

    folder = tmp_path_factory.mktemp("trained")

    @cache
    def run(stage: str) -> Path:
        pretrain(stage, training_store, small_preset(), folder / stage, seed=3, device="cpu", commands=[f"slimbrain pretrain {stage}"])
        return folder / stage

    return run


@pytest.fixture(scope="session")
def brain() -> npt.NDArray[np.bool_]:
    """(X, Y, Z) mask of as many voxels as that of Brainmarks: an ellipsoid off centre, so that no axis can be turned unseen."""
    place = np.indices(BRAINMARKS_SHAPE).reshape(3, -1)
    distance = (((place - np.array([[43.0], [55.0], [40.0]])) / np.array([[34.0], [42.0], [38.0]])) ** 2).sum(axis=0)
    mask = np.zeros(distance.size, bool)
    mask[np.argsort(distance, kind="stable")[:BRAINMARKS_VOXELS]] = True
    return mask.reshape(BRAINMARKS_SHAPE)


@pytest.fixture(scope="session")
def mask_source(brain: npt.NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask `brain` as TemplateFlow has Brainmarks' own: left-handed."""
    import nibabel

    image = nibabel.Nifti1Image(brain.astype(np.uint8), BRAINMARKS_AFFINE)
    path = tmp_path_factory.mktemp("templates") / "mask.nii.gz"
    image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]])).to_filename(path)
    return path
