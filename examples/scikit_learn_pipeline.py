"""A pretrained encoder as a step of a scikit-learn pipeline, from images to a cross-validated score.

Simulates a small cohort in which two groups differ in how fast, and how much together, two networks fluctuate; prepares it; pretrains a
tiny stage 2 model on some participants; and predicts the group of the others from their images, never splitting a participant. Under a
minute on two CPU cores:

    python examples/scikit_learn_pipeline.py --out example-run

Prints one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import slimbrain
from slimbrain.config import load_preset
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.train import pretrain

SUBJECTS, PRETRAINING = 22, 6
"""Pretrained on the first participants, evaluated on the others: the score is of people the model never saw."""

TINY = ("voxel.embed=8", "voxel.depths=[1,1,1,1]", "window.k=3", "train_voxel.batch=2")
"""Smaller than the preset `tiny`, so that cross-validation, which embeds every image once per fold, does not take minutes."""

WINDOWS = 25
"""All windows of a session: how slowly a network fluctuates cannot be read from a few."""


def pretrained_model(cohort: Path, out: Path, seed: int, steps: int) -> Path:
    """Prepare the cohort, pretrain stage 2 on a part of it, and return the model folder."""
    prepare(cohort, out / "store", PrepOptions(resolution="8mm"))
    store = slimbrain.Store(out / "store")
    known = store.select(sorted({info.subject for info in store.sessions})[:PRETRAINING])
    pretrain("voxel", known, load_preset("tiny", [*TINY, f"train_voxel.steps={steps}"]), out / "run", seed, device="cpu")
    return out / "run" / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("example-run"), help="folder to write to; it must not exist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="of pretraining")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    spec = CohortSpec(subjects=SUBJECTS, sessions=1, trait_strength=2, identity_strength=0.3, site_strength=0.3, seed=options.seed)
    truth = simulate_cohort(options.out / "cohort", spec)
    model = pretrained_model(options.out / "cohort", options.out, options.seed, options.steps)

    # What follows is all that a user with images and labels writes. The encoder prepares the images itself.
    unseen = truth.subjects[PRETRAINING:]
    images = [next((options.out / "cohort" / subject.subject).rglob("*_bold.nii.gz")) for subject in unseen]
    group = np.array([subject.group for subject in unseen])
    participant = [subject.subject for subject in unseen]
    pipeline = make_pipeline(slimbrain.SlimBrainEncoder(model, k=WINDOWS), StandardScaler(), LogisticRegression(C=0.1))
    auc = cross_val_score(pipeline, images, group == "A", groups=participant, cv=StratifiedGroupKFold(2), scoring="roc_auc")
    print(json.dumps({"participants": len(participant), "auc": auc.round(3).tolist(), "mean_auc": round(float(auc.mean()), 3)}))


if __name__ == "__main__":
    main()
