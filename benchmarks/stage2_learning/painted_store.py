"""The painted cohort as a slimbrain store with participants.tsv, for `slimbrain pretrain voxel`.

`python benchmarks/stage2_learning/painted_store.py STORE --out stage2-run [--people 3] [--half first]`; `painted.py` comes first.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from painted_cohort import HALVES, TR_S, Cohort, parser

from slimbrain.store import Store
from slimbrain.store.write import write_session

BOTH = "both"


def main(root: Path, out: Path, people: int | None, half: str | None) -> None:
    cohort = Cohort(out)
    first, second = cohort.halves()
    parts = {**dict(zip(HALVES, (first, second), strict=True)), BOTH: [*first, *second]}
    runs = parts[half] if half else cohort.runs[:people]
    wanted = {run.key for run in runs}
    store = Store.create(root, cohort.grid, TR_S)
    ones = np.ones(cohort.grid.voxel_mask.shape, np.float32)
    group = {run.key: name for name, runs in cohort.split.items() for run in runs}
    with (out / "painted" / "runs.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
        rows = [row for row in rows if row["participant_id"] in wanted]
    with (root / "participants.tsv").open("w", newline="") as file:
        keep = [name for name in rows[0] if name not in ("first", "frames")]
        writer = csv.DictWriter(file, [*keep, "split"], delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "split": group.get(row["participant_id"], "n/a")} for row in rows)
    for run in runs:
        voxels = cohort.clip(run, np.arange(run.frames))[..., None]
        entities = {"sub": run.key.removeprefix("sub-"), "task": "rest", "space": "MNI152NLin6Asym"}
        write_session(store, entities, voxels, 100 * ones, ones, TR_S)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("store", type=Path)
    options.add_argument("--people", type=int)
    options.add_argument("--half", choices=(*HALVES, BOTH), help="of each site, to pretrain on and read the other")
    arguments = options.parse_args()
    main(arguments.store, arguments.out, arguments.people, arguments.half)
