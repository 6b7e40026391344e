"""
Two recordings that ABIDE holds twice
=====================================

Cohorts are merged, renamed and released again, and on the way a recording may come to stand
under two names. A model that is trained on one copy and tested on the other knows the answer.
slimbrain compares recordings by their content, and found two such pairs among 877 people of
ABIDE, each under two ages and two diagnoses.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas
from matplotlib import pyplot

import slimbrain
from slimbrain.governance.duplicates import find_duplicates
from slimbrain.prep import PrepOptions, prepare

abide = Path("../../../shared/data/roi/abide-cc200")
terms = PrepOptions(
    cohort="ABIDE", license="LicenseRef-ABIDE-research", consent=("no-commercial",)
)
if abide.is_dir():
    folder = Path(tempfile.mkdtemp())
    for site in sorted(abide.iterdir()):
        prepare(site, folder / "store", terms)
    store = slimbrain.Store(folder / "store")
    found = pandas.DataFrame(
        [
            (pair.first.subject, pair.second.subject, pair.bits, pair.correlation)
            for pair in find_duplicates(store)
        ],
        columns=["participant_id", "other_participant_id", "bits_apart", "correlation"],
    )
else:
    found = pandas.read_csv("abide_duplicates.tsv", sep="\t")
found

# %%
# ABIDE's recordings are not in this repository. Where they are not at hand, as in most builds
# of this page, the table above and the picture below are read from files beside this script:
# what ``slimbrain store duplicates`` printed, and the counts that the lines below gave.
#
# How clear is it? Correlate every recording with every other: of 384,126 pairs two stand apart.
# All others stay under 0.26.

if abide.is_dir():
    series = [store.coarse(info.key) for info in store.sessions]
    frames = min(len(values) for values in series)
    matrix = np.corrcoef([values[:frames].ravel() for values in series])
    correlations = matrix[np.triu_indices(len(series), 1)]
    place, count = np.unique(np.floor(correlations / 0.02).astype(int), return_counts=True)
else:
    place, count = pandas.read_csv("abide_pairs.tsv", sep="\t").to_numpy().T

figure, ax = pyplot.subplots(figsize=(6.5, 3), layout="constrained")
colours = np.where(place > 25, "#d55e00", "#0072b2")
ax.bar(place * 0.02, count, width=0.02, align="edge", color=colours)
ax.set(yscale="log", xlim=(-0.5, 1), xlabel="correlation of two recordings", ylabel="pairs")

# %%
# ``slimbrain evaluate`` refuses to score a store with such pairs until you leave them out
# (``--drop-duplicates``); the same look at a store of your own is one command, ``slimbrain
# store duplicates STORE``.
