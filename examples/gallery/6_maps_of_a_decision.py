"""
Maps of a decision
==================

A score says that two groups can be told apart; a map says by what. Twenty-four people are
simulated, in two groups that differ in two networks. A probe on frozen embeddings learns to
tell the groups apart, and ``explain_store`` asks which cells of the brain moved its decision.
Each person is explained by a probe that was not fitted on them.
"""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from matplotlib import pyplot

import slimbrain
from slimbrain.explain import MapRequest, Output, explain_store, list_maps
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort

folder = Path(tempfile.mkdtemp())
spec = CohortSpec(
    subjects=32, sessions=1, trait_strength=2, identity_strength=0.3, site_strength=0
)
truth = simulate_cohort(folder / "fmriprep", spec)
prepare(folder / "fmriprep", folder / "store", PrepOptions(resolution="8mm"))
store, request = slimbrain.Store(folder / "store"), MapRequest("channels", task="column:group")
explain_store(store, "slimbrain-temporal", request, Output(pictures="none"), folder / "maps")

# %%
# Before you look at a map, look at how well the probe predicts people it has not seen. Near
# chance there is nothing to explain.

contrast = next(one for one in list_maps(folder / "maps") if "less others" in one.average)
print(contrast.title, contrast.note, sep="\n")

# %%
# Above, where the groups differ in what moved the decision: the map of group B less that of
# group A (red speaks for B). Below, the two networks in which a difference was planted. They
# agree in part, and in blocks of 32 mm, the cells that stage 1 reads on this coarse lattice.

image = nibabel.load(contrast.image)
mm = nibabel.affines.apply_affine(image.affine, np.moveaxis(np.indices(image.shape), 0, -1))
planted = np.zeros(image.shape, np.float32)
for network in map(truth.network, truth.group_networks):
    for centre in network.centres_mm:
        planted += np.exp(-((mm - centre) ** 2).sum(-1) / (2 * network.sigma_mm**2))
planted_image = nibabel.Nifti1Image(planted, image.affine)

figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 4.5))
look = {"display_mode": "z", "cut_coords": (-20, 0, 20, 32, 50), "colorbar": False}
strong = float(np.quantile(np.abs(image.get_fdata()), 0.95))
slimbrain.plotting.plot_map(image, above, "what moved the decision", threshold=strong, **look)
slimbrain.plotting.plot_map(
    planted_image, below, "where the groups differ", threshold=0.5, **look
)

# %%
# Real maps need a control: explain a label that has nothing to do with the images, and see what
# both maps share (:doc:`/maps`).
