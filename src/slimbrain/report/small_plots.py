"""Small plots beside each other: how many there are of each kind, and how numbers are spread."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimbrain.report.ink import BLUE, Margins, drawing, to_svg

_COLUMNS, _HEIGHT_IN = 3, 1.5
_MOST_BARS, _NAME_CHARACTERS, _BINS = 8, 12, 16


@dataclass(frozen=True)
class Panel:
    """One plot: a histogram of `numbers`, or a bar for each of `bars`.

    Attributes
    ----------
    title : str
        What, with its unit.
    words : str
        The same for readers who cannot see it.
    bars : tuple of (str, int)
        Names and how many there are of each.
    """

    title: str
    words: str
    numbers: tuple[float, ...] = ()
    bars: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of_numbers(cls, title: str, values: Sequence[float]) -> Panel:
        low, middle, high = np.percentile(values, (0, 50, 100))
        return cls(title, f"{title}: {low:.3g} to {high:.3g}, median {middle:.3g}.", numbers=tuple(values))

    @classmethod
    def of_names(cls, title: str, names: Sequence[str]) -> Panel:
        """The most frequent names, the rest together."""
        counted = Counter(names).most_common()
        kept = counted if len(counted) <= _MOST_BARS else counted[: _MOST_BARS - 1]
        rest = sum(n for _, n in counted[len(kept) :])
        bars = (*kept, *([(f"{len(counted) - len(kept)} others", rest)] if rest else []))
        if rest:
            title = f"{title}, {len(kept)} largest of {len(counted)}"
        return cls(title, f"{title}: {', '.join(f'{name} {n}' for name, n in bars)}.", bars=bars)


def small_plots(panels: Sequence[Panel], name: str, alt: str) -> Markup:
    """All panels in rows of three."""
    lines = math.ceil(len(panels) / _COLUMNS)
    with drawing(_HEIGHT_IN * lines, Margins(left=0.9, bottom=0.3, top=0.25), wspace=0.65, hspace=0.55) as figure:
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
        for axis, panel in zip(axes[: len(panels)], panels, strict=True):
            axis.set_title(panel.title)
            _bars(axis, panel.bars) if panel.bars else _histogram(axis, panel.numbers)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        return to_svg(figure, name, alt)


def _bars(axis: Axes, bars: Sequence[tuple[str, int]]) -> None:
    places = [-place for place in range(len(bars))]
    axis.barh(places, [n for _, n in bars], color=BLUE, height=0.7)
    axis.set_yticks(places, [textwrap.shorten(name, _NAME_CHARACTERS, placeholder="…") or name[:_NAME_CHARACTERS] for name, _ in bars])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _histogram(axis: Axes, numbers: Sequence[float]) -> None:
    axis.hist(numbers, bins=_BINS, color=BLUE)
    axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(4))
