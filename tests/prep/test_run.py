"""Whole derivatives in, stores out: what is made, skipped, refused, resumed."""

from __future__ import annotations

import csv
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from prep_samples import affine, brain_series, head_series, save

import slimbrain
from slimbrain.cli import run_command
from slimbrain.errors import ContractError, InputError
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, PrepSummary, prepare
from slimbrain.prep.source import Source, open_source
from slimbrain.store import Store

WriteRun = Callable[..., Path]
Prep = Callable[..., PrepSummary]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def prep(bids_dir: Path, out: Path, mask8: Path) -> Prep:
    def run(**options: object) -> PrepSummary:
        return prepare(bids_dir, out, PrepOptions(mask=mask8, resolution="8mm", **options))

    return run


def failures_table(out: Path) -> list[dict[str, str]]:
    with open(out / "failures.tsv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_a_derivative_becomes_a_store(write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path, grid8: Grid) -> None:
    write_run("sub-01", tr=2.0, frames=12)
    write_run("sub-02", middle="_ses-a_task-rest_run-1")
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\n02\t\n")
    (bids_dir / "sub-01" / "func" / "sub-01_task-rest_events.tsv").write_text("onset\tduration\ttrial_type\n1.5\t2\tface\n")
    summary = prep()
    assert (len(summary.prepared), summary.exit_code) == (2, 0)
    store = Store(out)
    assert store.grid == grid8
    keys = ("sub-01_task-rest", "sub-02_ses-a_task-rest_run-1")
    assert [info.key for info in store.sessions] == [f"{key}_space-MNI152NLin6Asym" for key in keys]
    first, second = store.sessions
    assert (first.n_frames, first.tr, second.n_frames) == (int(11 * 2.0 / 0.72) + 1, 0.72, 20)
    assert float(first.qc["coverage"]) == 1
    voxels = store.voxels(first.key).astype(np.float64)[:, store.grid.voxel_mask]
    np.testing.assert_allclose(voxels.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(voxels.std(axis=0), 1, atol=1e-3)
    sidecar = store.sidecar(first.key)
    assert sidecar["Events"] == [{"onset": 1.5, "duration": 2.0, "trial_type": "face"}]
    assert sidecar["EventsFile"] == "sub-01/func/sub-01_task-rest_events.tsv"
    assert (sidecar["SourceRepetitionTime"], sidecar["SourceRepetitionTimeFrom"]) == (2.0, "sidecar")
    assert len(sidecar["Series"]["dvars"]) == 12
    assert store.participants == {"sub-01": {"participant_id": "sub-01", "age": "31"}, "sub-02": {"participant_id": "sub-02", "age": "n/a"}}
    assert failures_table(out) == []


def test_the_first_image_is_read_three_calls_from_the_command(
    write_run: WriteRun, bids_dir: Path, out: Path, mask8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop over runs (`progress`, `batch`) and Python's own frames do not count."""
    write_run()
    calls: list[list[str]] = []
    read, package = open_source, Path(slimbrain.__file__).parent

    def watched(path: Path) -> Source:
        frames = [frame for frame in inspect.stack() if package in Path(frame.filename).parents][::-1]
        frames = [frame for frame in frames if Path(frame.filename).name not in ("progress.py", "batch.py")]
        start = next(number for number, frame in enumerate(frames) if frame.function == "prep")
        calls.append([frame.function for frame in frames[start + 1 :]])
        return read(path)

    monkeypatch.setattr("slimbrain.prep.runs.open_source", watched)
    monkeypatch.setattr("slimbrain.report.data_page.write_data_page", lambda *_: out)
    assert run_command(["prep", str(bids_dir), str(out), "--mask", str(mask8), "--resolution", "8mm"]) == 0
    assert len(calls) == 1 and len(calls[0]) <= 3, calls


def test_left_and_right_handed_files_give_the_same_store(bids_dir: Path, out: Path, prep: Prep) -> None:
    data, matrix = brain_series((14, 14, 14), 12), affine(16.0)
    flipped = nibabel.Nifti1Image(data, matrix).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    for sub, values, place in (("sub-r", data, matrix), ("sub-l", np.asarray(flipped.dataobj), flipped.affine)):
        save(bids_dir / sub / "func" / f"{sub}_task-rest_space-MNI152Lin_desc-preproc_bold.nii.gz", values, place, 0.75)
    assert prep().exit_code == 0
    store = Store(out)
    left, right = (info.key for info in store.sessions)
    assert [store.sidecar(key)["SourceOrientation"] for key in (left, right)] == ["LAS", "RAS"]
    for read in (store.voxels, store.coarse, lambda key: store.moments(key)[0], lambda key: store.moments(key)[1]):
        np.testing.assert_array_equal(read(left), read(right))


def test_what_cannot_be_done_right_is_refused_and_the_rest_goes_on(
    write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_run("sub-good")
    write_run("sub-native", space="")
    write_run("sub-t1w", space="_space-T1w")
    write_run("sub-notr", tr=None, header_tr=1.0)
    write_run("sub-short", frames=6)
    write_run("sub-still", data=np.full((14, 14, 14, 20), 5.0, np.float32))
    cut = write_run("sub-cut")
    cut.write_bytes(cut.read_bytes()[:20000])
    link = write_run("sub-link")
    link.unlink()
    link.symlink_to(bids_dir / "annex" / "gone")
    reasons = {
        "sub-native": "native", "sub-t1w": "T1w", "sub-notr": "--tr", "sub-short": "window", "sub-still": "constant",
        "sub-cut": "truncated|damaged", "sub-link": "cannot be opened",
    }  # fmt: skip
    summary = prep()
    assert [run.key for run in summary.prepared] == ["sub-good_task-rest_space-MNI152NLin6Asym"]
    assert summary.exit_code == 1
    rows = {row["file"].split("/")[0]: row["reason"] for row in failures_table(out)}
    assert rows.keys() == reasons.keys()
    printed = capfd.readouterr().err
    for sub, words in reasons.items():
        assert sub in rows[sub]
        assert any(word in rows[sub] for word in words.split("|")), rows[sub]
        assert rows[sub] in printed
    assert len(Store(out).sessions) == 1


def test_low_coverage_passes_with_a_warning_that_names_it(write_run: WriteRun, prep: Prep, out: Path) -> None:
    data = head_series(20)
    data[:, :, :5] = 0
    write_run(data=data)
    summary = prep()
    store = Store(out)
    info = store.sessions[0]
    covered = (store.moments(info.key)[1] > 0).sum() / store.grid.n_voxels
    assert 0.7 < covered < 0.95
    assert f"{covered:.1%}" in summary.prepared[0].warnings[0]
    assert "below z" in summary.prepared[0].warnings[0]
    assert float(info.qc["coverage"]) == pytest.approx(covered, abs=1e-3)
    assert info.qc["n_warnings"] == "1"


def test_a_second_run_skips_what_is_unchanged(write_run: WriteRun, prep: Prep, out: Path) -> None:
    changed = write_run("sub-01")
    write_run("sub-02")
    lost = write_run("sub-03")
    prep()
    before = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert len(prep().skipped) == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    status = changed.stat()
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    next(path for path in out.rglob("sub-03*.safetensors")).unlink()
    summary = prep()
    assert [run.file.split("/")[0] for run in summary.prepared] == ["sub-01", "sub-03"]
    assert lost.exists()
    assert len(prep(force=True).prepared) == 3


def content(path: Path) -> bytes:
    """The bytes of a file; of safetensors what follows the header, whose fields have no fixed order."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :] if path.suffix == ".safetensors" else data


def test_processes_make_the_same_store(write_run: WriteRun, bids_dir: Path, tmp_path: Path, mask8: Path) -> None:
    for number in range(3):
        write_run(f"sub-{number}", seed=number)
    write_run("sub-bad", frames=5)
    stores = []
    for nprocs in (1, 2):
        summary = prepare(bids_dir, tmp_path / f"by{nprocs}", PrepOptions(mask=mask8, resolution="8mm", nprocs=nprocs))
        assert (len(summary.prepared), len(summary.failures)) == (3, 1)
        stores.append({path.name: content(path) for path in (tmp_path / f"by{nprocs}").rglob("*") if path.is_file()})
    assert stores[0].keys() == stores[1].keys()
    assert [name for name in stores[0] if stores[0][name] != stores[1][name]] == []


def test_participants_of_several_sources_are_merged(write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path) -> None:
    write_run()
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\n")
    prep()
    (bids_dir / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tM\n")
    prep()
    assert Store(out).participants == {
        "sub-01": {"participant_id": "sub-01", "age": "31", "sex": "F"},
        "sub-02": {"participant_id": "sub-02", "age": "n/a", "sex": "M"},
    }


def test_a_table_of_participants_that_contradicts_itself_is_a_failure_and_the_runs_are_not(
    write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path
) -> None:
    write_run()
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\n01\t13\n")
    summary = prep()
    assert len(summary.prepared) == 1 and summary.exit_code == 1 and Store(out).participants == {}
    assert "sub-01 has age '31' in line 2 and '13' in line 3" in failures_table(out)[0]["reason"]


def test_rows_of_nobody_and_runs_without_a_row_are_counted_aloud(
    write_run: WriteRun, prep: Prep, bids_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for subject in ("sub-001", "sub-002"):
        write_run(subject)
    (bids_dir / "participants.tsv").write_text("participant_id\tage\n1\t31\nsub-002\t30\nsub-003\t29\n")
    prep()
    told = capsys.readouterr().err
    assert "2 of 3 rows match no session, first sub-003" in told or "2 of 3 rows match no session, first sub-1" in told
    assert "sub-1 and sub-001 differ in zeros" in told and "1 of 2 participants with sessions have no row, first sub-001." in told
    prep(participant_label=("002",))
    assert "match no" not in capsys.readouterr().err


def test_two_runs_of_one_name_do_not_overwrite_each_other(write_run: WriteRun, prep: Prep) -> None:
    write_run(middle="_task-rest_part-mag")
    write_run(middle="_task-rest_part-phase")
    summary = prep()
    assert len(summary.prepared) == 1
    assert "same name" in summary.failures[0].reason


def test_an_events_table_that_cannot_be_read_costs_a_warning(write_run: WriteRun, prep: Prep, out: Path) -> None:
    write_run().parent.joinpath("sub-01_task-rest_events.tsv").write_text("onset\tduration\nlate\t1\n")
    summary = prep()
    assert "no usable onset" in summary.prepared[0].warnings[0]
    assert Store(out).sidecar(summary.prepared[0].key)["Events"] == []


def test_another_mask_does_not_enter_the_store(write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path) -> None:
    write_run()
    prep()
    with pytest.raises(ContractError):
        prepare(bids_dir, out, PrepOptions(resolution="8mm"))


def test_nothing_to_prepare_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_low_resolution_recordings(shared_data: Path, tmp_path: Path) -> None:
    refused = prepare(shared_data / "lowres6", tmp_path / "store", PrepOptions(resolution="8mm"))
    assert len(refused.failures) == 6
    assert all("--tr" in failure.reason for failure in refused.failures)
    given = prepare(shared_data / "lowres6", tmp_path / "store", PrepOptions(resolution="8mm", tr=2.0))
    assert len(given.prepared) + len(given.failures) == 6
    assert given.prepared
    assert failures_table(tmp_path / "store") == [vars(failure) for failure in given.failures]


def test_real_left_handed_recording_with_a_cut_field_of_view(shared_data: Path, tmp_path: Path) -> None:
    summary = prepare(shared_data / "faces", tmp_path / "store", PrepOptions(resolution="8mm", participant_label=("01",)))
    store = Store(tmp_path / "store")
    info = store.sessions[0]
    assert (info.n_frames, info.tr) == (973, 0.72)
    assert 0.8 < float(info.qc["coverage"]) < 0.95
    assert "below z" in summary.prepared[0].warnings[0]
    assert len(store.sidecar(info.key)["Events"]) == 104
