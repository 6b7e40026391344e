"""Region-of-interest series: brought to the store's TR as voxels are, z-scored, with the moments that undo it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.runs import RoiSeries
from slimbrain.prep.volume import TimeAxis

_FloatArray = npt.NDArray[Any]

_RELATIVE_FLOOR = 1e-6
"""A channel whose spread is under this share of its size holds rounding, not signal."""


@dataclass(frozen=True)
class PreparedRoi:
    """A recording as the store holds it.

    Attributes
    ----------
    series : (T, C) float32, each channel z-scored over time; 0 where it never changes or is not finite.
    mean, std : (C,) undo the z-score; 0 for those channels.
    empty : names of the channels without signal.
    """

    series: _FloatArray
    mean: _FloatArray
    std: _FloatArray
    empty: tuple[str, ...]


def prepare_roi(source: RoiSeries, times: TimeAxis) -> PreparedRoi:
    """Resample and z-score.

    Whoever reads `coarse` standardises it first: stage 1, saliency and connectivity. Stored z-scored it has, like a voxel
    session, no scale by which a scanner or a pipeline could be told.

    Parameters
    ----------
    source : the recording.
    times : where the stored frames lie among its own.

    Raises
    ------
    InputError
        If no channel has a signal.
    """
    values = np.asarray(source.values, np.float64)
    finite = np.isfinite(values).all(axis=0)
    stored = times.resample(np.where(finite, values, 0.0)).astype(np.float64)
    mean, std = stored.mean(axis=0), stored.std(axis=0)
    live = finite & (std > _RELATIVE_FLOOR * np.abs(mean)) & (std > 0)
    if not live.any():
        raise InputError(f"{source.path}: no channel changes over time; give the time series.")
    series = np.divide(stored - mean, std, out=np.zeros_like(stored), where=live).astype(np.float32)
    empty = tuple(name for name, alive in zip(source.channels.names, live, strict=True) if not alive)
    return PreparedRoi(series, np.where(live, mean, 0), np.where(live, std, 0), empty)
