"""The result file: it reads back as it was written, files of the first schema are still read, damaged ones are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.evaluate.result import (
    _SCHEMA_VERSION,
    Estimate,
    Grouping,
    Result,
    Row,
    Scoring,
    as_result,
    is_result,
    read_result,
    read_results,
    write_result,
)
from slimbrain.evaluate.table import remarks, to_markdown
from slimbrain.store import Contract

WRITTEN = """{
  "task": "column:group",
  "cohort": "cohort",
  "n_subjects": 12,
  "n_sessions": 24,
  "split": "5-fold by subject, 3 seeds",
  "seeds": [0, 1, 2],
  "excluded": {"group missing": 2},
  "groups": {"by": "family", "count": 6},
  "test_scored": {
    "tests_per_seed": 1,
    "seeds": 3,
    "tuned_on": "inner folds of the training subjects",
    "fitted_on": "the training subjects",
    "predictors": 2
  },
  "rows": [
    {"model": "slimbrain voxel", "method": "linear probe", "metric": "auc", "mean": 0.875, "low": 0.286, "high": 1, "p": 0.065},
    {"model": "slimbrain voxel", "method": "linear probe", "metric": "accuracy", "mean": 0.778, "low": 0.528, "high": 0.972, "p": 0.065},
    {"model": "confounds", "method": "age, site", "metric": "auc", "mean": 0.75, "low": 0.6, "high": 0.9, "p": 0.037},
    {"model": "confounds", "method": "age, site", "metric": "accuracy", "mean": null, "low": null, "high": null, "p": null}
  ],
  "best_baseline": {"model": "confounds", "method": "age, site", "metric": "auc", "mean": 0.75, "low": 0.6, "high": 0.9},
  "differences": [
    {"model": "slimbrain voxel", "method": "linear probe", "metric": "auc", "mean": 0.125, "low": -0.69, "high": 0.167}
  ],
  "published": {"auc": 0.91},
  "seen_in_pretraining": 3,
  "pretraining_unknown": ["runs/voxel/model"],
  "models": [{"name": "slimbrain voxel", "weights_sha256": "889bd90474ba"}],
  "contract": {"lattice": "8mm", "mask": "0a1b2c", "space": "MNI152", "tr": 0.72},
  "version": "0.1.0",
  "schema_version": 1
}
"""
"""As slimbrain writes it, spelt out, so that a change of the format is seen."""


def written_result() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(WRITTEN)
    return value


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "group.json").write_text(WRITTEN)
    result = read_result(tmp_path / "group.json")
    assert (result.task, result.n_subjects, result.n_sessions, result.seeds) == ("column:group", 12, 24, (0, 1, 2))
    assert (
        result.rows[0] == Row(model="slimbrain voxel", method="linear probe", metric="auc", mean=0.875, low=0.286, high=1.0, p=0.065)
        and len(result.rows) == 4
    )
    assert result.best_baseline == Estimate(model="confounds", method="age, site", metric="auc", mean=0.75, low=0.6, high=0.9)
    assert result.groups == Grouping(by="family", count=6) and result.contract == Contract("8mm", "0a1b2c", "MNI152", 0.72)
    scoring = Scoring(
        tests_per_seed=1, seeds=3, tuned_on="inner folds of the training subjects", fitted_on="the training subjects", predictors=2
    )
    assert result.test_scored == scoring and result.schema_version == _SCHEMA_VERSION and result.version == "0.1.0"
    text = to_markdown(result)
    assert "| confounds | age, site | 0.750 [0.600, 0.900] | n/a | 0.037 |" in text
    assert "confounds (age, site): +0.125 [-0.690, +0.167]" in text and "pretrained on 3 of these subjects" in text


def test_what_nobody_recorded_is_not_told() -> None:
    result = as_result("x", {name: entry for name, entry in written_result().items() if name not in ("test_scored", "contract")})
    assert result.contract is None and not any(line.startswith("Test:") for line in remarks(result))


def test_what_is_written_reads_back_and_says_its_schema(tmp_path: Path) -> None:
    result = as_result("x", written_result())
    path = write_result(tmp_path / "again.json", result)
    written = json.loads(path.read_text())
    assert read_result(path) == result and written["schema_version"] == _SCHEMA_VERSION
    assert written["differences"] == written_result()["differences"]
    assert {name: written[name] for name in ("rows", "best_baseline", "contract", "published", "excluded")} == {
        name: written_result()[name] for name in ("rows", "best_baseline", "contract", "published", "excluded")
    }
    assert write_result(path, read_result(path)).read_text() == json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def test_a_result_cannot_be_changed() -> None:
    result = as_result("x", written_result())
    with pytest.raises(ValidationError, match="frozen"):
        result.task = "column:age"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        result.rows[0].mean = 1.0  # type: ignore[misc]


def changed(*path: str | int, value: Any = None, drop: bool = False) -> str:
    top = written_result()
    inner: Any = top
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(top)


NEEDED = ("task", "cohort", "n_subjects", "n_sessions", "split", "rows", "best_baseline", "differences")
DAMAGED = {
    "text": "{",
    "list": "[]",
    "number": "3",
    "empty": "{}",
    "not UTF-8": "\ud800",
    "deep": "[" * 100_000,
    **{f"no {name}": changed(name, drop=True) for name in NEEDED},
    "no rows": changed("rows", value=[]),
    "rows are a number": changed("rows", value=3),
    "a row is a number": changed("rows", 1, value=3),
    "a mean in words": changed("rows", 0, "mean", value="0.875"),
    "a mean that is true": changed("rows", 0, "mean", value=True),
    "a mean that is no number": changed("rows", 0, "mean", value=float("nan")),
    "an endless mean": changed("rows", 0, "mean", value=float("inf")),
    "a row without a metric": changed("rows", 0, "metric", drop=True),
    "half a participant": changed("n_subjects", value=12.5),
    "no best baseline": changed("best_baseline", value=None),
    "a difference of nobody": changed("differences", 0, "model", value="somebody"),
    "groups in words": changed("groups", value="family"),
    "scored in words": changed("test_scored", value="once"),
    "a contract in words": changed("contract", value="8mm"),
    "a schema in words": changed("schema_version", value="one"),
    "a schema that there is not": changed("schema_version", value=0),
    "no schema": changed("schema_version", drop=True),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_refused_in_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as refusal:
        read_result(tmp_path / "x.json")
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'x.json'}: ") and "\n" not in message and message.endswith(".") and "give" in message


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(changed("schema_version", value=_SCHEMA_VERSION + 1))
    with pytest.raises(
        InputError, match=f"has schema {_SCHEMA_VERSION + 1} and this slimbrain reads up to {_SCHEMA_VERSION}; update slimbrain"
    ):
        read_result(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "nothing.json")


def test_a_list_of_results(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.json"
    path.write_text(f"[{WRITTEN}, {WRITTEN}]")
    assert [result.task for result in read_results(path)] == ["column:group"] * 2
    path.write_text(WRITTEN)
    with pytest.raises(InputError, match="is not a list of results"):
        read_results(path)


@pytest.mark.parametrize("drop", [("task",), ("rows",), ("best_baseline",), ("differences",), ("split",)])
def test_only_what_has_the_keys_of_a_result_looks_like_one(drop: tuple[str, ...]) -> None:
    assert is_result(written_result()) and not is_result([written_result()]) and not is_result(None)
    assert not is_result({name: value for name, value in written_result().items() if name not in drop})


def verdict(**estimate: Any) -> Callable[[], str]:
    gap = {**written_result()["differences"][0], **estimate}
    return lambda: remarks(as_result("x", {**written_result(), "differences": [gap]}))[0]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, " beats the best"),
        (-0.2, -0.01, " is beaten by the best"),
        (-0.1, 0.1, "is at chance (0.5), as far as 12 subjects can tell; difference from the best"),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, said: str) -> None:
    assert said in verdict(low=low, high=high)()
    assert "cannot be compared" in verdict(mean=None, low=None, high=None)()


def test_less_is_better_for_an_error() -> None:
    value = json.loads(WRITTEN.replace('"auc"', '"mae"'))
    value["differences"][0] |= {"mean": -1.0, "low": -2.0, "high": -0.5}
    assert " beats the best" in remarks(as_result("x", value))[0]


def test_ours_are_what_is_compared_with_the_best_baseline() -> None:
    value = written_result()
    more = {"model": "slimbrain temporal", "method": "attention probe", "metric": "auc", "mean": 0.5}
    value["rows"] += [more, {**more, "model": "untrained"}]
    value["differences"].append({**value["differences"][0], "model": "slimbrain temporal", "method": "attention probe"})
    result: Result = as_result("x", value)
    assert result.ours == {"slimbrain voxel", "slimbrain temporal"} and result.metrics == ("auc", "accuracy")
    assert "| slimbrain temporal | attention probe | 0.500 | n/a | n/a |" in to_markdown(result)


def test_chance_is_that_of_guessing() -> None:
    """Always naming the largest of three classes; a result without counted classes says nothing."""
    result = as_result("x", written_result())
    assert result.chance == {}
    counted = result.model_copy(update={"classes": {"a": 10, "b": 30, "c": 60}})
    assert counted.chance == {"auc": 0.5, "balanced_accuracy": pytest.approx(1 / 3), "accuracy": 0.6}
    (line,) = [line for line in remarks(counted) if line.startswith("Chance")]
    assert line == "Chance: AUC 0.500, accuracy 0.600."


@pytest.mark.parametrize(("held", "said"), [(WRITTEN, "holds the result of column:group"), ("{}", "is not what slimbrain evaluate writes")])
def test_evaluate_keeps_what_is_not_of_its_task(held: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    out.write_text(held)
    assert run_command(["evaluate", str(tmp_path), "--task", "column:age", "--out", str(out)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{out}: " in told and said in told and told.endswith("choose another --out, or delete it.")
    assert out.read_text() == held
