"""`make results` on small recordings of the same form: stores, jobs that resume, CSVs, and the page that is made from them."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.evaluate.designs import Design
from slimbrain.evaluate.splits import Split, pose
from slimbrain.governance.provenance import Provenance
from slimbrain.models.hub import save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["task", "cohort", "n", "split", "labelled", "method", "metric", "mean", "low", "high", "seconds", "version", "commit"]


@pytest.fixture(scope="module")
def results() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return __import__("results")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_page", ROOT / "docs" / "benchmarks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks_page"] = module
    spec.loader.exec_module(module)
    return module


def write_cohort(folder: Path, keys: list[str], rows: list[str], channels: int, tr: float | None, frames: int = 130) -> None:
    """Men's first four channels go together; a run of faces has its last two together."""
    folder.mkdir(parents=True)
    rng, arrays = np.random.default_rng(list(keys[0].encode())), {}
    for key in keys:
        series = rng.normal(size=(frames, channels))
        if int(key.split("_")[0][-3:]) % 2:
            series[:, 1:4] = 0.9 * series[:, :1] + 0.4 * series[:, 1:4]
        if "face" in key:
            series[:, -1] = 0.9 * series[:, -2] + 0.4 * series[:, -1]
        arrays[key] = series.astype(np.float32)
    np.savez(folder / "timeseries.npz", **arrays)
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    places = [f"r{number}\t{8 * number - 20}\t{number}\t{30 - number}" for number in range(channels)]
    (folder / "channels.tsv").write_text("\n".join(["name\tx\ty\tz", *places]) + "\n")
    if tr:
        (folder / "timeseries.json").write_text(json.dumps({"RepetitionTime": tr}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "roi"
    for place, site in enumerate(("NYU", "YALE")):
        people = range(100 * place + 100, 100 * place + 124)
        rows = [f"sub-{n}\t{'FM'[n % 2]}\t{8 + n % 20}\t{('autism', 'control')[n // 2 % 2]}\t{site}" for n in people]
        write_cohort(root / "abide-cc200" / site, [f"sub-{n}" for n in people],
                     ["participant_id\tsex\tage\tdiagnosis\tsite", *rows], 10, 2.0)  # fmt: skip
    people = range(500, 530)
    rows = ["participant_id\tsex\tsite", *(f"sub-x{n}\t{'FM'[n % 2]}\tu" for n in people)]
    write_cohort(root / "rpn122", [f"sub-x{n}" for n in people], rows, 6, None)
    tasks = ("rest1", "rest2", "gradCPTface", "gradCPTscene")
    rows = ["participant_id\tsex", *(f"sub-{n:03d}\tF" for n in range(1, 11))]
    write_cohort(root / "song25", [f"sub-{n:03d}_task-{task}" for n in range(1, 11) for task in tasks], rows, 5, None)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = TemporalExtractor(TemporalConfig(width=8, depth=1, heads=1, groups=1, window_frames=8))
    provenance = Provenance(Contract("roi", "", "roi", 0.72), WindowConfig(frames=8), None, {})
    return save_pretrained(network, tmp_path_factory.mktemp("model") / "m", provenance)


def test_jobs_have_names_of_their_own_and_the_papers_tasks_come_first(results: ModuleType) -> None:
    jobs = results.jobs()
    assert len({job.name for job in jobs}) == len(jobs) and not any("/" in job.name or ":" in job.name for job in jobs)
    assert [job.task for job in jobs[:5]] == ["abide-age", "abide-age-class", "abide-diagnosis", "abide-sex", "hcp-fingerprint"]
    assert all(job.design.split == "70/10/20" for job in jobs[:4]) and {job.cohort for job in jobs} == set(
        sys.modules["results_stores"].SOURCES
    )


def test_a_job_finished_with_other_weights_is_run_again(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's name stays when its weights are fitted again."""
    ran: list[str] = []

    def run_job(work: object, job: object, shared: object) -> SimpleNamespace:
        ran.append(results.weights_sha256("name"))
        return SimpleNamespace(to_dict=dict)

    monkeypatch.setattr(results, "run_job", run_job)
    work, job = SimpleNamespace(folder=tmp_path, model="name", quick=True), results.jobs()[0]
    for weights in ("old", "old", "new"):
        monkeypatch.setattr(results, "weights_sha256", lambda source, weights=weights: weights)
        results.finished(work, job, results.Baselines(), "commit")
    assert ran == ["old", "new"]


@pytest.mark.slow
def test_tables_are_filled_resumed_and_shown(
    results: ModuleType, page: ModuleType, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimbrain.evaluate.probes.STRENGTHS", (0.1, 10.0))
    chosen = [
        results.Job("abide-sex", "abide", Design(labelled="12,24", seeds=2)),
        results.Job("column:task", "song25", Design(split="3-fold", seeds=1, frames=results.frames(40)), called="state from 40 s"),
        results.Job("column:sex", "abide", to="rpn122", called="sex"),
    ]
    monkeypatch.setattr(results, "jobs", lambda: chosen)
    words = ["--model", str(model), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--data", str(data)]
    assert results.main(words) == 0
    tables = {path.stem: list(csv.DictReader(path.open(newline=""))) for path in (tmp_path / "out").glob("*.csv")}
    assert set(tables) == {"abide", "song25"} and all(list(line) == COLUMNS for lines in tables.values() for line in lines)
    curve = {(line["labelled"], line["method"]): line for line in tables["abide"] if line["task"] == "abide-sex"}
    assert {number for number, _ in curve} == {"12", "24"}
    assert float(curve["24", "connectivity: correlation, whole run"]["mean"]) > 0.85
    states = {line["method"]: line for line in tables["song25"] if line["metric"] == "balanced_accuracy"}
    assert float(states["connectivity: correlation, 56 frames"]["mean"]) > 0.6 and "raw series: perceptron" in states
    cannot = [line for line in tables["abide"] if line["mean"] == "cannot"]
    assert "connectivity: tangent, whole run" in {line["method"] for line in cannot}
    assert {line["cohort"] for line in cannot} == {"abide to rpn122"} and len(cannot) >= 4
    # The second time nothing is run again.
    monkeypatch.setattr(results, "run_job", lambda *_: pytest.fail("a finished job was run again"))
    before = (tmp_path / "out" / "abide.csv").read_bytes()
    assert results.main(words) == 0 and (tmp_path / "out" / "abide.csv").read_bytes() == before
    text = page.page(page.read_lines(tmp_path / "out"))
    assert "## abide-sex, abide" in text and "| method | 12 labelled | 24 labelled |" in text and "| cannot |" in text
    gaps = [line for lines in tables.values() for line in lines if line["method"].startswith("difference: ")]
    alone = [line for line in gaps if not line["method"].startswith("difference: connectivity + ")]
    summary = text.split("## Ours against the best baseline")[1].split("\n## ")[0]
    assert summary.count("\n| ") == len(alone) + 1 >= 5
    for line in alone:
        assert f" {float(line['mean']):+.3f} [" in summary


def test_a_copy_for_a_fold_was_not_fitted_on_the_tested(results: ModuleType, data: Path, model: Path, tmp_path: Path) -> None:
    """Nor on whose recording stands under another name as well."""
    pytest.importorskip("slimbrain.train.connectome", reason="no connectome readout in this version")
    stores = sys.modules["results_stores"]
    work = stores.Work(tmp_path / "work", data, str(model))
    store = work.store("abide")
    keys = tuple(info.key for info in store.sessions)
    subjects = np.array([info.subject for info in store.sessions])
    problem = pose(np.array([store.participants[name]["sex"] for name in subjects]), subjects, "classification")
    split = Split(np.arange(12, len(keys)), np.arange(0), np.arange(12))
    copied = frozenset({str(subjects[20])})
    found = stores.CrossFitted(work, store, keys, copied).fit_predict(problem, split, 0)
    (folder,) = (tmp_path / "work" / "copies").iterdir()
    known = json.loads((folder / "config.json").read_text())["training"]
    assert found.scores.shape == (12, 2)
    from slimbrain import from_pretrained
    from slimbrain.governance.provenance import people_in

    provenance = from_pretrained(folder).provenance
    met = {match.label for match in provenance.matches(people_in(store))}
    assert known and met == set(subjects[12:]) - copied


def test_folds_are_balanced_over_site_sex_and_diagnosis(results: ModuleType, data: Path, model: Path, tmp_path: Path) -> None:
    store = sys.modules["results_stores"].Work(tmp_path, data, str(model)).store("abide")
    rows = list(store.participants.values())
    for name in ("site", "sex", "diagnosis"):
        for value in {row[name] for row in rows}:
            counts = [sum(row[name] == value and row["fold"] == fold for row in rows) for fold in "12345"]
            assert sum(counts) == 24 and max(counts) - min(counts) <= 3


def test_the_halves_share_nobody_and_have_everybody(results: ModuleType, data: Path, model: Path, tmp_path: Path) -> None:
    stores = sys.modules["results_stores"]
    store = stores.Work(tmp_path, data, str(model)).store("rpn122")
    first, second = stores.half_of(store)
    assert not first & second and first | second == {info.subject for info in store.sessions} and len(first) == len(second) == 15


def test_the_page_is_that_of_the_tables(page: ModuleType) -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == page.page(page.read_lines()), "run: python docs/benchmarks.py"


def test_the_page_says_what_the_lines_say(page: ModuleType) -> None:
    fixed = {"task": "abide-age", "cohort": "abide", "n": "9", "split": "5-fold by subject", "labelled": "", "seconds": "1", "version": "0",
             "commit": "c", "metric": "mse_z"}  # fmt: skip
    lines = [
        {**fixed, "method": "ours: probe", "mean": "0.5", "low": "0.4", "high": "0.6"},
        {**fixed, "method": "connectivity: tangent", "mean": "0.7", "low": "0.6", "high": "0.8"},
        {**fixed, "method": "difference: ours: probe minus connectivity: tangent", "mean": "-0.2", "low": "-0.3", "high": "-0.1"},
    ]
    text = page.page(lines)
    assert "| MSE (z) | 0.500 | connectivity: tangent 0.700 | -0.200 [-0.300, -0.100] | **better** |" in text
    assert "The paper: MSE (z) 0.2175." in text and "| ours: probe | 0.500 [0.400, 0.600] |" in text
    worse = [*lines[:2], {**lines[2], "mean": "0.2", "low": "0.1", "high": "0.3"}]
    assert "+0.200 [+0.100, +0.300] | **worse** |" in page.page(worse)
    unclear = [*lines[:2], {**lines[2], "low": "-0.5", "high": "0.1"}]
    assert "-0.200 [-0.500, +0.100] |  |" in page.page(unclear)
