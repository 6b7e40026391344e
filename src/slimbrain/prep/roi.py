"""Region-of-interest series: brought to the store's TR as voxels are, z-scored, with the moments that undo it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.frames import FrameWatch, bridged
from slimbrain.prep.runs import RoiSeries
from slimbrain.prep.timing import TimeAxis

_FloatArray = npt.NDArray[Any]

_RELATIVE_FLOOR = 1e-6
"""A channel whose spread is under this share of its size holds rounding, not signal."""


@dataclass(frozen=True)
class _PreparedRoi:
    """A recording as the store holds it.

    Attributes
    ----------
    series : ndarray
        (T, C) float32, each channel z-scored over time; 0 where it never changes or is not finite.
    mean, std : ndarray
        (C,) undo the z-score; 0 for those channels.
    empty : tuple of str
        Names of the channels without signal.
    warnings : tuple of str
        Sentences for the user about single frames.
    """

    series: _FloatArray
    mean: _FloatArray
    std: _FloatArray
    empty: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prepare_roi(source: RoiSeries, times: TimeAxis, flag_nonfinite: bool = False) -> _PreparedRoi:
    """Resample and z-score.

    Whoever reads `coarse` standardises it first: stage 1, saliency and connectivity. Stored z-scored it has, like a voxel
    session, no scale that would give away the scanner or pipeline.

    Parameters
    ----------
    source : RoiSeries
        The recording.
    times : TimeAxis
        Where the stored frames lie among its own.
    flag_nonfinite : bool
        Whether frames most of whose channels are not finite are bridged, and do not cost the channels.

    Raises
    ------
    InputError
        If no channel has a signal.
    """
    values = np.asarray(source.values, np.float64)
    watch = FrameWatch(len(values), np.ones(values.shape[1], bool))
    watch.look(values.copy())
    frames = watch.record(np.asarray)
    warnings = frames.warnings
    if flag_nonfinite and frames.missing.any():
        values = bridged(values, frames.missing)
        warnings = [
            *warnings,
            f"{int(frames.missing.sum())} of {len(values)} frames have no finite value in most channels; they were interpolated.",
        ]
    finite = np.isfinite(values).all(axis=0)
    stored = times.resample(np.where(finite, values, 0.0)).astype(np.float64)
    mean, std = stored.mean(axis=0), stored.std(axis=0)
    live = finite & (std > _RELATIVE_FLOOR * np.abs(mean)) & (std > 0)
    if not live.any():
        if finite.any():
            raise InputError(f"{source.path}: no channel changes over time; give the time series.")
        where = f"{int((~np.isfinite(values)).any(axis=1).sum())} of {len(values)} frames"
        way_out = (
            "restore it" if flag_nonfinite or not frames.missing.any() else "restore it, or have such frames bridged with --flag-nonfinite"
        )
        raise InputError(f"{source.path}: every channel holds values that are not finite (NaN or infinite), in {where}; {way_out}.")
    series = np.divide(stored - mean, std, out=np.zeros_like(stored), where=live).astype(np.float32)
    empty = tuple(name for name, alive in zip(source.channels.names, live, strict=True) if not alive)
    return _PreparedRoi(series, np.where(live, mean, 0), np.where(live, std, 0), empty, tuple(warnings))
