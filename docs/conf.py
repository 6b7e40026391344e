"""Sphinx configuration: Markdown pages (MyST) and API pages drawn from the docstrings."""

from importlib.metadata import version as installed_version

project = "slimbrain"
author = "The slimbrain developers"
project_copyright = author
release = version = installed_version("slimbrain")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# Shapes and units stand where numpydoc puts types; they are prose, not names to link.
napoleon_use_param = False

html_theme = "furo"
html_title = f"slimbrain {release}"
html_show_sphinx = False
