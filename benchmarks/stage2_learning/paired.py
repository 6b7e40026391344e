"""Differences between models on the same people, with 95 % intervals over people.

`paired.py` after `twin_contest.py cells`, `untrained` and `default`: trained less untrained, and less the cells themselves (rows of
`paired.jsonl`). `paired.py --merge` after `merge_contest.py`: merge less the untrained mean-pooled model, and less the cells.
"""

from __future__ import annotations

import numpy as np
from painted_cohort import Cohort, append_row, interval, labels, parser, score


def twins(cohort: Cohort) -> None:
    """Test people alone, and with the validation people."""
    folder = cohort.out / "predictions"
    predicted = {name: np.load(folder / f"test-{name}.npz") for name in ("untrained", "default", "cells")}
    groups = {"test": cohort.split["test"], "both": cohort.split["validation"] + cohort.split["test"]}
    for people, runs in groups.items():
        for kind in ("units", "cells"):
            for label, y in labels(runs).items():
                for way in ("", "_axes"):
                    key = f"{kind}/{people}/{label}{way}"
                    row = {"kind": kind, "people": people, "label": label + way}
                    row |= {name: round(score(label, y, own[key]), 3) for name, own in predicted.items()}
                    for other in ("untrained", "cells"):
                        difference = interval(label, y, predicted["default"][key], predicted[other][key], 1000)
                        row[f"default-{other}"] = [round(value, 3) for value in difference]
                    append_row(cohort.out / "paired.jsonl", row)


def merging(cohort: Cohort) -> None:
    """Validation people; all axes, and the 50 leading ones scaled."""
    folder = cohort.out / "predictions"
    for kind in ("units", "cells"):
        predicted = {name: np.load(folder / f"merge-{kind}-{name}.npz") for name in ("merge", "untrained", "cells")}
        for label, y in labels(cohort.split["validation"]).items():
            for other in ("untrained", "cells"):
                for place, way in enumerate(("", "_axes")):
                    own, base = (predicted[name][f"{kind}/{label}"][place] for name in ("merge", other))
                    difference = [round(value, 3) for value in interval(label, y, own, base, 1000)]
                    append_row(cohort.out / "merge_paired.jsonl", {"kind": kind, "label": label + way, f"merge-{other}": difference})


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--merge", action="store_true")
    arguments = options.parse_args()
    (merging if arguments.merge else twins)(Cohort(arguments.out))
