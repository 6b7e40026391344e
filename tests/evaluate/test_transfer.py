"""Fitted in one cohort, tested in another, by the command itself; and curves whose labelled people the model was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbrain.cli import run_command
from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.errors import InputError
from slimbrain.evaluate.designs import Design
from slimbrain.evaluate.methods import Options, evaluate_models
from slimbrain.evaluate.result import read_result
from slimbrain.governance.provenance import REMEMBERED, Provenance, people_in, remember
from slimbrain.models.hub import save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.report import ReportInputs
from slimbrain.report.page import write_report
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session


@pytest.fixture(scope="module", autouse=True)
def few_penalties() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimbrain.evaluate.probes.STRENGTHS", (0.1, 10.0))
        yield


def make_cohort(root: Path, numbers: range, channels: int = 4, classes: str = "ab") -> Store:
    """In the second class the first two channels go together; nothing else tells the classes apart."""
    store = Store.create(root, None, tr=0.72)
    rng = np.random.default_rng(numbers.start)
    places = Channels(tuple("stuvwxyz"[:channels]), np.arange(3.0 * channels).reshape(channels, 3))
    for number in numbers:
        series = rng.normal(size=(60, channels))
        if number % 2:
            series[:, 1] = 0.8 * series[:, 0] + 0.6 * series[:, 1]
        write_roi_session(store, {"sub": f"{number:03d}"}, series, places, 0.72)
    rows = [f"sub-{number:03d}\t{classes[number % 2]}\t{'xy'[number // 2 % 2]}" for number in numbers]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tgroup\tsite", *rows]) + "\n")
    return Store(root)


def make_model(folder: Path, store: Store, known: Store | None = None) -> Path:
    torch.manual_seed(3)
    network = TemporalExtractor(TemporalConfig(width=8, depth=1, heads=1, groups=1, window_frames=8))
    training = {REMEMBERED: remember(people_in(known))} if known else {}
    return save_pretrained(network, folder, Provenance(store.contract, WindowConfig(frames=8), None, training))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_cohort(tmp_path_factory.mktemp("cohorts") / "here", range(0, 40))


@pytest.fixture(scope="module")
def model(here: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "temporal", here)


def test_what_was_learnt_here_is_found_there(here: Store, model: Path, tmp_path: Path) -> None:
    make_cohort(tmp_path / "there", range(100, 130))
    out = tmp_path / "out.json"
    words = ["evaluate", str(here.root), "--task", "column:group", "--model", str(model), "--transfer-to", str(tmp_path / "there")]
    assert run_command([*words, "--out", str(out)]) == 0
    result = read_result(out)
    areas = {row.predictor: row.mean for row in result.rows if row.metric == "auc"}
    assert areas["connectivity", "correlation, whole run"] > 0.95 and areas["majority", "majority class or mean"] == 0.5
    assert (result.cohort, result.tested_on, result.n_subjects, result.classes) == ("here", "there", 30, {"a": 15, "b": 15})
    assert result.split == "fitted on 40 subjects of here, tested on 30 of there" and result.cannot == ()
    assert {("slimbrain temporal", "linear probe"), ("untrained", "linear probe"), ("confounds", "site")} <= set(areas)
    assert "## column:group (here to there)" in out.with_suffix(".md").read_text()


def test_another_parcellation_is_read_by_the_model_alone(here: Store, model: Path, tmp_path: Path) -> None:
    there = make_cohort(tmp_path / "finer", range(100, 120), channels=6)
    result = evaluate_models(here, "column:group", [model], Options(design=Design(transfer_to=there.root)))
    rows = {row.model for row in result.rows}
    assert rows == {"slimbrain temporal", "untrained", "confounds", "majority"}
    reasons = {(one.model, one.method): one.reason for one in result.cannot}
    assert reasons["connectivity", "correlation, whole run"] == "finer has another parcellation (6 channels; 4 were trained on)"
    page = write_report(tmp_path / "page.html", ReportInputs(evaluations=[_written(result, tmp_path)])).read_text()
    assert "cannot" in page and "finer has another parcellation" in page


def _written(result: object, folder: Path) -> Path:
    from slimbrain.evaluate.result import write_result

    return write_result(folder / "result.json", result)  # type: ignore[arg-type]


def test_who_is_in_both_is_not_trained_on(here: Store, model: Path, tmp_path: Path) -> None:
    """By name, and by a recording under another name."""
    there = make_cohort(tmp_path / "there", range(30, 60))
    twin = here.coarse(here.sessions[3].key)
    write_roi_session(there, {"sub": "900"}, twin, here.channels(here.sessions[3].key), 0.72)
    with (there.root / "participants.tsv").open("a") as table:
        table.write("sub-900\tb\tx\n")
    result = evaluate_models(here, "column:group", [model], Options(design=Design(transfer_to=there.root)))
    assert result.split == "fitted on 29 subjects of here, tested on 31 of there"
    assert result.excluded == {"also in there, which is tested": 11}
    with pytest.raises(InputError, match="none is left to be trained on"):
        evaluate_models(here, "column:group", [model], Options(design=Design(transfer_to=here.root)))


def test_a_model_may_know_those_who_are_trained_on_and_nobody_who_is_tested(here: Store, tmp_path: Path) -> None:
    there = make_cohort(tmp_path / "there", range(100, 130))
    options = Options(design=Design(transfer_to=there.root))
    result = evaluate_models(here, "column:group", [make_model(tmp_path / "one", here, here)], options)
    assert result.split == "fitted on 40 subjects of here, tested on 30 of there"
    known = there.select({f"sub-{number}" for number in range(100, 110)})
    result = evaluate_models(here, "column:group", [make_model(tmp_path / "two", here, known)], options)
    assert result.split == "fitted on 40 subjects of here, tested on 20 of there"
    assert result.excluded == {"there: participant that a model was trained on": 10}


@pytest.mark.parametrize(("classes", "message"), [("cd", "has the class c, and here there are a, b"), ("12", "write the classes alike")])
def test_labels_that_differ_are_refused(here: Store, model: Path, tmp_path: Path, classes: str, message: str) -> None:
    there = make_cohort(tmp_path / "there", range(100, 120), classes=classes)
    with pytest.raises(InputError, match=message):
        evaluate_models(here, "column:group", [model], Options(design=Design(transfer_to=there.root)))


def test_a_curve_by_the_command_leaves_out_whom_the_model_knows(here: Store, tmp_path: Path) -> None:
    known = here.select({f"sub-{number:03d}" for number in range(6)})
    knowing, out = make_model(tmp_path / "knowing", here, known), tmp_path / "curve.json"
    words = ["evaluate", str(here.root), "--task", "column:group", "--model", str(knowing), "--out", str(out)]
    assert run_command([*words, "--labelled", "8,20", "--seeds", "3"]) == 0
    result = read_result(out)
    assert result.excluded == {"participant that a model was trained on": 6} and result.n_subjects == 34
    assert [(point.labelled, point.n_tested) for point in result.labelled] == [(8, 26), (20, 14)] and result.seeds == (0, 1, 2)
    text = write_report(tmp_path / "page.html", ReportInputs(evaluations=[out])).read_text()
    assert text.count('aria-label="Curves of AUC for group over 8, 20 labelled participants') == 1
    drawing = text[text.index('aria-label="Curves of AUC') :]
    assert "chance" in drawing[: drawing.index("</svg>")] and "labelled participants" in drawing
    assert all(predictor[1][:20] in drawing for predictor in result.by_predictor)
    # Folds refuse them as before.
    assert run_command([*words]) == 1


def test_sites_are_left_out_by_the_command(here: Store, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sites.json"
    words = ["evaluate", str(here.root), "--task", "column:group", "--model", str(model), "--out", str(out), "--leave-out", "site"]
    assert run_command(words) == 0
    result = read_result(out)
    assert [(part.value, part.n_subjects) for part in result.held_out] == [("x", 20), ("y", 20)]
    assert "part that was left out" in write_report(tmp_path / "page.html", ReportInputs(evaluations=[out])).read_text()
