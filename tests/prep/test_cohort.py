"""Which study a folder is of: what stays when data are moved or prepared again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimbrain.prep.cohort import cohort_of

FMRIPREP = {"Name": "fMRIPrep - fMRI PREProcessing workflow", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1.0"}]}


def describe(folder: Path, **description: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    ("description", "cohort"),
    [
        ({"Name": "UCLA  CNP"}, "ucla cnp"),
        ({"Name": "x", "DatasetDOI": "doi:10.18112/openneuro.ds000030.v1.0.0"}, "10.18112/openneuro.ds000030"),
        ({"Name": "x", "DatasetDOI": "https://doi.org/10.18112/openneuro.ds000030.v1.0.1"}, "10.18112/openneuro.ds000030"),
        ({**FMRIPREP, "SourceDatasets": [{"URL": "https://doi.org/10.1/ABC"}]}, "10.1/abc"),
        ({**FMRIPREP, "SourceDatasets": [{"URL": "file:///data/raw"}]}, ""),
        (FMRIPREP, ""),
        ({"Name": None, "GeneratedBy": "by hand", "SourceDatasets": {"DOI": "10.1/x"}}, ""),
        ({}, ""),
    ],
)
def test_the_description_decides(tmp_path: Path, description: dict[str, Any], cohort: str) -> None:
    assert cohort_of(describe(tmp_path / "anywhere", **description)) == cohort


def test_the_raw_data_around_a_derivative_name_it(tmp_path: Path) -> None:
    describe(tmp_path / "raw", Name="Face study")
    assert cohort_of(describe(tmp_path / "raw" / "derivatives" / "fmriprep", **FMRIPREP)) == "face study"


@pytest.mark.parametrize(("layout", "cohort"), [("hcp", "hcp"), ("adhd200", "adhd200"), ("cpac", "cpac"), ("table", ""), ("", "")])
def test_layouts_of_one_study_name_it(tmp_path: Path, layout: str, cohort: str) -> None:
    assert cohort_of(tmp_path, layout) == cohort


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff"])
def test_a_description_that_cannot_be_read_names_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_description.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert cohort_of(tmp_path) == ""
