"""The curve over the number of labelled participants: one line per model or baseline, and the chance level."""

from __future__ import annotations

import textwrap

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from slimbrain.evaluate.result import Estimate, Result
from slimbrain.evaluate.table import chance_of
from slimbrain.report.ink import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, Margins, drawing, to_svg

_LineStyle = str | tuple[float, tuple[float, ...]]
_COLOURS = (GREEN, PURPLE, INK, MUTED)
_DASHES: tuple[_LineStyle, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (1, 1)))
_MARKS = ("o", "^", "v", "x", "+")
_NAME_CHARACTERS, _NAMES_IN, _NAME_IN = 54, 3.4, 0.165
"""Of a line of a name in the legend, which wraps, the width that such a one takes, and its height."""
_LEAST_IN = 3.0

_Predictor = tuple[str, str]


def label_curve(result: Result, metric: str, name: str, alt: str) -> Markup:
    """The primary metric over the number of labelled participants.

    Intervals are drawn for ours and for the baseline that is best with most labels; the table has all.

    Parameters
    ----------
    metric : str
        Its name in words.
    """
    styles = _styles(result)
    names = {predictor: textwrap.wrap(": ".join(predictor), _NAME_CHARACTERS) for predictor in styles}
    height = max(_LEAST_IN, _NAME_IN * (sum(map(len, names.values())) + 2))
    with drawing(height, Margins(left=0.65, bottom=0.5, right=_NAMES_IN, top=0.15)) as figure:
        axis = figure.subplots()
        axis.set_xscale("log")
        for predictor, (colour, dashes, mark, width) in styles.items():
            points = [(point.labelled, row) for point in result.labelled for row in point.rows if row.predictor == predictor]
            known = [(n, row) for n, row in points if row.mean is not None]
            numbers, means = [n for n, _ in known], [row.mean or 0.0 for _, row in known]
            label = "\n".join(names[predictor])
            axis.plot(numbers, means, color=colour, linestyle=dashes, marker=mark, markersize=2 + width, linewidth=width, label=label)
            if width > 1.5:
                _intervals(axis, [(n, row) for n, row in known], colour)
        chance = chance_of(result, result.metrics[0])
        if chance is not None:
            axis.axhline(chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="chance", zorder=0)
        sizes = [point.labelled for point in result.labelled]
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("labelled participants")
        axis.set_ylabel(metric)
        axis.grid(axis="y", color=LINE)
        axis.set_axisbelow(True)
        axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), handlelength=2.6, labelspacing=0.25, borderaxespad=0)
        return to_svg(figure, name, alt)


def _styles(result: Result) -> dict[_Predictor, tuple[str, _LineStyle, str, float]]:
    """Colour, dashes, mark and width of each line: ours and the best baseline stand out, no two of the others are alike."""
    best, others = result.best_baseline.predictor, 0
    found: dict[_Predictor, tuple[str, _LineStyle, str, float]] = {}
    for predictor in result.by_predictor:
        if predictor[0] in result.ours:
            mine = sum(style[0] == BLUE for style in found.values())
            found[predictor] = (BLUE, _DASHES[mine % len(_DASHES)], "s", 2.4)
        elif predictor == best:
            found[predictor] = (ORANGE, "-", "D", 2.0)
        else:
            turn, colour = divmod(others, len(_COLOURS))
            found[predictor] = (_COLOURS[colour], _DASHES[turn % len(_DASHES)], _MARKS[turn % len(_MARKS)], 1.1)
            others += 1
    return found


def _intervals(axis: Axes, points: list[tuple[int, Estimate]], colour: str) -> None:
    """Bars of 95 % intervals, those of the orange line a little to the right, so that none hides another."""
    shift = 1.02 if colour == ORANGE else 1 / 1.02
    for n, row in points:
        if row.low is not None and row.high is not None:
            axis.plot(
                [n * shift, n * shift], [row.low, row.high], color=colour, linewidth=1.2, solid_capstyle="butt", alpha=np.float64(0.8)
            )
