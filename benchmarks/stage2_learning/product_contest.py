"""The product's model against its untrained twin and against the cells themselves, on people whom it was not trained on.

1. `painted.py`, then `painted_store.py STORE --half HALF`;
2. `slimbrain pretrain voxel STORE --preset tiny --out RUN ...`;
3. `product_contest.py trained --model RUN/model --half HALF`: tokens of people of the half trained on and of the other, 80 frames each (ten
   windows spread evenly over the run, two clips of five; more with `--clips`); `untrained` reads the twin, which is what the run of
   `--seed` began with, and `cells` the cells;
4. `product_contest.py readout --model MODEL --half HALF`: the vectors that `slimbrain embed` gives, `MODEL` being what `slimbrain
   connectome STORE` made of `RUN/model`, of the same people's first five windows and of all ten, which are decoded and read as one series;
5. `product_contest.py paired`: differences with 95 % intervals over people, of each half, and of both: with a model for either half
   everybody is read by one that has not seen them.

`trained --reference 27 --read 0` gives the R2 of decoded cells alone, on the last third of the 27.

Read are patches decoded from tokens by ridge, one map per place, fitted without labels on people trained on; the tangent of their means
over units, cells or parcels learnt from 120 of the same people, at the mean of these, on all their axes; and the product's readout of cells
and parcels; each by ridge on the people read alone, in five folds. `all_labels`: whole tangents, and people trained on teach in every fold;
`sites_left_out`: the same, and nobody of the tested person's site teaches; `60_labels`: so many of the people read teach, ten draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from painted_cohort import (
    HALVES,
    TR_S,
    Cohort,
    Run,
    append_row,
    few_labels,
    interval_of,
    labels,
    out_of_fold,
    parser,
    score,
    segment_means,
    site_left_out,
    skill,
)
from readouts import place_decoders, place_weights, probe, spread_windows, tangents

from slimbrain.config import SignalDetail, load_preset
from slimbrain.data.clip import Clip
from slimbrain.models.connectome import ConnectomeReadout
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.parcels import channels_of, learn_parcels
from slimbrain.models.signals import signal_series, token_signals
from slimbrain.models.temporal import standardise
from slimbrain.train.connectome import CELL_READOUT, PARCEL_PARTICIPANTS, PARCEL_READOUT, PARCELS, Recordings, fit_readout

VARIANTS = ("trained", "untrained", "cells", "readout")
PAIRS = (("trained", "untrained"), ("trained", "cells"), ("cells", "untrained"))
ANCHORS = 224
"""Of the readout, chosen on people of the first half."""

KINDS = ("units", "cells", "parcels")
FEW = (30, 60, 120, 250)
"""Labelled people."""
READOUTS = {"cells": CELL_READOUT, "parcels": PARCEL_READOUT}

Decode = Mean = Callable[[np.ndarray], np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
T = TypeVar("T")
Predictions = dict[str, np.ndarray]
"""Of people, by `READING/LABEL`."""


def spread(runs: list[T], count: int) -> list[T]:
    """So many of the runs, or of what is theirs, evenly spread over their order, which is by site."""
    return [runs[place] for place in np.linspace(0, len(runs) - 1, count).round().astype(int)]


def clips(cohort: Cohort, run: Run, count: int = 2) -> Iterator[Clip]:
    """So many of five windows each."""
    for windows in spread_windows(run, count):
        frames = (windows[:, None] * 8 + np.arange(8)).ravel()
        yield Clip(torch.from_numpy(cohort.clip(run, frames))[..., None], torch.from_numpy(frames * TR_S), cohort.grid)


@torch.inference_mode()
def read_person(cohort: Cohort, run: Run, model: HieraJEPA | None, count: int, detail: SignalDetail = "cells") -> Pair:
    """(10 x clips, U, D) tokens, none without a model, and (10 x clips, U, K) signals of their units, of cells or patches."""
    units, tokens, signals = len(cohort.grid.units), [], []
    for clip in clips(cohort, run, count):
        signals.append(token_signals([clip], 4, detail)[0].view(10, units, -1))
        if model is not None:
            tokens.append(model.encoder([clip]).values.view(10, units, -1))
    return (torch.cat(tokens).numpy() if tokens else np.empty(0)), torch.cat(signals).numpy()


def contest(
    cohort: Cohort, row: dict[str, object], model: HieraJEPA | None, reference: list[Run], people: list[Run], wanted_kinds: Sequence[str]
) -> None:
    """One row of `contest.jsonl`, and the predictions that it scores."""
    if not people:
        pairs = [read_person(cohort, run, model, row["clips"]) for run in reference]  # type: ignore[arg-type]
        found = place_decoders([tokens for tokens, _ in pairs], [signals for _, signals in pairs], existing_cells(cohort))[1]
        append_row(cohort.out / "contest.jsonl", {**row, "reference": len(reference), "people": 0, "decoded_r2": found})
        return
    before, after = ([read_person(cohort, run, model, row["clips"], "patches") for run in runs] for runs in (reference, people))  # type: ignore[arg-type]
    pre, val = ([patch_series(cohort, signals) for _, signals in group] for group in (before, after))
    kinds, places = kinds_of_means(cohort, pre, wanted_kinds)
    row = {**row, "reference": len(reference), "people": len(people)}
    if model is not None:
        wanted, (pre, val) = val, decoded_patches(cohort, before, after)
        for kind, mean in kinds.items():
            row[f"{kind}_r2"] = round(skill(*(np.concatenate([mean(x) for x in side]) for side in (val, wanted))), 3)
    keep: Predictions = {}
    for kind, mean in kinds.items():
        both: Predictions = {}
        sides = tangents(*([mean(x) for x in side] for side in (pre, val)))
        row |= probe(kind, *sides, people, both)
        for name, (every, leading) in both.items():
            keep |= {name: every, name.replace("/", "_axes/"): leading}
        row |= probe_vectors(f"{kind}_all_labels", sides[1], people, keep, (sides[0], reference))
    for kind, settings in ((kind, READOUTS[kind]) for kind in kinds if kind in READOUTS):
        fitted, read = connectome_tangents(places[kind], *([kinds[kind](x) for x in side] for side in (pre, val)), settings)
        axes, (taught, vectors) = fitted.scores(read[1]).numpy(), (vectors.numpy() for vectors in read)
        row |= probe_vectors(f"{kind}_readout", axes, people, keep)
        row |= probe_vectors(f"{kind}_readout_all_labels", vectors, people, keep, (taught, reference))
        row |= probe_elsewhere(f"{kind}_readout", axes, vectors, people, (taught, reference), keep)
    write(cohort, row, keep)


def kinds_of_means(
    cohort: Cohort, patches: list[np.ndarray], wanted: Sequence[str] = KINDS
) -> tuple[dict[str, Mean], dict[str, np.ndarray]]:
    """Of patches (T, P), by kind: means, over parcels learnt from these series among others; and the places of those that are read out."""
    grid = cohort.grid
    parcels = learn_parcels(grid, map(torch.from_numpy, spread(patches, min(PARCEL_PARTICIPANTS, len(patches)))), PARCELS)
    kinds: dict[str, Mean] = {
        "units": lambda x: segment_means(x, grid.units.offsets),
        "cells": lambda x: segment_means(x, grid.cells.offsets),
        "parcels": lambda x: parcels.means(torch.from_numpy(x), grid).numpy(),
    }
    return {kind: kinds[kind] for kind in wanted}, {"cells": grid.cells.mm, "parcels": parcels.centres(grid).numpy()}


def decoded_patches(cohort: Cohort, before: list[Pair], after: list[Pair]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Series of patches that tokens of two groups decode to, as learnt from the first."""
    decode = patch_decoder([tokens for tokens, _ in before], [signals for _, signals in before])
    made = ([patch_series(cohort, decode(tokens)) for tokens, _ in group] for group in (before, after))
    return next(made), next(made)


def patch_series(cohort: Cohort, signals: np.ndarray) -> np.ndarray:
    """(S, U, 128) signals of units -> (2 S, P) series of their patches."""
    return signal_series(torch.from_numpy(signals).flatten(0, 1), cohort.grid, "patches").numpy()


def probe_vectors(
    name: str, vectors: np.ndarray, people: list[Run], keep: Predictions, others: tuple[np.ndarray, list[Run]] | None = None
) -> dict[str, float]:
    """Scores of ridge in five folds on (N, D) vectors; other people's vectors teach in every fold."""
    row = {}
    for label, y in labels(people).items():
        keep[f"{name}/{label}"] = out_of_fold(vectors, y, 4, others=(others[0], labels(others[1])[label]) if others else None)
        row[f"{name}_{label}"] = round(score(label, y, keep[f"{name}/{label}"]), 3)
    return row


def probe_elsewhere(
    name: str, axes: np.ndarray, vectors: np.ndarray, people: list[Run], others: tuple[np.ndarray, list[Run]], keep: Predictions
) -> dict[str, float]:
    """Scores of (N, A) axes by few of the people read, and of (N, D) vectors with all labels of all sites but the tested one."""
    row: dict[str, float] = {}
    sites, taught = (np.array([run.site for run in runs]) for runs in (people, others[1]))
    for label, y in labels(people).items():
        found = {f"{name}_{count}_labels": few_labels(axes, y, count) for count in FEW}
        found[f"{name}_sites_left_out"] = site_left_out(vectors, y, sites, (others[0], labels(others[1])[label], taught))
        keep |= {f"{kind}/{label}": predicted for kind, predicted in found.items()}
        row |= {f"{kind}_{label}": round(score(label, y, predicted), 3) for kind, predicted in found.items()}
    return row


def write(cohort: Cohort, row: dict[str, object], predictions: Predictions) -> None:
    folder = cohort.out / "predictions"
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"contest-{row['clips']}-{row['half']}-{row['variant']}-{row['seed']}.npz", **predictions)
    append_row(cohort.out / "contest.jsonl", row)


@torch.inference_mode()
def connectome_tangents(
    places: np.ndarray, before: list[np.ndarray], after: list[np.ndarray], settings: Mapping[str, float]
) -> tuple[ConnectomeReadout, list[torch.Tensor]]:
    """The product's readout, fitted to series (T, C) of channels at places (C, 3) of some people; centred tangent vectors of all."""
    mm = torch.tensor(places, dtype=torch.float32)
    before, after = ([standardise(torch.from_numpy(series)) for series in side] for side in (before, after))
    fitted = Recordings(mm, tuple(map(str, range(len(before)))), before.__getitem__)
    readout = fit_readout([fitted], np.zeros((len(before), 0)), anchors=ANCHORS, settings=settings)
    return readout, [torch.stack([readout.tangent(series, mm) for series in side]) - readout.centre for side in (before, after)]


def read_out(cohort: Cohort, row: dict[str, object], model: HieraJEPA, people: list[Run]) -> None:
    """A row and predictions of the product's own readout, of one clip of 40 frames and of both."""
    assert model.connectome is not None
    vectors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for run in people:
        series = [model.decode(clip) for clip in clips(cohort, run)]
        for made, read in zip(vectors, (series[0], torch.cat(series)), strict=True):
            channels, mm = channels_of(read, cohort.grid, model.parcels)
            made.append(model.connectome([channels], [mm])[0].numpy())
    row, keep = {**row, "people": len(people)}, {}
    for frames, made in zip((40, 80), vectors, strict=True):
        row |= probe_vectors(f"{frames}_frames", np.stack(made), people, keep)
    write(cohort, row, keep)


def patch_decoder(tokens: list[np.ndarray], signals: list[np.ndarray]) -> Decode:
    """From tokens (S, U, D) to the signals of their own patches (S, U, 128), learnt from people's."""
    mean = np.concatenate(tokens).mean(0)
    weights = place_weights(np.concatenate(tokens) - mean, np.concatenate(signals)).astype(np.float32)
    return lambda t: np.einsum("sud,udk->suk", t - mean, weights, optimize=True)


def existing_cells(cohort: Cohort) -> np.ndarray:
    """(U, 8) where a unit has cells."""
    blank = Clip(torch.zeros(4, cohort.grid.n_patches, 1), torch.arange(4) * TR_S, cohort.grid)
    return token_signals([blank], 4)[1].numpy()[:, ::2]


def paired(cohort: Cohort, people: dict[str, list[Run]], clips: int) -> None:
    """Scores of all variants and differences between them, each the mean of the seeds that were read, of either half and of both."""
    for halves in (("first",), ("second",), HALVES):
        runs = {half: people[half] for half in halves}
        for one, other in (*((variant, None) for variant in VARIANTS), *PAIRS):
            own = {half: predictions_of(cohort, one, half, clips) for half in halves}
            base = {half: predictions_of(cohort, other, half, clips) for half in halves} if other else None
            if not all(own.values()) or (base and not all(base.values())):
                continue
            row = {"clips": clips, "halves": " and ".join(halves), "seeds": min(map(len, own.values()))}
            row["people"] = sum(map(len, runs.values()))
            read = [seed.keys() for side in (own, base or {}) for seeds in side.values() for seed in seeds]
            for kind in (kind for kind in read[0] if all(kind in keys for keys in read)):
                found = [round(each, 3) for each in compared(runs, kind, own, base)]
                append_row(cohort.out / "contest_paired.jsonl", {**row, "kind": kind, "of": one, "less": other or "", "score": found})


def predictions_of(cohort: Cohort, variant: str, half: str, clips: int) -> list[Predictions]:
    """Predictions of every seed of a variant, each by `READING/LABEL`."""
    paths = sorted((cohort.out / "predictions").glob(f"contest-{clips}-{half}-{variant}-*.npz"))
    return [dict(np.load(path)) for path in paths]


def compared(
    runs: dict[str, list[Run]], kind: str, own: dict[str, list[Predictions]], base: dict[str, list[Predictions]] | None
) -> tuple[float, float, float]:
    """Mean over halves of the mean score of a variant's seeds, less that of another's, with its interval."""
    label = kind.rpartition("/")[2]
    truth = {half: labels(people)[label] for half, people in runs.items()}
    ends = np.cumsum([0, *map(len, truth.values())])

    def mean(rows: np.ndarray) -> float:
        found = []
        for half, start, end in zip(truth, ends, ends[1:], strict=False):
            at = rows[(rows >= start) & (rows < end)] - start
            for sign, side in ((1, own), (-1, base)):
                if side:
                    found.append(sign * np.mean([score(label, truth[half][at], seed[kind][at]) for seed in side[half]]))
        return float(sum(found) / len(truth))

    return interval_of(mean, int(ends[-1]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=(*VARIANTS, "paired"))
    options.add_argument("--half", choices=HALVES, default="first", help="of each site that the model was trained on; the other is read")
    options.add_argument("--model", type=Path, help="RUN/model of `slimbrain pretrain voxel`, or what `slimbrain connectome` made of it")
    options.add_argument("--seed", type=int, default=0, help="of the run")
    options.add_argument("--reference", type=int, default=60, help="people trained on, whose mean and axes are used")
    options.add_argument("--read", type=int, default=200, help="people of the other half")
    options.add_argument("--clips", type=int, default=2, help="of 40 frames each that are read of a person (`readout`: two)")
    options.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="what means are taken of; parcels alone take half the time"
    )
    arguments = options.parse_args()
    torch.set_num_threads(1)
    cohort = Cohort(arguments.out)
    first, second = cohort.halves()
    people = {"first": spread(second, arguments.read), "second": spread(first, arguments.read)}
    if arguments.what == "paired":
        paired(cohort, people, arguments.clips)
        return
    row = {"variant": arguments.what, "half": arguments.half, "seed": arguments.seed, "clips": arguments.clips}
    read = people[arguments.half]
    if arguments.what == "readout":
        read_out(cohort, row, from_pretrained(arguments.model), read)  # type: ignore[arg-type]
        return
    model = None
    if arguments.what == "untrained":
        preset = load_preset("tiny")
        torch.manual_seed(arguments.seed)
        model = HieraJEPA(preset.voxel, preset.jepa, cohort.grid.voxels_per_patch)
    elif arguments.what == "trained":
        model = from_pretrained(arguments.model)
    reference = spread({"first": first, "second": second}[arguments.half], arguments.reference)
    contest(cohort, row, model, reference, read, arguments.kinds)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
