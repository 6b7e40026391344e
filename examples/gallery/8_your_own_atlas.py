"""
Bring your own atlas
====================

The model reads any parcellation, as long as each region has a place in MNI space. Here the same
recordings are read twice: by the 264 places of Power and colleagues (2011), with nilearn, and
by Dosenbach and colleagues' 160 (2010). The model was trained on neither.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas
from matplotlib import pyplot
from nilearn.datasets import fetch_coords_dosenbach_2010, fetch_coords_power_2011
from nilearn.maskers import NiftiSpheresMasker

import slimbrain
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort

folder = Path(tempfile.mkdtemp())
simulate_cohort(folder / "fmriprep", CohortSpec(subjects=10, sessions=1))
images = sorted((folder / "fmriprep").rglob("*_bold.nii.gz"))
encoder = slimbrain.SlimBrainEncoder("slimbrain-temporal", pooling="connectome").fit()
options = PrepOptions(tr=0.72, license="CC0-1.0", consent=("broad-research",))
vectors = []
for atlas in (fetch_coords_power_2011(), fetch_coords_dosenbach_2010()):
    places = pandas.DataFrame(atlas.rois)[["x", "y", "z"]].astype(float)
    spheres = NiftiSpheresMasker(
        places.to_numpy(), radius=8, allow_overlap=True, standardize=None
    )
    # Two files are all that prep needs: the series, and a table of names and places.
    source, store = folder / f"{len(places)}-series", folder / f"{len(places)}-store"
    source.mkdir()
    series = {image.name.split("_")[0]: spheres.fit_transform(image) for image in images}
    np.savez(source / "timeseries.npz", **series)
    places.to_csv(source / "channels.tsv", sep="\t", index_label="name")
    prepare(source, store, options)
    vectors.append(encoder.transform(store))

# %%
# Vectors of both atlases have the same 512 columns, so they can be compared, and pooled in one
# study. Each person's vector from one atlas is correlated with everybody's from the other: the
# diagonal stands out.

similarity = np.corrcoef(*vectors)[:10, 10:]
figure, ax = pyplot.subplots(figsize=(5, 4.2), layout="constrained")
figure.colorbar(ax.imshow(similarity, cmap="cividis"), label="correlation")
ax.set(xlabel="person, by Dosenbach's 160 places", ylabel="person, by Power's 264 places")
print(
    f"{(similarity.argmax(axis=1) == np.arange(10)).sum()} of 10 people are most similar to themselves"
)
