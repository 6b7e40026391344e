"""Writes docs/benchmarks.md from results/*.csv: every table, and ours against the best baseline of each.

python docs/benchmarks.py [--out FILE]
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slimbrain.evaluate.registry import ENTRIES
from slimbrain.evaluate.stats import better_sign, metric_words

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "results"
DIFFERENCE, MINUS, CANNOT = "difference: ", " minus ", "cannot"
BOTH = "connectivity + "
"""A baseline and a model together, which stand in the tables alone."""

Line = Mapping[str, str]

HEAD = """# Benchmarks

Made by `docs/benchmarks.py` from `results/*.csv`, which one command fills from the recordings in `../shared/data`:

<!-- not run: half an hour, and recordings that are not part of the project -->
```sh
make results
```

A line of the files has task, cohort, n, split, labelled, method, metric, mean, the bounds of a 95 % interval, the seconds that its table
took, version and commit. How to read the rows: [evaluation](evaluation.md).

## What may be compared, and what may not

- **Rows of one table** are of the same participants, folds and frames: these may be compared, and the table of differences does.
- **The paper's numbers** (arXiv 2512.21881) are of voxels that its network was fine-tuned on, with labels; ours are of a frozen embedding
  of parcel series and a linear probe. ABIDE here is ABIDE I alone, the 20 sites and 877 participants that the Preprocessed Connectomes
  Project's series cover here, in 200 parcels, and HCP 70 participants in 68: neither the participants nor what is known of each are the
  paper's. Which sites it took, how many classes of age it made and over whom it z-scored are not said. They say in what range a number
  lies, not who is better.
- **Peers.** Lane et al. (arXiv 2510.13768), who compared models of fMRI with their suite Brainmarks, report of traits that no single model
  is clearly ahead and that all struggle to do better than functional connectivity, and of cognitive states that their CortexMAE is ahead
  of earlier models by a large margin. Their numbers are of other participants, preprocessing and splits, and are not repeated here; to
  stand beside them, a model runs in their suite ([Brainmarks](brainmarks.md)).
- **Who is tested.** All participants of ABIDE and HCP are in the shipped model's pretraining. "Cross-fitted", and every curve on ABIDE, is
  a copy of its connectome readout that was fitted without those who are tested, and the network is left out; HCP is read by a copy fitted
  on ABIDE. Nobody of rpn122 or song25 is in the pretraining.
- **Splits.** 70/10/20 by participant, three seeds, as published, though not the published participants; and, on ABIDE, five folds that all
  its tasks share ("each fold left out in turn"), dealt out in the order of site, sex, diagnosis and age.
- **Fingerprints** say little of function: registration and anatomy tell people apart. They are reported since the paper does.

"""


def read_lines(folder: Path = RESULTS) -> list[Line]:
    """Lines of all tables, file by file."""
    lines: list[Line] = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as handle:
            lines += list(csv.DictReader(handle))
    return lines


def page(lines: Sequence[Line]) -> str:
    """The whole page."""
    if not lines:
        return HEAD + "No results are here yet: run the command above.\n"
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["task"], line["cohort"]), []).append(line)
    return HEAD + _summary(groups) + "\n".join(_section(task, cohort, group) for (task, cohort), group in groups.items())


def _summary(groups: Mapping[tuple[str, str], Sequence[Line]]) -> str:
    """Ours, alone, against the best baseline of every table, a line each."""
    text = [
        "## Ours against the best baseline",
        "",
        "In brackets the 95 % interval of the difference, participants resampled for both: where it holds 0, they cannot be told apart.",
        "",
        "| task, cohort | who is tested | metric | ours | best baseline | difference | |",
        "|---|---|---|---|---|---|---|",
    ]
    for (task, cohort), lines in groups.items():
        for table in _tables(lines).values():
            rows = _by_method(table)
            alone = [gap for gap in table if gap["method"].startswith(DIFFERENCE) and not gap["method"].startswith(DIFFERENCE + BOTH)]
            text += [f"| {task}, {cohort} | {_who(gap)} | {metric_words(gap['metric'])} | {_verdict(gap, rows)} |" for gap in alone]
    return "\n".join([*text, "", ""])


def _who(line: Line) -> str:
    """The split, or how many are labelled."""
    return f"all but {line['labelled']} labelled" if line["labelled"] else line["split"]


def _tables(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by number of participants and split; those of one curve together."""
    tables: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        split = re.sub(r"^\d+ labelled", "few labelled", line["split"]) if line["labelled"] else line["split"]
        tables.setdefault((line["n"], split), []).append(line)
    return tables


def _by_method(lines: Sequence[Line]) -> dict[str, dict[str, Line]]:
    """Lines of the primary metric, by method and number of labelled participants."""
    metric = next(line["metric"] for line in lines if line["method"].startswith(DIFFERENCE))
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line["metric"] == metric and not line["method"].startswith(DIFFERENCE):
            rows.setdefault(line["method"], {})[line["labelled"]] = line
    return rows


def _section(task: str, cohort: str, lines: Sequence[Line]) -> str:
    """All tables of one task in one cohort."""
    text = [f"## {task}, {cohort}", ""]
    entry = ENTRIES.get(task)
    if entry and entry.published:
        said = "; ".join(f"{metric_words(metric)} {value:g}" for metric, value in entry.published.items())
        text += [f"The paper: {said}. Label: {entry.made}. What the paper does not say: {entry.unsaid}", ""]
    elif entry:
        text += [f"Label: {entry.made}. {entry.unsaid}", ""]
    for (n, split), table in _tables(lines).items():
        text += _table(n, split, table)
    return "\n".join(text)


def _table(n: str, split: str, lines: Sequence[Line]) -> list[str]:
    """One split: the primary metric of every method, by number of labelled participants where there is a curve."""
    rows, metric = _by_method(lines), next(line["metric"] for line in lines if line["method"].startswith(DIFFERENCE))
    numbers = list(dict.fromkeys(line["labelled"] for line in lines if line["mean"] != CANNOT))
    heads = [f"{number} labelled" if number else metric_words(metric) for number in numbers]
    first = lines[0]
    return [
        f"### {_capital(split)}: {metric_words(metric)}, n = {n}",
        "",
        f"| method | {' | '.join(heads)} |",
        "|" + "---|" * (len(heads) + 1),
        *(f"| {name} | {' | '.join(_cell(found.get(number) or found.get('')) for number in numbers)} |" for name, found in rows.items()),
        "",
        f"{first['seconds']} s; slimbrain {first['version']}, commit {first['commit']}.",
        "",
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _verdict(gap: Line, rows: Mapping[str, Mapping[str, Line]]) -> str:
    """Cells: ours, the best baseline, the difference, and better, worse, or nothing."""
    ours, best = gap["method"].removeprefix(DIFFERENCE).split(MINUS)
    values = [rows[ours][gap["labelled"]]["mean"], rows[best][gap["labelled"]]["mean"]]
    shown = f"{float(values[0]):.3f} | {best} {float(values[1]):.3f}"
    if not (gap["mean"] and gap["low"] and gap["high"]):
        return f"{shown} | cannot be compared |"
    sign = better_sign(gap["metric"])
    low, high = sorted((sign * float(gap["low"]), sign * float(gap["high"])))
    said = "**better**" if low > 0 else "**worse**" if high < 0 else ""
    return f"{shown} | {float(gap['mean']):+.3f} [{float(gap['low']):+.3f}, {float(gap['high']):+.3f}] | {said}"


def _cell(line: Line | None) -> str:
    if line is None or not line["mean"]:
        return "n/a"
    if line["mean"] == CANNOT:
        return CANNOT
    bounds = f" [{float(line['low']):.3f}, {float(line['high']):.3f}]" if line["low"] and line["high"] else ""
    return f"{float(line['mean']):.3f}{bounds}"


def main(words: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(None if words is None else list(words))
    arguments.out.write_text(page(read_lines(arguments.results)), encoding="utf-8")


if __name__ == "__main__":
    main()
