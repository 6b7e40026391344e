"""The forest plot: one metric of every model with its interval, and what guessing scores."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from slimbrain.evaluate.result import Row
from slimbrain.report.ink import BLUE, INK, LINE, MUTED, NARROW_FONT, NARROW_IN, ORANGE, PURPLE, Margins, drawing, to_svg

_LABEL_CHARACTERS = 56
"""Of a line of a label, which wraps: as many as fit the width in the widest of common typefaces."""
_LINE_IN, _BAR_IN = 0.165, 0.23
"""Height of a line of a label, and of the bar below it."""


def _name_line(axis: Axes, value: float, word: str, colour: str) -> None:
    """A word over a vertical line, towards the middle of the panel, where there is room."""
    left, right = axis.get_xlim()
    side = "left" if value < (left + right) / 2 else "right"
    axis.text(value, axis.get_ylim()[1], f" {word} ", color=colour, fontsize=NARROW_FONT, ha=side, va="bottom")


def forest(
    rows: Sequence[Row],
    ours: frozenset[str],
    best: tuple[str, str],
    published: float | None,
    chance: float | None,
    metric: str,
    name: str,
    alt: str,
) -> Markup:
    """One metric of every model with its interval, ours on top.

    Parameters
    ----------
    rows : sequence of mapping of str to object
        Result rows of one metric, those without a value left out.
    ours : set of str
        Names of our models.
    best : (str, str)
        Model and method of the best baseline.
    published : float or None
        Value from the literature, or None.
    chance : float or None
        What guessing scores, or None where that is not known.
    metric : str
        Its name in words.
    """
    labels = [textwrap.wrap(f"{row.model}: {row.method}", _LABEL_CHARACTERS) for row in rows]
    # Inches below the top of the panel.
    bottoms = np.cumsum([_LINE_IN * len(label) + _BAR_IN for label in labels])
    places, height = bottoms - _BAR_IN / 2, max(_BAR_IN, *bottoms)
    with drawing(height, Margins(left=0.15, bottom=0.55, top=0.3), width_in=NARROW_IN) as figure:
        axis = figure.subplots()
        axis.set_ylim(-height, 0)
        for place, row in zip(places, rows, strict=True):
            mine, top = row.model in ours, row.predictor == best
            colour = BLUE if mine else ORANGE if top else MUTED
            if row.low is not None and row.high is not None:
                width = 2.0 if mine or top else 1.3
                axis.plot((row.low, row.high), (-place, -place), color=colour, linewidth=width, solid_capstyle="butt")
            axis.plot(
                np.nan if row.mean is None else row.mean,
                -place,
                marker="s" if mine else "D" if top else "o",
                color=colour,
                markersize=5.5 if mine or top else 4.5,
            )
        if chance is not None:
            axis.axvline(chance, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=0)
        if published is not None:
            axis.axvline(published, color=PURPLE, linestyle="--", linewidth=1.1)
        for value, word, colour in ((chance, "chance", INK), (published, "published", PURPLE)):
            if value is not None:
                _name_line(axis, value, word, colour)
        # Above the bars, not beside them: on a phone, names at the side would leave no room for what they name.
        for bottom, label in zip(bottoms, labels, strict=True):
            for line, text in enumerate(reversed(label)):
                axis.text(
                    0, _BAR_IN + _LINE_IN * line - bottom, text, transform=axis.get_yaxis_transform(), va="bottom", fontsize=NARROW_FONT
                )
        axis.set_yticks([])
        axis.tick_params(labelsize=NARROW_FONT)
        axis.set_xlabel(f"{metric}, mean and 95 % interval", fontsize=NARROW_FONT)
        axis.grid(axis="x", color=LINE)
        axis.set_axisbelow(True)
        axis.spines["left"].set_visible(False)
        return to_svg(figure, name, alt)
