"""What a page is made of, as data: builders return sections of blocks, the template alone knows HTML.

Texts are plain and the template escapes them. Only `Figure.svg` is markup, and `figures.py` its only source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from markupsafe import Markup

MISSING = "n/a"

Mark = Literal["", "ours", "best", "total"]


@dataclass(frozen=True)
class Prose:
    """One paragraph, left out on paper if it says how to work the page."""

    kind: ClassVar[str] = "prose"
    text: str
    on_screen: bool = False


@dataclass(frozen=True)
class VerdictBlock:
    """A sentence that the reader should not miss."""

    kind: ClassVar[str] = "verdict"
    text: str


@dataclass(frozen=True)
class WarningBlock:
    """What a reader has to know before looking at what follows."""

    kind: ClassVar[str] = "warning"
    text: str


@dataclass(frozen=True)
class Column:
    """Head of a column; numbers are set flush right."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class _Row:
    """Cells as text, the first one naming the row, and how to set it off."""

    cells: tuple[str, ...]
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; the reader may sort what has several rows, but for rows marked `total`, which stay last."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[_Row, ...]

    @property
    def sortable(self) -> bool:
        return sum(row.mark != "total" for row in self.rows) > 2


@dataclass(frozen=True)
class Figure:
    """An inline SVG, its caption, and the words that stand for it where it cannot be seen."""

    kind: ClassVar[str] = "figure"
    svg: Markup
    caption: str
    alt: str


@dataclass(frozen=True)
class Code:
    """Lines to copy; `prose` is wrapped and set as text."""

    kind: ClassVar[str] = "code"
    caption: str
    lines: tuple[str, ...]
    prose: bool = False


@dataclass(frozen=True)
class Data:
    """JSON that the page's script reads by its id; the reader sees nothing of it."""

    kind: ClassVar[str] = "data"
    id: str
    value: Any


@dataclass(frozen=True)
class Explorer:
    """A figure over time along which a reader moves from window to window.

    Attributes
    ----------
    id : str
        Unique on the page.
    figure : Figure
        Drawn with the margins of `figures.time_axis_span`.
    label : str
        The session.
    value : mapping of str to object
        What the script shows of each window (`explorer.describe`).
    has_maps : bool
        Whether `value` has a mean map of each window.
    """

    kind: ClassVar[str] = "explorer"
    id: str
    figure: Figure
    label: str
    value: Mapping[str, Any]
    has_maps: bool


@dataclass(frozen=True)
class Viewer:
    """The slice viewer; its maps are the data called `ID-maps`."""

    kind: ClassVar[str] = "viewer"
    id: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that stay folded until asked for."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: tuple[Figure | Table | Prose | Explorer | Code, ...]


Block = Prose | VerdictBlock | WarningBlock | Table | Figure | Code | Heading | Fold | Data | Explorer | Viewer


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes
    ----------
    id : str
        Anchor.
    title : str
        Heading.
    blocks : tuple of Block
        Content in order.
    absent : str
        Why there is no content and what would add it, from a small letter on; empty if there is.
    """

    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    absent: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it says only why there is no content."""
        return bool(self.absent and not self.blocks)


@dataclass(frozen=True)
class Field:
    """A measure that tables show: key in the data, words with unit for the head, digits after the point."""

    key: str
    head: str
    digits: int = 2
    scale: float = 1.0

    def show(self, values: Mapping[str, float]) -> str:
        """The value as text, `n/a` where it is missing."""
        return number(values[self.key] * self.scale, self.digits) if self.key in values else MISSING


@dataclass(frozen=True)
class TableBuilder:
    """Collects rows under columns, so that a row that does not fit fails where it is made."""

    caption: str
    columns: tuple[Column, ...]
    rows: list[_Row] = field(default_factory=list)

    def add(self, cells: Sequence[str], mark: Mark = "") -> None:
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns of {self.caption!r}")
        self.rows.append(_Row(tuple(cells), mark))

    def build(self) -> Table:
        """The table, without columns in which no row has a value."""
        told = [
            place
            for place, column in enumerate(self.columns)
            if not column.numeric or not self.rows or any(row.cells[place] != MISSING for row in self.rows)
        ]
        rows = tuple(_Row(tuple(row.cells[place] for place in told), row.mark) for row in self.rows)
        return Table(self.caption, tuple(self.columns[place] for place in told), rows)


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits after the point; `n/a` for None and for what is not a number."""
    return MISSING if value is None or value != value else f"{value:,.{digits}f}"


def probability(value: float) -> str:
    """Four digits after the point; smaller ones are not shown as 0."""
    return "under 0.0001" if value < 1e-4 else f"{value:.4f}"


def short(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, and all those before the point."""
    if value is None or value != value:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def count(n: int, noun: str, plural: str = "") -> str:
    """`1 session`, `2 sessions`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
