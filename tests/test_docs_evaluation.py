"""The commands of docs/evaluation.md, as they stand there and in their order, on a smaller cohort and with shorter training."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_project import code_lines

from slimbrain.cli import run_command
from slimbrain.evaluate.probe import SplitPolicy
from slimbrain.tsv import read_tsv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
"""A minute of work, in one fixture; a machine that others use, too, may take many."""

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
SMALLER = {
    "--subjects 40": "--subjects 16",
    "head -13 store": "head -7 store",
    "sed -n '14,$p'": "sed -n '8,$p'",
    "--preset tiny": "--preset tiny --set train_voxel.steps=2 --set train_voxel.batch=1",
    "head -13 new.tsv": "head -7 new.tsv",
}
"""What is changed of the commands; every key must occur."""


def commands() -> list[str]:
    """Lines of the page that are typed, made smaller."""
    fenced = DOCUMENT.read_text(encoding="utf-8").split("```console")[1:]
    text = "\n".join(f"```console{block.split('```')[0]}```" for block in fenced).replace("\n  ", "\n")
    lines = [line for line in code_lines(text) if line]
    for old, new in SMALLER.items():
        assert any(old in line for line in lines), old
        lines = [line.replace(old, new) for line in lines]
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of them have run; slimbrain's in this process, with two folds of one seed."""
    place = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("slimbrain.evaluate.tasks.DEFAULT_POLICY", SplitPolicy(n_splits=2, seeds=(0,)))
        patch.setattr("slimbrain.evaluate.attention.EPOCHS", 3)
        for line in commands():
            if line.startswith("slimbrain "):
                assert run_command(shlex.split(line)[1:]) == 0, line
            else:
                subprocess.run(["bash", "-c", line], check=True)
        yield place


def test_every_command_leaves_what_it_says(folder: Path) -> None:
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("group", "identity", "tuned", "again")}
    assert [(row["model"], row["method"]) for row in results["group"]["differences"]] == [
        ("slimbrain voxel", "linear probe"),
        ("slimbrain voxel", "attention probe"),
    ]
    assert results["group"]["n_subjects"] == 10 and results["identity"]["rows"][0]["metric"] == "top1"
    assert results["tuned"]["rows"][0]["method"] == "fine-tuning" and (folder / "tuned" / "head.safetensors").exists()
    assert results["again"]["rows"][0] == results["group"]["rows"][0], "vectors made before give the same row"
    assert all((folder / f"{name}.md").read_text().startswith(f"## {result['task']}") for name, result in results.items())


def test_predictions_mark_whom_the_model_knows(folder: Path) -> None:
    rows = read_tsv(folder / "predictions.tsv")
    assert len(rows) == 12 and {row["seen_in_training"] for row in rows} == {"yes"}
    assert {row["prediction"] for row in rows} <= {name.removeprefix("p_") for name in rows[0] if name.startswith("p_")}
