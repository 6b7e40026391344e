"""Does a model of painted ABIDE tell more of another cohort's people than its untrained twin? rpn122: 118 people, sexes about balanced.

    another_cohort.py trained --model RUN/model --seed 0
    another_cohort.py untrained --seed 0
    another_cohort.py cells
    another_cohort.py paired

People of rpn122 are painted as `painted.py` paints ABIDE's, from 122 parcels instead of 200, and nobody of them is trained on. Read are
240 frames of each (six clips of five windows, spread evenly): cells decoded from tokens by ridge, one map per place, fitted on 120 of the
people trained on, and their tangent at these people's mean. Sex by ridge in five folds of the people read, from the whole tangent, and
from its axes in the people trained on. Both readings were fixed before.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from painted import nearest_parcel as nearest
from painted import noise, paint, resample
from painted_cohort import DATA, Cohort, Run, append_row, interval, out_of_fold, parser, score
from product_contest import existing_cells, read_person, spread
from readouts import place_decoders, probe, series, tangents

from slimbrain.config import load_preset
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA

SOURCE = DATA / "roi" / "rpn122"
TR_SOURCE_S = 2.0
"""Not given by the source; what all our tables take."""
COPY = "sub-essen005"
"""sub-essen004's recording."""
REFERENCE, CLIPS = 120, 6
TANGENT, AXES = "tangent", "axes"


class Painted:
    """rpn122 in memory, with what `read_person` asks of a cohort."""

    def __init__(self, grid: Grid, gain: np.ndarray) -> None:
        self.grid, self.runs = grid, []
        self._voxels: dict[str, np.ndarray] = {}
        with (SOURCE / "channels.tsv").open() as table:
            places = np.array([[float(row[axis]) for axis in "xyz"] for row in csv.DictReader(table, delimiter="\t")])
        own = nearest(grid.patches.mm, places)
        with (SOURCE / "participants.tsv").open() as table:
            people = {row["participant_id"]: row for row in csv.DictReader(table, delimiter="\t")}
        with np.load(SOURCE / "timeseries.npz") as archive:
            for number, key in enumerate(sorted(archive.files)):
                person = people[key.split("_")[0]]
                if person["participant_id"] == COPY or person["sex"] not in ("F", "M"):
                    continue
                values = resample(archive[key], TR_SOURCE_S)
                painted = paint(values, own, gain, noise(grid, len(values), np.random.default_rng((2, number))))
                self._voxels[key] = painted.astype(np.float16)
                self.runs.append(Run(key, person["site"], 0, len(values), 1.0, person["sex"] == "F", False))

    def clip(self, run: Run, frames: np.ndarray) -> np.ndarray:
        """(F, P) float32 voxels."""
        return self._voxels[run.key][frames].astype(np.float32)


def contest(cohort: Cohort, variant: str, seed: int, model: HieraJEPA | None) -> None:
    """A row, and the predictions that it scores."""
    read = Painted(cohort.grid, np.load(cohort.out / "painted" / "grid.npz")["gain"])
    before = [read_person(cohort, run, model, CLIPS) for run in spread(cohort.halves()[0], REFERENCE)]
    after = [read_person(read, run, model, CLIPS) for run in read.runs]  # type: ignore[arg-type]
    exists = existing_cells(cohort)
    row: dict[str, object] = {"cohort": "rpn122", "variant": variant, "seed": seed, "people": len(read.runs), "clips": CLIPS}
    if model is None:
        pre, val = ([series(signals, exists) for _, signals in group] for group in (before, after))
    else:
        decode, row["decoded_r2"] = place_decoders([tokens for tokens, _ in before], [signals for _, signals in before], exists)
        pre, val = ([decode(tokens) for tokens, _ in group] for group in (before, after))
    sex = np.array([run.female for run in read.runs], float)
    vectors = tangents(pre, val)
    keep: dict[str, np.ndarray] = {}
    probe("cells", *vectors, read.runs, keep)
    predicted = {TANGENT: out_of_fold(vectors[1], sex, 4), AXES: keep["cells/sex"][0]}
    row |= {name: round(score("sex", sex, own), 3) for name, own in predicted.items()}
    folder = cohort.out / "predictions"
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"rpn122-{variant}-{seed}.npz", sex=sex, **predicted)
    append_row(cohort.out / "another_cohort.jsonl", row)


def paired(cohort: Cohort) -> None:
    """Differences of every trained model and of the cells from every untrained twin."""
    found = {path.stem.removeprefix("rpn122-"): dict(np.load(path)) for path in sorted((cohort.out / "predictions").glob("rpn122-*.npz"))}
    for one in found:
        for other in found:
            if not one.startswith("untrained") and other.startswith("untrained"):
                for reading in (TANGENT, AXES):
                    value = interval("sex", found[one]["sex"], found[one][reading], found[other][reading])
                    row = {"of": one, "less": other, "reading": reading, "auc": [round(each, 3) for each in value]}
                    append_row(cohort.out / "another_cohort_paired.jsonl", row)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=("trained", "untrained", "cells", "paired"))
    options.add_argument("--model", type=Path, help="RUN/model of `slimbrain pretrain voxel`")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    cohort = Cohort(arguments.out)
    if arguments.what == "paired":
        paired(cohort)
        return
    model = None
    if arguments.what == "trained":
        model = from_pretrained(arguments.model)
    elif arguments.what == "untrained":
        preset = load_preset("tiny")
        torch.manual_seed(arguments.seed)
        model = HieraJEPA(preset.voxel, preset.jepa, cohort.grid.voxels_per_patch)
    contest(cohort, arguments.what, arguments.seed, model)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
