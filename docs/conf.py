"""Sphinx configuration: Markdown pages (MyST), API pages drawn from the docstrings, and the gallery, whose stories run at build time.

Three environment variables change the build:

SLIMBRAIN_GALLERY=0            leaves the stories unrun, for a quick build: their text and code without pictures.
SLIMBRAIN_INTERSPHINX=1        links names of Python, numpy, nilearn, scikit-learn and torch to their documentation, which needs a network.
SLIMBRAIN_DOCS_VERSIONS=...    what else is published, for the list in the sidebar: `stable=https://...,dev=https://...`.
"""

import atexit
import os
import shutil
import tempfile
import warnings
from importlib.metadata import version as installed_version

project = "slimbrain"
author = "The slimbrain developers"
project_copyright = author
release = version = installed_version("slimbrain")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_gallery.gen_gallery"]
# Beside its pages, the gallery writes the scripts and notebooks that these offer for download.
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# Shapes and units stand where numpydoc puts types; they are prose, not names to link.
napoleon_use_param = False

# --- gallery

RUN_GALLERY = os.environ.get("SLIMBRAIN_GALLERY", "1") != "0"
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/\d_\w+\.py$",
    "ignore_pattern": r"__init__\.py",
    "plot_gallery": RUN_GALLERY,
    # A story that fails stops the build, rather than be published with its traceback.
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    # Tables of stores and of pandas; what plotting functions return is not worth printing.
    "capture_repr": ("_repr_html_",),
    # Names in the code link to the API page.
    "reference_url": {"slimbrain": None},
    "download_all_examples": False,
    # They would say how busy the machine was.
    "min_reported_time": 10_000,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
}

if RUN_GALLERY:
    # What stories write goes when the build ends.
    tempfile.tempdir = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
    warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

# --- links to other projects

if os.environ.get("SLIMBRAIN_INTERSPHINX", "0") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "nilearn": ("https://nilearn.github.io/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
    intersphinx_timeout = 10

# --- page

html_theme = "furo"
html_title = f"slimbrain {release}"
html_show_sphinx = False
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["code.css", "gallery.css"]
html_context = {
    "published_versions": [pair.split("=", 1) for pair in os.environ.get("SLIMBRAIN_DOCS_VERSIONS", "").split(",") if "=" in pair],
}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
        # On Read the Docs, its own list of versions.
        "sidebar/variant-selector.html",
    ]
}
