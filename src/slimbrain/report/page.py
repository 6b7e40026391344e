"""The page itself: read the inputs, let one builder make each section, fill the template, write one file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from slimbrain import __version__
from slimbrain.atomic import write_text
from slimbrain.errors import StoreError
from slimbrain.report import evaluation, provenance, quality, summary, training, windows
from slimbrain.report.blocks import Section
from slimbrain.report.ink import theme_css
from slimbrain.report.inputs import Material, ReportInputs, read_material

Builder = Callable[[Material], Section]

BUILDERS: tuple[Builder, ...] = (summary.build, quality.build, windows.build, training.build, evaluation.build, provenance.build)
"""One a section, in the order of the page."""

TEMPLATE = "page.html.jinja"


def write_report(out: Path, inputs: ReportInputs) -> Path:
    """Write one HTML page that needs nothing beside itself: no network, no script, no other file.

    Parameters
    ----------
    out : the file to write, replaced as a whole.
    inputs : what to show; sections without input say so in a sentence.

    Raises
    ------
    InputError, StoreError
        If an input is missing or damaged, or the page cannot be written.
    """
    page = render(read_material(inputs))
    try:
        return write_text(Path(out), page)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror}); choose a folder you may write to.") from error


def render(material: Material) -> str:
    """The page as HTML text; everything but the drawings is escaped."""
    loader = PackageLoader("slimbrain.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE).render(
        title=material.inputs.title,
        sections=[build(material) for build in BUILDERS],
        light=theme_css(0),
        dark=theme_css(1),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
