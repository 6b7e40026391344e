"""What a prepared run is worth: coverage and where it ends, tSNR, motion, DVARS, global signal, spikes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.bids import read_relative_rms, read_table
from slimbrain.prep.runs import Run
from slimbrain.prep.volume import Prepared

FloatArray = npt.NDArray[Any]

FD_THRESHOLD_MM = 0.5
"""Frames that moved more are marked (Power et al. 2012)."""

BOXPLOT_REACH = 1.5
"""A DVARS spike lies over the third quartile by this many interquartile ranges, as in FSL's fsl_motion_outliers."""

EMPTY_PLANE = 0.95
"""A plane of the mask counts as missing when more than this share of it has no data; a few stray voxels do not save it."""

SIDES = (("left of x", "right of x"), ("behind y", "in front of y"), ("below z", "above z"))
"""Words for what lies beyond a plane, at the low and the high end of each axis."""


@dataclass(frozen=True)
class Quality:
    """Figures about one run.

    Attributes
    ----------
    scalars : one number each: `coverage` (share of the mask), `tsnr` (median over covered voxels of mean / std),
        `dvars_mean`, `spikes`, and `fd_mean`, `fd_max` in mm where the confounds have motion.
    series : lists of one value a recorded frame: `time_s`, `dvars`, `global_signal` and, where known, `fd` (mm); None where
        undefined. `flagged` lists the numbers of frames over `FD_THRESHOLD_MM`, or with a spike.
    gap : where the image ends within the brain, empty if nowhere in particular.
    warnings : sentences for the user.
    """

    scalars: dict[str, float]
    series: dict[str, list[Any]]
    gap: str = ""
    warnings: list[str] = field(default_factory=list)


def assess(prepared: Prepared, grid: Grid, run: Run, source_tr: float, warn_coverage: float) -> Quality:
    """Measure a prepared run.

    Parameters
    ----------
    prepared : the run on the grid.
    run : names the table of confounds that holds `framewise_displacement`.
    source_tr : seconds a recorded frame.
    warn_coverage : share of the mask under which to warn.
    """
    gap = coverage_gap(prepared.covered, grid)
    warnings = []
    if prepared.coverage < warn_coverage:
        where = f", missing {gap}" if gap else ""
        warnings.append(f"covers {prepared.coverage:.1%} of the brain mask{where}.")
    if prepared.n_nonfinite:
        warnings.append(f"{prepared.n_nonfinite} brain voxels hold NaN or infinite values and count as not covered.")
    scalars: dict[str, float] = {"coverage": round(prepared.coverage, 6), "tsnr": tsnr(prepared)}
    spikes = dvars_spikes(prepared.dvars)
    scalars |= {"dvars_mean": _rounded(float(prepared.dvars.mean())), "spikes": int(spikes.sum())}
    n_frames = len(prepared.global_signal)
    flagged = np.concatenate(([False], spikes))
    series: dict[str, list[Any]] = {
        "time_s": [_rounded(frame * source_tr) for frame in range(n_frames)],
        "dvars": [None, *map(_rounded, prepared.dvars.tolist())],
        "global_signal": [_rounded(value) for value in prepared.global_signal.tolist()],
    }
    displacement = framewise_displacement(run)
    if displacement is not None and len(displacement) != n_frames:
        warnings.append(f"{run.motion or run.confounds} has {len(displacement)} rows for {n_frames} frames, so motion is not reported.")
    elif displacement is not None and np.isfinite(displacement).any():
        scalars |= {"fd_mean": _rounded(float(np.nanmean(displacement))), "fd_max": _rounded(float(np.nanmax(displacement)))}
        series["fd"] = [_rounded(value) if np.isfinite(value) else None for value in displacement.tolist()]
        flagged |= np.nan_to_num(displacement) > FD_THRESHOLD_MM
    series["flagged"] = np.flatnonzero(flagged).tolist()
    return Quality(scalars, series, gap, warnings)


def tsnr(prepared: Prepared) -> float:
    """Median over covered voxels of the mean over time divided by the standard deviation over time."""
    mean, std = prepared.mean[prepared.covered], prepared.std[prepared.covered]
    return _rounded(float(np.median(np.abs(mean) / std)))


def dvars_spikes(dvars: FloatArray) -> npt.NDArray[np.bool_]:
    """(T - 1,) True where the change between two frames stands out (`BOXPLOT_REACH`)."""
    low, high = np.percentile(dvars, (25, 75))
    return np.asarray(dvars > high + BOXPLOT_REACH * (high - low))


def framewise_displacement(run: Run) -> FloatArray | None:
    """(T,) framewise displacement in mm from the confounds, NaN where it has none; None without such a column.

    Where the layout has a table of displacements instead (`Run.motion`), these.

    Raises
    ------
    InputError
        If the column holds something else than numbers.
    """
    if run.motion:
        return np.array(read_relative_rms(run.motion))
    rows = read_table(run.confounds) if run.confounds else []
    if not rows or "framewise_displacement" not in rows[0]:
        return None
    try:
        return np.array([float(value) if value not in ("n/a", "") else np.nan for value in (row["framewise_displacement"] for row in rows)])
    except ValueError as error:
        raise InputError(f"{run.confounds}: framewise_displacement holds {error}; correct the table.") from error


def coverage_gap(covered: npt.NDArray[np.bool_], grid: Grid) -> str:
    """Which end of the brain has no data, in words: `below z = -50 mm`.

    From each of the six ends of the mask, planes are counted while more than `EMPTY_PLANE` of their mask voxels are
    uncovered; the end where most voxels are lost this way is named.

    Parameters
    ----------
    covered : (P, V) True where there is data.

    Returns
    -------
    Words, empty if no end has lost a whole plane.
    """
    missing = grid.unpack(grid.voxel_mask & ~covered, fill=False)
    best, words = 0, ""
    for axis, sides in enumerate(SIDES):
        others = tuple(other for other in range(3) if other != axis)
        brain, lost = grid.mask.sum(axis=others), missing.sum(axis=others)
        planes = np.flatnonzero(brain)
        for side, order in zip(sides, (planes, planes[::-1]), strict=True):
            empty = lost[order] > EMPTY_PLANE * brain[order]
            count = len(empty) if empty.all() else int(np.argmin(empty))
            if count and lost[order[:count]].sum() > best:
                best = int(lost[order[:count]].sum())
                # The face between the last missing plane and the first one with data.
                step = 0.5 if order[0] == planes[0] else -0.5
                edge = grid.lattice.origin_mm[axis] + (order[count - 1] + step) * grid.lattice.voxel_mm
                words = f"{side} = {edge:g} mm"
    return words


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
