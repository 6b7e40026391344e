"""How much of a place's own cells do its tokens hold? R2 of ridge decoders, one per place, on held-out people.

Runs on commit 5ea4a25 with the two patches applied, as `final_lab.py` tells. `decode_check.py published-untrained untrained default
merge-untrained merge --out stage2-run` adds a row each to `decoded.jsonl`: 27 pretraining people, one clip each, the last third held out.
`published-untrained` has max pooling and the old scale of the input, `untrained` mean pooling; `default` and `merge` are trained.
"""

from __future__ import annotations

import final_lab
import numpy as np
import torch
from painted_cohort import TR_S, Cohort, append_row, parser
from readouts import Cells, place_decoders

from slimbrain.models.packing import Clip

PEOPLE = 27


@torch.no_grad()
def main() -> None:
    options = parser(__doc__)
    options.add_argument("names", nargs="+")
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    cells = Cells(cohort)
    exists = cells.exists.numpy()[:, ::2]
    for name in arguments.names:
        model, steps = final_lab.load(arguments.out, name)
        tokens, signals = [], []
        for run in cohort.split["pretrain"][::17][:PEOPLE]:
            windows = np.sort(np.random.default_rng(0).permutation(run.frames // 8)[:5])
            frames = (windows[:, None] * 8 + np.arange(8)).ravel()
            clip = Clip(torch.from_numpy(cohort.clip(run, frames))[..., None], torch.from_numpy(frames * TR_S), cohort.grid)
            tokens.append(model.target([clip]).values.view(10, len(cohort.grid.units), -1).numpy())
            signals.append(cells.windows(run, windows)[0])
        row = {"variant": name, "steps": steps, "people": len(tokens), "decoded_r2": place_decoders(tokens, signals, exists)[1]}
        append_row(arguments.out / "decoded.jsonl", row)


if __name__ == "__main__":
    main()
