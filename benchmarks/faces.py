"""What each part of the score picks in a real recording: stimuli and changes between frames in the windows ranked first by it.

python benchmarks/faces.py [--steps 300] [--seeds 0 1 2]

The recording is ../shared/data/faces (SPM's face repetition, one run): about every 4.5 s a face, with pauses. A stimulus counts for the
window that holds the time 5 s after its onset, where the response peaks. Stage 1 is trained on this one run, on the 8 mm lattice.
"""

from __future__ import annotations

import argparse
import csv
import tempfile

import numpy as np
import torch
from case import Case
from saliency import FACES, trained
from scipy.stats import spearmanr

from slimbrain.config import SaliencyConfig
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import exact_scores, order_apart
from slimbrain.store import Store

PEAK_S = 5.0
CHOSEN = 10
PARTS = ("informativeness", "novelty", "explained", "dvars", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not FACES.is_dir():
        parser.exit(1, f"{FACES}: the recording is not there; put it beside the checkout.\n")
    with open(next(FACES.glob("sub-*/func/*_events.tsv")), encoding="utf-8", newline="") as handle:
        onsets = np.array([float(row["onset"]) for row in csv.DictReader(handle, delimiter="\t")])
    with tempfile.TemporaryDirectory() as folder:
        prepare(FACES, folder, PrepOptions(resolution="8mm"))
        store = Store(folder)
        info = store.sessions[0]
        series = torch.from_numpy(store.coarse(info.key))
        places = torch.tensor(store.grid.cells.mm, dtype=torch.float32)
    for seed in options.seeds:
        scores = exact_scores(trained([series], places, options.steps, seed), series, places, info.tr)
        edges = np.append(scores.onset_s, scores.onset_s[-1] + scores.duration_s[-1])
        stimuli = np.histogram(onsets + PEAK_S, edges)[0]
        for part in PARTS:
            values = getattr(scores, part)
            apart = SaliencyConfig().min_distance_s if part == "score" else 0.0
            chosen = order_apart(values, scores.onset_s, apart)[:CHOSEN]
            detail = {
                "seed": seed,
                "windows": len(values),
                "chosen": CHOSEN,
                "rank_correlation_with_stimuli": round(float(spearmanr(values, stimuli).statistic), 3),
                "rank_correlation_with_dvars": round(float(spearmanr(values, scores.dvars).statistic), 3),
                "dvars_of_chosen_over_all": round(float(scores.dvars[chosen].mean() / scores.dvars.mean()), 3),
                "onsets_s": [round(float(onset), 1) for onset in np.sort(scores.onset_s[chosen])],
            }
            Case(f"faces/{part}_seed_{seed}", stimuli[chosen].mean(), "stimuli a window", "all windows", stimuli.mean(), detail).print()


if __name__ == "__main__":
    main()
