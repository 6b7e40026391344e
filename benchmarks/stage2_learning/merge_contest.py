"""Learnt merging of children against mean pooling and against the cells themselves: validation people, axes of 60 reference people.

Runs on commit 5ea4a25 with the two patches applied, as `final_lab.py` tells; `final_lab.py train merge --steps 250` and
`train default --steps 700` come first.

`merge_contest.py merge cells untrained default` adds rows to `merge.jsonl` (age R2, sex and diagnosis AUC); then
`paired.py --merge` makes the differences. `merge_contest.py merge-untrained` reads merge's own twin, which has not been done.
"""

from __future__ import annotations

import final_lab
import numpy as np
from painted_cohort import Cohort, append_row, parser
from readouts import Cells, place_decoders, probe, series, spread_signals, tangents, unit_means

NAMES = ("merge", "merge-untrained", "cells", "untrained", "default")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("names", nargs="+", choices=NAMES)
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    cells = Cells(cohort)
    exists = cells.exists.numpy()[:, ::2]
    reference, validation = cohort.split["pretrain"][::8][:60], cohort.split["validation"]
    signals = [spread_signals(cells, run) for run in reference]
    (arguments.out / "predictions").mkdir(exist_ok=True)
    for name in arguments.names:
        row = {"experiment": "merge-validation-60ref", "variant": name}
        if name == "cells":
            pre, val = [series(x, exists) for x in signals], [series(spread_signals(cells, run), exists) for run in validation]
        else:
            model, row["steps"] = final_lab.load(arguments.out, name)
            tokens = [final_lab.tokens_of(model, cohort, run) for run in reference]
            decode, row["decoded_r2"] = place_decoders(tokens, signals, exists)
            pre, val = [decode(x) for x in tokens], [decode(final_lab.tokens_of(model, cohort, run)) for run in validation]
        for kind in ("units", "cells"):
            pick = (lambda x: unit_means(x, exists)) if kind == "units" else (lambda x: x)
            keep: dict[str, np.ndarray] = {}
            row |= probe(kind, *tangents([pick(x) for x in pre], [pick(x) for x in val]), validation, keep)
            np.savez(arguments.out / "predictions" / f"merge-{kind}-{name}.npz", **keep)
        append_row(arguments.out / "merge.jsonl", row)


if __name__ == "__main__":
    main()
