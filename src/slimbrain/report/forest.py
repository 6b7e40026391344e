"""The forest plot: one metric of every model with its interval, and what guessing scores."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from slimbrain.evaluate.result import Row
from slimbrain.report.ink import BLUE, INK, LINE, MUTED, ORANGE, PURPLE, Margins, drawing, to_svg

_LABEL_CHARACTERS, _FOREST_ROW_IN = 90, 0.36


def _name_line(axis: Axes, value: float, word: str, colour: str) -> None:
    """A word over a vertical line, towards the middle of the panel, where there is room."""
    left, right = axis.get_xlim()
    side = "left" if value < (left + right) / 2 else "right"
    axis.text(value, 0.77, f" {word} ", color=colour, fontsize=8, ha=side, va="bottom")


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
    with drawing(_FOREST_ROW_IN * len(rows), Margins(left=0.15, bottom=0.5, top=0.3)) as figure:
        axis = figure.subplots()
        for line, row in enumerate(rows):
            mine, top = row.model in ours, row.predictor == best
            colour = BLUE if mine else ORANGE if top else MUTED
            if row.low is not None and row.high is not None:
                width = 2.0 if mine or top else 1.3
                axis.plot((row.low, row.high), (-line, -line), color=colour, linewidth=width, solid_capstyle="butt")
            axis.plot(
                np.nan if row.mean is None else row.mean,
                -line,
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
        for line, row in enumerate(rows):
            label = textwrap.shorten(f"{row.model}: {row.method}", _LABEL_CHARACTERS, placeholder="…")
            axis.text(0, 0.2 - line, label, transform=axis.get_yaxis_transform(), va="bottom", fontsize=8)
        axis.set_yticks([])
        axis.set_ylim(-len(rows) + 0.6, 0.75)
        axis.set_xlabel(f"{metric}, mean and 95 % interval")
        axis.grid(axis="x", color=LINE)
        axis.set_axisbelow(True)
        axis.spines["left"].set_visible(False)
        return to_svg(figure, name, alt)
