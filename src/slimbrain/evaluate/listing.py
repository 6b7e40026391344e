"""The benchmarks as people read them: blocks of text on a terminal, a table in the documentation, records in JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from slimbrain.evaluate.registry import ENTRIES, Benchmark
from slimbrain.evaluate.stats import metric_words

_WIDTH = 118
_HEADINGS = ("task", "published", "ranked by")


def as_records() -> list[dict[str, Any]]:
    """One record per benchmark."""
    return [
        {
            "task": entry.name,
            "kind": entry.kind,
            "cohort": entry.cohort.title,
            "label": entry.title,
            "made": entry.made,
            "file": entry.cohort.file if entry.columns else None,
            "columns": _columns_read(entry),
            "participants_tsv": {name: entry.cohort.bids[name] for name in _columns_read(entry) if name in entry.cohort.bids},
            "excluded": list(entry.exclusions),
            "split": _split_of(entry),
            "relatives": {"columns": list(entry.cohort.relatives), "file": entry.cohort.relatives_file} if _binds(entry) else None,
            "seeds": list(entry.seeds),
            "metrics": list(entry.metrics),
            "primary": entry.primary,
            "published": dict(entry.published),
            "not_said_by_the_paper": entry.unsaid,
            "where": entry.cohort.where,
            "terms": entry.cohort.terms,
            "sources": list(entry.cohort.sources),
        }
        for entry in ENTRIES.values()
    ]


def as_text() -> str:
    """One block of lines per benchmark."""
    blocks = []
    for entry in ENTRIES.values():
        lines = [
            f"{entry.name}: {entry.title} ({entry.cohort.title}; {entry.kind})",
            *_line("label", entry.made),
            *_line("file", f"{entry.cohort.file}, columns {', '.join(_columns_read(entry))}" if entry.columns else "none is read"),
            *_line("left out", "; ".join(entry.exclusions)),
            *_line("split", _split_of(entry)),
            *_line("relatives", _relatives_of(entry) if _binds(entry) else ""),
            *_line("metrics", f"{', '.join(entry.metrics)}; ranked by {entry.primary}"),
            *_line("published", _published_values(entry)),
            *_line("not said", entry.unsaid),
            *_line("where", entry.cohort.where),
            *_line("terms", entry.cohort.terms),
            "  sources",
            *(f"    {source}" for source in entry.cohort.sources),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n\ncolumn:NAME: any column of the store's participants.tsv"


def _as_markdown() -> str:
    """The table of the benchmarks in docs/tasks.md; the rest is in `as_text`."""
    rows = [(f"`{entry.name}`", _published_values(entry), f"`{entry.primary}`") for entry in ENTRIES.values()]
    lines = [_HEADINGS, tuple("---" for _ in _HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _columns_read(entry: Benchmark) -> list[str]:
    """Columns of the phenotype file: identifiers, those of the label, and what baselines and splits use."""
    if not entry.columns:
        return []
    cohort = entry.cohort
    extra = ("QC_Rest_N",) if cohort.name == "ADHD-200" else ()
    names = (*cohort.ids, *entry.columns, *extra, cohort.site, cohort.age, cohort.sex)
    return list(dict.fromkeys(name for name in names if name))


def _split_of(entry: Benchmark) -> str:
    """How participants are divided, in words."""
    if entry.kind == "identification":
        return "none: nothing is trained on the participants"
    balanced = f"label and {entry.cohort.site}" if entry.cohort.site else "label"
    return f"70/10/20 by participant, balanced over {balanced}, seeds {', '.join(map(str, entry.seeds))}"


def _binds(entry: Benchmark) -> bool:
    """Whether the cohort tells relatives, and splits have to keep them together."""
    return bool(entry.cohort.relatives) and entry.kind != "identification"


def _relatives_of(entry: Benchmark) -> str:
    """How relatives are kept on one side of every split, in words."""
    cohort = entry.cohort
    return (
        f"who shares {', '.join(cohort.relatives[:-1])} or {cohort.relatives[-1]} stays on one side; these are in {cohort.relatives_file}: "
        "give it as a second --phenotypes"
    )


def _published_values(entry: Benchmark) -> str:
    """What the paper reports."""
    return "; ".join(f"{metric_words(metric)} {value:g}" for metric, value in entry.published.items()) or "none"


def _line(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name.ljust(9)}  ", subsequent_indent=" " * 13, break_on_hyphens=False)
