"""An evaluation in the card: added once a task, gone with the weights that it was about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoder_samples import write_models
from huggingface_hub import ModelCard

import slimbrain
from slimbrain.errors import InputError
from slimbrain.evaluate.publish import add_evaluation
from slimbrain.evaluate.result import as_result
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, save_pretrained


@pytest.fixture
def folder(tmp_path: Path, grid8: Grid) -> Path:
    write_models(tmp_path, grid8)
    return tmp_path / "voxel"


def result(task: str = "column:sex", mean: float | None = 0.75, cohort: str = "HCP", seen: int = 0) -> dict[str, Any]:
    row = {"low": 0.6, "high": 0.9, "p": 0.01}
    return {
        "task": task,
        "cohort": cohort,
        "n_subjects": 20,
        "n_sessions": 40,
        "split": "5 folds",
        "seeds": [0, 1, 2],
        "rows": [
            {"model": "slimbrain voxel", "method": "linear probe", "metric": "balanced_accuracy", "mean": mean, **row},
            {"model": "slimbrain voxel", "method": "linear probe", "metric": "auc", "mean": 0.8, **row},
            {"model": "connectivity", "method": "tangent", "metric": "balanced_accuracy", "mean": 0.7, **row},
            {"model": "connectivity", "method": "tangent", "metric": "auc", "mean": 0.72, **row},
        ],
        "best_baseline": {"model": "connectivity", "method": "tangent", "metric": "balanced_accuracy", "mean": 0.7},
        "differences": [
            {"model": "slimbrain voxel", "method": "linear probe", "metric": "balanced_accuracy", "mean": 0.05, "low": -0.02, "high": 0.1}
        ],
        "published": {},
        "seen_in_pretraining": seen,
        "version": "0.1.0",
        "schema_version": 1,
        "excluded": {},
    }


def metadata(folder: Path) -> list[tuple[Any, ...]]:
    found = ModelCard.load(folder / "README.md").data.eval_results or []
    return [(one.task_name, one.dataset_name, one.metric_type, one.metric_value) for one in found]


def test_the_table_and_the_models_own_figures_are_in_the_card(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "sex.json"
    file.write_text(json.dumps(result(seen=3)))
    assert slimbrain.add_evaluation(folder, file) == folder / "README.md"
    assert metadata(folder) == [("column:sex", "HCP", "balanced_accuracy", 0.75), ("column:sex", "HCP", "auc", 0.8)]
    card = (folder / "README.md").read_text()
    assert "| connectivity | tangent | 0.700" in card and "is not distinguishable from the best baseline" in card
    assert "pretrained on 3 of these subjects (--allow-overlap)" in card


def test_a_task_is_there_once_and_a_figure_that_is_not_defined_is_left_out(folder: Path) -> None:
    add_evaluation(folder, as_result("x", result()))
    add_evaluation(folder, as_result("x", result("column:age", None, cohort="")))
    add_evaluation(folder, as_result("x", result(mean=0.5)))
    assert metadata(folder) == [
        ("column:age", "unknown", "auc", 0.8),
        ("column:sex", "HCP", "balanced_accuracy", 0.5),
        ("column:sex", "HCP", "auc", 0.8),
    ]
    assert [one["task"] for one in json.loads((folder / "evaluations.json").read_text())] == ["column:age", "column:sex"]


def test_other_weights_drop_what_was_measured_with_these(folder: Path) -> None:
    add_evaluation(folder, as_result("x", result()))
    save_pretrained(from_pretrained(folder), folder)
    assert metadata(folder) == [] and not (folder / "evaluations.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"rows": []}', '{"rows": 3}', json.dumps(result() | {"best_baseline": None})])
def test_what_is_no_result_is_refused_and_the_card_stays(content: str, folder: Path, tmp_path: Path) -> None:
    before = (folder / "README.md").read_text()
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError) as refusal:
        add_evaluation(folder, tmp_path / "x.json")
    message = str(refusal.value)
    assert str(tmp_path / "x.json") in message and "\n" not in message and message.endswith(".")
    assert (folder / "README.md").read_text() == before and not (folder / "evaluations.json").exists()


def test_what_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a model folder"):
        add_evaluation(tmp_path / "nothing", as_result("x", result()))


def test_a_result_of_other_weights_is_refused(folder: Path) -> None:
    provenance = from_pretrained(folder).provenance
    assert provenance is not None
    mine = {"name": "slimbrain voxel", "weights_sha256": provenance.weights_sha256}
    add_evaluation(folder, as_result("x", {**result(), "models": [mine]}))
    with pytest.raises(InputError, match="is about other weights than those of"):
        add_evaluation(folder, as_result("x", {**result(), "models": [{**mine, "weights_sha256": "0" * 64}]}))
