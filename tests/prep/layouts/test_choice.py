"""Which layout a source has: recognised, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from layout_samples import write_hcp_run, write_image

from slimbrain.cli import app, run_command
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.layouts import LAYOUTS, choose_layout, find_recordings
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.runs import Filters
from slimbrain.store import Store


def bids_tree(root: Path) -> Path:
    return write_image(root / "sub-01" / "func" / "sub-01_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


EXAMPLES = {
    "bids": "sub-01/ses-1/func/sub-01_ses-1_task-rest_space-MNI152Lin_bold.nii.gz",
    "hcp": "100307/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_hp2000_clean.nii.gz",
    "cpac": "Outputs/cpac/filt_global/func_preproc/Pitt_0050003_func_preproc.nii.gz",
    "adhd200": "0010001/sfnwmrda0010001_session_1_rest_1.nii.gz",
    "npz": "ABIDE_train/0010001/0010001_run-1_0000-0199_1.npz",
    "brainmarks": "abide.mni.arrow/train/data-00000-of-00002.arrow",
    "roi": "sub-01/func/sub-01_task-rest_timeseries.tsv",
    "parcellated": "sub-01/func/sub-01_task-rest_space-MNI152NLin2009cAsym_seg-4S156Parcels_stat-mean_timeseries.tsv",
}


@pytest.mark.parametrize(("name", "example"), EXAMPLES.items())
def test_each_layout_is_recognised_by_its_names_and_by_no_others(tmp_path: Path, name: str, example: str) -> None:
    touch(tmp_path / example)
    assert choose_layout(tmp_path).name == name
    assert [layout.name for layout in LAYOUTS.values() if layout.matches(tmp_path)] == [name]


def test_files_are_recognised_too(tmp_path: Path) -> None:
    assert choose_layout(touch(tmp_path / "images.tsv")).name == "table"
    assert choose_layout(touch(tmp_path / "data.arrow")).name == "brainmarks"


def test_every_layout_has_an_example_here_and_in_the_help() -> None:
    assert {*EXAMPLES, "table"} == set(LAYOUTS)
    option = next(parameter for parameter in typer.main.get_command(app).commands["prep"].params if "--layout" in parameter.opts)  # type: ignore[attr-defined]
    assert all(name in option.help for name in LAYOUTS)


def test_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for source in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="holds nothing that is known") as refusal:
            choose_layout(source)
        assert all(layout.looks_for in str(refusal.value) for layout in LAYOUTS.values())
    with pytest.raises(InputError, match="does not exist"):
        choose_layout(tmp_path / "nowhere")


def test_an_image_a_participant_and_a_store_are_called_what_they_are(tmp_path: Path, grid8: Grid) -> None:
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "rest.nii.gz").touch()
    store = Store.create(tmp_path / "store", grid8, 0.72).root
    for source, what in (("rest.nii.gz", "is an image"), ("sub-01", "is the folder of one participant"), (store.name, "is a store")):
        with pytest.raises(InputError, match=f"{source}: {what}"):
            choose_layout(tmp_path / source)


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
        find_recordings(tmp_path, LAYOUTS["hcp"], RecordingQuery(Filters(res="2")))
    with pytest.raises(InputError, match="--atlas Tian: chooses among series of several atlases"):
        find_recordings(tmp_path, LAYOUTS["hcp"], RecordingQuery(atlas="Tian"))


def test_filters_hold_for_every_layout(tmp_path: Path) -> None:
    for subject in ("100307", "100408"):
        for run in ("rfMRI_REST1_LR", "tfMRI_WM_RL"):
            write_hcp_run(tmp_path, subject, run, "")

    def found(**filters: object) -> list[str]:
        recordings = find_recordings(tmp_path, LAYOUTS["hcp"], RecordingQuery(Filters(**filters)))  # type: ignore[arg-type]
        return [f"{run.entities['sub']} {run.entities['task']}" for run in recordings.runs]

    assert found(participant_label=("sub-100307",), task_id=("WM",)) == ["100307 WM"]
    assert found(participant_label=("100408",)) == ["100408 REST1", "100408 WM"]
    assert found(entities={"dir": ("LR",)}) == ["100307 REST1", "100408 REST1"]
    assert len(found(space="MNI152NLin6Asym")) == 4
    for nothing in ({"participant_label": ("1",)}, {"space": "MNI152Lin"}, {"entities": {"run": ("*",)}}):
        with pytest.raises(InputError, match="passes the filters"):
            found(**nothing)


def test_one_command_takes_all_options(tmp_path: Path, out: Path, mask8: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task, seed in (("rest", 0), ("nback", 1)):
        for res in ("1", "2"):
            stem = f"sub-01_task-{task}_space-MNI152NLin6Asym_res-{res}_desc-preproc_bold"
            write_image(tmp_path / "in" / "sub-01" / "func" / f"{stem}.nii.gz", seed=seed)
    (tmp_path / "filter.json").write_text('{"bold": {"task": "rest"}}')
    options = ["--layout", "bids", "--res", "1", "--bids-filter-file", str(tmp_path / "filter.json"), "--participant-label", "sub-01"]
    call = ["prep", str(tmp_path / "in"), str(out), "participant", *options, "--mask", str(mask8), "--resolution", "8mm"]
    assert run_command(call) == 0
    assert "1 prepared" in capsys.readouterr().out
    (info,) = Store(out).sessions
    assert "res-1" in Store(out).sidecar(info.key)["SourceFiles"][0]["Path"] and info.task == "rest"
    assert run_command([*call, "--layout", "dicom"]) == 1
    assert "--layout dicom: choose one of auto, bids" in capsys.readouterr().err
