"""Whether a tag may be released: `python .github/ready.py v0.1.0` says what is missing, and ends with exit code 1 if anything is."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def missing(tag: str, root: Path = ROOT) -> list[str]:
    """What stands in the way of releasing `tag`, one sentence each.

    Parameters
    ----------
    tag : str
        As in git, "v0.1.0".
    root : Path
        A checkout.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, found = project["version"], []
    if tag != f"v{version}":
        found.append(f"The tag is {tag}, and pyproject.toml has version {version}: tag v{version}, or change the version.")
    if placeholders := [name for name, url in project["urls"].items() if "//example.org/" in url]:
        found.append(
            f"pyproject.toml: {', '.join(placeholders)} in [project.urls] still point to example.org; give the project's own address."
        )
    day = re.search(rf"^## \[{re.escape(version)}\] - (\S+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not day or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day[1]):
        found.append(f"CHANGELOG.md: no line `## [{version}] - YYYY-MM-DD`; write the day of the release.")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    released = re.search(r"^date-released: [\"']?([\d-]+)[\"']?$", citation, flags=re.MULTILINE)
    if not released or not day or released[1] != day[1]:
        found.append("CITATION.cff: date-released is missing or is not the day in CHANGELOG.md; write the same.")
    return found


def main(tag: str) -> int:
    """Print what is missing; the exit code."""
    lines = missing(tag)
    print("\n".join(lines) or f"{tag} is ready to be released.", file=sys.stderr if lines else sys.stdout)
    return 1 if lines else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: ready.py TAG")
    sys.exit(main(sys.argv[1]))
