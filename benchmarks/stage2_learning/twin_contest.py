"""Trained or untrained, at equal frames: the contest for which the test people were opened, once.

Runs on commit 5ea4a25 with the two patches applied, as `final_lab.py` tells. `final_lab.py read NAME` comes first.

`twin_contest.py cells`, `twin_contest.py untrained` and `twin_contest.py default` each add a row to `test.jsonl`: five-fold probes with
95 % intervals, of test people alone and of validation and test people together. Readouts fixed before: the tangent of decoded cells and of
decoded unit means, on all axes of 250 pretraining people. `paired.py` then makes the differences. Test people have been used: a new
claim needs other people.
"""

from __future__ import annotations

import final_lab
import numpy as np
from painted_cohort import Cohort, append_row, interval, labels, out_of_fold, parser
from readouts import Cells, place_decoders, series, spread_signals, tangents, unit_means

REFERENCE = 250


def decoded(cohort: Cohort, cells: Cells, name: str) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """(T, C) decoded cells of reference people and of validation and test people, and R2 of the decoder."""
    exists = cells.exists.numpy()[:, ::2]
    reference = cohort.split["pretrain"][::2][:REFERENCE]
    people = cohort.split["validation"] + cohort.split["test"]
    if name == "cells":
        own = ([series(spread_signals(cells, run), exists) for run in runs] for runs in (reference, people))
        return *own, 1.0
    model, _ = final_lab.load(cohort.out, name)
    saved = np.load(cohort.out / "tokens" / f"final-{name}.npz")
    test = [final_lab.tokens_of(model, cohort, run).astype(np.float16) for run in cohort.split["test"]]
    tokens = [x.astype(np.float32) for x in saved["pre"]]
    decode, r2 = place_decoders(tokens, [spread_signals(cells, run) for run in reference], exists)
    return [decode(x) for x in tokens], [decode(x.astype(np.float32)) for x in (*saved["val"], *test)], r2


def main() -> None:
    options = parser(__doc__)
    options.add_argument("name", choices=("cells", "untrained", "default"))
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    cells = Cells(cohort)
    exists = cells.exists.numpy()[:, ::2]
    reference, people, r2 = decoded(cohort, cells, arguments.name)
    row, predictions = {"experiment": "test", "variant": arguments.name, "decoded_r2": r2}, {}
    validation, test = cohort.split["validation"], cohort.split["test"]
    groups = (("test", slice(len(validation), None), test), ("both", slice(None), validation + test))
    for kind in ("units", "cells"):
        pick = (lambda x: unit_means(x, exists)) if kind == "units" else (lambda x: x)
        pre, probed = tangents([pick(x) for x in reference], [pick(x) for x in people])
        mean = pre.mean(0)
        pre, probed = pre - mean, probed - mean
        values, vectors = np.linalg.eigh((pre @ pre.T).astype(float))
        rank = min(len(pre), pre.shape[1]) - 1
        values, vectors = values[::-1][:rank].clip(1e-9), vectors[:, ::-1][:, :rank]
        axes = (probed @ pre.T) @ vectors / np.sqrt(values)
        for group, rows, runs in groups:
            for label, y in labels(runs).items():
                for way, x in (("", axes[rows]), ("_axes", axes[rows][:, :50] / np.sqrt(values[:50]))):
                    predicted = out_of_fold(x, y)
                    predictions[f"{kind}/{group}/{label}{way}"] = predicted
                    row[f"{kind}_{group}_{label}{way}"] = [round(v, 3) for v in interval(label, y, predicted, draws=1000)]
    (arguments.out / "predictions").mkdir(exist_ok=True)
    np.savez(arguments.out / "predictions" / f"test-{arguments.name}.npz", **predictions)
    append_row(arguments.out / "test.jsonl", row)


if __name__ == "__main__":
    main()
