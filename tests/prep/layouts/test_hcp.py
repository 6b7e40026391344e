"""The HCP tree: which image of a run, what its name says, and the motion beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_samples import Prep, write_hcp_run

from slimbrain.errors import InputError
from slimbrain.prep.bids import read_relative_rms
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.layouts.hcp import HCP
from slimbrain.prep.runs import Run
from slimbrain.store import Store


def runs(root: Path) -> list[Run]:
    return HCP.find(root, RecordingQuery()).runs


def touch(root: Path, subject: str, run: str, *suffixes: str) -> None:
    folder = root / subject / "MNINonLinear" / "Results" / run
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes:
        (folder / f"{run}{suffix}").touch()


def test_a_tree_becomes_a_store(tmp_path: Path, out: Path, prep: Prep) -> None:
    rest = write_hcp_run(tmp_path / "HCP 1200", frames=12)
    write_hcp_run(tmp_path / "HCP 1200", run="tfMRI_WM_RL", suffix="", tr=2.0)
    motion = np.full(12, 0.1)
    motion[7] = 1.5
    np.savetxt(rest.parent / "Movement_RelativeRMS.txt", motion)
    summary = prep(tmp_path / "HCP 1200")
    assert (len(summary.prepared), summary.exit_code) == (2, 0)
    store = Store(out)
    assert [info.key for info in store.sessions] == [
        "sub-100307_task-REST1_dir-LR_space-MNI152NLin6Asym",
        "sub-100307_task-WM_dir-RL_space-MNI152NLin6Asym",
    ]
    first, second = store.sessions
    assert (first.n_frames, first.tr, second.tr) == (12, pytest.approx(0.72), 0.72)
    assert float(first.qc["fd_max"]) == pytest.approx(1.5)
    sidecar = store.sidecar(first.key)
    assert 7 in sidecar["Series"]["flagged"]
    assert sidecar["Layout"] == "hcp" and "HCP" in sidecar["SpaceFrom"] and sidecar["SourceRepetitionTimeFrom"] == "header"
    assert [file["Path"].rsplit("/", 1)[1] for file in sidecar["SourceFiles"]] == [rest.name, "Movement_RelativeRMS.txt"]
    assert len(prep(tmp_path / "HCP 1200").skipped) == 2


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (("", "_hp2000_clean"), "_hp2000_clean"),
        (("_hp2000_clean", "_hp0_clean_rclean_tclean"), "_hp0_clean_rclean_tclean"),
        (("_hp2000", ""), ""),
        (("_hp2000_clean_vn", "_SBRef", "_hp0_clean"), "_hp0_clean"),
    ],
)
def test_the_most_cleaned_image_of_a_run_is_taken(tmp_path: Path, present: tuple[str, ...], chosen: str) -> None:
    touch(tmp_path, "100307", "rfMRI_REST2_RL", *(f"{suffix}.nii.gz" for suffix in present), "_Atlas_hp2000_clean.dtseries.nii")
    (run,) = runs(tmp_path)
    assert run.image.name == f"rfMRI_REST2_RL{chosen}.nii.gz"
    assert bool(run.notes) == (chosen == ""), "a resting run that was not cleaned carries a note"


@pytest.mark.parametrize(
    ("subject", "run", "entities"),
    [
        ("100307", "tfMRI_EMOTION_LR", {"sub": "100307", "task": "EMOTION", "dir": "LR"}),
        ("100610", "rfMRI_REST1_7T_PA", {"sub": "100610", "task": "REST1", "acq": "7T", "dir": "PA"}),
        ("HCA6002236_V1_MR", "rfMRI_REST1_AP", {"sub": "HCA6002236", "ses": "V1", "task": "REST1", "dir": "AP"}),
        ("odd_name", "rfMRI_REST1_AP", {"sub": "oddname", "task": "REST1", "dir": "AP"}),
    ],
)
def test_names_become_entities(tmp_path: Path, subject: str, run: str, entities: dict[str, str]) -> None:
    touch(tmp_path, subject, run, ".nii.gz")
    assert runs(tmp_path)[0].entities == {**entities, "space": "MNI152NLin6Asym"}


def test_joined_runs_are_left_out_beside_single_ones_and_refused_alone(tmp_path: Path) -> None:
    touch(tmp_path, "1", "rfMRI_REST1_AP", ".nii.gz")
    touch(tmp_path, "1", "rfMRI_REST", "_hp0_clean.nii.gz")
    touch(tmp_path, "2", "rfMRI_REST", "_hp0_clean.nii.gz")
    found = HCP.find(tmp_path, RecordingQuery())
    assert [run.entities["sub"] for run in found.runs] == ["1"]
    assert [failure.file for failure in found.failures] == ["2/MNINonLinear/Results/rfMRI_REST"]
    assert "not named as one run" in found.failures[0].reason


def test_native_images_of_the_tree_are_not_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "100307" / "T1w" / "Results" / "rfMRI_REST1_LR"
    folder.mkdir(parents=True)
    (folder / "rfMRI_REST1_LR.nii.gz").touch()
    assert not HCP.matches(tmp_path)


def test_a_motion_file_that_is_damaged_or_too_short_is_said(tmp_path: Path, prep: Prep) -> None:
    short = write_hcp_run(tmp_path / "tree", "1")
    damaged = write_hcp_run(tmp_path / "tree", "2")
    np.savetxt(short.parent / "Movement_RelativeRMS.txt", np.zeros(5))
    (damaged.parent / "Movement_RelativeRMS.txt").write_text("0.1 x\n")
    summary = prep(tmp_path / "tree")
    assert any("has 5 rows for 12 frames" in warning for warning in summary.prepared[0].warnings)
    assert "one displacement per line" in summary.failures[0].reason
    with pytest.raises(InputError, match="restore or remove"):
        read_relative_rms(tmp_path / "gone.txt")
