"""Which study a recording is of, so that `sub-01` of one is not taken for `sub-01` of another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimbrain.store.description import DESCRIPTION_FILE

_ONE_STUDY = ("hcp", "adhd200", "cpac")
"""Layouts whose participants have numbers that no two studies in that layout share."""

DOI = re.compile(r"^(https?://(dx\.)?doi\.org/|doi:)?(?P<doi>10\..+?)(\.v\d+(\.\d+)*)?/?$", re.IGNORECASE)
"""OpenNeuro's DOIs end in a version, which says nothing of who took part."""


def cohort_of(root: Path, layout: str = "") -> str:
    """The study whose folder this is, or an empty string where nothing tells.

    In this order: the DOI in `dataset_description.json`, that of the source datasets, the name given there unless it is that of the
    pipeline (fMRIPrep writes its own), the same of the raw dataset around `RAW/derivatives/PIPELINE`, the layout where it belongs to one
    study. A folder's own name is not asked: it changes when data are moved or prepared again.

    Parameters
    ----------
    root : Path
        Folder that was prepared.
    layout : str
        Name of its layout.
    """
    around = [root.parents[1]] if root.parent.name == "derivatives" and len(root.parents) > 1 else []
    for folder in (root, *around):
        if name := _named(_description(folder)):
            return name
    return layout if layout in _ONE_STUDY else ""


def _named(description: Mapping[str, Any]) -> str:
    sources = [source for source in _listed(description.get("SourceDatasets")) if isinstance(source, dict)]
    for value in (description.get("DatasetDOI"), *(source.get(field) for source in sources for field in ("DOI", "URL"))):
        if isinstance(value, str) and (found := DOI.fullmatch(value.strip())):
            return found["doi"].casefold()
    name = " ".join(str(description.get("Name") or "").split()).casefold()
    pipelines = [str(by.get("Name", "")).casefold() for by in _listed(description.get("GeneratedBy")) if isinstance(by, dict)]
    pipelines += ["fmriprep", "xcp-d", "xcp_d", "c-pac"]
    return "" if any(pipeline and name.startswith(pipeline) for pipeline in pipelines) else name


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _description(folder: Path) -> Mapping[str, Any]:
    """What stands in the folder's description; nothing if it has none that can be read, which costs the name alone."""
    try:
        value = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
