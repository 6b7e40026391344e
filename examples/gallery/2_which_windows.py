"""
Which windows were chosen
=========================

Not every stretch of a scan says equally much. The temporal extractor hides a window, rebuilds
it from the rest, and the rest from it; what can be rebuilt speaks for a window, and sudden
movement (DVARS) speaks against it. No training is needed: the model comes with slimbrain.
"""

import tempfile
from pathlib import Path

from matplotlib import pyplot

import slimbrain
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import rank_store
from slimbrain.simulate import CohortSpec, simulate_cohort

folder = Path(tempfile.mkdtemp())
truth = simulate_cohort(
    folder / "fmriprep",
    CohortSpec(subjects=1, sessions=1, frames=400, events_per_session=3, event_amplitude=5),
)
prepare(folder / "fmriprep", folder / "store", PrepOptions(resolution="8mm"))
store = slimbrain.Store(folder / "store")
windows = rank_store(store, slimbrain.from_pretrained("slimbrain-temporal"))

# %%
# The eight windows that stage 2 would read first are filled. Three strong activations were
# planted in this session (orange lines at their peaks), and jumps of the head (dotted lines).
# Windows are taken at least 11 s apart, so that one event does not take several places.

session = truth.sessions[0]
ax = slimbrain.plotting.plot_windows(windows, k=8)
for event in session.events:
    ax.axvline(event.peak_s, color="#d55e00")
for frame in session.spikes:
    ax.axvline(frame * store.contract.tr, color="#555555", linestyle=":")

# %%
# The parts of the score stand in the table, so that you can see what drove a choice: the chosen
# windows (blue) are those of which the rest explains much, and that hold no jump. Real
# recordings are not as clear: in a task run, chosen windows did not follow the stimuli
# (:doc:`/limits`). Look at your own before you rely on them.

figure, ax = pyplot.subplots(figsize=(6.5, 3.5), layout="constrained")
for label, chosen, colour in (
    ("chosen", True, "#0072b2"),
    ("others", False, "#aaaaaa"),
):
    these = [window for window in windows if window.among(8) == chosen]
    ax.scatter(
        [window.dvars for window in these],
        [window.explained for window in these],
        color=colour,
        label=label,
    )
ax.set(xlabel="DVARS", ylabel="explained by the rest")
ax.legend(frameon=False)
