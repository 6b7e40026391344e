"""Athena's names of ADHD-200: sessions, runs, filtered and not."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_samples import Prep, write_image

from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.adhd200 import ADHD200
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.runs import Filters
from slimbrain.store import Store


def touch(root: Path, *names: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


def test_a_site_becomes_a_store(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_image(tmp_path / "0010001" / "sfnwmrda0010001_session_1_rest_1.nii.gz", tr=2.0)
    write_image(tmp_path / "0010002" / "sfnwmrda0010002_session_1_rest_2.nii.gz", tr=0.0)
    summary = prep(tmp_path)
    store = Store(out)
    assert [info.key for info in store.sessions] == ["sub-0010001_ses-1_task-rest_run-1_space-MNI152"]
    sidecar = store.sidecar(store.sessions[0].key)
    assert (sidecar["Layout"], sidecar["BandPass"]) == ("adhd200", "0.009-0.08 Hz")
    assert "not known" in sidecar["SpaceFrom"]
    assert [failure.file for failure in summary.failures] == ["0010002/sfnwmrda0010002_session_1_rest_2.nii.gz"]
    assert "--tr" in summary.failures[0].reason


@pytest.mark.parametrize("folder", ["", "0010001", "NYU/0010001"])
def test_subjects_may_lie_in_folders_of_sites(tmp_path: Path, folder: str) -> None:
    touch(tmp_path / folder, "sfnwmrda0010001_session_1_rest_1.nii.gz")
    assert choose_layout(tmp_path) is ADHD200
    assert len(ADHD200.find(tmp_path, RecordingQuery()).runs) == 1


def test_the_image_that_is_not_band_passed_is_taken_unless_asked(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sfnwmrda0010001_session_1_rest_1.nii.gz",
        "snwmrda0010001_session_1_rest_1.nii.gz",
        "falff_0010001_session_1_rest_1.nii.gz",
    )
    for filters, expected in ((Filters(), "snwmrda"), (Filters(entities={"desc": ("sfnwmrda",)}), "sfnwmrda")):
        (run,) = ADHD200.find(tmp_path, RecordingQuery(filters)).runs
        assert run.image.name.startswith(f"{expected}0010001")


def test_time_courses_and_maps_are_no_images(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sfnwmrda0010001_session_1_rest_1_cc200_TCs.1D",
        "wssd0010001_session_1_anat.nii.gz",
        "wmrda0010001_session_1_rest_1.nii.gz",
    )
    assert not ADHD200.matches(tmp_path)
