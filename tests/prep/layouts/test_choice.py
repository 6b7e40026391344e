"""Which layout a source has: recognised, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_samples import write_hcp_run, write_image, write_table

from slimbrain.errors import InputError
from slimbrain.prep.layouts import LAYOUTS, choose_layout, find_recordings
from slimbrain.prep.layouts.base import Request
from slimbrain.prep.runs import Filters


def bids_tree(root: Path) -> Path:
    return write_image(root / "sub-01" / "func" / "sub-01_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz")


def test_each_layout_is_recognised_by_its_names(tmp_path: Path) -> None:
    bids_tree(tmp_path / "bids")
    write_hcp_run(tmp_path / "hcp")
    table = write_table(tmp_path / "images.tsv", {"path": "x.nii.gz", "participant_id": "1", "space": "MNI152Lin"})
    chosen = [choose_layout(source).name for source in (tmp_path / "bids", tmp_path / "hcp", table)]
    assert chosen == ["bids", "hcp", "table"]


def test_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for source in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="holds nothing that is known") as refusal:
            choose_layout(source)
        assert all(layout.looks_for in str(refusal.value) for layout in LAYOUTS.values())
    with pytest.raises(InputError, match="does not exist"):
        choose_layout(tmp_path / "nowhere")


def test_two_layouts_are_not_chosen_between(tmp_path: Path) -> None:
    bids_tree(tmp_path)
    write_hcp_run(tmp_path)
    with pytest.raises(InputError, match=r"more than one layout \(bids: .*; hcp: .*--layout"):
        choose_layout(tmp_path)
    assert choose_layout(tmp_path, "hcp").name == "hcp"
    with pytest.raises(InputError, match="choose one of auto, bids"):
        choose_layout(tmp_path, "dicom")


def test_an_option_of_another_layout_is_refused(tmp_path: Path) -> None:
    write_hcp_run(tmp_path)
    with pytest.raises(InputError, match="--res 2"):
        find_recordings(tmp_path, LAYOUTS["hcp"], Request(Filters(res="2")))


def test_filters_hold_for_every_layout(tmp_path: Path) -> None:
    for subject in ("100307", "100408"):
        for run in ("rfMRI_REST1_LR", "tfMRI_WM_RL"):
            write_hcp_run(tmp_path, subject, run, "")

    def found(**filters: object) -> list[str]:
        recordings = find_recordings(tmp_path, LAYOUTS["hcp"], Request(Filters(**filters)))  # type: ignore[arg-type]
        return [f"{run.entities['sub']} {run.entities['task']}" for run in recordings.runs]

    assert found(participant_label=("sub-100307",), task_id=("WM",)) == ["100307 WM"]
    assert found(participant_label=("100408",)) == ["100408 REST1", "100408 WM"]
    assert found(entities={"dir": ("LR",)}) == ["100307 REST1", "100408 REST1"]
    assert len(found(space="MNI152NLin6Asym")) == 4
    for nothing in ({"participant_label": ("1",)}, {"space": "MNI152Lin"}, {"entities": {"run": ("*",)}}):
        with pytest.raises(InputError, match="passes the filters"):
            found(**nothing)
