"""What a path with a typo was probably meant to be."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path


def nearest_path(path: Path, suffix: str = "") -> str:
    """The neighbour whose name, whatever its suffix, is most like that of a path that is not there; empty if none is like it.

    Parameters
    ----------
    suffix : str
        Of what is sought, such as `.tsv`; any if empty. Of several of one name, that with the suffix of `path` is taken.
    """
    try:
        found = sorted(one for one in path.parent.iterdir() if not suffix or one.suffix == suffix)
    except OSError:
        # A folder that is not there, or may not be read, has nothing to offer.
        return ""
    close = get_close_matches(_stem(path), [_stem(one) for one in found], n=1)
    alike = sorted((one for one in found if [_stem(one)] == close), key=lambda one: one.suffix != path.suffix)
    return str(alike[0]) if alike else ""


def _stem(path: Path) -> str:
    """Without suffixes of any number, which all images share: `.nii.gz`."""
    return path.name.partition(".")[0]
