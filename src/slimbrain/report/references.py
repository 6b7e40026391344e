"""Works that the methods paragraph cites, from `references.bib`. DOIs stand without a link: the page opens nothing by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

_ENTRY = re.compile(r"^@\w+\{(\w+),\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)


@dataclass(frozen=True)
class Reference:
    """One work: its BibTeX key, how a sentence names it (`Power et al., 2012`), and its entry as the file has it."""

    key: str
    cite: str
    bibtex: str


def _read_references(text: str) -> dict[str, Reference]:
    """Entries of a BibTeX file by key; one field per line, values in braces, as `references.bib` is written."""
    found = {}
    for entry in _ENTRY.finditer(text):
        key, fields = entry.group(1), dict(_FIELD.findall(entry.group(2)))
        cite = ", ".join(filter(None, (_names(fields["author"]), fields.get("year"))))
        found[key] = Reference(key, cite, entry.group(0))
    return found


def _names(author: str) -> str:
    """`The slimbrain developers`, `Ledoit and Wolf`, `Power et al.`"""
    surnames = [name.partition(",")[0].strip("{}") for name in author.split(" and ")]
    return " and ".join(surnames) if len(surnames) < 3 else f"{surnames[0]} et al."


_ALL = _read_references((resources.files("slimbrain.report") / "references.bib").read_text(encoding="utf-8"))

PAPER, SOFTWARE = _ALL["wang2025slimbrain"], _ALL["slimbrain"]
TEMPLATE, FD = _ALL["evans2012"], _ALL["power2012"]
HIERA, JEPA = _ALL["ryali2023hiera"], _ALL["assran2023ijepa"]
TORCH, SKLEARN, SCIPY = _ALL["paszke2019pytorch"], _ALL["pedregosa2011scikit"], _ALL["virtanen2020scipy"]
LEDOIT, FINGERPRINT = _ALL["ledoit2004"], _ALL["finn2015"]
INPUT_GRADIENT, INTEGRATED, OCCLUSION = _ALL["shrikumar2016"], _ALL["sundararajan2017"], _ALL["zeiler2014"]
