"""The whole pipeline on a simulated cohort, by the very commands a user would type."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.errors import InputError
from slimbrain.pipeline import RunCommand, Steps
from slimbrain.simulate import load_truth


@dataclass(frozen=True)
class _Size:
    """How much is simulated and trained; the model is pretrained on some participants and evaluated on the others."""

    subjects: int
    sessions: int
    pretraining_subjects: int
    frames: int
    windows: int
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ("voxel", "temporal")
    divisions: tuple[str, ...] = ()
    nprocs: int = 2


_WHOLE = _Size(36, 2, 12, 200, windows=10)
"""Twice as many windows as in training: a time scale cannot be read from five of 5.76 s (seed 1: AUC 0.57 with 5, 0.95 with 10)."""

_QUICK = _Size(
    subjects=14,
    sessions=1,
    pretraining_subjects=4,
    frames=128,
    windows=16,
    settings=("train_temporal.steps=40", "train_temporal.warmup=5", "train_voxel.steps=12", "train_voxel.warmup=3"),
    models=("voxel",),
    divisions=("--seeds", "1"),
    nprocs=1,
)
"""Enough to see every step and every part of the page, and far too little to learn anything. All windows are embedded, so that baselines
are read once and not a second time on the frames that the model used."""

_TASKS = ("group",)


def run_demo(out: Path, seed: int, run_command: RunCommand, quick: bool = False) -> Path:
    """Run all steps into `out`; steps that are done are not done again.

    Parameters
    ----------
    run_command : callable
        Runs one slimbrain command in this process and returns its exit code.
    quick : bool
        With a small cohort and hardly any training, to see what comes out.

    Returns
    -------
    Path
        The report.
    """

    run, size = Steps(run_command).run, _QUICK if quick else _WHOLE
    _claim(out, seed, quick)
    cohort, store, windows, report = out / "cohort", out / "store", out / "windows.tsv", out / "report.html"
    temporal, voxel = out / "temporal", out / "voxel"
    started = time.monotonic()
    run("simulate", cohort, "--subjects", size.subjects, "--sessions", size.sessions, "--frames", size.frames, "--seed", seed)
    participants = [subject.subject for subject in load_truth(cohort / "truth.json").subjects]
    known = _list(out / "pretraining.tsv", participants[: size.pretraining_subjects])
    new = _list(out / "evaluation.tsv", participants[size.pretraining_subjects :])
    run("prep", cohort, store, "participant", "--resolution", "8mm", "--nprocs", size.nprocs)
    changes = tuple(word for setting in size.settings for word in ("--set", setting))
    common = ("--preset", "tiny", "--participants", known, "--resume", "auto", "--seed", seed, *changes)
    run("pretrain", "temporal", store, "--out", temporal, *common)
    run("rank", store, "--temporal", temporal / "model", "--method", "fast", "--out", windows)
    run("pretrain", "voxel", store, "--windows", windows, "--out", voxel, *common)
    model = ("--model", voxel / "model", "--windows", windows, "--k", size.windows)
    embeddings = out / "embeddings.npz"
    run("embed", store, *model, "--out", embeddings)
    pieces: list[object] = ["--store", store, "--windows", windows, "--run", temporal, "--run", voxel]
    for task in _TASKS:
        result = out / f"{task}.json"
        known_vectors = ("--embeddings", embeddings, "--participants", new)
        others = ("--model", temporal / "model") if "temporal" in size.models else ()
        run("evaluate", store, "--task", f"column:{task}", *model, *others, *known_vectors, *size.divisions, "--out", result)
        pieces += ["--evaluation", result]
    run("report", *pieces, "--truth", cohort / "truth.json", "--title", "slimbrain demo", "--out", report)
    print(f"Done in {time.monotonic() - started:.0f} s. Open {report}", flush=True)
    return report


def _claim(out: Path, seed: int, quick: bool) -> None:
    """Refuse a folder that a demo of another seed or size, or something else, has filled."""
    path, mine = out / "demo.json", {"seed": seed, **({"quick": True} if quick else {})}
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != mine:
            raise InputError(f"{out}: holds a demo with another seed or size; delete it, or choose another --out.")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and not a demo; choose another --out.")
    write_text(path, json.dumps(mine))


def _list(path: Path, participants: Sequence[str]) -> Path:
    return write_text(path, "\n".join(["participant_id", *participants]) + "\n")
