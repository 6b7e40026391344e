"""Window scores: exact against fast, in seconds, in masked reconstructions and in rank correlation.

python benchmarks/saliency.py [--quick] [--whole] [--threads 2]

Seconds are of the preset `base` with the cells of the 2 mm lattice and 1,200 frames (150 windows), weights as they are at the start, which
no time depends on. The exact scores take as long for each of their masked reconstructions, so the first 32 are timed and scaled; `--whole`
times them all. Rank correlations are of a small extractor trained on series with networks, autocorrelation and slow events, on sessions it
was not trained on, and of another on the recording in ../shared/data/faces where that is there; these run on one thread, since the number
of threads changes what is learnt.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from case import Case
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from slimbrain.config import TemporalConfig, load_preset
from slimbrain.grid import Grid
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import WindowScores, exact_scores, fast_scores
from slimbrain.saliency.fast import HIDE_EVERY, SHOW_EVERY
from slimbrain.saliency.scores import scorable, window_errors
from slimbrain.store import Store

FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "faces"
TR = 0.72
SMALL = TemporalConfig(width=64, depth=2, heads=4, groups=16)
NAMES = ("informativeness", "novelty", "explained", "score")
SPACINGS = ((2, 2), (4, 4), (6, 3), (7, 3), (8, 3), (8, 8), (12, 12), (24, 24))
"""Windows from one shown to the next, and from one hidden to the next."""
TIMED_PASSES = 32
EVENT_S = 12.0
REACH = 4
"""Windows on each side that the estimate from half-masks looks at."""

FloatArray = NDArray[np.float64]


def simulated(places: Tensor, sessions: int, frames: int, seed: int) -> Tensor:
    """(S, T, C) five networks of AR(1) courses, noise, and a slow event somewhere every minute."""
    rng = np.random.default_rng(seed)
    centres = places.numpy()[rng.choice(len(places), 6, replace=False)]
    maps = np.exp(-((places.numpy()[None] - centres[:, None]) ** 2).sum(-1) / 2 / 35**2)
    courses, noise = np.zeros((sessions, frames, 5)), np.zeros((sessions, frames, len(places)))
    for frame in range(1, frames):
        courses[:, frame] = 0.9 * courses[:, frame - 1] + 0.43 * rng.standard_normal((sessions, 5))
        noise[:, frame] = 0.4 * noise[:, frame - 1] + 0.6 * rng.standard_normal((sessions, len(places)))
    onsets = rng.uniform(0, frames * TR, (sessions, max(1, int(frames * TR / 60))))
    since = TR * np.arange(frames)[None, :, None] - onsets[:, None]
    response = np.where((since > 0) & (since < EVENT_S), np.sin(np.pi * since / EVENT_S) ** 2, 0).sum(-1)
    return torch.from_numpy(courses @ maps[:5] + noise + 3 * response[:, :, None] * maps[5]).float()


def trained(series: Sequence[Tensor], places: Tensor, steps: int, seed: int = 0) -> TemporalExtractor:
    torch.manual_seed(seed)
    model = TemporalExtractor(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        loss, _ = temporal_loss(model, series[step % len(series)][None], places, TR, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def correlations(
    model: TemporalExtractor, sessions: Sequence[Tensor], places: Tensor, exact: Sequence[WindowScores]
) -> dict[str, dict[str, float]]:
    """Mean Spearman correlation with the exact scores over sessions, by spacing and by part."""
    table = {}
    for show, hide in SPACINGS:
        fast = [fast_scores(model, series, places, TR, show_every=show, hide_every=hide) for series in sessions]
        table[f"{show}, {hide}"] = {
            name: round(mean(_rank_correlation(a, b, name) for a, b in zip(fast, exact, strict=True)), 4) for name in NAMES
        }
    return table


def _rank_correlation(fast: WindowScores, exact: WindowScores, name: str) -> float:
    return float(spearmanr(getattr(fast, name), getattr(exact, name)).statistic)


def half_masks(model: TemporalExtractor, series: Tensor, places: Tensor, passes: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Informativeness and novelty estimated from random half-masks, both from the same passes: the way that was not taken.

    Novelty of a window is its error, relative to that with nothing visible, in the passes that hide it. Informativeness adds up how
    much more of the windows up to `REACH` away is rebuilt in passes that show it, by ridge regression on what is visible around them.
    """
    series, places, n = scorable(model, series, places)
    visible = np.random.default_rng(seed).random((passes, n)) < 0.5
    nothing = torch.zeros(1, n, dtype=torch.bool)
    anything = torch.zeros(n, dtype=torch.int64)
    errors = window_errors(model, series, places, TR, torch.cat((nothing, torch.from_numpy(visible))), anything).absolute
    gain = 1 - errors[1:] / errors[0]
    informativeness, novelty = np.zeros(n), np.zeros(n)
    for j in range(n):
        hidden = ~visible[:, j]
        around = [i for i in range(max(0, j - REACH), min(n, j + REACH + 1)) if i != j]
        shown = visible[hidden][:, around].astype(float)
        shown, told = shown - shown.mean(0), gain[hidden, j] - gain[hidden, j].mean()
        informativeness[around] += np.linalg.solve(shown.T @ shown + np.eye(len(around)), shown.T @ told)
        novelty[j] = 1 - gain[hidden, j].mean()
    return informativeness, novelty


def half_mask_correlations(
    model: TemporalExtractor, sessions: Sequence[Tensor], places: Tensor, exact: Sequence[WindowScores], passes: int
) -> dict[str, float]:
    estimates = [half_masks(model, series, places, passes, 0) for series in sessions]
    return {
        name: round(mean(float(spearmanr(own[part], getattr(true, name)).statistic) for own, true in zip(estimates, exact, strict=True)), 4)
        for part, name in enumerate(("informativeness", "novelty"))
    }


def faces(steps: int) -> dict[str, dict[str, float]] | None:
    """The same on a real recording, which the extractor was trained on; None where it is not there."""
    if not FACES.is_dir():
        return None
    with tempfile.TemporaryDirectory() as folder:
        prepare(FACES, folder, PrepOptions(resolution="8mm"))
        store = Store(folder)
        series = [torch.from_numpy(store.coarse(info.key)) for info in store.sessions]
        places = torch.tensor(store.grid.cells.mm, dtype=torch.float32)
    model = trained(series, places, steps)
    return correlations(model, series, places, [exact_scores(model, own, places, TR) for own in series])


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The fastest of some runs."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    return best


def exact_seconds(model: TemporalExtractor, series: Tensor, places: Tensor, whole: bool) -> tuple[float, int]:
    """Seconds of the exact scores, and by how many of their masked reconstructions these were measured."""
    passes = 2 * (len(series) // model.window_frames) + 1
    if whole or passes <= TIMED_PASSES:
        return seconds(lambda: exact_scores(model, series, places, TR), 1), passes
    scored, places, n = scorable(model, series, places)
    visible = ~torch.eye(n, dtype=torch.bool)[:TIMED_PASSES]
    return seconds(lambda: window_errors(model, scored, places, TR, visible, torch.arange(n)), 1) * passes / len(visible), len(visible)


def timing(threads: int, quick: bool, whole: bool) -> None:
    torch.set_num_threads(threads)
    preset, frames = (load_preset("tiny"), 240) if quick else (load_preset("base"), 1200)
    places = torch.tensor(Grid.mni152("8mm" if quick else "2mm").cells.mm, dtype=torch.float32)
    series, model = simulated(places, 1, frames, 0)[0], TemporalExtractor(preset.temporal).eval()
    with torch.no_grad():
        forward = seconds(lambda: model(series[None], places, TR), 3)
    fast = seconds(lambda: fast_scores(model, series, places, TR), 1 if quick else 3)
    exact, measured = exact_seconds(model, series, places, whole)
    windows = frames // model.window_frames
    detail = {"quick": quick, "preset": preset.name, "frames": frames, "windows": windows, "channels": len(places), "threads": threads}
    detail |= {"forward_seconds": round(forward, 4), "exact_passes": 2 * windows + 1, "exact_passes_timed": measured}
    detail |= {"fast_passes": SHOW_EVERY + HIDE_EVERY + 1}
    Case("saliency/exact_seconds", exact, "s", "fast", fast, detail).print()
    Case("saliency/fast_seconds", fast, "s", "exact", exact, detail).print()


def agreement(quick: bool) -> None:
    torch.set_num_threads(1)
    steps, long = (20, 400) if quick else (150, 1920)
    places = torch.tensor(Grid.mni152("8mm").cells.mm[::6], dtype=torch.float32)
    sessions = simulated(places, 6, long, 1)
    small, held_out = trained(sessions[:4], places, steps), sessions[4:]
    exact = [exact_scores(small, series, places, TR) for series in held_out]
    table = correlations(small, held_out, places, exact)
    note = {
        "quick": quick,
        "windows": long // 8,
        "by_spacing": table,
        "half_masks_by_passes": {str(n): half_mask_correlations(small, held_out, places, exact, n) for n in (11, 25, 49, 97)},
        "faces_by_spacing": faces(steps),
        "passes": SHOW_EVERY + HIDE_EVERY + 1,
        "against_is": "goal",
    }
    Case("saliency/spearman", table[f"{SHOW_EVERY}, {HIDE_EVERY}"]["score"], "rank correlation", "goal", 0.9, note).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the preset tiny, 240 frames, 20 steps")
    parser.add_argument("--whole", action="store_true", help="time every pass of the exact scores")
    parser.add_argument("--threads", type=int, default=2, help="for what is timed")
    options = parser.parse_args()
    timing(options.threads, options.quick, options.whole)
    agreement(options.quick)


if __name__ == "__main__":
    main()
