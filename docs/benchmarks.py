"""Writes docs/benchmarks.md from results/*.csv: every table, and ours against the best baseline of each.

python docs/benchmarks.py [--out FILE]
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from slimbrain.evaluate.registry import ENTRIES
from slimbrain.evaluate.stats import LOWER_IS_BETTER

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "results"
DIFFERENCE, MINUS, CANNOT = "difference: ", " minus ", "cannot"

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

- **Rows of one table** are of the same participants, folds and frames: these may be compared, and the sentence above each table does.
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
    return HEAD + "\n".join(_section(task, cohort, group) for (task, cohort), group in groups.items())


def _section(task: str, cohort: str, lines: Sequence[Line]) -> str:
    """All tables of one task in one cohort."""
    text = [f"## {task}, {cohort}", ""]
    tables: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        tables.setdefault((line["n"], line["split"]), []).append(line)
    entry = ENTRIES.get(task)
    if entry and entry.published:
        said = "; ".join(f"{metric} {value:g}" for metric, value in entry.published.items())
        text += [f"The paper: {said}. Label: {entry.made}. What the paper does not say: {entry.unsaid}", ""]
    elif entry:
        text += [f"Label: {entry.made}. {entry.unsaid}", ""]
    for (n, split), table in tables.items():
        text += _table(n, split, table)
    return "\n".join(text)


def _table(n: str, split: str, lines: Sequence[Line]) -> list[str]:
    """One split: the sentences, and the primary metric of every method, by number of labelled participants where there is a curve."""
    gaps = [line for line in lines if line["method"].startswith(DIFFERENCE)]
    metric = gaps[0]["metric"]
    numbers = list(dict.fromkeys(line["labelled"] for line in lines if line["mean"] != CANNOT))
    heads = [f"{number} labelled" if number else metric for number in numbers]
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line["metric"] == metric and line not in gaps:
            rows.setdefault(line["method"], {})[line["labelled"]] = line
    first = lines[0]
    return [
        f"### {_capital(split)}: {metric}, n = {n}",
        "",
        *(f"- {'' if not gap['labelled'] else gap['labelled'] + ' labelled: '}{_verdict(gap, rows)}" for gap in gaps),
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
    """Ours against the best baseline, in one sentence."""
    ours, best = gap["method"].removeprefix(DIFFERENCE).split(MINUS)
    value = _cell(rows[ours][gap["labelled"]])
    if not (gap["mean"] and gap["low"] and gap["high"]):
        return f"{ours} ({value}) and the best baseline, {best}, cannot be compared."
    sign = -1 if gap["metric"] in LOWER_IS_BETTER else 1
    low, high = sorted((sign * float(gap["low"]), sign * float(gap["high"])))
    beats = "beats" if low > 0 else "is beaten by" if high < 0 else "is not distinguishable from"
    difference = f"{float(gap['mean']):+.3f} [{float(gap['low']):+.3f}, {float(gap['high']):+.3f}]"
    return f"{ours} ({value}) {beats} the best baseline, {best} ({_cell(rows[best][gap['labelled']])}): difference {difference}."


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
