"""What do shrinkage, axes, their scaling, the reader, frequency bands and frame weights contribute? Linear experiments.

.venv/bin/python benchmarks/stage1/run.py --experiment axes        # also: anchors, views, frames, ledoit
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from cohorts import Floats, Ints, abide, rpn, standardise
from connectome import Axes, correlations, flatten, inverse_root, tangent
from contests import EXCERPTS, EXPERIMENTS, LENGTHS, Embedding, Results, compete, excerpts, rotation

RIDGE = 1e-3


def population_vectors(stacks: dict[int, Floats], pre: Ints, weight: float) -> dict[int, Floats]:
    """Tangent vectors at the pretraining people's mean correlation over whole runs, covariances shrunk towards it."""
    mean = stacks[0][pre].mean(0)
    mean = ((1 - RIDGE) * mean + RIDGE * np.eye(len(mean))).astype(np.float32)
    whitening = inverse_root(mean)
    if weight >= 1:  # the limit: no logarithm
        return {key: flatten(whitening @ stack @ whitening - np.eye(len(mean), dtype=np.float32)) for key, stack in stacks.items()}
    return {key: tangent((1 - weight) * stack + weight * mean, whitening) / (1 - weight) for key, stack in stacks.items()}


def axes_experiment(results: Results, seeds: Sequence[int]) -> None:
    site = abide().table["site"]
    for seed in seeds:
        pre, val = rotation(seed)
        stacks = {frames: correlations(excerpts(seed, frames)) for frames in LENGTHS}
        for weight in (0.5, 0.2, 0.8, 1.0):
            vectors = population_vectors(stacks, pre, weight)
            tag = f"w{weight}"
            compete(results, "axes", f"{tag} all dimensions", seed, pre, val, lambda: Embedding(vectors))
            axes = Axes.fit(vectors[0][pre], len(pre) - 1)
            scores = {key: axes(own) for key, own in vectors.items()}
            spread = axes.variances / axes.variances[0]
            for n_axes in (50, 100, 256, 500) if weight in (0.5, 1.0) else (256,):
                compete(
                    results,
                    "axes",
                    f"{tag} {n_axes} axes",
                    seed,
                    pre,
                    val,
                    lambda: Embedding({key: own[:, :n_axes] for key, own in scores.items()}),
                )
            for gamma in (-0.5, 0.25, 0.5, 1.0, 2.0):
                if weight == 0.5 or gamma == 0.5:
                    compete(
                        results,
                        "axes",
                        f"{tag} 500 axes times variance^{gamma / 2}",
                        seed,
                        pre,
                        val,
                        lambda: Embedding(
                            {key: own[:, :500] * (spread[:500] ** (gamma / 2)).astype(np.float32) for key, own in scores.items()}
                        ),
                    )
            if weight != 0.5:
                continue
            # Axes of deviations from the site's mean, learnt in pretraining people; no site is needed afterwards.
            centred = vectors[0][pre].copy()
            for name in np.unique(site[pre]):
                rows = site[pre] == name
                centred[rows] -= centred[rows].mean(0)
            within = Axes.fit(centred, len(pre) - 25)
            own_spread = within.variances / within.variances[0]
            for gamma in (0.0, 0.5, 1.0):
                compete(
                    results,
                    "axes",
                    f"{tag} 470 axes within site times variance^{gamma / 2}",
                    seed,
                    pre,
                    val,
                    lambda: Embedding(
                        {key: within(own)[:, :470] * (own_spread[:470] ** (gamma / 2)).astype(np.float32) for key, own in vectors.items()}
                    ),
                )
            # Reliability: halves of the pretraining people's runs.
            halves = [
                correlations([standardise(run[: len(run) // 2]) for run in abide().runs]),
                correlations([standardise(run[len(run) // 2 :]) for run in abide().runs]),
            ]
            first, second = (axes(population_vectors({0: stacks[0], 1: half}, pre, weight)[1])[pre] for half in halves)
            first, second = first - first.mean(0), second - second.mean(0)
            shared = (first * second).mean(0)
            reliability = np.clip(shared / np.sqrt((first**2).mean(0) * (second**2).mean(0)), 0.01, 1)
            np.save(results.kept(f"reliability_{seed}.npy"), np.stack((axes.variances, reliability)))
            for power in (0.5, 1.0, 2.0):
                compete(
                    results,
                    "axes",
                    f"{tag} 500 axes times reliability^{power}",
                    seed,
                    pre,
                    val,
                    lambda: Embedding({key: own[:, :500] * (reliability[:500] ** power).astype(np.float32) for key, own in scores.items()}),
                )


EXPERIMENTS["axes"] = axes_experiment


def with_missing(runs: Sequence[Floats], share: float = 0.3) -> list[Floats]:
    """Runs of which a random share of channels is empty."""
    made = []
    for at, run in enumerate(runs):
        rng = np.random.default_rng((31, at))
        made.append(run * (rng.random(run.shape[1]) >= share).astype(np.float32))
    return made


def decimated(runs: Sequence[Floats]) -> list[Floats]:
    """TR doubled: every other frame."""
    return [standardise(run[::2]) for run in runs]


def changed_runs(seed: int) -> dict[str, list[Floats]]:
    runs = abide().runs
    return {"missing30": with_missing(runs), "tr2": decimated(runs), "whole-to-40": excerpts(seed, 40)}


def anchors_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Readers: from channels to the second moments at anchors."""
    from connectome import GaussianReader, PopulationReader, k_means_anchors, shrunk_tangent

    places, other = abide().coordinates, rpn().coordinates
    for seed in seeds:
        pre, val = rotation(seed)
        runs = {**{frames: excerpts(seed, frames) for frames in LENGTHS}, **changed_runs(seed)}

        def made(read: Callable[[Sequence[Floats], Floats], Floats], mean: Floats | None, weight: float, n_axes: int | None) -> Embedding:
            matrices = {key: read(own, places) for key, own in runs.items()}
            matrices["rpn"] = read(rpn().runs, other)
            origin = matrices[0][pre].mean(0) * (1 - RIDGE) + RIDGE * np.eye(matrices[0].shape[1]) if mean is None else mean
            vectors = {key: shrunk_tangent(own, origin, weight) for key, own in matrices.items()}
            if n_axes:
                axes = Axes.fit(vectors[0][pre], n_axes)
                vectors = {key: axes(own) for key, own in vectors.items()}
            return Embedding(
                {key: vectors[key] for key in LENGTHS}, vectors["rpn"], {key: vectors[key] for key in runs if key not in LENGTHS}
            )

        for k, width in ((150, 7), (200, 7)):
            anchors = k_means_anchors(places, k) if k < 200 else places
            gaussian = GaussianReader(anchors, width)
            for weight, n_axes in ((0.1, None), (0.5, 500)) if k == 150 else ((0.5, 500),):
                compete(
                    results,
                    "anchors",
                    f"gaussian {k} of {width} mm, weight {weight}, axes {n_axes}",
                    seed,
                    pre,
                    val,
                    lambda: made(gaussian.covariances, None, weight, n_axes),
                )
        native = correlations(abide().runs)[pre].mean(0) * (1 - RIDGE) + RIDGE * np.eye(200)
        for width, nugget in ((5, 0.05), (8, 0.2), (8, 0.5), (12, 0.2)):
            reader = PopulationReader(places, native, width, nugget)
            for n_axes in (500,):
                compete(
                    results,
                    "anchors",
                    f"population {width} mm, nugget {nugget}, weight 0.5, axes {n_axes}",
                    seed,
                    pre,
                    val,
                    lambda: made(reader.covariances, native, 0.5, n_axes),
                )


EXPERIMENTS["anchors"] = anchors_experiment


BANDS = {"low": (0.0, 0.05), "mid": (0.05, 0.1), "high": (0.1, 9.0), "slow": (0.0, 0.1)}
"""Hz."""


def band_passed(run: Floats, tr: float, band: tuple[float, float]) -> Floats:
    spectrum = np.fft.rfft(run, axis=0)
    frequency = np.fft.rfftfreq(len(run), tr)
    spectrum[(frequency < band[0]) | (frequency >= band[1])] = 0
    return standardise(np.fft.irfft(spectrum, len(run), axis=0))


POWER_EDGES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 9.0)


def log_band_power(run: Floats, tr: float) -> Floats:
    """(7 C,) log share of every channel's power in seven bands; an empty band or channel is 0."""
    power = np.abs(np.fft.rfft(run, axis=0)) ** 2
    frequency = np.fft.rfftfreq(len(run), tr)
    shares = np.stack([power[(frequency >= low) & (frequency < high)].sum(0) for low, high in pairwise(POWER_EDGES)])
    shares = shares / np.maximum(shares.sum(0), 1e-9)
    return np.where(shares > 0, np.log(shares + 0.01) - np.log(1 / 7 + 0.01), 0).ravel().astype(np.float32)


def views_experiment(results: Results, seeds: Sequence[int]) -> None:
    """What bands, differences and band power add to the covariance of the whole band."""
    tr = abide().tr
    for seed in seeds:
        pre, val = rotation(seed)
        scores: dict[str, dict[int, Floats]] = {}
        cuts = {frames: excerpts(seed, frames) for frames in LENGTHS}

        def project(vectors: dict[int, Floats], n_axes: int) -> dict[int, Floats]:
            axes = Axes.fit(vectors[0][pre], n_axes)
            scale = np.float32(1 / np.sqrt(axes.variances.sum()))
            return {key: axes(own) * scale for key, own in vectors.items()}

        for name in ("full", "low", "mid", "high", "slow", "difference"):
            if name == "full":
                runs = cuts
            elif name == "difference":
                runs = {key: [standardise(np.diff(run, axis=0)) for run in own] for key, own in cuts.items()}
            else:
                runs = {
                    key: [band_passed(run, float(seconds), BANDS[name]) for run, seconds in zip(own, tr, strict=True)]
                    for key, own in cuts.items()
                }
            scores[name] = project(population_vectors({key: correlations(own) for key, own in runs.items()}, pre, 0.5), 400)
            compete(results, "views", name, seed, pre, val, lambda: Embedding(scores[name]))
        power = {
            key: np.stack([log_band_power(run, float(seconds)) for run, seconds in zip(own, tr, strict=True)]) for key, own in cuts.items()
        }
        scores["power"] = project(power, 400)
        compete(results, "views", "power", seed, pre, val, lambda: Embedding(scores["power"]))
        for weights in (
            {"full": 1.0, "power": 0.5},
            {"full": 1.0, "power": 1.0},
            {"full": 1.0, "high": 0.7, "low": 0.7},
            {"low": 1.0, "mid": 1.0, "high": 1.0},
            {"full": 1.0, "low": 0.5, "mid": 0.5, "high": 0.5, "power": 0.5},
            {"full": 1.0, "slow": 1.0},
            {"full": 1.0, "difference": 1.0},
        ):
            name = " + ".join(f"{weight} {view}" for view, weight in weights.items())
            compete(
                results,
                "views",
                name,
                seed,
                pre,
                val,
                lambda: Embedding(
                    {key: np.hstack([np.float32(weight) * scores[view][key] for view, weight in weights.items()]) for key in LENGTHS}
                ),
            )


EXPERIMENTS["views"] = views_experiment


def frame_weighted(runs: Sequence[Floats], whitening: Floats, power: float) -> Floats:
    """(N, C, C) correlations of frames divided by their Mahalanobis length under the population, to `power` (1: directions alone)."""
    made = []
    for run in runs:
        length = np.sqrt(((run @ whitening) ** 2).mean(1))
        made.append(standardise(run / np.maximum(length, 1e-3)[:, None] ** power))
    return correlations(made)


def frames_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Frames weighted by their size under the population; global signal out; differences; all then w0.5, 500 axes."""
    for seed in seeds:
        pre, val = rotation(seed)
        runs = {frames: excerpts(seed, frames) for frames in LENGTHS}
        plain = correlations(runs[0])[pre].mean(0)
        whitening = inverse_root((1 - RIDGE) * plain + RIDGE * np.eye(200)).astype(np.float32)

        def finish(stacks: dict[int, Floats], weight: float = 0.5) -> Embedding:
            vectors = population_vectors(stacks, pre, weight)
            axes = Axes.fit(vectors[0][pre], 500)
            return Embedding({key: axes(own) for key, own in vectors.items()})

        for power in (0.5, 1.0):
            compete(
                results,
                "frames",
                f"frames divided by length^{power}",
                seed,
                pre,
                val,
                lambda: finish({key: frame_weighted(own, whitening, power) for key, own in runs.items()}),
            )
        compete(
            results,
            "frames",
            "global signal out",
            seed,
            pre,
            val,
            lambda: finish({key: correlations([global_signal_out(run) for run in own]) for key, own in runs.items()}),
        )


def global_signal_out(run: Floats) -> Floats:
    signal = run.mean(1)
    return standardise(run - np.outer(signal, signal @ run / (signal @ signal)))


EXPERIMENTS["frames"] = frames_experiment


def ledoit_scores(results: Results, seed: int) -> tuple[dict[int, Floats], Floats]:
    """Scores, by excerpt length, of Ledoit-Wolf tangents on axes of the pretraining people's whole runs; axis variances. Kept on disk."""
    from connectome import geometric_mean, ledoit_wolf_stack

    kept = results.kept(f"ledoit_{seed}.npz")
    if not kept.exists():
        pre, _ = rotation(seed)
        stack = ledoit_wolf_stack(excerpts(seed, 0))
        whitening = inverse_root(geometric_mean(stack[pre])).astype(np.float32)
        whole = tangent(stack, whitening)
        axes = Axes.fit(whole[pre], len(pre) - 1)
        made = {
            "0": axes(whole),
            "variances": axes.variances,
            **{str(frames): axes(tangent(ledoit_wolf_stack(excerpts(seed, frames)), whitening)) for frames in EXCERPTS},
        }
        np.savez(kept, **made)
    with np.load(kept) as archive:
        return {frames: archive[str(frames)] for frames in LENGTHS}, archive["variances"]


def ledoit_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Tangents shrunk by Ledoit-Wolf at the geometric mean, on axes of whole runs, read at every length."""
    for seed in seeds:
        pre, val = rotation(seed)
        scores, variances = ledoit_scores(results, seed)
        spread = (variances / variances[0]).astype(np.float32)
        for n_axes, gamma in ((100, 0.0), (256, 0.0), (500, 0.0), (500, 0.25), (500, 0.5)):
            compete(
                results,
                "ledoit",
                f"{n_axes} axes times variance^{gamma}",
                seed,
                pre,
                val,
                lambda: Embedding({key: own[:, :n_axes] * spread[:n_axes] ** gamma for key, own in scores.items()}),
            )


EXPERIMENTS["ledoit"] = ledoit_experiment
