"""What a mixture costs, and what it is worth: weights in proportion, alike, or adaptive; one large redundant cohort, three small ones.

    python benchmarks/mixtures.py [--quick] [--seeds 0 1 2] [--only plan cost worth]

`plan`: from a closed store of 100,000 sessions to the first draw. `cost`: the sampler and the adaptive part beside the training steps of
the same run. `worth`: four simulated cohorts, of which the large one is many alike sessions of people who hardly differ; stage 2 is
trained for the same number of steps with each mixture, then asked for the prediction error on people of every cohort whom no run saw, and
for a linear probe of the planted group among those of the small cohorts. Cohorts are simulated once; a seed is of weights, order, masks
and who is held out.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import Case

from slimbrain.config import AdaptiveConfig, ComponentConfig, MixtureConfig, Preset, SamplingConfig, load_preset, with_mixture
from slimbrain.data.draws import ClipDraws, Draws, Pick
from slimbrain.data.mixture import divide
from slimbrain.data.samplers import mix
from slimbrain.embed.features import embed_store
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.stats import score
from slimbrain.governance.provenance import MODEL_FOLDER
from slimbrain.models.hub import from_pretrained
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import SessionInfo, Store
from slimbrain.store.manifest import _parse_once, manifest_text, session_key, session_path
from slimbrain.store.merge import merge
from slimbrain.train import VoxelStage, pretrain, read_metrics
from slimbrain.train.adapt import Adapter
from slimbrain.train.loop import Loop

FRAMES = 160
LARGE = "redundant"
COHORTS: dict[str, dict[str, Any]] = {
    LARGE: {"identity_strength": 0.1, "trait_strength": 0.0, "networks": 6, "events_per_session": 0, "sites": 1},
    "eventful": {"event_amplitude": 5.0, "events_per_session": 5, "networks": 7, "sites": 1},
    "noisy": {"snr": 0.8, "networks": 10, "sites": 2, "site_strength": 2.0},
    "diverse": {"identity_strength": 2.0, "networks": 9, "sites": 1},
}
MIXTURES = ("proportional", "uniform", "adaptive")
DEFAULT_EVERY = AdaptiveConfig().every
HELD_OUT_CLIPS = 2
"""Clips of each session that the prediction error is a mean over."""

PROBE_WINDOWS = 6
PARTS = ("plan", "cost", "worth")
SESSIONS = 100_000
REPEATS = 5
"""Times that the table of many sessions is read in each way, one after the other."""


@dataclass(frozen=True)
class Size:
    """People of the large and of each small cohort that are trained on, people of each that are not, and training."""

    large: int
    small: int
    tested: int
    settings: tuple[str, ...]
    every: int
    quick: bool


MODEL = ("window.k=2", "window.pool=1", "voxel.embed=8", "voxel.depths=[1,1,1,1]", "jepa.predictor_width=64", "jepa.predictor_depth=1")
FULL = Size(40, 6, 20, (*MODEL, "train_voxel.steps=120", "train_voxel.batch=4", "train_voxel.warmup=20"), 10, False)
QUICK = Size(6, 3, 6, (*MODEL, "train_voxel.steps=12", "train_voxel.batch=4", "train_voxel.warmup=2"), 5, True)


# --- cohorts


@dataclass(frozen=True)
class World:
    """A store with all cohorts, who is trained on and who is tested, by cohort, and the planted group of each participant."""

    store: Store
    trained: Mapping[str, list[str]]
    tested: Mapping[str, list[str]]

    def groups(self, store: Store) -> list[str]:
        return [self.store.participants[info.subject]["group"] for info in store.sessions]


def make_world(folder: Path, size: Size) -> World:
    """Simulate and prepare each cohort, then merge; numbers of participants tell the cohorts apart. What is there is not made again."""
    stores, trained, tested = [], {}, {}
    for number, (name, spec) in enumerate(COHORTS.items()):
        first, known = 1 + 200 * number, size.large if name == LARGE else size.small
        values = {"subjects": known + size.tested, "sessions": 1, "frames": FRAMES, "first": first, "seed": 10 + number, **spec}
        simulate_cohort(folder / name, CohortSpec.model_validate(values))
        prepare(folder / name, folder / f"store_{name}", PrepOptions(resolution="8mm"))
        stores.append(Store(folder / f"store_{name}"))
        people = [f"sub-{first + person:03d}" for person in range(known + size.tested)]
        trained[name], tested[name] = people[:known], people[known:]
    merge(folder / "store", stores)
    return World(Store(folder / "store"), trained, tested)


def mixture_of(kind: str, every: int) -> MixtureConfig:
    """Components by their participants' numbers, as a user without a cohort column would write them."""
    parts = {}
    for number, name in enumerate(COHORTS):
        low, high = f"sub-{1 + 200 * number:03d}", f"sub-{201 + 200 * number:03d}"
        where = f"participant_id >= '{low}' and participant_id < '{high}'"
        # Adaptive weights start alike.
        parts[name] = ComponentConfig(filter=where, weight="sessions" if kind == "proportional" else 1.0)
    adaptive = AdaptiveConfig(every=every, held_out=0.17, floor=0.06) if kind == "adaptive" else None
    return MixtureConfig(components=parts, adaptive=adaptive)


# --- what a mixture is worth


def prediction_error(run: Path, world: World, preset: Preset, cohort: str) -> float:
    """Mean prediction error of a trained model on people of one cohort whom no run saw; the same clips and masks for all."""
    view = world.store.select(world.tested[cohort])
    model = from_pretrained(run / MODEL_FOLDER, view.contract)
    draws = ClipDraws(view, preset.window, 99, preset.voxel.unit, preset.voxel.unit_frames, preset.jepa)
    errors = []
    with torch.no_grad():
        for session in range(len(draws.sessions)):
            for clip in range(HELD_OUT_CLIPS):
                sample = draws[Pick(HELD_OUT_CLIPS * session + clip, session)]
                parts = model([sample.clip], [sample.mask]).by_kind.values()  # type: ignore[operator]
                errors.append(float(sum(parts)) / len(parts))
    return float(np.mean(errors))


def probe(run: Path, world: World) -> dict[str, float]:
    """Accuracy and AUC of a linear probe of the planted group, folds by subject, among tested people of the small cohorts."""
    people = [person for name in COHORTS if name != LARGE for person in world.tested[name]]
    view = world.store.select(people)
    embeddings = embed_store(view, from_pretrained(run / MODEL_FOLDER, view.contract), k=PROBE_WINDOWS)
    features = FeatureSet("model", "linear probe", embeddings.values)
    policy = SplitPolicy(seeds=(0, 1, 2))
    found = cross_validate(features, np.array(world.groups(view)), np.array(embeddings.subjects), "classification", policy)
    return {metric: float(score(found, metric).mean()) for metric in ("accuracy", "auc")}


def worth(size: Size, seeds: Sequence[int], folder: Path) -> None:
    world = make_world(folder, size)
    people = world.store.select([person for people in world.trained.values() for person in people])
    for seed in seeds:
        errors: dict[str, dict[str, float]] = {}
        probes: dict[str, dict[str, float]] = {}
        details: dict[str, dict[str, Any]] = {}
        for kind in MIXTURES:
            preset = with_mixture(load_preset("tiny", list(size.settings)), mixture_of(kind, size.every))
            run = folder / f"{kind}_{seed}"
            started = time.perf_counter()
            last = pretrain("voxel", people, preset, run, seed, resume=True, device="cpu")
            details[kind] = {"seconds": round(time.perf_counter() - started, 1), "last_loss": last["loss"]}
            details[kind] |= {"weights": weights_over_time(run)} if kind == "adaptive" else {}
            errors[kind] = {name: prediction_error(run, world, preset, name) for name in COHORTS}
            probes[kind] = probe(run, world)
            print(f"seed {seed}, {kind}: {errors[kind]} {probes[kind]} {details[kind]}", file=sys.stderr, flush=True)
        for kind in MIXTURES[1:]:
            detail = {"quick": size.quick, "seed": seed, "steps": int(preset.train_voxel.steps), **details[kind]}
            for name in COHORTS:
                values = errors[kind][name], "smooth L1", MIXTURES[0], errors[MIXTURES[0]][name]
                Case(f"mixtures/held_out_loss_{name}_{kind}_seed_{seed}", *values, detail).print()
            for metric in ("accuracy", "auc"):
                values = probes[kind][metric], metric, MIXTURES[0], probes[MIXTURES[0]][metric]
                Case(f"mixtures/probe_{metric}_{kind}_seed_{seed}", *values, detail).print()


def weights_over_time(run: Path) -> dict[str, list[float]]:
    lines = read_metrics(run)
    return {name: [round(line[f"weight_{name}"], 3) for line in lines[:: max(1, len(lines) // 8)]] for name in COHORTS}


# --- what a mixture costs


@contextlib.contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """Processor seconds that a method takes while the block lasts; other work on the machine does not count."""
    original: Callable[..., Any] = getattr(owner, name)
    seconds: list[float] = []

    def wrapper(*arguments: Any) -> Any:
        started = time.process_time()
        try:
            return original(*arguments)
        finally:
            seconds.append(time.process_time() - started)

    setattr(owner, name, wrapper)
    try:
        yield seconds
    finally:
        setattr(owner, name, original)


def cost(size: Size, folder: Path) -> None:
    """Adaptive runs, with the interval of the comparison and the default one; how long steps, draws and adjustments took."""
    world = make_world(folder, replace(QUICK, tested=0))
    for every in (size.every,) if size.quick else (size.every, DEFAULT_EVERY):
        preset = with_mixture(load_preset("tiny", [*size.settings, f"train_voxel.steps={2 * every}"]), mixture_of("adaptive", every))
        run = folder / f"every_{every}"
        loop = Loop(VoxelStage(world.store, preset, 0, None), preset.train_voxel, run, torch.device("cpu"))
        # A session is chosen while a batch is asked for, which is within a step; adjustments follow it.
        with timed(Loop, "_timed_step") as steps, timed(Draws, "pick") as draws, timed(Adapter, "after_step") as adjustments:
            loop.fit()
        alone = sum(steps) - sum(draws) - sum(adjustments)
        detail = {
            "quick": size.quick,
            "steps": len(steps),
            "components": len(COHORTS),
            "every": every,
            "draws_a_step": preset.train_voxel.batch,
        }
        for name, seconds in (("sampler", draws), ("adaptive", adjustments)):
            values = sum(seconds) / len(steps), "s", "the rest of a training step", alone / len(steps)
            Case(f"mixtures/{name}_seconds_every_{every}", *values, detail).print()


def plan_many(size: Size, folder: Path) -> None:
    """From a closed store of 100,000 sessions to the first draw, beside a session made of every row first, and pandas reading the table."""
    import pandas

    sessions = SESSIONS // 20 if size.quick else SESSIONS
    root = Store.create(folder / "many", None, 0.72).root
    (root / "sessions.tsv").write_text(manifest_text(list(map(invented, range(sessions)))))
    parts = {
        "large": ComponentConfig(filter="cohort == 'a' and coverage >= 0.1", weight={0: 3, 5000: 1}),
        "small": ComponentConfig(filter="cohort in ['b', 'c'] and not task == 'task-movie'", weight=1.0),
    }
    sampling = SamplingConfig(mixture=MixtureConfig(components=parts, most_repeats=3))

    def plan(store: Store, listed: Sequence[SessionInfo]) -> SessionInfo:
        division = divide(store, listed, sampling, 0)
        return division.trained[mix(division.drawn_as, 0, division.weights, cap=3).session(0)]

    def by_columns() -> SessionInfo:
        store = Store(root)
        return plan(store, store.sessions.of_windows(8, 5))

    def row_by_row() -> SessionInfo:
        """As it was: every row becomes a session, which is then asked for the cells of each column."""
        store = Store(root)
        return plan(store, [info for info in list(store.sessions) if info.n_windows(8) >= 5])

    works: dict[str, Callable[[], Any]] = {
        "pandas": lambda: pandas.read_csv(root / "sessions.tsv", sep="\t", dtype=str, na_filter=False),
        "rows": row_by_row,
        "columns": by_columns,
        "read": lambda: Store(root).sessions,
    }
    assert row_by_row() == by_columns() and len(Store(root).sessions) == sessions
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            # As in a process that has not seen the table.
            _parse_once.cache_clear()
            gc.collect()
            seconds[name].append(cpu_seconds(work)[0])
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    detail = {"quick": size.quick, "sessions": sessions, "seconds_are": "of the processor, median", "repeats": REPEATS, "components": 2}
    spread = {name: [round(min(taken), 3), round(max(taken), 3)] for name, taken in seconds.items()}
    Case("mixtures/plan_seconds", median["columns"], "s", "every row made a session first", median["rows"], detail | spread).print()
    Case("mixtures/manifest_seconds", median["read"], "s", "reading sessions.tsv with pandas", median["pandas"], detail).print()


def invented(number: int) -> SessionInfo:
    entities = {"sub": f"{number // 2:06d}", "ses": str(number % 2 + 1), "task": "rest", "space": "MNI152NLin6Asym"}
    columns = {"cohort": "abc"[number % 3], "coverage": f"{number % 1000 / 1000:.4g}", "tsnr": "61.2", "dvars_mean": "1.213"}
    columns |= {"spikes": "7", "fd_mean": "0.132", "fd_max": "1.11", "n_warnings": "0"}
    place = str(session_path(entities))
    names = (f"sub-{entities['sub']}", f"ses-{entities['ses']}", "task-rest", "", entities["space"])
    return SessionInfo(session_key(entities), *names, 300, 0.72, place, columns)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    made = work()
    return time.process_time() - started, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few people, 12 steps, 5,000 sessions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of `worth`: keeps cohorts and runs there, and goes on with what it finds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = QUICK if options.quick else FULL
    if "plan" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            plan_many(size, Path(folder))
    if "cost" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            cost(size, Path(folder))
    if "worth" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            worth(size, options.seeds[:1] if options.quick else options.seeds, options.folder or Path(folder))


if __name__ == "__main__":
    main()
