"""The product's model against its untrained twin and against the cells themselves, on people that no earlier choice has seen.

1. `painted.py`, then `painted_store.py STORE --first-half`;
2. `slimbrain pretrain voxel STORE --preset tiny --out RUN ...`;
3. `product_contest.py --model RUN/model --store STORE`: tokens of 60 people trained on and of 200 of the other half, 80 frames each
   (ten windows spread evenly over the run, two clips of five); `--untrained` in place of `--model` reads the twin, which is what the run
   of seed 0 began with, and `--cells` the cells;
4. `product_contest.py --readout MODEL`: the vectors that `slimbrain embed` gives, `MODEL` being what `slimbrain connectome STORE` made of
   `RUN/model`, of the same people's first five windows and of all ten, whose cells are decoded and read as one series;
5. `product_contest.py --paired`: differences with 95 % intervals over people.

`--reference 27 --read 0` gives the R2 of decoded cells alone, on the last third of the 27.

The readout was fixed before: cells decoded from tokens by ridge, one map per place, fitted on the 60 without labels; their tangent at the
mean of the 60, on all axes of the 60; ridge on the 200 alone, in five folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from painted_cohort import TR_S, Cohort, Run, append_row, interval, interval_of, labels, out_of_fold, parser, score
from readouts import place_decoders, probe, series, spread_windows, tangents, unit_means

from slimbrain.config import load_preset
from slimbrain.data.clip import Clip
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.signals import cell_signals
from slimbrain.models.temporal import standardise
from slimbrain.store import Store
from slimbrain.train.connectome import Recordings, fit_readout

NAMES = ("trained", "untrained", "cells", "readout")
ANCHORS, NUGGET = 224, 0.4
"""Of the readout, chosen on people of the first half."""

Pair = tuple[np.ndarray, np.ndarray]


def spread(runs: list[Run], count: int) -> list[Run]:
    """So many of the runs, evenly spread over their order, which is by site."""
    return [runs[place] for place in np.linspace(0, len(runs) - 1, count).round().astype(int)]


def clips(cohort: Cohort, run: Run) -> Iterator[Clip]:
    """Two of five windows each."""
    for windows in spread_windows(run):
        frames = (windows[:, None] * 8 + np.arange(8)).ravel()
        yield Clip(torch.from_numpy(cohort.clip(run, frames))[..., None], torch.from_numpy(frames * TR_S), cohort.grid)


@torch.inference_mode()
def read_person(cohort: Cohort, run: Run, model: HieraJEPA | None) -> Pair:
    """(20, U, D) tokens, none without a model, and (20, U, 16) the signals of their units."""
    units, tokens, signals = len(cohort.grid.units), [], []
    for clip in clips(cohort, run):
        signals.append(cell_signals([clip], 4)[0].view(10, units, 16))
        if model is not None:
            tokens.append(model.encoder([clip]).values.view(10, units, -1))
    return (torch.cat(tokens).numpy() if tokens else np.empty(0)), torch.cat(signals).numpy()


def contest(cohort: Cohort, name: str, model: HieraJEPA | None, reference: list[Run], people: list[Run]) -> None:
    """One row of `contest.jsonl`, and the predictions that it scores."""
    before, after = ([read_person(cohort, run, model) for run in runs] for runs in (reference, people))
    exists = cell_signals([_blank(cohort)], 4)[1].view(-1, 16).numpy()[: len(cohort.grid.units), ::2]
    row: dict[str, object] = {"variant": name, "reference": len(reference), "people": len(people)}
    if model is None:
        pre, val = ([series(signals, exists) for _, signals in group] for group in (before, after))
    else:
        decode, row["decoded_r2"] = place_decoders([tokens for tokens, _ in before], [signals for _, signals in before], exists)
        pre, val = ([decode(tokens) for tokens, _ in group] for group in (before, after))
    if not people:
        append_row(cohort.out / "contest.jsonl", row)
        return
    keep: dict[str, np.ndarray] = {}
    for kind in ("units", "cells"):
        pick = (lambda x: unit_means(x, exists)) if kind == "units" else (lambda x: x)
        row |= probe(kind, *tangents([pick(x) for x in pre], [pick(x) for x in val]), people, keep)
    read = connectome_scores(cohort, pre, val)
    for label, y in labels(people).items():
        found = out_of_fold(read, y, 4)
        keep[f"connectome/{label}"] = np.stack((found, found))
        row[f"connectome_{label}"] = round(score(label, y, found), 3)
    (cohort.out / "predictions").mkdir(exist_ok=True)
    np.savez(cohort.out / "predictions" / f"contest-{name}.npz", **keep)
    append_row(cohort.out / "contest.jsonl", row)


@torch.inference_mode()
def connectome_scores(cohort: Cohort, before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
    """Scores on axes of the product's readout, fitted to series of cells (T, C) of some people, of others."""
    mm = torch.tensor(cohort.grid.cells.mm, dtype=torch.float32)
    fitted = Recordings(mm, tuple(map(str, range(len(before)))), lambda number: standardise(torch.from_numpy(before[number])))
    readout = fit_readout([fitted], np.zeros((len(before), 0)), anchors=ANCHORS, nugget=NUGGET)
    return np.concatenate([readout([standardise(torch.from_numpy(series))], [mm]).numpy() for series in after])


def read_out(cohort: Cohort, model: HieraJEPA, people: list[Run]) -> None:
    """A row and predictions of the product's own readout: `units` of one clip of 40 frames, `cells` of both."""
    assert model.connectome is not None
    mm = torch.tensor(cohort.grid.cells.mm, dtype=torch.float32)
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for run in people:
        series = [model.decode(clip) for clip in clips(cohort, run)]
        for made, read in zip(vectors, (series[0], torch.cat(series)), strict=True):
            made.append(model.connectome([standardise(read)], [mm])[0].numpy())
    row: dict[str, object] = {"variant": "readout", "people": len(people)}
    keep: dict[str, np.ndarray] = {}
    for kind, frames, made in zip(("units", "cells"), (40, 80), vectors, strict=True):
        x = np.stack(made)
        for label, y in labels(people).items():
            found = out_of_fold(x, y, 4)
            keep[f"{kind}/{label}"] = np.stack((found, found))
            row[f"{frames}_frames_{label}"] = round(score(label, y, found), 3)
    np.savez(cohort.out / "predictions" / "contest-readout.npz", **keep)
    append_row(cohort.out / "contest.jsonl", row)


def _blank(cohort: Cohort) -> Clip:
    return Clip(torch.zeros(4, cohort.grid.n_patches, 1), torch.arange(4) * TR_S, cohort.grid)


def paired(cohort: Cohort, people: list[Run]) -> None:
    """Trained less untrained, and each less the cells, of whatever has been read."""
    folder = cohort.out / "predictions"
    names = [*NAMES, *(f"{name}-{seed}" for seed in (1, 2) for name in NAMES[:2])]
    found = {name: np.load(path) for name in names if (path := folder / f"contest-{name}.npz").exists()}
    for one, other in combinations(names, 2):
        if one in found and other in found:
            for kind in ("units", "cells", "connectome"):
                for label, y in labels(people).items():
                    if f"{kind}/{label}" not in found[one] or f"{kind}/{label}" not in found[other]:
                        continue
                    for place, way in enumerate(("", "_axes") if kind != "connectome" else ("",)):
                        own, base = (found[name][f"{kind}/{label}"][place] for name in (one, other))
                        difference = [round(value, 3) for value in interval(label, y, own, base, 2000)]
                        append_row(cohort.out / "contest_paired.jsonl", {"kind": kind, "label": label + way, f"{one}-{other}": difference})


def over_seeds(cohort: Cohort, people: list[Run], seeds: tuple[str, ...] = ("", "-1", "-2")) -> None:
    """Trained less untrained, the mean of all seeds that were read, with one interval."""
    folder = cohort.out / "predictions"
    read = [seed for seed in seeds if all((folder / f"contest-{name}{seed}.npz").exists() for name in NAMES[:2])]
    pairs = [[np.load(folder / f"contest-{name}{seed}.npz") for name in NAMES[:2]] for seed in read]
    for label, y in labels(people).items():
        for place, way in enumerate(("", "_axes")):
            sides = [[one[f"cells/{label}"][place] for one in pair] for pair in pairs]

            def mean(rows: np.ndarray, y: np.ndarray = y, sides: list = sides, label: str = label) -> float:
                return float(np.mean([score(label, y[rows], own[rows]) - score(label, y[rows], base[rows]) for own, base in sides]))

            found = interval_of(mean, len(y))
            row = {"kind": "cells", "label": label + way, "seeds": len(read), "trained-untrained": [round(value, 3) for value in found]}
            append_row(cohort.out / "contest_seeds.jsonl", row)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="RUN/model of `slimbrain pretrain voxel`")
    options.add_argument("--store", type=Path, help="the store it was trained on")
    options.add_argument("--untrained", action="store_true")
    options.add_argument("--seed", type=int, default=0, help="of the untrained twin")
    options.add_argument("--name", help="of a further row, such as trained-1")
    options.add_argument("--cells", action="store_true")
    options.add_argument("--readout", type=Path, help="folder that `slimbrain connectome` made")
    options.add_argument("--paired", action="store_true")
    options.add_argument("--reference", type=int, default=60, help="people trained on, whose mean and axes are used")
    options.add_argument("--read", type=int, default=200, help="people of the other half")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    cohort = Cohort(arguments.out)
    first, second = cohort.halves()
    people = spread(second, arguments.read)
    if arguments.paired:
        paired(cohort, people)
        over_seeds(cohort, people)
        return
    if arguments.readout:
        read_out(cohort, from_pretrained(arguments.readout), people)  # type: ignore[arg-type]
        return
    trained_on = {info.subject for info in Store(arguments.store).sessions}
    model, name = None, "cells"
    if arguments.untrained:
        preset = load_preset("tiny")
        torch.manual_seed(arguments.seed)
        model, name = HieraJEPA(preset.voxel, preset.jepa, cohort.grid.voxels_per_patch), "untrained"
    elif not arguments.cells:
        model, name = from_pretrained(arguments.model), "trained"
    name = arguments.name or name
    reference = spread([run for run in first if run.key in trained_on], arguments.reference)
    contest(cohort, name, model, reference, people)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
