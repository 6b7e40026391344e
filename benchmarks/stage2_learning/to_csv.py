"""Tables of rows as CSV: `python benchmarks/stage2_learning/to_csv.py TO --out stage2-run` makes TO/NAME.csv of every NAME.jsonl.

The configuration of a row stays in the JSON lines; an interval becomes three columns.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from painted_cohort import parser


def flat(row: dict[str, object]) -> dict[str, object]:
    """One level of columns: dictionaries by `key_name`, intervals by `key`, `key_low` and `key_high`."""
    columns: dict[str, object] = {}
    for key, value in row.items():
        if key == "config":
            continue
        if isinstance(value, dict):
            columns |= {f"{key}_{name}": inner for name, inner in value.items()}
        elif isinstance(value, list):
            columns |= dict(zip((key, f"{key}_low", f"{key}_high"), value, strict=True))
        else:
            columns[key] = value
    return columns


def main(out: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(out.glob("*.jsonl")):
        rows = [flat(json.loads(line)) for line in path.read_text().splitlines()]
        with (to / f"{path.stem}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("to", type=Path)
    arguments = options.parse_args()
    main(arguments.out, arguments.to)
