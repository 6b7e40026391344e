"""The suite where it is installed; where it is not, the two names of it that the plugin takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from suite_samples import TEMPORAL, WINDOW, save_models

from slimbrain.grid import Grid


class _Embeddings(NamedTuple):
    cls_embeds: Any
    reg_embeds: Any
    patch_embeds: Any


def _stand_in(name: str, **contents: object) -> None:
    module = ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


@pytest.fixture(scope="session")
def plugin() -> Any:
    """The plugin's module. What of it is tested with a stand-in for the suite does not ask the suite for anything but these names."""
    if find_spec("brainmarks.models.registry") is None:
        _stand_in("brainmarks.models.base", Embeddings=_Embeddings)
        decorate: Callable[[Any], Any] = lambda function: function  # noqa: E731
        _stand_in("brainmarks.models.registry", register_model=decorate)
    return import_module("brainmarks.models.slimbrain")


@pytest.fixture(scope="session")
def small_grid(mask_source: Path) -> Grid:
    """The mask on the 8 mm lattice."""
    return Grid.from_nifti(mask_source, "8mm")


@pytest.fixture(scope="session")
def models(small_grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a stage 2 and a stage 1 model with fresh weights."""
    assert TEMPORAL.window_frames == WINDOW.frames
    return save_models(tmp_path_factory.mktemp("models"), small_grid)
