"""Matplotlib figures as inline SVG that takes its colours and its typeface from the page.

A figure is drawn in the colours of the light theme. On export each becomes a CSS variable, so that one drawing serves
light, dark and print; text stays text, so that it can be read aloud, searched and scaled.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

_THEME = {
    "ink": ("#1c2128", "#e8eaed"),
    "muted": ("#57606a", "#a3adb8"),
    "line": ("#d0d7de", "#3a424c"),
    "blue": ("#0a5cb8", "#74b3ff"),
    "orange": ("#a94a06", "#f2a45f"),
    "green": ("#14713f", "#5fce98"),
    "purple": ("#7438ad", "#c9a2f8"),
    "band": ("#d3e5fa", "#1f3b5e"),
}
"""CSS variable -> its colour in the light and in the dark theme; text colours have a contrast of 4.5 or more on the page."""

INK, MUTED, LINE, BLUE, ORANGE, GREEN, PURPLE, BAND = (light for light, _ in _THEME.values())

WIDTH_IN = 7.6

NARROW_IN = 5.0
"""Width of a figure that a phone shows whole: a point of it is a pixel there."""

NARROW_FONT = 10
"""Points of its text."""

_NUMBER = re.compile(r"-?\d+\.\d{3,}")

# The names of colour maps are global in matplotlib, these objects are not.
GREY = LinearSegmentedColormap.from_list("page-grey", ["#000000", "#ffffff"])

# matplotlib types the keys of its settings one by one.
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    # A dollar sign in the name of a session is no formula.
    "text.parse_math": False,
    # Series hold hundreds of points at most; simplified paths keep the page small.
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


@dataclass(frozen=True)
class Margins:
    """Inches around the panels of a figure. Matplotlib's own layout would take longer than all the drawing."""

    left: float
    bottom: float
    right: float = 0.15
    top: float = 0.12

    def place(self, figure: Figure, wspace: float = 0.0, hspace: float = 0.0) -> None:
        """Put the panels within the margins; gaps as shares of a panel's width and height."""
        width, height = figure.get_size_inches()
        figure.subplots_adjust(self.left / width, self.bottom / height, 1 - self.right / width, 1 - self.top / height, wspace, hspace)


@contextmanager
def drawing(height_in: float, margins: Margins, wspace: float = 0.0, hspace: float = 0.0, width_in: float = WIDTH_IN) -> Iterator[Figure]:
    """A figure in the page's style, its height that of the panels; text must be made inside, where the style holds."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in + margins.top + margins.bottom))
        FigureCanvasSVG(figure)
        margins.place(figure, wspace, hspace)
        yield figure


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as one `<svg>` element for an HTML page.

    Parameters
    ----------
    name : str
        Unique on the page; ids within the drawing begin with it.
    alt : str
        Text for readers who cannot see the drawing.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    body = re.sub(r"^.*?<svg\b[^>]*>", "", buffer.getvalue(), count=1, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Hundredths of a point are invisible, and paths are most of the page. Text keeps its digits: 0.001 may be a label.
    body = re.sub(r"<[^>]*>", lambda tag: _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag[0]), body)
    body = re.sub(r"(?<=data:image/png;base64,)[^\"]+", lambda match: _grey_png(match[0]), body)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    named = {one or other for one, other in used}
    # Groups have ids that nothing refers to, some of them twice.
    body = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in named else "", body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    for variable, (light, _) in _THEME.items():
        body = body.replace(light, f"var(--{variable})")
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    kind = "drawing narrow" if width <= 72 * NARROW_IN else "drawing"
    head = Markup('<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">').format(kind, alt, width, height)
    # Markup as it is: matplotlib escapes the texts it writes.
    return head + Markup(body)


def _grey_png(text: str) -> str:
    """A PNG as base64 text, grey alone where it is grey and opaque: matplotlib writes four channels, three times the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    pixels = np.asarray(image.convert("RGBA"))
    if (pixels[..., 3] != 255).any() or (pixels[..., :3] != pixels[..., :1]).any():
        return text
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0])).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def theme_css(place: int) -> Markup:
    """Declarations of the CSS variables, 0 for the light theme, 1 for the dark one."""
    return Markup(" ".join(f"--{name}: {colours[place]};" for name, colours in _THEME.items()))
