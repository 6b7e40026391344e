"""Does a pretrained network on a recording's latent series add to its connectome? Five objectives, no network, and an untrained one.

    SCREEN=1 .venv/bin/python benchmarks/stage1/run.py --experiment leads --seeds 0

Networks learn from 300 of the pretraining people; their loss on the others is printed. `beside`: the connectome's axes, and the network's
features with 0.3 of their standard deviation; `beside, tuned`: weighted inside the labelled people, and 0 is a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
from checkpoint import ConnectomeReadout
from cohorts import Floats, abide, hcp, standardise
from connectome import Axes, inverse_root, tangent
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts, rotation
from objectives import MASKED, N_MODES, STEPS, Recordings, SeriesNetwork, fisher, pooled, second_order, train, twin
from readout import DESIGN
from safetensors.torch import load_file, save_file

N_PEOPLE = 300
KEYS = (0, 40)
SHARE = 0.3
N_READERS = 32
"""Random parcellations of the augmentation."""


def reader(readout: ConnectomeReadout, places: Floats) -> Floats:
    """(C, R) from channels to modes of variance 1 in the population."""
    gain, read = readout.gain(places)
    return (gain / np.sqrt(np.diag(read))[:, None]).T[:, :N_MODES]


def random_reader(readout: ConnectomeReadout, rng: np.random.Generator) -> Floats:
    """(K, R): anchors merged with their neighbours, moved by millimetres, and one in ten of these parcels missing."""
    places = readout.anchors
    seeds = places[rng.permutation(len(places))[: rng.integers(60, 200)]]
    nearest = ((places[:, None] + rng.normal(0, 3, (len(places), 1, 3)) - seeds) ** 2).sum(-1).argmin(1)
    merged = np.eye(len(seeds))[:, rng.permutation(np.unique(nearest))[len(seeds) // 10 :]][nearest]
    centres = merged.T @ places / merged.sum(0)[:, None] + rng.normal(0, 3, (merged.shape[1], 3))
    merged /= np.sqrt(np.einsum("ck,cd,dk->k", merged, readout.mean, merged))
    return (merged @ reader(readout, centres)).astype(np.float32)


def hcp_days(readout: ConnectomeReadout) -> Recordings:
    """A run of each day of HCP's people, three frames averaged: a TR like ABIDE's."""
    read = reader(readout, hcp().coordinates)
    runs = [standardise(run.reshape(-1, 3, run.shape[1]).mean(1)) @ read for run in hcp().runs]
    days = [[at for at, task in enumerate(hcp().task) if day in task and "LR" in task] for day in ("REST1", "REST2")]
    assert list(hcp().person[days[0]]) == list(hcp().person[days[1]])
    return Recordings([runs[at] for at in days[0]], [runs[at] for at in days[1]])


@torch.inference_mode()
def features(model: SeriesNetwork, runs: Sequence[Floats], kind: str) -> Floats:
    """(N, F) of runs (T, R): tokens pooled, their second moments among modes (R, R), the head, or the Fisher vector."""
    torch.manual_seed(0)
    made = []
    for run in runs:
        series = torch.from_numpy(run)[None]
        if kind == "Fisher":
            made.append(fisher(model, series, MASKED))
            continue
        tokens = model(model.patches(series))
        if kind == "second order":
            made.append(second_order(tokens))
        else:
            made.append(model.head(pooled(tokens)) if kind == "head" else pooled(tokens))
    return torch.cat(made).numpy()


def leads_experiment(results: Results, seeds: Sequence[int], longer: bool = False) -> None:
    torch.set_num_threads(1)
    for seed in seeds:
        pre, val = rotation(seed)
        rows, places = np.sort(np.concatenate((pre, val))), abide().coordinates
        readout = ConnectomeReadout.fit_population([abide().runs[at] for at in pre], places, len(places), **DESIGN)
        every = {key: excerpts(seed, key) for key in KEYS}
        runs = {key: [own[at] for at in rows] for key, own in every.items()}
        read = reader(readout, places)
        series = {key: [run @ read for run in own] for key, own in runs.items()}
        is_pre = np.isin(rows, pre)

        def scaled(vectors: dict[int, Floats], how: str) -> dict[int, Floats]:
            """(873, F), 0 for the test people; `axes` of the pretraining people, or z-scores; total variance 1."""
            own = vectors[0][is_pre]
            if how == "axes":
                axes = Axes.fit(own, len(own) - 1)
                vectors = {key: axes(part) * axes.variances.astype(np.float32) ** 0.125 for key, part in vectors.items()}
            else:
                vectors = {key: (part - own.mean(0)) / (own.std(0) + 1e-6) for key, part in vectors.items()}
            total, made = np.sqrt(vectors[0][is_pre].var(0).sum()), {}
            for key, part in vectors.items():
                made[key] = np.zeros((len(abide().runs), part.shape[1]), dtype=np.float32)
                made[key][rows] = part / total
            return made

        @cache
        def connectome() -> dict[int, Floats]:
            return scaled({key: readout.vectors(own, places) for key, own in runs.items()}, "axes")

        @cache
        def network(name: str) -> SeriesNetwork:
            kept = results.kept(f"leads_{seed}_{name.replace(' ', '_')}.safetensors")
            if not kept.exists():
                order = np.random.default_rng((3, seed)).permutation(np.flatnonzero(is_pre))
                own, held = ([series[0][at] for at in part] for part in (order[:N_PEOPLE], order[N_PEOPLE:]))
                sources = [Recordings(own)]
                if "HCP" in name:
                    sources = [Recordings(own), Recordings(own), hcp_days(readout)]
                if "augmented" in name:
                    rng = np.random.default_rng((8, seed))
                    readers = [read, *[random_reader(readout, rng) for _ in range(N_READERS)]]
                    sources = [Recordings([runs[0][at] for at in order[:N_PEOPLE]], readers=readers)]
                steps = int(name.split()[-2]) if name.endswith(" steps") else STEPS
                save_file(train(name, seed, sources, Recordings(held), steps).state_dict(), kept)
            model = twin(seed)
            model.load_state_dict(load_file(kept))
            return model

        @cache
        def read_by(name: str, kind: str) -> dict[int, Floats]:
            """The features of one network, by length."""
            model = (twin(seed) if name == TWIN else network(name)).eval()
            made = {key: features(model, part, kind) for key, part in series.items()}
            if kind == "second order":
                mean = made[0][is_pre].mean(0)
                root = inverse_root(mean).astype(np.float32)
                made = {key: tangent(0.5 * part + 0.5 * mean, root) for key, part in made.items()}
            return scaled(made, "axes" if kind == "second order" else "z")

        def enter(variant: str, embed: Callable[[], Embedding]) -> None:
            compete(results, "longer" if longer else "leads", variant, seed, pre, val, embed)

        def beside(name: str, kind: str) -> Embedding:
            return Embedding({key: np.hstack((part, SHARE * read_by(name, kind)[key])) for key, part in connectome().items()})

        enter("no network", lambda: Embedding(connectome()))
        for name, kinds in (LONGER if longer else NETWORKS if seed == 0 else CLOSEST).items():
            for kind in kinds:
                enter(f"{name}, {kind}", lambda: Embedding(read_by(name, kind)))
                enter(f"{name}, {kind} beside", lambda: beside(name, kind))
                if longer or kind in CLOSEST.get(name, ()):
                    enter(f"{name}, {kind} beside, tuned", lambda: Embedding(connectome(), beside=read_by(name, kind)))
                read_by.cache_clear()


TWIN = "untrained twin"
NETWORKS = {
    TWIN: ("pooled", "second order", "head", "Fisher"),
    "contrast": ("pooled", "second order", "head"),
    "masked 0.75": ("pooled", "second order", "Fisher"),
    "alignment": ("pooled", "second order", "head"),
    "JEPA": ("pooled", "second order"),
    "JEPA and rebuilt series": ("pooled", "second order"),
    "masked 0.5": ("pooled", "second order"),
    "masked 0.9": ("pooled", "second order"),
    "contrast, HCP's days too": ("pooled", "second order", "head"),
    "contrast, augmented": ("second order",),
}
"""What is pretrained, and how it is read."""
CLOSEST = {
    TWIN: ("second order",),
    "contrast": ("second order",),
    "contrast, augmented": ("second order",),
    "alignment": ("second order", "head"),
}
"""What is run in the other rotations: what came closest in rotation 0, and what learnt too fast there."""
LONGER = {
    TWIN: ("second order",),
    "contrast of second moments, 300 steps": ("second order",),
    "contrast of second moments, 3000 steps": ("second order",),
}
"""Fifteen times the steps, of a contrast of what is read afterwards."""
EXPERIMENTS["leads"] = leads_experiment
EXPERIMENTS["longer"] = partial(leads_experiment, longer=True)
