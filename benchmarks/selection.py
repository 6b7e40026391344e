"""How many planted events the chosen windows hold, and how many motion spikes, for our score and for others, beside random windows.

python benchmarks/selection.py [--quick] [--seeds 3 4 5] [--model RUN/model]

For each seed a cohort is simulated, prepared at 8 mm and given to stage 1 (preset `tiny`); then each selector takes its windows of
every session. With `--model`, windows are scored by a model that was trained elsewhere, and nothing is trained here. Weights, distance and
the order of the mean over channels were chosen on the seeds 0, 1 and 2. Two selectors that nobody has tell what could be reached: one that
knows the maps and the response of the events, and one that knows the events.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from case import Case
from numpy.typing import NDArray

from slimbrain.config import Preset, SaliencyConfig, load_preset
from slimbrain.governance.provenance import MODEL_FOLDER
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import exact_scores, fast_scores, order_apart, order_by_score, select_uniform
from slimbrain.saliency.scores import WindowScores, combine, window_dvars
from slimbrain.simulate import CohortSpec, Truth, load_truth, simulate_cohort
from slimbrain.simulate.cohort import RESPONSE_SECONDS
from slimbrain.simulate.signals import event_map, response
from slimbrain.store import Store
from slimbrain.train import pretrain

PUBLISHED = SaliencyConfig(novelty_weight=1.0, explained_weight=0, dvars_weight=0, order="score")

RIDGE = 0.05
"""Added to the covariance of channels, whose variance is 1, before it is inverted."""


@dataclass(frozen=True)
class Session:
    """What a selector may look at, and what is true of each of N windows: events that peak there, and spikes.

    Attributes
    ----------
    maps : (E, C) where the kinds of event act; for the selector that knows them.
    """

    series: NDArray[np.float32]
    tr: float
    maps: NDArray[np.float32]
    exact: WindowScores
    fast: WindowScores
    events: NDArray[np.int64]
    spoilt: NDArray[np.bool_]


Selector = Callable[[Session, int, int], NDArray[np.int64]]


def scored(weights: SaliencyConfig, fast: bool = False) -> Selector:
    """Windows as `slimbrain rank` would take them with these weights."""

    def select(session: Session, frames: int, k: int) -> NDArray[np.int64]:
        parts = session.fast if fast else session.exact
        scores = combine(parts, float(parts.duration_s[0]), weights)
        return order_apart(scores.score, scores.onset_s, weights.min_distance_s if weights.order == "apart" else 0.0)[:k]

    return select


def alone(**weights: float) -> Selector:
    return scored(SaliencyConfig(**{"explained_weight": 0, "dvars_weight": 0, "order": "score", **weights}))  # type: ignore[arg-type]


def response_known(session: Session, frames: int, k: int) -> NDArray[np.int64]:
    """Windows that hold the highest output of a matched filter: the channels' covariance, the maps and the response are known."""
    covariance = np.cov(session.series.T) + RIDGE * np.eye(session.series.shape[1])
    courses = session.series @ np.linalg.solve(covariance, session.maps.T)
    shape = response(np.arange(0, RESPONSE_SECONDS, session.tr))
    peak = int(shape.argmax())
    # Full correlation: entry t + len(shape) - 1 belongs to a response that begins at frame t.
    filtered = np.stack([np.correlate(course, shape, "full") for course in (courses / courses.std(0)).T]).max(0)
    at_peak = filtered[len(shape) - 1 - peak :][: len(session.series)]
    n = len(session.events)
    return order_apart(at_peak[: n * frames].reshape(n, frames).max(1), session.exact.onset_s, SaliencyConfig().min_distance_s)[:k]


def top_k(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The k windows with the highest scores (N,), in order of time; all if there are fewer."""
    return np.sort(order_by_score(scores)[:k])


def highest_variance(series: NDArray[np.floating], w: int, k: int) -> NDArray[np.int64]:
    """The k windows of `w` frames whose samples of the series (T, C) lie furthest from each channel's mean, averaged over both."""
    n = len(series) // w
    squared = (series - series.mean(0))[: n * w] ** 2
    return top_k(squared.reshape(n, -1).mean(1), k)


def highest_dvars(series: NDArray[np.floating], w: int, k: int) -> NDArray[np.int64]:
    """The k windows of `w` frames that hold the largest change of the series (T, C) from one frame to the next."""
    return top_k(window_dvars(torch.as_tensor(series), w), k)


SELECTORS: dict[str, Selector] = {
    "events_known": lambda session, frames, k: np.argsort(-session.events, kind="stable")[:k],
    "response_known": response_known,
    "ours": scored(SaliencyConfig()),
    "ours_fast": scored(SaliencyConfig(), fast=True),
    "ours_by_score_alone": scored(SaliencyConfig(order="score")),
    "ours_without_dvars": alone(explained_weight=1),
    "informativeness": alone(),
    "published": scored(PUBLISHED),
    "uniform": lambda session, frames, k: select_uniform(len(session.events), k),
    "highest_variance": lambda session, frames, k: highest_variance(session.series, frames, k),
    "highest_dvars": lambda session, frames, k: highest_dvars(session.series, frames, k),
}


def simulated_store(seed: int, subjects: int, folder: Path) -> tuple[Store, Truth]:
    """Simulate and prepare a cohort, unless the folder holds it already."""
    if not (folder / "store").exists():
        simulate_cohort(folder / "cohort", CohortSpec(subjects=subjects, sessions=1, seed=seed))
        prepare(folder / "cohort", folder / "store", PrepOptions(resolution="8mm"))
    return Store(folder / "store"), load_truth(folder / "cohort" / "truth.json")


def trained_here(store: Store, preset: Preset, seed: int, folder: Path) -> TemporalExtractor:
    """Stage 1, pretrained on the very sessions that it is to rank."""
    pretrain("temporal", store, preset, folder / "run", seed, device="cpu")
    return require_model(from_pretrained(folder / "run" / MODEL_FOLDER, store.contract), TemporalExtractor, folder)


def sessions_of(store: Store, truth: Truth, model: TemporalExtractor) -> Iterator[Session]:
    """Score every session by the model."""
    places = torch.tensor(store.grid.cells.mm, dtype=torch.float32)
    maps = np.stack([event_map(place, store.grid.cells.mm) for place in truth.event_places])
    for info in store.sessions:
        series = torch.from_numpy(store.coarse(info.key))
        exact, fast = (score(model, series, places, info.tr) for score in (exact_scores, fast_scores))
        true = planted(truth, info.key, model.window_frames, info.tr, len(exact))
        yield Session(standardise(series).numpy(), info.tr, maps, exact, fast, *true)


def planted(truth: Truth, key: str, frames: int, tr: float, windows: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) events whose response peaks in each window, and whether a motion spike spoilt it."""
    session = truth.session(key)
    spoilt = np.zeros(windows, dtype=bool)
    spoilt[[frame // frames for frame in session.spikes if frame // frames < windows]] = True
    return session.events_per_window(frames, tr, windows), spoilt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 3 sessions, 20 steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--model", help="folder of a stage 1 model, or name of a shipped one, to score by; trained here if not given")
    parser.add_argument("--cohorts", type=Path, help="folder to keep the simulated cohorts in, for another run")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset = load_preset("tiny", ["train_temporal.steps=20"] if options.quick else None)
    ready = require_model(from_pretrained(options.model), TemporalExtractor, options.model) if options.model else None
    subjects, frames, k = 3 if options.quick else 24, (ready or preset.temporal).window_frames, preset.window.k
    for seed in options.seeds[:1] if options.quick else options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            store, truth = simulated_store(seed, subjects, (options.cohorts or Path(folder)) / f"seed-{seed}")
            model = ready or trained_here(store, preset, seed, Path(folder))
            sessions = list(sessions_of(store, truth, model.eval()))
        events = sum(int(session.events.sum()) for session in sessions)
        chance = sum(float(session.events.sum()) * k / len(session.events) for session in sessions) / events
        spoilt = float(np.mean([session.spoilt.mean() for session in sessions]))
        for name, select in SELECTORS.items():
            chosen = [select(session, frames, k) for session in sessions]
            found = sum(int(session.events[windows].sum()) for session, windows in zip(sessions, chosen, strict=True)) / events
            hit = float(np.mean([session.spoilt[windows].mean() for session, windows in zip(sessions, chosen, strict=True)]))
            detail = {"quick": options.quick, "seed": seed, "sessions": subjects, "windows": len(sessions[0].events), "k": k}
            detail["model"] = options.model or "trained on these sessions"
            detail |= {"share_of_chosen_with_a_spike": round(hit, 4), "share_of_all_with_a_spike": round(spoilt, 4)}
            Case(f"selection/recall_{name}_seed_{seed}", found, "share of planted events", "random", chance, detail).print()


if __name__ == "__main__":
    main()
