"""fMRIPrep's filter file: what it selects, with BIDS names written to a folder, and what is no filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prep_samples import find_runs

from slimbrain.errors import InputError
from slimbrain.prep.bids_filter import read_bids_filter
from slimbrain.prep.runs import Filters

STEMS = (
    "sub-01_ses-1_task-rest_run-01",
    "sub-01_ses-1_task-rest_run-02",
    "sub-01_ses-1_task-rest_acq-fast_run-01",
    "sub-01_ses-2_task-nback",
    "sub-02_ses-2_task-rest_dir-AP",
)


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for stem in STEMS:
        sub, ses = stem.split("_")[:2]
        folder = tmp_path / "tree" / sub / ses / "func"
        folder.mkdir(parents=True, exist_ok=True)
        for res in ("res-1", "res-2"):
            (folder / f"{stem}_space-MNI152NLin6Asym_{res}_desc-preproc_bold.nii.gz").touch()
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("bold", "chosen"),
    [
        ({}, (0, 1, 2, 3, 4)),
        ({"task": "rest"}, (0, 1, 2, 4)),
        ({"task": ["rest", "nback"], "session": "2"}, (3, 4)),
        ({"run": 1}, (0, 2)),
        ({"run": [1, "02"]}, (0, 1, 2)),
        ({"run": None}, (3, 4)),
        ({"run": "*"}, (0, 1, 2)),
        ({"acquisition": [None, "slow"], "run": "*"}, (0, 1)),
        ({"direction": "AP"}, (4,)),
        ({"dir": "AP"}, (4,)),
        ({"subject": "sub-02"}, (4,)),
        ({"datatype": "func", "suffix": "bold", "extension": [".nii.gz"], "session": "ses-1"}, (0, 1, 2)),
    ],
)
def test_runs_are_taken_by_entity(tmp_path: Path, tree: Path, bold: dict[str, Any], chosen: tuple[int, ...]) -> None:
    wanted = read_bids_filter(written(tmp_path / "filter.json", {"bold": bold, "t1w": {"acquisition": "x"}}))
    names = {"_".join(run.image.name.split("_")[:-4]) for run in find_runs(tree, Filters(entities=wanted))[0]}
    assert names == {STEMS[number] for number in chosen}


def test_a_filter_on_the_image_chooses_among_its_versions(tmp_path: Path, tree: Path) -> None:
    for filters in (Filters(entities={"res": ("1",)}), Filters(res="1"), Filters(res="01"), Filters(res="res-1")):
        runs, failures = find_runs(tree, filters)
        assert {run.entities["res"] for run in runs} == {"1"} and len(runs) == 5 and not failures
    assert {run.entities["res"] for run in find_runs(tree)[0]} == {"2"}, "2 mm is preferred where nobody asks"
    runs, failures = find_runs(tree, Filters(res="native"))
    assert not runs and len(failures) == 5
    assert "passes --res" in failures[0].reason and "res-1" in failures[0].reason
    runs, failures = find_runs(tree, Filters(entities={"desc": ("smoothed",)}))
    assert not runs and len(failures) == 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", 'no part "bold"'),
        ('{"t1w": {}}', 'no part "bold"'),
        ('{"bold": {"colour": "red"}}', "colour.* is no filter.*subject, session"),
        ('{"bold": {"suffix": "sbref"}}', "suffix.*no filter"),
        ('{"bold": {"task": {"a": 1}}}', "task has the value"),
        ('{"bold": {"run": [true]}}', "run has the value true"),
    ],
)
def test_what_is_no_filter_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "filter.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_bids_filter(path)
    with pytest.raises(InputError, match=r"gone\.json"):
        read_bids_filter(tmp_path / "gone.json")
