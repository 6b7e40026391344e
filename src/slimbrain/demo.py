"""The whole pipeline on a simulated cohort, by the very commands a user would type."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.errors import InputError
from slimbrain.simulate import load_truth

_SUBJECTS, _SESSIONS, _PRETRAINING_SUBJECTS = 36, 2, 12
"""The model is pretrained on some participants and evaluated on the others."""

_WINDOWS_EMBEDDED = 10
"""Twice as many as in training: a time scale cannot be read from five windows of 5.76 s (seed 1: AUC 0.57 with 5, 0.95 with 10)."""

_TASKS = ("group",)


def run_demo(out: Path, seed: int, run_command: Callable[[Sequence[str]], int]) -> Path:
    """Run all steps into `out`; steps that are done are not done again.

    Parameters
    ----------
    run_command : callable
        Runs one slimbrain command in this process and returns its exit code.

    Returns
    -------
    Path
        The report.
    """

    def run(*arguments: object) -> None:
        words = [str(word) for word in arguments]
        print(f"\n$ slimbrain {shlex.join(words)}", flush=True)
        if run_command(words):
            raise InputError(f"slimbrain {words[0]}: ended with an error; see its message above.")

    _claim(out, seed)
    cohort, store, windows, report = out / "cohort", out / "store", out / "windows.tsv", out / "report.html"
    temporal, voxel = out / "temporal", out / "voxel"
    started = time.monotonic()
    run("simulate", cohort, "--subjects", _SUBJECTS, "--sessions", _SESSIONS, "--seed", seed)
    participants = [subject.subject for subject in load_truth(cohort / "truth.json").subjects]
    known = _list(out / "pretraining.tsv", participants[:_PRETRAINING_SUBJECTS])
    new = _list(out / "evaluation.tsv", participants[_PRETRAINING_SUBJECTS:])
    run("prep", cohort, store, "participant", "--resolution", "8mm", "--nprocs", 2)
    common = ("--preset", "tiny", "--participants", known, "--resume", "auto", "--seed", seed)
    run("pretrain", "temporal", store, "--out", temporal, *common)
    run("rank", store, "--temporal", temporal / "model", "--method", "fast", "--out", windows)
    run("pretrain", "voxel", store, "--windows", windows, "--out", voxel, *common)
    model = ("--model", voxel / "model", "--windows", windows, "--k", _WINDOWS_EMBEDDED)
    embeddings = out / "embeddings.npz"
    run("embed", store, *model, "--out", embeddings)
    pieces: list[object] = ["--store", store, "--windows", windows, "--run", temporal, "--run", voxel]
    for task in _TASKS:
        result = out / f"{task}.json"
        known_vectors = ("--embeddings", embeddings, "--participants", new)
        run("evaluate", store, "--task", f"column:{task}", *model, "--model", temporal / "model", *known_vectors, "--out", result)
        pieces += ["--evaluation", result]
    run("report", *pieces, "--truth", cohort / "truth.json", "--title", "slimbrain demo", "--out", report)
    print(f"Done in {time.monotonic() - started:.0f} s. Open {report}", flush=True)
    return report


def _claim(out: Path, seed: int) -> None:
    """Refuse a folder that another seed, or something else, has filled."""
    path = out / "demo.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != {"seed": seed}:
            raise InputError(f"{out}: holds a demo with another seed; delete it, or choose another --out.")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty and not a demo; choose another --out.")
    write_text(path, json.dumps({"seed": seed}))


def _list(path: Path, participants: Sequence[str]) -> Path:
    return write_text(path, "\n".join(["participant_id", *participants]) + "\n")
