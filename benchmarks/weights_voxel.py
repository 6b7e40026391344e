"""Makes the voxel model that comes with slimbrain: paints ABIDE into voxels of 8 mm, trains, fits the connectome, writes the model folder.

    make weights-voxel                                     # half an hour on two quiet cores, 8 GB in --out
    python benchmarks/weights_voxel.py --out weights-voxel-run

Restarts where it stopped. Data: `../shared/data` beside the checkout. What the weights are worth is measured on models of either half of
every site, which read people of the other (`stage2_learning/product_contest.py`); those rows go into the card.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from pathlib import Path

from weights import ROOT, WEIGHTS, run, write_model

from slimbrain.models.shipped import VOXEL

STUDY = Path(__file__).resolve().parent / "stage2_learning"
CONTESTS = ROOT / "results" / "stage2" / "all_labels_paired.csv"
MOST_BYTES = 6_000_000
RECIPE = tuple(
    f"train_voxel.{setting}" for setting in ("steps=2500", "batch=2", "lr=2e-3", "final_lr=2e-5", "warmup=100", "save_every=500")
)
"""Over the preset `tiny`."""
READOUT = ("--axes", "256")
"""A power of two; 512 would be more than `MOST_BYTES`."""

TERMS = """\
cohort: ABIDE
source: ABIDE I, Preprocessed Connectomes Project
license: LicenseRef-ABIDE-research
consent: [no-commercial]
"""

_COLUMNS = (("trained", ""), ("trained", "untrained"), ("trained", "cells"))
_READINGS = {"parcels_readout_all_labels": "`tangent`, all labels", "parcels_readout": "`axes`, labels of the tested half alone"}
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
        study("painted_store.py", begun, "--half", "both", "--out", out)
        terms.write_text(TERMS, encoding="utf-8")
        run("ledger", begun, "--set", terms)
        begun.rename(store)


def contests() -> str:
    """What the card says was measured, from results/stage2/all_labels_paired.csv."""
    with CONTESTS.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = {(row["halves"], row["of"], row["less"], *row["kind"].split("/")): row for row in table}
    lines = ["## Contests", "", "| trait, from 80 frames, by | score | trained | less its untrained twin | less the voxels themselves |"]
    lines.append("|---|---|---|---|---|")
    for label, (trait, score) in _SCORES.items():
        for reading, said in _READINGS.items():
            found = [rows["first and second", of, less, reading, label] for of, less in _COLUMNS]
            lines.append(f"| {trait}, {said} | {score} | {' | '.join(_cell(row, signed=bool(row['less'])) for row in found)} |")
    one = rows["first and second", "trained", "untrained", "parcels_readout_all_labels", "sex"]
    legend = (
        f"Mean of {one['seeds']} seeds, with 95 % intervals over {one['people']} people, each read by a model that was trained on the "
        "other half of every site by the recipe of these weights. Ridge in five folds; all labels: people trained on teach in every fold. "
        "Parcels, axes and reference are learnt from people trained on, and patches are decoded by ridge. Age: R2 of its logarithm, "
        "chance 0; sex and diagnosis: AUC, chance 0.5. docs/stage2.md."
    )
    return "\n".join([*lines, "", legend, "", *_LIMITS])


_LIMITS = (
    "## Limits",
    "",
    "- Its voxels were painted from 200 parcels of ABIDE, with noise like that of real voxels: it has learnt nothing finer than a parcel.",
    "- Its tokens keep what their voxels tell, and tell no more. Whole runs read by `slimbrain-temporal` or by plain connectivity tell "
    "more than its 80 frames.",
    "- Sex it does not tell better than its untrained twin does, as far as 868 people can say; nor diagnosis from few labels.",
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
    recipe = [word for setting in RECIPE for word in ("--set", setting)]
    run("pretrain", "voxel", store, "--preset", "tiny", "--out", trained.parent, *recipe, "--resume", "auto")
    run("connectome", store, "--model", trained, *READOUT, "--out", out / "model")
    write_model(out / "model", WEIGHTS / VOXEL, contests(), MOST_BYTES)


if __name__ == "__main__":
    main()
