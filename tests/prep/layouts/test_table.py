"""A table of images: what each column does, and what is said where one is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from layout_samples import Prep, series, write_image, write_table
from prep_samples import affine, save

from slimbrain.errors import InputError
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.layouts.table import TABLE
from slimbrain.prep.runs import Run
from slimbrain.store import Store

ENDINGS = ("", "_derivative1", "_power2", "_derivative1_power2")
ROW = {"path": "a.nii.gz", "participant_id": "sub-01", "space": "MNI152NLin2009cAsym"}


def found(table: Path) -> tuple[list[Run], list[str]]:
    everything = TABLE.find(table, RecordingQuery())
    return everything.runs, [failure.reason for failure in everything.failures]


def test_a_table_becomes_a_store(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_image(tmp_path / "study" / "scan one.nii.gz", tr=0.0)
    elsewhere = write_image(tmp_path / "other disk" / "b.nii.gz", tr=0.75, seed=1)
    (tmp_path / "study" / "events.tsv").write_text("onset\tduration\ttrial_type\n1\t2\tface\n")
    (tmp_path / "study" / "participants.tsv").write_text("participant_id\tage\n01\t31\n02\t28\n")
    columns = {"session_id": "", "task": "", "run": "", "tr": "", "events": ""}
    first = {
        **ROW,
        **columns,
        "path": "scan one.nii.gz",
        "session_id": "ses-a",
        "task": "faces",
        "run": "2",
        "tr": "2",
        "events": "events.tsv",
    }
    second = {**ROW, **columns, "path": str(elsewhere), "participant_id": "02", "space": "MNI152Lin", "tr": "n/a"}
    summary = prep(write_table(tmp_path / "study" / "images.tsv", first, second))
    assert (len(summary.prepared), summary.failures) == (2, [])
    store = Store(out)
    assert [info.key for info in store.sessions] == [
        "sub-01_ses-a_task-faces_run-2_space-MNI152NLin2009cAsym",
        "sub-02_space-MNI152Lin",
    ]
    one, two = (store.sidecar(info.key) for info in store.sessions)
    assert (one["SourceRepetitionTime"], one["SourceRepetitionTimeFrom"]) == (2.0, "table")
    assert (two["SourceRepetitionTime"], two["SourceRepetitionTimeFrom"]) == (0.75, "header")
    assert one["Events"] == [{"onset": 1.0, "duration": 2.0, "trial_type": "face"}]
    assert (one["Space"], one["Layout"], two["Space"]) == ("MNI152NLin2009cAsym", "table", "MNI152Lin")
    assert one["SourceFiles"][0]["Path"] == "scan one.nii.gz" and two["SourceFiles"][0]["Path"] == elsewhere.as_posix()
    assert store.participants["sub-02"]["age"] == "28"


def test_columns_that_lack_or_are_not_known_are_named(tmp_path: Path) -> None:
    without = {name: value for name, value in ROW.items() if name != "space"}
    with pytest.raises(InputError, match=r"no column space \(name the template of each image, for example MNI152NLin6Asym\); add it"):
        found(write_table(tmp_path / "a.tsv", without))
    with pytest.raises(InputError, match=r"column 'age', 'sesion_id' is not known; the columns are path.*participants\.tsv"):
        found(write_table(tmp_path / "b.tsv", {**ROW, "age": "31", "sesion_id": "1"}))
    (tmp_path / "c.tsv").write_text("path\tparticipant_id\tspace\n")
    with pytest.raises(InputError, match="lists no image"):
        found(tmp_path / "c.tsv")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": "T1w"}, "is in T1w, not in the MNI152 family"),
        ({"space": ""}, r"native space \(none is named\)"),
        ({"space": "fsLR"}, "fsLR"),
        ({"space": "MNIPediatricAsym"}, "MNIPediatricAsym"),
        ({"space": "MNIInfant"}, "MNIInfant"),
        ({"path": ""}, "no path"),
        ({"participant_id": "sub-"}, "no participant_id"),
        ({"path": "a.mgz"}, "not NIfTI"),
        ({"tr": "soon"}, "not a number of seconds"),
        ({"events": "gone.tsv"}, "is named as events but is not there"),
        ({"confounds": "gone.tsv"}, "is named as confounds but is not there"),
    ],
)
def test_a_row_that_cannot_be_used_costs_itself(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    empty = dict.fromkeys(change, "")
    runs, reasons = found(write_table(tmp_path / "t.tsv", {**empty, **ROW}, {**empty, **ROW, **change}))
    assert len(runs) == 1
    (said,) = reasons
    assert "line 3" in said
    assert re.search(reason, said), said


def test_an_image_that_is_not_there_is_a_failure(tmp_path: Path, prep: Prep) -> None:
    summary = prep(write_table(tmp_path / "t.tsv", ROW))
    assert "a.nii.gz: cannot be opened" in summary.failures[0].reason


@pytest.mark.parametrize("header_tr", [0.0, 1.0])
@pytest.mark.parametrize("columns", [{}, {"tr": "n/a"}])
def test_an_image_without_a_tr_is_refused_with_the_column_that_states_it(
    tmp_path: Path, prep: Prep, header_tr: float, columns: dict[str, str]
) -> None:
    write_image(tmp_path / "a.nii.gz", tr=header_tr)
    (failure,) = prep(write_table(tmp_path / "images.tsv", {**ROW, **columns})).failures
    assert failure.reason.endswith(
        "has no TR in a JSON sidecar or the header (0 or 1 counts as none); give it in seconds with --tr, or in the column tr of "
        "images.tsv."
    )
    summary = prep(write_table(tmp_path / "images.tsv", {**ROW, "tr": "2"}))
    assert len(summary.prepared) == 1, "the way out works"


def test_the_sidecar_beside_an_image_is_read_and_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"RepetitionTime": 1.5, "Manufacturer": "X"}))
    (run,), _ = found(write_table(tmp_path / "t.tsv", ROW))
    assert (run.sidecar["RepetitionTime"], run.tr_from, run.sidecars) == (1.5, "sidecar", (tmp_path / "a.json",))
    assert found(write_table(tmp_path / "t.tsv", {**ROW, "tr": "1.5"}))[0][0].tr_from == "table"
    _, (reason,) = found(write_table(tmp_path / "t.tsv", {**ROW, "tr": "2"}))
    assert "tr is 2 but" in reason


def test_lines_that_name_one_session_twice_are_refused(tmp_path: Path, prep: Prep) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.nii.gz")
    summary = prep(write_table(tmp_path / "t.tsv", ROW, {**ROW, "path": "b.nii.gz"}))
    assert len(summary.prepared) == 1
    assert "same name" in summary.failures[0].reason


def test_confounds_named_in_the_table_are_regressed_out(tmp_path: Path, out: Path, prep: Prep) -> None:
    frames = 60
    rng = np.random.default_rng(0)
    columns = [f"{kind}_{axis}{end}" for kind in ("trans", "rot") for axis in "xyz" for end in ENDINGS]
    columns += [f"{tissue}{end}" for tissue in ("white_matter", "csf") for end in ENDINGS] + ["cosine00"]
    values = rng.standard_normal((frames, len(columns)))
    (tmp_path / "nuisance of a.tsv").write_text("\n".join("\t".join(row) for row in [columns, *(map(str, line) for line in values)]) + "\n")
    data = series(frames) + 500 * values[:, columns.index("csf")].astype(np.float32)
    save(tmp_path / "a.nii.gz", data, affine(16.0), 0.72)
    prep(write_table(tmp_path / "t.tsv", {**ROW, "confounds": "nuisance of a.tsv"}), denoise="simple")
    store = Store(out)
    key = store.sessions[0].key
    assert "csf" in store.sidecar(key)["Denoise"]["Regressors"]
    brain = store.voxels(key).astype(np.float64)[:, store.grid.voxel_mask]
    assert np.abs(np.corrcoef(values[:, columns.index("csf")], brain.mean(axis=1))[0, 1]) < 0.05
