"""
How few labels are enough?
==========================

Labels are what most studies lack. This curve shows how well the age of people in ABIDE is
predicted from 30, 60 and 120 labelled people. The connectome of slimbrain and linear
pretraining learnt their axes from other people's scans, without labels; tangent connectivity
did not.
"""

import pandas
from matplotlib import pyplot

import slimbrain

table = pandas.read_csv("../../results/stage1/shipped.csv")

# %%
# The numbers come with slimbrain; ABIDE's recordings do not. They were measured with the recipe
# of the shipped model, fitted anew without the people it is tested on (:doc:`/pretrained` has
# the command), since the shipped weights have seen all of ABIDE: scores of people that a model
# was trained on would be too good.

curve = table[table.contest.str.fullmatch(r"\d+ labels, whole runs")].assign(
    labelled=lambda rows: rows.contest.str.split().str[0].astype(int)
)
methods = ["connectome", "linear pretraining 50", "tangent"]
figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, trait, title in zip(
    axes,
    ("age", "diagnosis"),
    ("log age: R2, chance 0", "diagnosis: AUC, chance 0.5"),
    strict=True,
):
    slimbrain.plotting.plot_label_curve(curve[curve.trait == trait], methods, ax=ax)
    ax.set_title(title)

# %%
# With 30 labels, the axes learnt from unlabelled scans explain four times as much of age as the
# tangent does. A curve like this of your own people is one option of ``slimbrain evaluate``,
# ``--labelled 30,60,120``; ``plot_label_curve`` draws its result.
