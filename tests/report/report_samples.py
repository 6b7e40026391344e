"""Made-up inputs of a report, and what a parser makes of the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from slimbrain.explain.files import group_map, session_map, write_map, write_record, write_regions
from slimbrain.explain.regions import region_rows, unit_atlas
from slimbrain.grid import Grid
from slimbrain.prep.exclusion import COLUMNS as EXCLUDED_COLUMNS
from slimbrain.report import ReportInputs
from slimbrain.saliency import WindowRow, order_by_score, ranks_of, write_window_table
from slimbrain.simulate import CohortSpec, Event, SessionTruth, Truth, draw_truth
from slimbrain.store import Store
from slimbrain.store.write import write_session

EVIL = "<script>alert(1)</script> & $x^2$ \"q\" 'a' </svg>"
SECTIONS = ["summary", "evaluation", "data", "windows", "training", "maps", "methods", "provenance"]
VOID = {"meta", "link", "br", "img", "input", "hr"}
FRAMES, TR, WINDOW_S, K = 48, 0.72, 5.76, 2


class Page(HTMLParser):
    """What a browser would make of the page, and the tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-3:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self, head: str) -> dict[str, dict[str, str]]:
        """Cells by row name and column of the first table that has such a column."""
        table = next(table for table in self.tables if head in table[0])
        return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def make_store(root: Path, grid: Grid, n: int = 3) -> Store:
    """Sessions of noise whose sidecar says what prep would have said; the last has the evil warning and lacks a corner."""
    store = Store.create(root, grid, TR)
    rng = np.random.default_rng(0)
    for number in range(n):
        voxels = rng.standard_normal((FRAMES, *grid.voxel_mask.shape)) * grid.voxel_mask
        mean, std = 1000.0 * grid.voxel_mask, 10.0 * grid.voxel_mask
        if number == n - 1:
            std[:20] = 0
        sidecar = {
            "QC": {"coverage": 0.99 - 0.01 * number, "tsnr": 50.25 + number, "fd_mean": 0.1234 + number / 100, "fd_max": 0.9, "gap": ""},
            "Series": {
                "time_s": [TR * frame for frame in range(FRAMES)],
                "fd": [None, *rng.uniform(0, 1, FRAMES - 1).tolist()],
                "dvars": [None, *rng.uniform(0, 2, FRAMES - 1).tolist()],
                "flagged": [3, 9],
            },
            "Events": [{"onset": 6.0, "duration": 2.0, "trial_type": EVIL}],
            "Warnings": [EVIL] if number == n - 1 else [],
        }
        write_session(store, {"sub": f"{number + 1:03d}", "task": "rest", "space": "MNI152NLin6Asym"}, voxels, mean, std, TR, sidecar)
    return store


def window_rows(key: str, scores: Sequence[float]) -> list[WindowRow]:
    places = ranks_of(order_by_score(scores))
    return [
        WindowRow(key, i, i * WINDOW_S, WINDOW_S, score / 2, score / 2, score, int(places[i]), 0.5, 1.0) for i, score in enumerate(scores)
    ]


def make_run(folder: Path, stage: str) -> Path:
    folder.mkdir()
    settings = {
        "stage": stage,
        "seed": 7,
        "sessions": 3,
        "threads": 1,
        "commands": [f"slimbrain pretrain {stage}"],
        "versions": {"torch": "9.9.9"},
    }
    settings["preset"] = {"name": "tiny", "window": {"k": K}}
    lines = []
    for step in range(0, 50, 10):
        line = {
            "step": step,
            "loss": 0.8 - step / 100,
            "lr": 1e-3,
            "ema": None,
            "std": 0.5,
            "effective_rank": 3.5 + step,
            "peak_mib": 100.0,
        }
        if stage == "voxel":
            line |= {"ema": 0.99, "content_std": 0.25, "loss_cross_time": 0.5, "loss_double_cross": 0.6, "windows_per_second": 12.0}
        lines.append(json.dumps(line))
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_result(path: Path, low: float = 0.02) -> Path:
    path.write_text(json.dumps(result_json(low)))
    return path


def result_json(low: float = 0.02) -> dict[str, Any]:
    """One of ours, the same untrained, a baseline and one without a value."""

    def row(model: str, method: str, mean: float | None) -> dict[str, Any]:
        bounds = {"low": None, "high": None} if mean is None else {"low": mean - 0.0512, "high": mean + 0.0487}
        return {"model": model, "method": method, "metric": "auc", "mean": mean, **bounds, "p": None if mean is None else 0.0123}

    return {
        "task": "column:group",
        "cohort": "demo",
        "n_subjects": 3,
        "n_sessions": 3,
        "split": "3-fold by subject",
        "seeds": [0],
        "rows": [
            row("ours-1", "linear probe", 0.8127),
            row("untrained", "linear probe", 0.55),
            row(EVIL, "tangent", 0.7011),
            row("empty", "none", None),
        ],
        "best_baseline": {"model": EVIL, "method": "tangent", "metric": "auc", "mean": 0.7011, "low": 0.65, "high": 0.75},
        "differences": [{"model": "ours-1", "method": "linear probe", "metric": "auc", "mean": 0.1116, "low": low, "high": 0.2}],
        "published": {"auc": 0.911},
        "seen_in_pretraining": 0,
        "version": "0.0.1",
        "schema_version": 1,
        "excluded": {},
    }


def make_truth(path: Path, keys: Sequence[str]) -> Path:
    """Events whose responses peak in windows 0, 0 and 3 of each session."""
    template = draw_truth(CohortSpec(subjects=1, sessions=1, frames=100, events_per_session=1))
    events = tuple(
        Event(onset_s=peak - 5, duration_s=2.0, peak_s=peak, kind="sound", amplitude=1.0) for peak in (1.0, 5.7, 3 * WINDOW_S + 0.1)
    )
    sessions = tuple(SessionTruth(key=key, subject=key[:7], session="", events=events, spikes=()) for key in keys)
    truth = Truth(**{**{name: getattr(template, name) for name in Truth.model_fields}, "sessions": sessions})
    path.write_text(truth.model_dump_json())
    return path


PEAK_MM, PEAK, TROUGH_MM, TROUGH = (27.0, -37.0, 13.0), 3.0, (-29.0, 11.0, 5.0), -2.0


def make_map(path: Path, grid: Grid) -> Path:
    """0.5 in the brain but for one place above and one below, on the grid's own lattice."""
    values = 0.5 * grid.mask
    for mm, value in ((PEAK_MM, PEAK), (TROUGH_MM, TROUGH)):
        index = (np.array(mm) - grid.lattice.origin_mm) / grid.lattice.voxel_mm
        # On a voxel's centre, and within the brain.
        assert np.allclose(index, np.round(index)) and grid.mask[tuple(np.round(index).astype(int))]
        values[tuple(np.round(index).astype(int))] = value
    nibabel.Nifti1Image(values.astype(np.float32), grid.lattice.affine).to_filename(path)
    return path


EXPLAINED_MM, EXPLAINED = (-29.0, -61.0, 37.0), 0.25
"""Where the map of `slimbrain explain` is farthest from zero, and its value there."""


def make_explained(folder: Path, grid: Grid, atlas: str | None = "an atlas") -> Path:
    """What `slimbrain explain` leaves of a decision in three sessions and of surprise, as its records and tables are written."""
    rng = np.random.default_rng(0)
    signed = np.where(grid.voxel_mask, 0.02 * rng.standard_normal(grid.voxel_mask.shape), 0.0)
    dense = grid.unpack(signed)
    dense[tuple(np.round((np.array(EXPLAINED_MM) - grid.lattice.origin_mm) / grid.lattice.voxel_mm).astype(int))] = EXPLAINED
    signed, surprise = grid.pack(dense), np.where(grid.voxel_mask, 0.4 + 0.01 * rng.random(grid.voxel_mask.shape), 0.0)
    known = {
        "participants": 3,
        "in_training": 1,
        "atlas": unit_atlas(grid).name if atlas is None else atlas,
        "commands": ["slimbrain explain store"],
        "sessions": 3,
    }
    decided = {"kind": "probe", "folds": 3, "metric": "auc", "mean": 0.75, "low": 0.6, "high": 0.9}
    decision = {**known, "method": "gradient", "unit": "log-odds of B", "task": "column:group", "decided_by": decided}
    foreseen = {**known, "method": "surprise", "unit": "smooth-L1 to the layer-normalised target", "average": "mean"}
    gradient = "Gradient x input"
    maps = (
        (group_map(folder, "gradientContrast"), signed, {**decision, "title": f"{gradient}: B less others", "average": "B less others"}),
        (group_map(folder, "gradient"), 0.1 * signed, {**decision, "title": f"{gradient}: mean", "average": "mean"}),
        (group_map(folder, "surprise"), surprise, {**foreseen, "title": "JEPA surprise"}),
        (session_map(folder, "sub-001_task-rest", "gradient"), signed, {**decision, "title": EVIL, "session": "sub-001_task-rest"}),
    )
    for name, values, record in maps:
        write_map(name.image, values, grid)
        write_regions(name.regions, region_rows(values, unit_atlas(grid), grid))
        write_record(name.record, {"session": "", **record})
    return folder


def make_inputs(root: Path, grid: Grid) -> ReportInputs:
    """Three sessions and everything that can be known of them."""
    store = make_store(root / "store", grid)
    keys = [info.key for info in store.sessions]
    scores = [[3.0, -1, 0, 2, 0.5, -2], [0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]]
    rows = [row for key, values in zip(keys, scores, strict=True) for row in window_rows(key, values)]
    failures = root / "failures.tsv"
    failures.write_text(f"file\treason\nsub-99/func/bad.nii.gz\tno TR; {EVIL.replace(chr(34), '')}\n")
    excluded = root / "excluded.tsv"
    values = ("a.nii.gz", "sub-77_task-rest", "fd_mean", "0.367949", "0.3", "moves")
    excluded.write_text("\t".join(EXCLUDED_COLUMNS) + "\n" + "\t".join(values) + "\n")
    return ReportInputs(
        store=store,
        excluded=excluded,
        windows=write_window_table(root / "windows.tsv", rows),
        runs=(make_run(root / "temporal", "temporal"), make_run(root / "voxel", "voxel")),
        evaluations=(make_result(root / "group.json"),),
        failures=failures,
        truth=make_truth(root / "truth.json", keys),
        maps=(make_map(root / "planted.nii.gz", grid),),
        explained=(make_explained(root / "maps" / "group", grid),),
        commands=("slimbrain prep in out participant", f"echo {EVIL}"),
        title=EVIL,
    )
