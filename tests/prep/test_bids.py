"""Which runs are found, which image of each, and what belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prep_samples import find_runs

from slimbrain.errors import InputError
from slimbrain.prep.bids import Filters, Run, parse_entities, read_events


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "")


def images(runs: list[Run]) -> list[str]:
    return [run.image.name for run in runs]


def test_entities_of_a_name() -> None:
    name = "sub-01_ses-b_run-02_space-MNI152Lin_res-3_desc-preproc_bold.nii.gz"
    assert parse_entities(name) == {"sub": "01", "ses": "b", "run": "02", "space": "MNI152Lin", "res": "3", "desc": "preproc"}
    assert parse_entities("bold.json") == {}


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (("space-T1w_desc-preproc", "space-MNI152NLin2009cAsym_desc-preproc", "space-MNI152NLin6Asym_desc-preproc"), 2),
        (("space-MNI152Lin_desc-preproc", "space-MNI152NLin2009cAsym_desc-preproc"), 1),
        (("space-MNI152NLin6Asym_desc-smoothed", "space-MNI152NLin6Asym", "space-MNI152NLin6Asym_desc-preproc"), 2),
        (("space-MNI152NLin6Asym_desc-smoothed", "space-MNI152NLin6Asym"), 1),
        (("space-MNI152NLin6Asym_res-1_desc-preproc", "space-MNI152NLin6Asym_res-2_desc-preproc"), 1),
        (("desc-preproc", "space-MNI152Lin_desc-preproc"), 1),
    ],
)
def test_one_image_a_run_is_chosen(tmp_path: Path, present: tuple[str, ...], chosen: int) -> None:
    names = [f"sub-01_task-rest_{version}_bold.nii.gz" for version in present]
    touch(tmp_path, *(f"sub-01/func/{name}" for name in names))
    runs, failures = find_runs(tmp_path)
    assert (images(runs), failures) == ([names[chosen]], [])


@pytest.mark.parametrize("space", ["", "space-T1w_", "space-fsaverage_", "space-MNI305_", "space-MNIPediatricAsym_", "space-func_"])
def test_runs_without_an_image_in_mni152_are_listed(tmp_path: Path, space: str) -> None:
    bad = f"sub-01/func/sub-01_task-rest_{space}desc-preproc_bold.nii.gz"
    touch(tmp_path, bad, "sub-02/func/sub-02_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    runs, failures = find_runs(tmp_path)
    assert [run.entities["sub"] for run in runs] == ["02"]
    assert [failure.file for failure in failures] == [bad]
    assert "not in the MNI152 family" in failures[0].reason


def test_filters_take_labels_with_and_without_prefix(tmp_path: Path) -> None:
    for sub in ("01", "02"):
        for ses in ("a", "b"):
            for task in ("rest", "nback"):
                touch(tmp_path, f"sub-{sub}/ses-{ses}/func/sub-{sub}_ses-{ses}_task-{task}_space-MNI152Lin_desc-preproc_bold.nii.gz")
    assert len(find_runs(tmp_path)[0]) == 8
    for label in ("02", "sub-02"):
        runs, _ = find_runs(tmp_path, Filters((label,), ("ses-a",), ("rest",)))
        assert images(runs) == ["sub-02_ses-a_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz"]
    with pytest.raises(InputError, match="passes the filters"):
        find_runs(tmp_path, Filters(("03",)))


def test_asking_for_a_space_that_a_run_lacks_is_a_failure(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/func/sub-01_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz")
    runs, failures = find_runs(tmp_path, Filters(space="MNI152NLin6Asym"))
    assert not runs
    assert "is in MNI152Lin, not in MNI152NLin6Asym" in failures[0].reason


def test_masks_references_and_surfaces_are_no_runs(tmp_path: Path) -> None:
    stem = "sub-01/func/sub-01_task-rest_space-MNI152Lin"
    touch(tmp_path, f"{stem}_desc-preproc_bold.nii.gz", f"{stem}_boldref.nii.gz", f"{stem}_desc-brain_mask.nii.gz")
    touch(tmp_path, "sub-01/func/sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii")
    assert images(find_runs(tmp_path)[0]) == ["sub-01_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz"]


def test_metadata_is_inherited_and_the_nearest_wins(tmp_path: Path) -> None:
    folder, stem = tmp_path / "sub-01" / "func", "sub-01_task-rest_space-MNI152Lin"
    touch(tmp_path, f"sub-01/func/{stem}_desc-preproc_bold.nii.gz")
    for path, value in {
        tmp_path / "bold.json": {"RepetitionTime": 1.1, "Manufacturer": "A"},
        tmp_path / "task-rest_bold.json": {"RepetitionTime": 2.2, "EchoTime": 0.03},
        tmp_path / "task-nback_bold.json": {"RepetitionTime": 9.9},
        folder / "sub-01_task-rest_bold.json": {"RepetitionTime": 3.3},
        folder / f"{stem}_desc-preproc_bold.json": {"SkullStripped": False},
        folder / "sub-01_task-rest_space-T1w_desc-preproc_bold.json": {"RepetitionTime": 9.9},
    }.items():
        path.write_text(json.dumps(value))
    run = find_runs(tmp_path)[0][0]
    assert run.sidecar == {"RepetitionTime": 3.3, "Manufacturer": "A", "EchoTime": 0.03, "SkullStripped": False}
    assert len(run.sidecars) == 4


def test_a_folder_that_many_runs_share_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each run would list all participants, and the time to find runs would grow with their square."""
    for sub in range(20):
        touch(tmp_path, f"sub-{sub:02d}/func/sub-{sub:02d}_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz")
    listed: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: listed.append(self) or glob(self, pattern))
    runs, _ = find_runs(tmp_path)
    assert len(runs) == 20
    # Once for metadata, once for events.
    assert listed.count(tmp_path) == 2


def test_confounds_and_events_of_this_run_are_found(tmp_path: Path) -> None:
    for run in ("1", "2"):
        stem = f"sub-01/func/sub-01_task-rest_run-{run}"
        touch(tmp_path, f"{stem}_space-MNI152Lin_desc-preproc_bold.nii.gz", f"{stem}_events.tsv", f"{stem}_desc-confounds_timeseries.tsv")
    touch(tmp_path, "sub-01/func/sub-01_task-rest_run-3_space-MNI152Lin_desc-preproc_bold.nii.gz", "task-rest_events.tsv")
    first, second, third = find_runs(tmp_path)[0]
    for number, run in (("1", first), ("2", second)):
        assert run.events and run.events.name == f"sub-01_task-rest_run-{number}_events.tsv"
        assert run.confounds and run.confounds.name == f"sub-01_task-rest_run-{number}_desc-confounds_timeseries.tsv"
    assert third.events == tmp_path / "task-rest_events.tsv"
    assert third.confounds is None


def test_a_damaged_sidecar_costs_its_run_alone(tmp_path: Path) -> None:
    for sub in ("01", "02"):
        touch(tmp_path, f"sub-{sub}/func/sub-{sub}_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz")
    (tmp_path / "sub-01" / "func" / "sub-01_task-rest_bold.json").write_text("{")
    runs, failures = find_runs(tmp_path)
    assert [run.entities["sub"] for run in runs] == ["02"]
    assert "cannot be read as JSON" in failures[0].reason


@pytest.mark.parametrize("name", ["with space", "brackets [a]*", "ünïcode"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name, "sub-01/func/sub-01_task-rest_space-MNI152Lin_desc-preproc_bold.nii")
    assert len(find_runs(tmp_path / name)[0]) == 1


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no"):
        find_runs(tmp_path)


def test_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\ttrial_type\tx\n-0.5\t2\tface\t1\n3.25\tn/a\thouse\t2\n")
    assert read_events(path) == [
        {"onset": -0.5, "duration": 2.0, "trial_type": "face"},
        {"onset": 3.25, "duration": 0.0, "trial_type": "house"},
    ]
    path.write_text("onset\tduration\nsoon\t2\n")
    with pytest.raises(InputError, match="line 2"):
        read_events(path)


def echo_tree(root: Path, *names: str) -> None:
    touch(root, *(f"sub-01/func/sub-01_task-rest_{name}space-MNI152NLin6Asym_desc-preproc_bold.nii.gz" for name in names))


def test_echoes_count_once(tmp_path: Path) -> None:
    echo_tree(tmp_path, "", "echo-1_", "echo-2_")
    assert images(find_runs(tmp_path)[0]) == ["sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"]
    runs, _ = find_runs(tmp_path, Filters(entities={"echo": ("2",)}))
    assert [run.entities["echo"] for run in runs] == ["2"]


def test_echoes_without_a_combination_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    echo_tree(tmp_path, "echo-1_", "echo-2_")
    runs, failures = find_runs(tmp_path)
    assert not runs and len(failures) == 1
    assert "has echoes 1, 2 and no combination" in failures[0].reason
    runs, failures = find_runs(tmp_path, Filters(entities={"echo": ("1",)}))
    assert [run.entities["echo"] for run in runs] == ["1"] and not failures


def test_native_echoes_beside_a_combined_image_do_not_matter(tmp_path: Path) -> None:
    echo_tree(tmp_path, "")
    touch(tmp_path, *(f"sub-01/func/sub-01_task-rest_echo-{echo}_desc-preproc_bold.nii.gz" for echo in "123"))
    runs, failures = find_runs(tmp_path)
    assert len(runs) == 1 and not failures
