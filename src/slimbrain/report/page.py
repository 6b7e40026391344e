"""The page itself: read the inputs, build each section, fill the template, write one file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from slimbrain import __version__
from slimbrain.colours import page_colours
from slimbrain.disk.atomic import write_text
from slimbrain.errors import StoreError
from slimbrain.report import evaluation, maps, methods, provenance, quality, summary, training, windows
from slimbrain.report.blocks import Section
from slimbrain.report.ink import theme_css
from slimbrain.report.inputs import Material, ReportInputs, read_material
from slimbrain.report.place import GENERATOR

_Builder = Callable[[Material], Section]

_BUILDERS: tuple[_Builder, ...] = (
    summary.build,
    evaluation.build,
    quality.build,
    windows.build,
    training.build,
    maps.build,
    methods.build,
    provenance.build,
)
"""One per section, in the order of the page: what came out, what went in, how."""

_BRIEF = {"windows": "Windows", "training": "Training", "data": "Data", "methods": "Methods", "provenance": "How to reproduce"}
"""Names in the table of contents and in the list of what is missing, where titles are too long for it."""

_TEMPLATE = "page.html.jinja"

_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")

_SCRIPTS = ("volumes", "slices", "tables", "copy", "explorer", "viewer", "contents", "start")
"""Files of `templates/script/`, in the order in which they need each other."""


def write_report(out: Path, inputs: ReportInputs) -> Path:
    """Write one HTML page that needs no network, no other file, and for reading no script.

    Parameters
    ----------
    out : Path
        The file to write, replaced as a whole.
    inputs : ReportInputs
        What to show; sections without input are listed at the end.

    Raises
    ------
    InputError, StoreError
        If an input is missing or damaged, or the page cannot be written.
    """
    page = _render(read_material(inputs))
    try:
        return write_text(Path(out), page)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror}); choose a folder you may write to.") from error


def _render(material: Material) -> str:
    """The page as HTML text; everything but the drawings and the script is escaped."""
    loader = PackageLoader("slimbrain.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["options"] = _mark_options
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script, sections = _page_script(), [build(material) for build in _BUILDERS]
    return environment.get_template(_TEMPLATE).render(
        title=material.inputs.title,
        sections=[section for section in sections if not section.is_empty],
        missing=[section for section in sections if section.is_empty],
        brief=_BRIEF,
        generator=Markup(GENERATOR),
        light=theme_css(0),
        dark=theme_css(1),
        script=script,
        script_hash=_content_hash(script),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _mark_options(text: str) -> Markup:
    """Text in which each option of a command is code: a browser would break `--participants` after its hyphens."""
    return Markup(_OPTION.sub(r"<code>\g<0></code>", str(escape(text))))


def _page_script() -> Markup:
    """All scripts as one, in a scope of its own."""
    folder = resources.files("slimbrain.report") / "templates" / "script"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    colours = "".join(f"const {name} = {json.dumps(stops)};\n" for name, stops in page_colours().items())
    return Markup('(() => {\n"use strict";\n' + colours + "\n".join(parts) + "})();\n")


def _content_hash(script: str) -> str:
    """A script's name in a content security policy: no other script can run on the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
