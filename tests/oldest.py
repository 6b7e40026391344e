"""The oldest versions that pyproject.toml takes, as constraints for pip: `python tests/oldest.py > oldest.txt`.

What slimbrain runs with, and the extras that its tests import; tools of development may be as new as they like.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("arrow", "fast", "slurm")


def oldest(pyproject: str) -> list[str]:
    """Lines `name==version`, one for each requirement, from the text of a pyproject.toml.

    Raises
    ------
    ValueError
        If a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    return sorted({_lowest(line) for line in lines}, key=str.lower)


def _lowest(requirement: str) -> str:
    parts = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)[^;]*", requirement)
    if not parts:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound; write NAME>=VERSION.")
    return f"{parts[1]}=={parts[2]}"


if __name__ == "__main__":
    print("\n".join(oldest((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
