"""A batch prepared in shards is, collected, the store that one process makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, PrepSummary, prepare
from slimbrain.prep.run import collect
from slimbrain.store import Store
from slimbrain.store.withdrawn import new_record, record_withdrawals, withdrawn

WriteRun = Callable[..., Path]
NOT_COMPARED = (".lock", "report.html")


@pytest.fixture
def cohort(write_run: WriteRun, bids_dir: Path) -> Path:
    """Five runs of unlike length, one of which moves too much to pass for a brain, and a file that is none."""
    for number, frames in enumerate((12, 30, 20, 16, 24), start=1):
        write_run(f"sub-{number:02d}", frames=frames)
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\nsub-04\t40\n")
    broken = bids_dir / "sub-06" / "func"
    broken.mkdir(parents=True)
    (broken / "sub-06_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz").write_bytes(b"no image")
    return bids_dir


def run(cohort: Path, out: Path, mask: Path, shard: str | None = None) -> PrepSummary:
    return prepare(cohort, out, PrepOptions(mask=mask, resolution="8mm", shard=shard, window_frames=8))


def contents(out: Path) -> dict[str, bytes]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.name not in NOT_COMPARED]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_shards_make_the_store_of_one_process_byte_for_byte(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    whole = run(cohort, alone, mask8)
    found = [run(cohort, shared, mask8, f"{number}/3") for number in (3, 1, 2)]
    assert Store(shared).sessions == []
    assert sorted(row.file for each in found for row in each.prepared) == [row.file for row in whole.prepared]
    assert [len(each.failures) for each in found].count(1) == 1
    assert collect(shared) == 5
    assert contents(shared) == contents(alone)


def test_a_shard_done_again_skips_what_it_did_before_and_after_collecting(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = run(cohort, out, mask8, "1/2")
    again = run(cohort, out, mask8, "1/2")
    collect(out)
    last = run(cohort, out, mask8, "1/2")
    assert first.prepared and [row.file for row in again.skipped] == [row.file for row in last.skipped] == [r.file for r in first.prepared]


def test_a_shard_done_again_renews_terms_of_sessions_that_no_one_else_lists_yet(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    for licence in ("", "CC0-1.0"):
        (cohort / "governance.yaml").write_text(f"cohort: study\nlicense: {licence or 'unknown'}\n")
        assert run(cohort, out, mask8, "2/2").exit_code == 0
    assert Store(out).sessions == []
    collect(out)
    assert {Store(out).governance(info).licence for info in Store(out).sessions} == {"CC0-1.0"}


def test_another_number_of_shards_keeps_what_the_first_prepared_and_its_terms(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    (cohort / "governance.yaml").write_text("cohort: study\nlicense: CC-BY-NC-4.0\n")
    done = run(cohort, out, mask8, "1/2")
    (cohort / "governance.yaml").write_text("cohort: study\nlicense: CC0-1.0\n")
    again = [run(cohort, out, mask8, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(row.file for each in again for row in each.skipped) == [row.file for row in done.prepared]
    collect(out)
    strict = {info.key for info in Store(out).sessions if Store(out).governance(info).licence == "CC-BY-NC-4.0"}
    assert strict == {row.key for row in done.prepared} and len(Store(out).sessions) == 5


def test_every_shard_readmits(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    """Each is the same command but for its number, and at most one of them has the runs."""
    out = tmp_path / "store"
    record_withdrawals(Store.create(out, Grid.from_nifti(mask8, "8mm"), 0.72).root, [new_record("sub-03", "", "2030-01-01", "")])
    for number in (1, 2):
        prepare(cohort, out, PrepOptions(mask=mask8, resolution="8mm", shard=f"{number}/2", window_frames=8, readmit=("03",)))
    collect(out)
    assert "sub-03" in {info.subject for info in Store(out).sessions} and not withdrawn(out)


def test_the_whole_command_collects_what_shards_did(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    done = run(cohort, out, mask8, "2/2")
    whole = run(cohort, out, mask8)
    assert {row.file for row in whole.skipped} == {row.file for row in done.prepared}
    assert len(Store(out).sessions) == 5


def test_a_damaged_sidecar_is_named_by_the_shard_whose_run_it_is(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    """Sidecars are looked for once it is known whose run each is; the store says the same as one process' does."""
    (cohort / "sub-02" / "func" / "sub-02_task-rest_bold.json").write_text("{")
    whole = run(cohort, tmp_path / "alone", mask8)
    found = [run(cohort, tmp_path / "shared", mask8, f"{number}/3") for number in (3, 1, 2)]
    assert [row for each in found for row in each.failures if "cannot be read as JSON" in row.reason] == [
        row for row in whole.failures if "cannot be read as JSON" in row.reason
    ]
    assert collect(tmp_path / "shared") == len(whole.prepared) == 4
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_what_is_no_shard_is_refused(cohort: Path, mask8: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--shard 4/3: is no part"):
        run(cohort, tmp_path / "store", mask8, "4/3")
