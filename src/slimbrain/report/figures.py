"""Drawings of the page: carpet plot, mean image, window scores, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from slimbrain.grid import Grid
from slimbrain.report.ink import BAND, BLUE, GREEN, GREY, INK, MUTED, ORANGE, PURPLE, WIDTH_IN, Margins, drawing, to_svg
from slimbrain.saliency import WindowRow

_FloatArray = npt.NDArray[Any]
_Trace = tuple[_FloatArray, _FloatArray]
"""Seconds and values."""

FD_LABEL = "FD (mm)"

_CARPET_STD = 2.0
"""Cells are z-scored means; black and white lie at this many of their own standard deviations."""
_CARPET_ROWS, _CARPET_COLUMNS = 128, 512
"""A carpet is averaged down to this size: more would be invisible, and noise does not compress."""
_CARPET_SHADES = 32

_TRACE_STRETCHES = 200
"""Longer traces than twice this many values are thinned; a figure is about 420 points wide."""

_CUTS, _OUTLINE_MM = 6, 2.0
_VIEWS = (("sagittal", "x"), ("coronal", "y"), ("axial", "z"))
"""Name of the view and of its normal, in the order of the axes."""

_TIME_MARGINS = Margins(left=1.6, bottom=0.5)
"""The same for all figures over time, so that their time axes are aligned."""


def time_axis_span() -> tuple[float, float]:
    """Where the time axis begins and ends, as shares of a figure's width."""
    return _TIME_MARGINS.left / WIDTH_IN, 1 - _TIME_MARGINS.right / WIDTH_IN


_MARK_ROW_IN = 0.17
"""Height of a line of marks."""

_LineStyle = str | tuple[int, tuple[int, int]]

_CURVE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def _curve_styles(n: int, colours: Sequence[str] = _CURVE_COLOURS) -> list[tuple[str, _LineStyle]]:
    """A colour and a dash pattern for each of n curves, no two alike: solid in every colour, then dashes that grow longer."""
    styles: list[tuple[str, _LineStyle]] = []
    for place in range(n):
        turn, colour = divmod(place, len(colours))
        styles.append((colours[colour], (0, (2 * turn, 2)) if turn else "-"))
    return styles


@dataclass(frozen=True)
class Marks:
    """Marks below the traces of a carpet.

    Attributes
    ----------
    flagged : array
        (N,) seconds of flagged frames.
    chosen : sequence of (float, float)
        (onset, duration) in seconds of the windows that stage 1 chose.
    levels : mapping of str to float
        Value at which to draw a line, by label of the trace.
    """

    flagged: _FloatArray = field(default_factory=lambda: np.empty(0))
    chosen: Sequence[tuple[float, float]] = ()
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """Labels of the non-empty kinds."""
        return [label for label, found in (("flagged", len(self.flagged)), ("chosen", len(self.chosen))) if found]


def carpet(
    series: _FloatArray,
    height_mm: _FloatArray,
    tr: float,
    traces: Mapping[str, _Trace],
    marks: Marks,
    name: str,
    alt: str,
) -> Markup:
    """Every channel over time as shades of grey, with traces above.

    Parameters
    ----------
    series : array
        (T, C) channel means.
    height_mm : array
        (C,) their z in MNI mm; channels are sorted by it.
    tr : float
        Seconds per frame.
    traces : mapping of str to (array, array)
        Label with unit -> times (N,) in seconds and values (N,), NaN where undefined.
    marks : Marks
        Flagged frames and chosen windows, drawn between traces and carpet.
    """
    heights = [*(0.5 for _ in traces), *([_MARK_ROW_IN * len(marks.rows)] if marks.rows else []), 1.9]
    with drawing(sum(heights) * 1.05, _TIME_MARGINS, hspace=0.12) as figure:
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        styles = _curve_styles(len(traces), (ORANGE, PURPLE, GREEN, BLUE))
        for axis, (label, (times, values)), (colour, dashes) in zip(axes[: len(traces)], traces.items(), styles, strict=True):
            axis.plot(*_thinned(times, values), color=colour, linestyle=dashes, linewidth=0.9)
            if label in marks.levels:
                axis.axhline(marks.levels[label], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            _name_row(axis, label)
            axis.yaxis.set_major_locator(MaxNLocator(2))
            _without_times(axis)
        if marks.rows:
            _mark_rows(axes[-2], marks)
            _without_times(axes[-2])
        image = _shades(series[:, np.argsort(height_mm, kind="stable")].T)
        extent = (0.0, len(series) * tr, 0.0, 1.0)
        axes[-1].imshow(image, cmap=GREY, vmin=0, vmax=1, aspect="auto", interpolation="none", origin="lower", extent=extent)
        axes[-1].set_yticks([0.05, 0.95], ["inferior", "superior"])
        _name_row(axes[-1], f"{series.shape[1]:,} channels")
        axes[-1].set_xlabel("time (s)")
        axes[-1].set_xlim(0, len(series) * tr)
        return to_svg(figure, name, alt)


def _thinned(times: _FloatArray, values: _FloatArray) -> _Trace:
    """A long trace as the lowest and the highest value of each stretch, in order of time: no visible spike is lost.

    Parameters
    ----------
    times, values : array
        (N,); values may be NaN, and a stretch of NaN stays a gap.
    """
    if len(values) <= 2 * _TRACE_STRETCHES:
        return times, values
    kept = []
    for stretch in np.array_split(np.arange(len(values)), _TRACE_STRETCHES):
        known = stretch[np.isfinite(values[stretch])]
        ends = {int(known[np.argmin(values[known])]), int(known[np.argmax(values[known])])} if len(known) else {int(stretch[0])}
        kept += sorted(ends)
    return times[kept], values[kept]


def _without_times(axis: Axes) -> None:
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False, labelbottom=False)


def _mark_rows(axis: Axes, marks: Marks) -> None:
    """Ticks at flagged frames, bars over chosen windows, one line each."""
    lines = {label: -line for line, label in enumerate(marks.rows)}
    if "flagged" in lines:
        _ticks(axis, marks.flagged, lines["flagged"], ORANGE, 1.2)
    if "chosen" in lines:
        axis.broken_barh(list(marks.chosen), (lines["chosen"] - 0.25, 0.5), facecolors=BLUE, linewidth=0)
    _label_lines(axis, marks.rows)


def _ticks(axis: Axes, seconds: _FloatArray, line: float, colour: str, width: float) -> None:
    """Vertical ticks as one path: one path per tick would be most of the page."""
    times = np.repeat(np.asarray(seconds, np.float64), 3)
    times[2::3] = np.nan
    axis.plot(times, np.tile((line - 0.38, line + 0.38, np.nan), len(seconds)), color=colour, linewidth=width, solid_capstyle="butt")


def _label_lines(axis: Axes, labels: Sequence[str]) -> None:
    """Name lines of marks from the top down, at heights 0, -1, ..."""
    axis.set_ylim(-len(labels) + 0.4, 0.6)
    axis.set_yticks([-line for line in range(len(labels))], list(labels))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _name_row(axis: Axes, label: str) -> None:
    """Name a row of panels at the left edge of the figure, level with its middle."""
    axis.set_ylabel(label, rotation=0, ha="left", va="center")
    box = axis.get_position()
    axis.yaxis.set_label_coords(-box.x0 / box.width, 0.5)


def _shades(series: _FloatArray) -> _FloatArray:
    """(C, T) channels as few shades from 0 to 1, averaged down to what can be seen."""
    series = _averaged(_averaged(series, _CARPET_ROWS).T, _CARPET_COLUMNS).T
    std = series.std(axis=1, keepdims=True)
    z = (series - series.mean(axis=1, keepdims=True)) / np.where(std > 0, std, 1)
    shade = np.clip(0.5 + z / (2 * _CARPET_STD), 0, 1)
    return np.round(shade * (_CARPET_SHADES - 1)) / (_CARPET_SHADES - 1)


def _averaged(rows: _FloatArray, most: int) -> _FloatArray:
    """Means of neighbouring rows, at most `most` of them."""
    if len(rows) <= most:
        return rows
    starts = np.linspace(0, len(rows), most, endpoint=False).astype(int)
    return np.add.reduceat(rows, starts, axis=0) / np.diff([*starts, len(rows)])[:, None]


def mosaic(grid: Grid, mean: _FloatArray, covered: npt.NDArray[np.bool_], name: str, alt: str) -> Markup:
    """The mean image in cuts along three axes, with the outline of the mask and the places without data.

    Parameters
    ----------
    mean : array
        (P, V) mean over time.
    covered : array
        (P, V) True where the run has data.
    """
    volume, missing = grid.unpack(mean), grid.unpack(~covered & grid.voxel_mask) > 0
    top = float(np.percentile(mean[covered & grid.voxel_mask], 98)) if (covered & grid.voxel_mask).any() else 1.0
    with drawing(4.1, Margins(left=0.35, bottom=0.05, right=0.05, top=0.3), wspace=0.04, hspace=0.22) as figure:
        axes = figure.subplots(len(_VIEWS), _CUTS)
        for axis, row in enumerate(axes):
            for place, panel in zip(_cuts(grid.mask, axis), row, strict=True):
                _cut(panel, grid, volume, missing, axis, int(place), top)
            row[0].text(-0.08, 0.5, _VIEWS[axis][0], transform=row[0].transAxes, rotation=90, ha="right", va="center", fontweight="bold")
        return to_svg(figure, name, alt)


def _cuts(mask: npt.NDArray[np.bool_], axis: int) -> _FloatArray:
    """Places of the cuts along an axis, equally far from each other within the mask."""
    planes = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    return np.round(np.linspace(planes[0], planes[-1], _CUTS + 2)[1:-1]).astype(int)


def _cut(panel: Axes, grid: Grid, volume: _FloatArray, missing: _FloatArray, axis: int, place: int, top: float) -> None:
    inside, values, lost = (np.take(array, place, axis=axis).T for array in (grid.mask, volume, missing))
    edge = grid.lattice.edge
    panel.imshow(np.ma.masked_where(~inside | lost, values), cmap=GREY, vmin=0, vmax=top, origin="lower", interpolation="none")
    # The page cannot recolour pixels: this tint is the light theme's orange, which shows on both.
    panel.imshow(np.ma.masked_where(~lost, np.ones_like(values)), cmap=ListedColormap(["#d9822b"]), origin="lower", interpolation="none")
    # Along the edges of voxels: a contour of the voxels themselves would cut through their middles.
    steps = max(1, round(grid.lattice.voxel_mm / _OUTLINE_MM))
    fine = np.kron(inside, np.ones((steps, steps)))
    panel.contour(fine, levels=[0.5], colors=[BLUE], linewidths=0.9, extent=(-0.5, edge - 0.5, -0.5, edge - 0.5))
    millimetres = grid.lattice.origin_mm[axis] + place * grid.lattice.voxel_mm
    panel.set_title(f"{_VIEWS[axis][1]} = {millimetres:.0f} mm", loc="center", fontsize=8, fontweight="normal")
    shadow = np.argwhere(grid.mask.any(axis=axis))
    (left, low), (right, high) = shadow.min(axis=0), shadow.max(axis=0)
    panel.set_xlim(max(-0.5, left - 1.5), min(edge - 0.5, right + 1.5))
    panel.set_ylim(max(-0.5, low - 1.5), min(edge - 0.5, high + 1.5))
    panel.set_axis_off()


def window_scores(
    rows: Sequence[WindowRow], k: int, ticks: Mapping[str, _FloatArray], name: str, alt: str, motion: _Trace | None = None
) -> Markup:
    """Informativeness, novelty, explained energy and score of a session's windows over time, the chosen ones shaded.

    Parameters
    ----------
    rows : sequence of WindowRow
        One per window, in order of time.
    k : int
        Windows chosen.
    ticks : mapping of str to array
        Label -> seconds to mark below.
    motion : (array, array) or None
        Seconds, and framewise displacement in mm; left out if None.
    """
    marks = {label: seconds for label, seconds in ticks.items() if len(seconds)}
    parts = ("informativeness", "novelty", "explained", "score")
    heights = [0.62, 0.62, 0.62, 0.72, *([0.45] if motion else []), *([_MARK_ROW_IN * len(marks)] if marks else [])]
    with drawing(sum(heights) * 1.12, _TIME_MARGINS, hspace=0.18) as figure:
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        edges = np.array([*(row.onset_s for row in rows), rows[-1].onset_s + rows[-1].duration_s])
        for axis, part, colour in zip(axes[: len(parts)], parts, (PURPLE, GREEN, BLUE, INK), strict=True):
            axis.stairs([getattr(row, part) for row in rows], edges, baseline=None, color=colour, linewidth=1.3)
            _name_row(axis, part)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.grid(axis="y")
        if motion:
            axes[len(parts)].plot(*_thinned(*motion), color=ORANGE, linewidth=0.9)
            _name_row(axes[len(parts)], FD_LABEL)
            axes[len(parts)].yaxis.set_major_locator(MaxNLocator(2))
        for axis in axes:
            for row in rows:
                if row.among(k):
                    axis.axvspan(row.onset_s, row.onset_s + row.duration_s, color=BAND, linewidth=0, zorder=0)
        if marks:
            _tick_rows(axes[-1], marks)
        axes[-1].set_xlim(0, edges[-1])
        axes[-1].set_xlabel("time (s)")
        return to_svg(figure, name, alt)


def _tick_rows(axis: Axes, marks: Mapping[str, _FloatArray]) -> None:
    """One line of ticks per label, from the top down; the labels, not the colours, tell more than three lines apart."""
    styles = _curve_styles(len(marks), (BLUE, INK, ORANGE))
    for line, (seconds, (colour, _)) in enumerate(zip(marks.values(), styles, strict=True)):
        _ticks(axis, seconds, -line, colour, 1.6)
    _label_lines(axis, list(marks))


_PANEL_COLUMNS = 3

Curve = tuple[Sequence[float], Sequence[float]]


def curves(panels: Mapping[str, Mapping[str, Curve]], name: str, alt: str) -> Markup:
    """Logged numbers over steps, one panel per quantity; a panel of several curves has a legend.

    Parameters
    ----------
    panels : mapping of str to mapping of str to Curve
        Title with unit -> label -> steps and values.
    """
    lines = math.ceil(len(panels) / _PANEL_COLUMNS)
    with drawing(1.65 * lines, Margins(left=0.6, bottom=0.5, top=0.25), wspace=0.4, hspace=0.35) as figure:
        grid = figure.subplots(lines, _PANEL_COLUMNS, sharex=True, squeeze=False).ravel()
        for axis, (title, labelled) in zip(grid[: len(panels)], panels.items(), strict=True):
            for (label, (steps, values)), (colour, dashes) in zip(labelled.items(), _curve_styles(len(labelled)), strict=True):
                marker = "o" if len(steps) == 1 else None
                axis.plot(steps, values, color=colour, linestyle=dashes, label=label, marker=marker, markersize=3)
            axis.set_title(title)
            axis.grid(axis="y")
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4))
            if len(labelled) > 1:
                axis.legend(handlelength=1.2, borderaxespad=0.1, labelspacing=0.2)
        for place, axis in enumerate(grid):
            if place >= len(panels):
                axis.set_axis_off()
            elif place + _PANEL_COLUMNS >= len(panels):
                axis.set_xlabel("step")
                axis.tick_params(labelbottom=True)
        return to_svg(figure, name, alt)
