"""
Prepare recordings and look at them
===================================

Preprocessed images go in, a store comes out: the same voxels, z-scored over time, on one
lattice, and beside them everything that is needed to judge a recording. Here three people are
simulated; with your own data, put the folder that fMRIPrep wrote in place of ``fmriprep``.
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from nilearn.image import mean_img

import slimbrain
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort

folder = Path(tempfile.mkdtemp())
simulate_cohort(folder / "fmriprep", CohortSpec(subjects=3, sessions=1, events_per_session=0))
prepare(folder / "fmriprep", folder / "store", PrepOptions(resolution="8mm"))
store = slimbrain.Store(folder / "store")
store

# %%
# Any frame, or stretch of frames, comes back as an image in MNI space. This is the mean of the
# first session, in the units of the scanner. Look at it once for each of your sources: does the
# brain fill the template, and does it face the right way?

key = store.sessions[0].key
mean = mean_img(store.image(key))
slimbrain.plotting.plot_map(
    mean,
    title="mean of one session",
    display_mode="z",
    cut_coords=(-30, -10, 10, 30, 50),
    transparency=0.7,
    colorbar=False,
)

# %%
# A carpet shows a whole session at once: one row per cell of 32 mm, one column per frame.
# Motion leaves vertical stripes. ``prep`` found and flagged them (orange ticks), and the store
# keeps that list.

flagged = store.sidecar(key)["Series"]["flagged"]
figure, ax = pyplot.subplots(figsize=(6.5, 3), layout="constrained")
ax.imshow(store.coarse(key).T, aspect="auto", cmap="gray", vmin=-2, vmax=2)
ax.plot(flagged, np.full(len(flagged), -3), "|", color="#d55e00", clip_on=False)
ax.set(xlabel="frame", ylabel="cell", title=f"{key}: {len(flagged)} frames are flagged")
