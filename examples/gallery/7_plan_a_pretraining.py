"""
Plan a pretraining
==================

How much memory does it take? ``plan_step`` follows one training step on tensors that have a
shape and no memory, so that the answer comes before you pay for a GPU, and on any laptop.
"""

import numpy as np
from matplotlib import pyplot

import slimbrain
from slimbrain.config import load_preset
from slimbrain.doctor.plan import plan_step

preset = load_preset("small")
frames = preset.window.k * preset.window.frames
one, two = (plan_step(preset, slimbrain.Grid.mni152("4mm"), batch, frames) for batch in (1, 2))
print(
    f"{sum(one.parameters.values()):,} weights, {sum(one.gflops.values()):.1f} GFLOPs per clip and step"
)

# %%
# Two plans are enough. Weights, their running mean (the target), gradients and the optimizer's
# moments take the same whatever the batch; inputs, and what the forward and backward passes
# hold, grow with every clip.

clips = np.arange(1, 33)
parts = {
    part: one.mib[part] + (clips - 1) * (two.mib[part] - one.mib[part]) for part in one.mib
}
figure, ax = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
ax.stackplot(
    clips,
    parts.values(),
    labels=parts.keys(),
    colors=pyplot.get_cmap("cividis")(np.linspace(0, 1, len(parts))),
)
ax.set(
    xlabel="clips per step",
    ylabel="MiB at the peak",
    xlim=(1, 32),
    title=f"preset small at 4 mm, {frames} frames per clip",
)
figure.legend(loc="outside right center", reverse=True, frameon=False)

# %%
# ``slimbrain plan --preset base --device cuda`` does this for the published size, in a minute
# or two, and ends with the largest batch for devices of 16 to 80 GiB (:doc:`/plan`).
