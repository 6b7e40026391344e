"""Names that file systems allow and tables do not: line breaks, tabs, bytes that are no text, 255 bytes, and ways out of a folder."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prep_samples import affine, head_series, save

from slimbrain.cli import run_command
from slimbrain.prep import PrepOptions, prepare
from slimbrain.store import Store
from slimbrain.store.verify import verify

WriteRun = Callable[..., Path]
ENDING = "_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
ODD = {
    "newline": os.fsencode(f"sub-02_task-re\nst{ENDING}"),
    "tab": os.fsencode(f"sub-02_task-re\tst{ENDING}"),
    "carriage return": os.fsencode(f"sub-02_task-re\rst{ENDING}"),
    "escape": os.fsencode(f"sub-02_task-\x1b[31mred{ENDING}"),
    "no text": b"sub-02_task-re\xff\xfest" + os.fsencode(ENDING),
    "255 bytes": os.fsencode(f"sub-02_task-{'x' * (255 - len('sub-02_task-') - len(ENDING))}{ENDING}"),
}


@pytest.fixture
def tree(write_run: WriteRun, bids_dir: Path) -> Path:
    """A good run, and one of each odd name."""
    good = write_run("sub-01")
    folder = bids_dir / "sub-02" / "func"
    folder.mkdir(parents=True)
    for name in ODD.values():
        shutil.copy(os.fsencode(good), os.path.join(os.fsencode(folder), name))
    return bids_dir


def test_each_odd_name_costs_its_run_and_is_told_in_one_line(
    tree: Path, mask8: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    words = ["prep", str(tree), str(out), "--mask", str(mask8), "--resolution", "8mm"]
    assert run_command(words) == 1
    said = capfd.readouterr().err.splitlines()
    raw = (out / "failures.tsv").read_text(encoding="utf-8")
    assert len(raw.splitlines()) == 1 + len(ODD) and all(line.count("\t") == 1 for line in raw.splitlines())
    rows = list(csv.DictReader(raw.splitlines(), delimiter="\t"))
    for row in rows:
        assert row["reason"].endswith(".") and row["reason"] in said and "fault of slimbrain" not in row["reason"]
        assert (row["file"] + row["reason"]).isprintable()
    assert sum("shorten its labels" in row["reason"] for row in rows) == 1 and sum("label" in row["reason"] for row in rows) == len(ODD)
    assert [info.subject for info in Store(out).sessions] == ["sub-01"] and verify(out).problems == []
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "report.html"}
    assert run_command(words) == 1
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "report.html"}


def test_the_longest_name_that_fits_is_prepared(write_run: WriteRun, bids_dir: Path, mask8: Path, tmp_path: Path) -> None:
    """One byte more is refused. The store's own ending is `_desc-slimbrain_bold.safetensors`, and 15 bytes are kept for temporary names."""
    length = 255 - 15 - len("sub-01_task-_space-MNI152NLin6Asym_desc-slimbrain_bold.safetensors")
    write_run("sub-01", middle=f"_task-{'x' * length}")
    write_run("sub-01", middle=f"_task-{'x' * (length + 1)}")
    summary = prepare(bids_dir, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    assert (len(summary.prepared), len(summary.failures)) == (1, 1)
    assert "241 bytes" in summary.failures[0].reason and verify(tmp_path / "store").problems == []


def test_an_array_of_an_npz_does_not_lead_out_of_the_store(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "deep" / "store"
    source.mkdir()
    values = np.random.default_rng(0).standard_normal((40, 3))
    np.savez(source / "a_timeseries.npz", **{"sub-01_task-rest": values, "sub-../../../out_task-rest": values})
    summary = prepare(source, out, PrepOptions(layout="roi", channels="none", tr=0.72))
    assert [run.key for run in summary.prepared] == ["sub-01_task-rest_space-roi"] and len(summary.failures) == 1
    assert all("label" in failure.reason for failure in summary.failures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "source"] and [path.name for path in out.parent.iterdir()] == [
        "store"
    ]


def test_a_folder_with_a_line_break_is_escaped_in_tables(mask8: Path, tmp_path: Path) -> None:
    """HCP's subjects are folders, of whose names letters and digits alone become the label."""
    run = tmp_path / "hcp" / "10\n03" / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
    save(run / "rfMRI_REST1_LR_hp2000_clean.nii.gz", head_series(20), affine(16.0), 0.72)
    out = tmp_path / "store"
    (prepared,) = prepare(tmp_path / "hcp", out, PrepOptions(mask=mask8, resolution="8mm")).prepared
    assert prepared.key.startswith("sub-1003_") and prepared.file.isprintable()
    assert prepare(tmp_path / "hcp", out, PrepOptions(mask=mask8, resolution="8mm")).skipped
    (excluded,) = prepare(tmp_path / "hcp", out, PrepOptions(mask=mask8, resolution="8mm", min_tsnr=1e6)).excluded
    assert excluded.file.isprintable() and len((out / "excluded.tsv").read_text().splitlines()) == 2
