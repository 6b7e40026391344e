"""
Embed sessions and map them
===========================

An encoder turns each session into one vector, whatever its length; vectors of similar brains
lie close together. Sixteen people are simulated here, each scanned twice, in two groups whose
default and control networks differ in coupling and speed.
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from sklearn.decomposition import PCA

import slimbrain
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort

folder = Path(tempfile.mkdtemp())
spec = CohortSpec(subjects=16, sessions=2, frames=200, trait_strength=2, site_strength=0)
simulate_cohort(folder / "fmriprep", spec)
prepare(folder / "fmriprep", folder / "store", PrepOptions(resolution="8mm"))
store = slimbrain.Store(folder / "store")

encoder = slimbrain.SlimBrainEncoder("slimbrain-temporal").set_output(transform="pandas").fit()
vectors = encoder.transform(store)
vectors.iloc[:4, :6].round(2)

# %%
# The two leading axes of these vectors, found without labels. A line joins the two sessions of
# a person.

people = np.array([info.subject for info in store.sessions])
groups = np.array([store.participants[who]["group"] for who in people])
places = PCA(2).fit_transform(vectors)
figure, ax = pyplot.subplots(figsize=(6, 5), layout="constrained")
for who in np.unique(people):
    ax.plot(*places[people == who].T, color="#aaaaaa", zorder=0)
for group, colour in (("A", "#0072b2"), ("B", "#d55e00")):
    ax.scatter(*places[groups == group].T, color=colour, label=f"group {group}")
ax.set(xlabel="first axis", ylabel="second axis", xticks=[], yticks=[])
ax.legend(frameon=False)
