"""Which form should the shipped embedding have? Axes, their scale, standardised columns, rotation, the length of the recording.

.venv/bin/python benchmarks/stage1/run.py --experiment form      # also: population

Scores on all axes are computed once per rotation; every variant is a linear map of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from checkpoint import ConnectomeReadout
from cohorts import Floats, Ints, abide, rpn, standardise
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts, rotation
from readout import read_all

SETTINGS = {"width": 6.5, "nugget": 0.1, "weight": 0.5, "restore": 0.5}
KEYS = (0, 14, 40, "rpn")


def fitted(seed: int, n_modes: int = 200) -> tuple[ConnectomeReadout, dict[int | str, Floats]]:
    """The recommended readout on a rotation's pretraining people, and tangent vectors by excerpt length."""
    pre, _ = rotation(seed)
    readout = ConnectomeReadout.fit_population([abide().runs[at] for at in pre], abide().coordinates, n_modes, **SETTINGS)
    _, read = readout.gain(abide().coordinates)
    readout.reference = np.diag(read).astype(np.float64)
    readout.gains.clear()
    return readout, read_all(readout, seed, KEYS)


def seconds(seed: int, key: int | str) -> Floats:
    """(N,) length of each recording; rpn122's TR is taken as 2 s."""
    if key == "rpn":
        return np.array([2.0 * len(run) for run in rpn().runs])
    return np.array([len(run) for run in excerpts(seed, key)]) * abide().tr


def signal_and_noise(readout: ConnectomeReadout, vectors: Floats, pre: Ints) -> tuple[Floats, Floats]:
    """(Q,) variance between people, and noise variance times seconds, along axes of one half of the people, seen in the other half."""
    order = np.random.default_rng(5).permutation(pre)
    learn, see = order[::2], order[1::2]
    readout.fit_axes(vectors[learn], len(learn) - 1, 0.0)
    runs, places = abide().runs, abide().coordinates
    halves = [
        readout.scores(readout.vectors([standardise(half(runs[at])) for at in see], places))
        for half in (lambda run: run[: len(run) // 2], lambda run: run[len(run) // 2 :])
    ]
    first, second = (half - half.mean(0) for half in halves)
    length = np.array([len(runs[at]) for at in see]) * abide().tr[see]
    signal = np.maximum((first * second).mean(0), 0)
    noise = ((first - second) ** 2 / 4 * length[:, None]).mean(0)
    return smooth(signal), smooth(noise)


def smooth(values: Floats, share: float = 0.2) -> Floats:
    """Running mean whose window grows with the number of the axis."""
    made = np.empty_like(values)
    for at in range(len(values)):
        reach = max(1, int(share * at))
        made[at] = values[max(0, at - reach) : at + reach + 1].mean()
    return made


def extended(values: Floats, n: int) -> Floats:
    return np.concatenate((values, np.full(max(0, n - len(values)), values[-20:].mean())))[:n]


def orthogonal(n: int) -> Floats:
    """(n, n) random rotation."""
    return np.linalg.qr(np.random.default_rng(7).normal(size=(n, n)))[0].astype(np.float32)


def form_experiment(results: Results, seeds: Sequence[int]) -> None:
    for seed in seeds:
        pre, val = rotation(seed)
        readout, vectors = fitted(seed)
        signal, noise = signal_and_noise(readout, vectors[0], pre)
        readout.fit_axes(vectors[0][pre], len(pre) - 1, 0.0)
        scores = {key: readout.scores(own) for key, own in vectors.items()}
        del vectors
        variance = scores[0][pre].var(0)
        signal, noise = extended(signal, len(variance)), extended(noise, len(variance))
        np.savez(results.kept(f"form_{seed}.npz"), variance=variance, signal=signal, noise=noise, **{str(k): v for k, v in scores.items()})

        def enter(name: str, made: dict[int | str, Floats]) -> None:
            own = Embedding({key: each for key, each in made.items() if isinstance(key, int)}, made.get("rpn"))
            compete(results, "form", name, seed, pre, val, lambda: own, labelled=(60, 120))

        def scaled(n_axes: int, power: float) -> dict[int | str, Floats]:
            factor = ((variance[:n_axes] / variance[0]) ** (power / 2)).astype(np.float32)
            return {key: own[:, :n_axes] * factor for key, own in scores.items()}

        def z_scored(made: dict[int | str, Floats]) -> dict[int | str, Floats]:
            """By the columns' deviation in the people at hand, as somebody else's StandardScaler would."""
            return {key: own / own[val if key != "rpn" else slice(None)].std(0) for key, own in made.items()}

        def rotated(made: dict[int | str, Floats]) -> dict[int | str, Floats]:
            turn = orthogonal(made[0].shape[1])
            return {key: own @ turn for key, own in made.items()}

        for n_axes in (509, 384, 256, 128):
            base = scaled(n_axes, 0.5)
            enter(f"{n_axes} axes, power 0.5", base)
            enter(f"{n_axes} axes, power 0.5, z-scored", z_scored(base))
            enter(f"{n_axes} axes, power 0.5, rotated, z-scored", z_scored(rotated(base)))
        for power in (0.0, 0.25, 0.75):
            enter(f"509 axes, power {power}", scaled(509, power))
        for name, length in (("of the recording", None), ("of 6 minutes", 360.0)):
            made = {}
            for key, own in scores.items():
                took = seconds(seed, key) if length is None else np.full(len(own), length)
                made[key] = own * (signal / (signal + noise / took[:, None])).astype(np.float32)
            enter(f"509 axes, Wiener by the length {name}", made)
            factor = ((variance / variance[0]) ** 0.125).astype(np.float32)
            enter(f"509 axes, power 0.25, Wiener by the length {name}", {key: own * factor for key, own in made.items()})


EXPERIMENTS["form"] = form_experiment
