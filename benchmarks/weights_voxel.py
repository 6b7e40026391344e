"""Makes a voxel model: paints ABIDE into voxels of 8 mm, trains, fits the connectome, writes the model folder with its card.

    make weights-voxel                                     # about an hour on two cores, 6 GB in --out
    python benchmarks/weights_voxel.py --out weights-voxel-run

It does not come with slimbrain: training adds too little (docs/stage2.md). Trained on the first half of every site; the other half is read
(`stage2_learning/product_contest.py`), whose rows go into the card. Restarts where it stopped. Data: `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from pathlib import Path

from weights import ROOT, run, write_model

NAME = "slimbrain-voxel-8mm"
STUDY = Path(__file__).resolve().parent / "stage2_learning"
CONTESTS = ROOT / "results" / "stage2" / "contest_paired.csv"
SEED = "0"
"""Of the run, and of the contests on the card."""
MOST_BYTES = 6_000_000
RECIPE = ("steps=2500", "batch=2", "lr=2e-3", "final_lr=2e-5", "warmup=100", "log_every=50", "save_every=500")
"""Of `train_voxel`, over the preset `tiny`."""
READOUT = ("--anchors", "224", "--axes", "256")
"""A power of two, and fewer than the people."""

TERMS = """\
cohort: ABIDE
source: ABIDE I, Preprocessed Connectomes Project
license: LicenseRef-ABIDE-research
consent: [no-commercial]
"""

_COLUMNS = (("trained", ""), ("trained", "untrained"), ("trained", "cells"))
_READINGS = {"cells": "decoded cells", "cells_axes": "decoded cells, 50 leading axes"}
_SCORES = {"log_age": ("age", "R2"), "sex": ("sex", "AUC"), "diagnosis": ("diagnosis", "AUC")}


def study(program: str, *words: str | Path) -> None:
    """One program of the study of stage 2."""
    command = [sys.executable, str(STUDY / program), *map(str, words)]
    print(*command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


def prepare(out: Path, store: Path) -> None:
    """The painted cohort as a store whose ledger says whose data it holds."""
    if not (out / "painted" / "runs.tsv").is_file():
        study("painted.py", "--out", out)
    if not store.is_dir():
        begun, terms = out / "store.begun", out / "governance.yaml"
        shutil.rmtree(begun, ignore_errors=True)
        study("painted_store.py", begun, "--half", "first", "--out", out)
        terms.write_text(TERMS, encoding="utf-8")
        run("ledger", begun, "--set", terms)
        begun.rename(store)


def contests() -> str:
    """What the card says was measured, from results/stage2/contest_paired.csv."""
    with CONTESTS.open(encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row["seed"] == SEED]
    rows = {(row["halves"], row["of"], row["less"], *row["kind"].split("/")): row for row in table}
    lines = ["## Contests", "", "| trait, from 80 frames of | score | trained | less its untrained twin | less the cells themselves |"]
    lines.append("|---|---|---|---|---|")
    for label, (trait, score) in _SCORES.items():
        for reading, said in _READINGS.items():
            found = [rows["first and second", of, less, reading, label] for of, less in _COLUMNS]
            cells = [_cell(row, signed=bool(row["less"])) for row in found]
            lines.append(f"| {trait}, {said} | {score} | {' | '.join(cells)} |")
        lines.append(f"| {trait}, `connectome` | {score} | {_cell(rows['first', 'readout', '', '80_frames', label])} | | |")
    both, own = (rows[halves, "trained", "", "cells", "sex"] for halves in ("first and second", "first"))
    legend = (
        f"Mean with 95 % interval over {both['people']} people, each read by a model that was trained on the other half of every site: "
        f"these weights and their counterpart; `connectome` of these weights, {own['people']} people. Ridge in five folds. Age: R2 of its "
        "logarithm, chance 0; sex and diagnosis: AUC, chance 0.5. docs/stage2.md."
    )
    return "\n".join([*lines, "", legend, "", *_LIMITS])


_LIMITS = (
    "## Limits",
    "",
    "- Its voxels were painted from 200 parcels of ABIDE, with noise like that of real voxels: it has learnt nothing finer than a parcel.",
    "- Its tokens keep what their cells tell, and tell no more. Whole runs read by `slimbrain-temporal` or by plain connectivity tell more "
    "than its 80 frames.",
    "- With two more seeds its counterparts gained age over their untrained twins again, diagnosis not (docs/stage2.md).",
    "- Rest alone, of people of 6 to 64 years, most of them male.",
)


def _cell(row: dict[str, str], signed: bool = False) -> str:
    mean, low, high = (float(row[name]) for name in ("score", "score_low", "score_high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if signed else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "weights-voxel-run", help="working folder, continued where it exists")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    store, trained = out / "store", out / "network" / "model"
    prepare(out, store)
    recipe = [word for setting in RECIPE for word in ("--set", f"train_voxel.{setting}")]
    run("pretrain", "voxel", store, "--preset", "tiny", "--out", trained.parent, "--seed", SEED, *recipe, "--resume", "auto")
    run("connectome", store, "--model", trained, *READOUT, "--out", out / "model")
    write_model(out / "model", out / NAME, contests(), MOST_BYTES)


if __name__ == "__main__":
    main()
