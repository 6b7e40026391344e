"""What a prepared run is worth: coverage and where it ends, tSNR, motion, DVARS, global signal, spikes, likeness to the template."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.bids import read_relative_rms, read_table
from slimbrain.prep.denoise import Confounds
from slimbrain.prep.likeness import Likeness
from slimbrain.prep.runs import Run
from slimbrain.prep.timing import TimeAxis
from slimbrain.prep.volume import Prepared

_FloatArray = npt.NDArray[Any]

FD_THRESHOLD_MM = 0.5
"""Frames that moved more are marked (Power et al. 2012)."""

MEASURES = (
    "coverage",
    "tsnr",
    "dvars_mean",
    "spikes",
    "global_signal_mean",
    "global_signal_std",
    "fd_mean",
    "fd_max",
    "frozen_frames",
    "repeated_frames",
    "nonfinite_frames",
    "flagged",
    "flagged_share",
    "template_overlap",
)
"""Names of all scalars that a run may have."""

_BOXPLOT_REACH = 1.5
"""A DVARS spike lies over the third quartile by this many interquartile ranges, as in FSL's fsl_motion_outliers."""

_EMPTY_PLANE = 0.95
"""A plane of the mask counts as missing when more than this share of it has no data; a few stray voxels do not save it."""

_SIDES = (("left of x", "right of x"), ("behind y", "in front of y"), ("below z", "above z"))
"""Words for what lies beyond a plane, at the low and the high end of each axis."""


_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""fMRIPrep's names of how a head moved: millimetres, and radians."""

_HEAD_RADIUS_MM = 50.0
"""Turns a rotation into the millimetres that it moves the cortex (Power et al. 2012)."""


@dataclass(frozen=True)
class Quality:
    """Figures about one run; docs/quality.md defines each.

    Attributes
    ----------
    scalars : dict
        One number each, named as in `MEASURES`: `coverage` (share of the mask), `tsnr` (median over covered voxels of mean / std),
        `dvars_mean`, `spikes`, `global_signal_mean`, `global_signal_std` (image units), `fd_mean`, `fd_max` in mm where the motion is
        known, `frozen_frames`, `repeated_frames`, `nonfinite_frames`, `flagged` (frames), `flagged_share`, and `template_overlap` where
        there was something to compare.
    series : dict
        Lists of one value per recorded frame: `time_s`, `dvars`, `global_signal` and, where known, `fd` (mm); None where undefined.
        `flagged` lists the recorded frames that moved more than `FD_THRESHOLD_MM`, have a spike, are frozen or copies, were bridged, or
        were left out by scrubbing; `flagged_stored` the frames of the store that come from them.
    gap : str
        Where the image ends within the brain, empty if nowhere in particular.
    flips : dict
        Overlap with the brain mask by flip (`likeness.FLIPS`).
    warnings : list of str
        Sentences for the user.
    """

    scalars: dict[str, float]
    series: dict[str, list[Any]]
    gap: str = ""
    flips: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What a sidecar holds under `QC`."""
        return {**self.scalars, "gap": self.gap, "template_flips": self.flips}


def assess(
    prepared: Prepared,
    grid: Grid,
    run: Run,
    times: TimeAxis,
    warn_coverage: float,
    likeness: Likeness | None = None,
    confounds: Confounds | None = None,
) -> Quality:
    """Measure a prepared run.

    Parameters
    ----------
    prepared : Prepared
        The run on the grid.
    run : Run
        Names the table of confounds that holds the motion.
    times : TimeAxis
        Recorded and stored frames.
    warn_coverage : float
        Share of the mask under which to warn.
    likeness : Likeness or None
        How well the image fits the template.
    confounds : Confounds or None
        What was regressed out; the frames it left out of the fit are marked.
    """
    gap = _coverage_gap(prepared.covered, grid)
    displacement, motion_warnings = _motion(run, times.n_source)
    spikes, level = _dvars_spikes(prepared.dvars), prepared.global_signal
    frames = prepared.frames
    flagged = np.concatenate(([False], spikes)) | frames.frozen | frames.repeated | prepared.bridged
    if confounds is not None:
        flagged |= ~confounds.kept
    scalars: dict[str, float] = {"coverage": round(prepared.coverage, 6), "tsnr": _tsnr(prepared)}
    scalars |= {"dvars_mean": _rounded(float(prepared.dvars.mean())), "spikes": int(spikes.sum())}
    scalars |= {"global_signal_mean": _rounded(float(level.mean())), "global_signal_std": _rounded(float(level.std()))}
    series = _series(prepared, times, displacement)
    if displacement is not None:
        scalars |= {"fd_mean": _rounded(float(np.nanmean(displacement))), "fd_max": _rounded(float(np.nanmax(displacement)))}
        flagged |= np.nan_to_num(displacement) > FD_THRESHOLD_MM
    scalars |= {"frozen_frames": int(frames.frozen.sum()), "repeated_frames": int(frames.repeated.sum())}
    scalars |= {"nonfinite_frames": int(frames.nonfinite.sum())}
    scalars |= {"flagged": int(flagged.sum()), "flagged_share": _rounded(float(flagged.mean()))}
    series |= {"flagged": np.flatnonzero(flagged).tolist(), "flagged_stored": np.flatnonzero(_in_store(flagged, times)).tolist()}
    if likeness is not None:
        scalars["template_overlap"] = _rounded(likeness.overlap)
    flips = {name: _rounded(value) for name, value in likeness.flipped.items()} if likeness else {}
    seen = likeness.warnings if likeness else []
    warnings = [*_coverage_warnings(prepared, gap, warn_coverage), *seen, *motion_warnings, *frames.warnings]
    return Quality(scalars, series, gap, flips, warnings)


def _series(prepared: Prepared, times: TimeAxis, displacement: _FloatArray | None) -> dict[str, list[Any]]:
    """One value per recorded frame; None where it is undefined."""
    series: dict[str, list[Any]] = {
        "time_s": [_rounded(frame * times.source_tr) for frame in range(times.n_source)],
        "dvars": [None, *map(_rounded, prepared.dvars.tolist())],
        "global_signal": [_rounded(value) for value in prepared.global_signal.tolist()],
    }
    if displacement is not None:
        series["fd"] = [_rounded(value) if np.isfinite(value) else None for value in displacement.tolist()]
    return series


def _motion(run: Run, n_frames: int) -> tuple[_FloatArray | None, list[str]]:
    """Framewise displacement of a run where its table fits and has any, and what to say where it does not fit."""
    table, displacement = run.motion or run.confounds, _framewise_displacement(run)
    if table is None:
        return None, []
    n_rows = len(displacement) if displacement is not None else 0
    if n_rows != n_frames and (displacement is not None or not _has_rows(run)):
        return None, [f"{table} has {n_rows} rows for {n_frames} frames, so motion is not reported."]
    if displacement is None or not np.isfinite(displacement).any():
        return None, [f"{table} holds no motion, so none is reported."]
    return displacement, []


def _has_rows(run: Run) -> bool:
    return run.confounds is not None and bool(read_table(run.confounds))


def _coverage_warnings(prepared: Prepared, gap: str, warn_coverage: float) -> list[str]:
    warnings = []
    if prepared.coverage < warn_coverage:
        where = f", missing {gap}" if gap else ""
        warnings.append(f"covers {prepared.coverage:.1%} of the brain mask{where}.")
    if prepared.n_nonfinite:
        frames = int(prepared.frames.nonfinite.sum())
        where = f" in {frames} of {len(prepared.frames.nonfinite)} frames" if frames else ""
        warnings.append(f"{prepared.n_nonfinite} brain voxels hold NaN or infinite values{where} and count as not covered.")
    if prepared.bridged.any():
        bridged = f"{int(prepared.bridged.sum())} of {len(prepared.bridged)} frames have no finite value in most of the brain"
        warnings.append(f"{bridged}; they were interpolated in time, and are flagged.")
    return warnings


def _in_store(flagged: npt.NDArray[np.bool_], times: TimeAxis) -> npt.NDArray[np.bool_]:
    """(T,) True at stored frames that come from a flagged one: the same frame, or, after resampling, one of the two beside it.

    Parameters
    ----------
    flagged : ndarray of bool
        (T_source,) True at recorded frames.
    """
    place = np.arange(times.n_frames) * (times.tr / times.source_tr)
    # The slack takes a frame that falls on a recorded one for that frame, whatever the division leaves.
    before, after = (np.clip(np.asarray(edge, int), 0, times.n_source - 1) for edge in (np.floor(place + 1e-6), np.ceil(place - 1e-6)))
    return np.asarray(flagged[before] | flagged[after])


def _tsnr(prepared: Prepared) -> float:
    """Median over covered voxels of the mean over time divided by the standard deviation over time."""
    mean, std = prepared.mean[prepared.covered], prepared.std[prepared.covered]
    return _rounded(float(np.median(np.abs(mean) / std)))


def _dvars_spikes(dvars: _FloatArray) -> npt.NDArray[np.bool_]:
    """(T - 1,) True where the change between two frames stands out (`_BOXPLOT_REACH`)."""
    low, high = np.percentile(dvars, (25, 75))
    return np.asarray(dvars > high + _BOXPLOT_REACH * (high - low))


def _framewise_displacement(run: Run) -> _FloatArray | None:
    """(T,) framewise displacement in mm, NaN where it is undefined; None without motion in the table of confounds.

    The column `_framewise_displacement`, else the sum of the absolute changes of the six `_MOTION` columns, rotations on a
    sphere of `_HEAD_RADIUS_MM` (Power et al. 2012), which is how that column is computed.

    Where the layout has a table of displacements instead (`Run.motion`), these.

    Raises
    ------
    InputError
        If a column holds something else than numbers.
    """
    if run.motion:
        return _finite(run.motion, "it", read_relative_rms(run.motion))
    rows = read_table(run.confounds) if run.confounds else []
    columns = rows[0].keys() if rows else set()
    if "framewise_displacement" in columns:
        return _column(run, rows, "framewise_displacement")
    if not columns >= set(_MOTION):
        return None
    motion = np.stack([_column(run, rows, name) for name in _MOTION], axis=1) * np.repeat((1.0, _HEAD_RADIUS_MM), 3)
    return np.concatenate(([np.nan], np.abs(np.diff(motion, axis=0)).sum(axis=1)))


def _column(run: Run, rows: list[dict[str, str]], name: str) -> _FloatArray:
    try:
        values = [float(row[name]) if row[name] not in ("n/a", "") else np.nan for row in rows]
    except ValueError as error:
        raise InputError(f"{run.confounds}: {name} holds something else than finite numbers ({error}); correct the table.") from error
    return _finite(run.confounds, name, values)


def _finite(table: Path | None, what: str, values: list[float]) -> _FloatArray:
    """(T,) numbers; NaN stands for an empty cell."""
    if np.isinf(values).any():
        raise InputError(f"{table}: {what} holds something else than finite numbers (inf); correct the table.")
    return np.array(values)


def _coverage_gap(covered: npt.NDArray[np.bool_], grid: Grid) -> str:
    """Which end of the brain has no data, in words: `below z = -50 mm`.

    From each of the six ends of the mask, planes are counted while more than `_EMPTY_PLANE` of their mask voxels are
    uncovered; the end where most voxels are lost this way is named.

    Parameters
    ----------
    covered : ndarray of bool
        (P, V) True where there is data.

    Returns
    -------
    str
        Words, empty if no end has lost a whole plane.
    """
    missing = grid.unpack(grid.voxel_mask & ~covered, fill=False)
    best, words = 0, ""
    for axis, sides in enumerate(_SIDES):
        others = tuple(other for other in range(3) if other != axis)
        brain, lost = grid.mask.sum(axis=others), missing.sum(axis=others)
        planes = np.flatnonzero(brain)
        for side, order in zip(sides, (planes, planes[::-1]), strict=True):
            empty = lost[order] > _EMPTY_PLANE * brain[order]
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
