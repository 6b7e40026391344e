"""What the columns of a session's channel series are: cells of the grid, or parcels, with names and places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from slimbrain.grid import Grid

_FloatArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Channels:
    """Names and places of the columns of `coarse`: cells of the grid, or parcels.

    Attributes
    ----------
    names : tuple of str
        C names.
    mm : (C, 3) array
        MNI mm.

    Examples
    --------
    >>> channels = Store("store").channels("sub-01_task-rest_run-1_space-MNI152NLin6Asym")
    >>> channels.names[0], channels.mm.shape == (len(channels.names), 3)
    ('cell-0000', True)
    """

    names: tuple[str, ...]
    mm: _FloatArray


def cell_channels(grid: Grid) -> Channels:
    """The cells of a grid as channels."""
    return Channels(tuple(f"cell-{index:04d}" for index in range(grid.n_cells)), grid.cells.mm)
