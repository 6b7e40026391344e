"""Which settings of `checkpoint.ConnectomeReadout` are best? Width, nugget, modes, axes, entry weights, rounding, missing channels.

.venv/bin/python benchmarks/stage1/run.py --experiment final       # also: readout, blocks, calibrate, modes
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from checkpoint import ConnectomeReadout
from cohorts import Floats, Ints, abide, rpn, standardise
from connectome import Axes
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts, rotation
from more import changed_runs


def read_all(readout: ConnectomeReadout, seed: int, keys: Sequence[int | str]) -> dict[int | str, Floats]:
    runs = {key: excerpts(seed, key) for key in keys if isinstance(key, int)}
    changed = changed_runs(seed) if any(key in ("missing30", "tr2", "whole-to-40") for key in keys) else {}
    runs |= {key: changed[key] for key in keys if key in changed}
    vectors = {key: readout.vectors(own, abide().coordinates) for key, own in runs.items()}
    if "rpn" in keys:
        vectors["rpn"] = readout.vectors(rpn().runs, rpn().coordinates)
    return vectors


def embedding(scores: dict[int | str, Floats]) -> Embedding:
    extra = {key: own for key, own in scores.items() if isinstance(key, str) and key != "rpn"}
    return Embedding({key: own for key, own in scores.items() if isinstance(key, int)}, scores.get("rpn"), extra)


def reliability(readout: ConnectomeReadout, pre: Ints) -> Floats:
    """(D,) reliability of the tangent's entries in a whole run, from halves of runs."""
    runs, places = abide().runs, abide().coordinates
    first = readout.vectors([standardise(runs[at][: len(runs[at]) // 2]) for at in pre], places)
    second = readout.vectors([standardise(runs[at][len(runs[at]) // 2 :]) for at in pre], places)
    first -= first.mean(0)
    second -= second.mean(0)
    shared = np.maximum((first * second).mean(0), 0)
    noise = ((first - second) ** 2).mean(0) / 4  # halves have twice the noise variance of the whole
    return shared / np.maximum(shared + noise, 1e-9)


def readout_experiment(results: Results, seeds: Sequence[int]) -> None:
    keys = (0, 40, "missing30", "rpn")
    for seed in seeds:
        pre, val = rotation(seed)
        runs = [abide().runs[at] for at in pre]
        for width, nugget, n_modes, weight in ((8, 0.2, 128, 0.5), (8, 0.1, 128, 0.5), (8, 0.2, 160, 0.5), (8, 0.2, 128, 0.2)):
            readout = ConnectomeReadout.fit_population(runs, abide().coordinates, n_modes, width=width, nugget=nugget, weight=weight)
            vectors = read_all(readout, seed, keys)
            options: list[tuple[int, float, str]] = [(500, 0.25, "plain")]
            if (nugget, n_modes, weight) == (0.2, 128, 0.5):
                options += [(256, 0.25, "plain"), (500, 0.5, "plain"), (500, 0.25, "int8")]
            if (nugget, n_modes, weight) in ((0.2, 128, 0.5), (0.1, 128, 0.5)):
                options += [(500, 0.25, "reliability"), (500, 0.25, "root reliability")]
                reliable = reliability(readout, pre)
                print("reliability", nugget, np.percentile(reliable, (5, 25, 50, 75, 95)).round(3), flush=True)
            for n_axes, power, how in options:
                weights = {"reliability": reliable, "root reliability": np.sqrt(reliable)}[how] if "reliab" in how else None
                readout.fit_axes(
                    vectors[0][pre], n_axes, power, None if weights is None else (weights / np.sqrt((weights**2).mean())).astype(np.float32)
                )
                if how == "int8":
                    readout.quantised()
                compete(
                    results,
                    "readout",
                    f"{width} mm, nugget {nugget}, {n_modes} modes, weight {weight}, {n_axes} axes, power {power}, {how}",
                    seed,
                    pre,
                    val,
                    lambda: embedding({key: readout.scores(own) for key, own in vectors.items()}),
                )
            print(readout.n_bytes() / 2**20, "MiB", flush=True)


EXPERIMENTS["readout"] = readout_experiment


def modal_damping(readout: ConnectomeReadout, noise: float) -> Floats:
    """(D,) products f_i f_j of f = v / (v + noise) over modes' population variances v: a Wiener filter's gain on entry (i, j)."""
    values = 1 / (readout.modes**2).sum(0)
    factor = values / (values + noise)
    rows, columns = np.tril_indices(len(factor))
    return (factor[rows] * factor[columns]).astype(np.float32)


def blocks_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Entries weighted before axes are learnt, so that strong modes count more; 500 axes."""
    keys = (0, 40, "missing30", "rpn")
    for seed in seeds:
        pre, val = rotation(seed)
        runs = [abide().runs[at] for at in pre]
        readout = ConnectomeReadout.fit_population(runs, abide().coordinates, 160, width=6.5, nugget=0.1, weight=0.5)
        vectors = read_all(readout, seed, keys)
        size = readout.modes.shape[1]
        rows, columns = np.tril_indices(size)
        damping = {noise: modal_damping(readout, noise) for noise in (0.3, 1.0, 3.0)}
        options = {"plain": np.ones(len(rows)), "first mode out": ((rows > 0) & (columns > 0)).astype(float)}
        options |= {f"damped {noise}": own for noise, own in damping.items()}
        options |= {f"root damped {noise}": np.sqrt(own) for noise, own in damping.items()}
        options |= {f"mixed {noise}": np.sqrt(own**2 / (own**2).mean() + 1) for noise, own in damping.items()}
        for name, weights in options.items():
            readout.fit_axes(vectors[0][pre], 500, 0.25, (weights / np.sqrt((weights**2).mean())).astype(np.float32))
            compete(
                results,
                "blocks",
                f"6.5 mm, nugget 0.1, 160 modes, {name}",
                seed,
                pre,
                val,
                lambda: embedding({key: readout.scores(own) for key, own in vectors.items()}),
            )


EXPERIMENTS["blocks"] = blocks_experiment


DESIGN = {"width": 6.5, "nugget": 0.1, "weight": 0.5}
N_MODES = 160
ALL_KEYS = (0, 14, 40, 80, "missing30", "tr2", "whole-to-40", "rpn")


def design(seed: int) -> tuple[ConnectomeReadout, dict[int | str, Floats]]:
    """The readout of one rotation and its tangent vectors; vectors are kept on disk as scores on all axes (D is large)."""
    pre, _ = rotation(seed)
    readout = ConnectomeReadout.fit_population([abide().runs[at] for at in pre], abide().coordinates, N_MODES, **DESIGN)
    return readout, read_all(readout, seed, ALL_KEYS)


def int4(matrix: Floats) -> Floats:
    step = np.abs(matrix).max(0) / 7
    clipped = np.minimum(step, 4 * matrix.std(0) / 7)
    return (np.clip(np.round(matrix / clipped), -7, 7) * clipped).astype(np.float32)


def band_power_scores(seed: int, keys: Sequence[int | str], n_axes: int) -> dict[int | str, Floats]:
    """(N, Q) axes of log band power, total variance 1 in the pretraining people; rpn122's TR is taken as 2 s."""
    from more import log_band_power

    pre, _ = rotation(seed)
    runs = {key: excerpts(seed, key) for key in keys if isinstance(key, int)} | {
        key: own for key, own in changed_runs(seed).items() if key in keys
    }
    made = {
        key: np.stack([log_band_power(run, float(tr) * (2 if key == "tr2" else 1)) for run, tr in zip(own, abide().tr, strict=True)])
        for key, own in runs.items()
    }
    axes = Axes.fit(made[0][pre], n_axes)
    return {key: axes(own) / np.float32(np.sqrt(axes.variances.sum())) for key, own in made.items()}


def final_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Variants around the design, every contest."""
    from cohorts import hcp

    for seed in seeds:
        pre, val = rotation(seed)
        readout, vectors = design(seed)

        def enter(name: str, scores: dict[int | str, Floats]) -> None:
            kept = scores if name == "500 axes, power 0.25" else {key: own for key, own in scores.items() if key in (0, 40, "rpn")}
            compete(results, "final", name, seed, pre, val, lambda: embedding(kept))

        for n_axes, power, how in ((500, 0.25, ""), (500, 0.0, ""), (500, 0.5, ""), (384, 0.25, ""), (256, 0.25, ""), (500, 0.25, "int4")):
            readout.fit_axes(vectors[0][pre], n_axes, power)
            if how == "int8":
                readout.quantised()
            if how == "int4":
                readout.axes = int4(readout.axes)
            scores = {key: readout.scores(own) for key, own in vectors.items()}
            enter(f"{n_axes} axes, power {power}{', ' * bool(how)}{how}", scores)
            if (n_axes, power, how) == (500, 0.25, ""):
                chosen = scores
                enter("500 axes, z-scored", {key: own / scores[0][pre].std(0) for key, own in scores.items()})
                enter("500 axes, unit length", {key: own / np.linalg.norm(own, axis=1, keepdims=True) for key, own in scores.items()})
                np.savez(results.kept(f"final_{seed}.npz"), **{str(key): own for key, own in scores.items()})
            if (n_axes, power, how) == (256, 0.25, ""):
                enter("256 axes, z-scored", {key: own / scores[0][pre].std(0) for key, own in scores.items()})
        weights = np.sqrt(modal_damping(readout, 0.3))
        readout.fit_axes(vectors[0][pre], 500, 0.25, (weights / np.sqrt((weights**2).mean())).astype(np.float32))
        enter("500 axes, root damped 0.3", {key: readout.scores(own) for key, own in vectors.items()})
        spectra = band_power_scores(seed, [key for key in ALL_KEYS if key != "rpn"], 64)
        total = float(np.sqrt((chosen[0][pre] - chosen[0][pre].mean(0)).var(0).sum()))
        for share in (0.1, 0.2):
            enter(
                f"500 axes and band power {share}",
                {key: np.hstack((chosen[key] / total, np.float32(share) * own)) for key, own in spectra.items()},
            )
        for count in (50, 100, 200, 400) if seed < 3 else ():
            some = np.random.default_rng((4, seed)).permutation(pre)[:count]
            readout.fit_axes(vectors[0][some], 500, 0.25)
            enter(f"axes of {count} people", {key: readout.scores(own) for key, own in vectors.items()})
        if seed < 3:
            one = [at for at, task in enumerate(hcp().task) if ("REST1" in task and "LR" in task) or ("REST2" in task and "RL" in task)]
            others = readout.vectors([hcp().runs[at] for at in one], hcp().coordinates)
            others += vectors[0][pre].mean(0) - others.mean(0)
            readout.fit_axes(np.concatenate((vectors[0][pre], others)), 640, 0.25)
            enter("640 axes of ABIDE and HCP", {key: readout.scores(own) for key, own in vectors.items()})


EXPERIMENTS["final"] = final_experiment


def calibrate_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Amplifying modes that missing channels, or another parcellation, read poorly."""
    for seed in seeds:
        pre, val = rotation(seed)
        readout = ConnectomeReadout.fit_population([abide().runs[at] for at in pre], abide().coordinates, N_MODES, **DESIGN)
        whole = read_all(readout, seed, (0,))
        readout.fit_axes(whole[0][pre], 500, 0.5)
        _, read = readout.gain(abide().coordinates)
        readout.reference = np.diag(read).astype(np.float64)
        for restore in (0.0, 0.5, 1.0):
            readout.restore = restore
            readout.gains.clear()
            vectors = read_all(readout, seed, (0, "missing30", "rpn"))
            compete(
                results,
                "calibrate",
                f"restored to the power {restore}",
                seed,
                pre,
                val,
                lambda: embedding({key: readout.scores(own) for key, own in vectors.items()}),
                ("all", "rpn"),
            )


EXPERIMENTS["calibrate"] = calibrate_experiment


def modes_experiment(results: Results, seeds: Sequence[int]) -> None:
    """All 200 modes: is sex in fine detail? The list of settings was edited between runs; rows of 5 mm and 500 axes need others."""
    for seed in seeds:
        pre, val = rotation(seed)
        for width, nugget, n_modes in ((6.5, 0.1, 200),):
            readout = ConnectomeReadout.fit_population(
                [abide().runs[at] for at in pre], abide().coordinates, n_modes, width=width, nugget=nugget, weight=0.5
            )
            vectors = read_all(readout, seed, (0, 40, "rpn"))
            for n_axes, how in ((509, ""), (509, ", int4")):
                readout.fit_axes(vectors[0][pre], n_axes, 0.5)
                if how:
                    readout.axes = int4(readout.axes)
                compete(
                    results,
                    "modes",
                    f"{width} mm, nugget {nugget}, {n_modes} modes, {n_axes} axes{how}",
                    seed,
                    pre,
                    val,
                    lambda: embedding({key: readout.scores(own) for key, own in vectors.items()}),
                )


EXPERIMENTS["modes"] = modes_experiment
