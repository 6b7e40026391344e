"""Does a model of painted ABIDE tell more of another cohort's people than its untrained twin? rpn122: 118 people, sexes about balanced.

    another_cohort.py trained --model RUN/model --seed 0
    another_cohort.py untrained --seed 0
    another_cohort.py cells
    another_cohort.py paired

People of rpn122 are painted as `painted.py` paints ABIDE's, from 122 parcels instead of 200, and nobody of them is trained on. Read are
240 frames of each (six clips of five windows, spread evenly): patches decoded from tokens by ridge, one map per place, fitted on 120 of the
people trained on, and the tangent of their means over cells, or over parcels learnt from these people, at these people's mean. Sex by ridge
in five folds of the people read, from the whole tangent, from its axes in the people trained on, and from the product's readout. All
readings were fixed before.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from painted import nearest_parcel as nearest
from painted import noise, paint, resample
from painted_cohort import DATA, Cohort, Run, append_row, interval_of, out_of_fold, parser, score
from product_contest import PAIRS, READOUTS, connectome_tangents, decoded_patches, kinds_of_means, patch_series, read_person, spread
from readouts import probe, tangents

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
VARIANTS = ("trained", "untrained", "cells")


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
    before = [read_person(cohort, run, model, CLIPS, "patches") for run in spread(cohort.halves()[0], REFERENCE)]
    after = [read_person(read, run, model, CLIPS, "patches") for run in read.runs]  # type: ignore[arg-type]
    pre, val = ([patch_series(cohort, signals) for _, signals in group] for group in (before, after))
    kinds, places = kinds_of_means(cohort, pre)
    row: dict[str, object] = {"cohort": "rpn122", "variant": variant, "seed": seed, "people": len(read.runs), "clips": CLIPS}
    if model is not None:
        pre, val = decoded_patches(cohort, before, after)
    sex = np.array([run.female for run in read.runs], float)
    keep: dict[str, np.ndarray] = {}
    for kind, settings in READOUTS.items():
        sides = [[kinds[kind](x) for x in side] for side in (pre, val)]
        vectors, found = tangents(*sides), {}
        probe(kind, *vectors, read.runs, found)
        keep[f"{kind}, whole"] = out_of_fold(vectors[1], sex, 4)
        keep[f"{kind}, axes"] = found[f"{kind}/sex"][0]
        fitted, read_vectors = connectome_tangents(places[kind], *sides, settings)
        keep[f"{kind}, readout"] = out_of_fold(fitted.scores(read_vectors[1]).numpy(), sex, 4)
    row |= {name: round(score("sex", sex, own), 3) for name, own in keep.items()}
    folder = cohort.out / "predictions"
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"rpn122-{variant}-{seed}.npz", sex=sex, **keep)
    append_row(cohort.out / "another_cohort.jsonl", row)


def paired(cohort: Cohort) -> None:
    """Differences between variants, each the mean of its seeds."""
    variants = {variant: [dict(np.load(path)) for path in paths] for variant in VARIANTS if (paths := files(cohort, variant))}
    for one, other in PAIRS:
        if one in variants and other in variants:
            for reading in sorted(variants[one][0].keys() - {"sex"}):
                append_row(cohort.out / "another_cohort_paired.jsonl", compared(one, other, reading, variants))


def files(cohort: Cohort, variant: str) -> list[Path]:
    return sorted((cohort.out / "predictions").glob(f"rpn122-{variant}-*.npz"))


def compared(one: str, other: str, reading: str, variants: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, object]:
    sex = variants[one][0]["sex"]

    def mean(variant: str, rows: np.ndarray) -> float:
        return float(np.mean([score("sex", sex[rows], seed[reading][rows]) for seed in variants[variant]]))

    found = interval_of(lambda rows: mean(one, rows) - mean(other, rows), len(sex))
    seeds = {name: len(variants[name]) for name in (one, other)}
    return {"of": one, "less": other, "reading": reading, "seeds": seeds, "auc": [round(each, 3) for each in found]}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=(*VARIANTS, "paired"))
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
