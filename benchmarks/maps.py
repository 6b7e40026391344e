"""Whether maps find what was planted in a simulated cohort: overlap of each method's map with the planted places, beside a control.

python benchmarks/maps.py [DEMO_FOLDER] [--quick] [--methods gradient occlusion ...]

DEMO_FOLDER is what `slimbrain demo --out DEMO_FOLDER` left; without it the demo is run first. `--quick` simulates six participants and
trains for two steps, which shows that everything runs and finds nothing. Decisions: probes of `group`, planted in two networks, and of
`sex`, which has nothing to do with the images; the contrast of the classes is compared with the two networks, as it is and smoothed.
Surprise: in windows with an event, less that session's mean of other windows, compared with where the event acts. Channels without a
task: the mean over sessions, compared with where any network is. Overlap: area under the ROC curve over voxels, places over 0.5 of a
network's peak against those under 0.1; its interval over resampled participants, and its range for labels dealt out at random.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from case import Case
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from slimbrain.cli import run_command
from slimbrain.disk.tsv import read_tsv
from slimbrain.explain.averages import smooth
from slimbrain.explain.files import read_map, read_record, session_map
from slimbrain.grid import Grid
from slimbrain.simulate import Place, Truth, load_truth
from slimbrain.simulate.signals import place_map
from slimbrain.store import Store

Floats = NDArray[np.float64]

DECISIONS = ("gradient", "integrated", "occlusion")
TASKS = ("group", "sex")
FWHM_MM = 18.8
"""About one patch of the 8 mm lattice: sigma of one voxel."""

K, QUICK_K = 10, 3
RESAMPLES, QUICK_RESAMPLES = 200, 20
QUICK_STEPS = 2
"""Of training in both stages, and of integrated gradients, with --quick."""
QUICK_NETWORK = ("voxel.embed=8", "voxel.depths=[1,1,1,1]", "voxel.heads=[1,1,1,1]", "voxel.mlp_ratio=1", "jepa.predictor_depth=1")


def voxel_mm(grid: Grid) -> Floats:
    """(voxels, 3) places of the brain's voxels in grid order."""
    index = np.stack(np.unravel_index(grid.voxel_index[grid.voxel_mask], (grid.lattice.edge,) * 3), axis=-1)
    return np.asarray(grid.lattice.voxel_mm * index + grid.lattice.origin_mm)


def overlap(values: Floats, weight: Floats) -> float:
    """Area under the ROC curve; voxels between 0.1 and 0.5 of the planted peak are neither in nor out."""
    clear = (weight > 0.5) | (weight < 0.1)
    return float(roc_auc_score(weight[clear] > 0.5, values[clear]))


def weight_of(places: list[Place], mm: Floats) -> Floats:
    return np.max([place_map(place, mm) for place in places], axis=0).astype(np.float64)


def run(*words: object) -> None:
    """A command of slimbrain, whose own lines are no results."""
    with contextlib.redirect_stdout(sys.stderr):
        if run_command(list(map(str, words))):
            raise SystemExit(f"slimbrain {words[0]} ended with an error")


def small_demo(folder: Path) -> Path:
    """What `slimbrain demo` leaves, as far as it is needed here, of six participants and in seconds."""
    cohort, store, windows = folder / "cohort", folder / "store", folder / "windows.tsv"
    run("simulate", cohort, "--subjects", 6, "--sessions", 1, "--frames", 128)
    run("prep", cohort, store, "participant", "--resolution", "8mm")
    for stage, ranked in (("temporal", ()), ("voxel", ("--windows", windows))):
        short = [f"train_{stage}.{name}={QUICK_STEPS}" for name in ("steps", "batch")]
        changes = [word for setting in (*short, *QUICK_NETWORK) for word in ("--set", setting)]
        run("pretrain", stage, store, "--preset", "tiny", "--out", folder / stage, *changes, *ranked)
        if stage == "temporal":
            run("rank", store, "--temporal", folder / stage / "model", "--method", "fast", "--out", windows)
    (folder / "evaluation.tsv").write_text((store / "participants.tsv").read_text())
    return folder


def explain(demo: Path, out: Path, participants: Path, method: str, quick: bool, *words: object) -> None:
    model = demo / ("temporal" if method == "channels" else "voxel") / "model"
    command = ["explain", demo / "store", "--model", model, "--method", method, "--participants", participants, "--out", out]
    if method != "channels":
        command += ["--windows", demo / "windows.tsv", "--k", QUICK_K if quick else K]
    run(*command, "--pictures", "none", *words)


def session_maps(store: Store, out: Path, method: str) -> dict[str, Floats]:
    """(P, V) of every session explained."""
    names = {info.key: session_map(out, info.key, method) for info in store.sessions}
    return {key: read_map(name.image, store.grid) for key, name in names.items() if name.record.exists()}


def contrast_overlap(
    store: Store, maps: dict[str, Floats], labels: dict[str, str], weight: Floats, fwhm_mm: float, resamples: int
) -> dict[str, object]:
    """Overlap of the mean of one class less that of the other, its interval, and its range under shuffled labels; by participant."""
    grid, rng = store.grid, np.random.default_rng(0)
    people = sorted({key.split("_")[0] for key in maps})
    by_person = np.stack([np.mean([values for key, values in maps.items() if key.startswith(f"{name}_")], axis=0) for name in people])
    second = np.array([labels[name] for name in people]) == max(labels.values())

    def of(rows: NDArray[np.int64], one: NDArray[np.bool_]) -> float:
        difference = by_person[rows[one]].mean(0) - by_person[rows[~one]].mean(0)
        return overlap(smooth(difference, grid, fwhm_mm)[grid.voxel_mask], weight)

    rows = np.arange(len(people))
    drawn = [
        np.concatenate([rng.choice(np.flatnonzero(second == side), (second == side).sum()) for side in (True, False)])
        for _ in range(resamples)
    ]
    resampled = [of(draw, second[draw]) for draw in drawn]
    shuffled = [of(rows, rng.permutation(second)) for _ in range(resamples)]
    interval, chance = (np.quantile(values, (0.025, 0.975)).round(3).tolist() for values in (resampled, shuffled))
    return {"overlap": of(rows, second), "interval": interval, "shuffled": chance, "participants": len(people)}


def decisions(demo: Path, out: Path, participants: Path, method: str, truth: Truth, quick: bool, steps: int) -> None:
    store = Store(demo / "store").select({row["participant_id"] for row in read_tsv(participants)})
    mm = voxel_mm(store.grid)
    planted = weight_of([truth.network(name) for name in truth.group_networks], mm)
    other = weight_of([truth.network(name) for name in truth.score_networks], mm)
    found = {}
    resamples = QUICK_RESAMPLES if quick else RESAMPLES
    for task in TASKS:
        words = ["--task", f"column:{task}", *(["--steps", steps] if method == "integrated" else [])]
        explain(demo, out / task, participants, method, quick, *words)
        maps = session_maps(store, out / task, method)
        labels = {name: row[task] for name, row in store.participants.items()}
        record = read_record(session_map(out / task, next(iter(maps)), method).record) or {}
        for fwhm in (0.0, FWHM_MM):
            found[task, fwhm] = contrast_overlap(store, maps, labels, planted, fwhm, resamples)
            elsewhere = contrast_overlap(store, maps, labels, other, fwhm, 1)["overlap"]
            found[task, fwhm] |= {"other_networks": round(float(str(elsewhere)), 3)}
            found[task, fwhm] |= {"probe": record.get("decided_by"), "fwhm_mm": fwhm}
    for fwhm in (0.0, FWHM_MM):
        detail = {"quick": quick, "control": found["sex", fwhm], **{k: v for k, v in found["group", fwhm].items() if k != "overlap"}}
        value, control = (float(str(found[task, fwhm]["overlap"])) for task in TASKS)
        name = f"maps/{method}_{'smoothed' if fwhm else 'as_is'}"
        Case(name, value, "area under the ROC curve", "probe of sex", control, detail).print()


def by_participant(values: dict[str, list[float]]) -> tuple[float, list[float]]:
    """Mean over participants of their means, and its 95 % interval."""
    means = np.array([np.mean(each) for each in values.values()])
    drawn = np.random.default_rng(0).choice(means, (2000, len(means))).mean(1)
    return float(means.mean()), np.quantile(drawn, (0.025, 0.975)).round(3).tolist()


def surprise(demo: Path, out: Path, participants: Path, truth: Truth, quick: bool) -> None:
    explain(demo, out, participants, "surprise", quick, "--by-window")
    store = Store(demo / "store").select({row["participant_id"] for row in read_tsv(participants)})
    grid, mm = store.grid, voxel_mm(store.grid)
    here: dict[str, list[float]] = {}
    elsewhere: dict[str, list[float]] = {}
    for info in store.sessions:
        name = session_map(out, info.key, "surprise")
        record = read_record(name.record) or {}
        volumes = np.moveaxis(np.asarray(nibabel.load(name.by_window).dataobj), -1, 0)
        by_window = grid.pack(volumes)[:, grid.voxel_mask]
        length = record["onsets_s"][1] - record["onsets_s"][0] if len(record["onsets_s"]) > 1 else 0.0
        length = 8 * info.tr or length
        for event in truth.session(info.key).events:
            seen = [place for place, onset in enumerate(record["onsets_s"]) if onset <= event.peak_s < onset + length]
            if seen and len(by_window) > 1:
                rest = np.delete(by_window, seen[0], axis=0).mean(0)
                change = by_window[seen[0]] - rest
                here.setdefault(info.subject, []).append(overlap(change, weight_of([truth.event_place(event.kind)], mm)))
                others = [place for place in truth.event_places if place.name != event.kind]
                elsewhere.setdefault(info.subject, []).append(float(np.mean([overlap(change, weight_of([place], mm)) for place in others])))
    (value, interval), (control, control_interval) = by_participant(here), by_participant(elsewhere)
    gap = by_participant({name: [float(np.mean(here[name]) - np.mean(elsewhere[name]))] for name in here})
    detail = {"quick": quick, "interval": interval, "control_interval": control_interval, "difference": [round(gap[0], 3), *gap[1]]}
    detail["events"] = sum(map(len, here.values()))
    Case("maps/surprise_of_events", value, "area under the ROC curve", "places of other events", control, detail).print()


def channels(demo: Path, out: Path, participants: Path, truth: Truth, quick: bool) -> None:
    explain(demo, out, participants, "channels", quick)
    store = Store(demo / "store").select({row["participant_id"] for row in read_tsv(participants)})
    networks = weight_of(list(truth.networks), voxel_mm(store.grid))
    values: dict[str, list[float]] = {}
    for key, found in session_maps(store, out, "channels").items():
        values.setdefault(key.split("_")[0], []).append(overlap(found[store.grid.voxel_mask], networks))
    value, interval = by_participant(values)
    Case("maps/channels_of_networks", value, "area under the ROC curve", "chance", 0.5, {"quick": quick, "interval": interval}).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="a cohort of six that nothing is learnt from")
    parser.add_argument("--methods", nargs="+", default=[*DECISIONS, "surprise", "channels"])
    parser.add_argument("--steps", type=int, default=8, help="of integrated gradients")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = options.demo or _made(Path(folder) / "demo", options.quick)
        measure(demo, options.methods, options.quick, QUICK_STEPS if options.quick else options.steps)


def _made(folder: Path, quick: bool) -> Path:
    if quick:
        return small_demo(folder)
    run("demo", "--out", folder)
    return folder


def measure(demo: Path, methods: Sequence[str], quick: bool, steps: int) -> None:
    truth, out, participants = load_truth(demo / "cohort" / "truth.json"), demo / "maps", demo / "evaluation.tsv"
    others: dict[str, Callable[..., None]] = {"surprise": surprise, "channels": channels}
    for method in methods:
        if method in DECISIONS:
            decisions(demo, out, participants, method, truth, quick, steps)
        else:
            others[method](demo, out, participants, truth, quick)


if __name__ == "__main__":
    main()
