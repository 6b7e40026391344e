"""Limits on quality: what they leave out, what is written down, and what becomes of sessions that are there already."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prep_samples import head_series

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, PrepSummary, prepare
from slimbrain.prep import session as session_module
from slimbrain.prep.exclusion import _LIMITS, Limits, judge
from slimbrain.store import Store

WriteRun = Callable[..., Path]
Prep = Callable[..., PrepSummary]
FRAMES = 40
SPIKES, MOVED = [11, 30], [5, 6, 7, 20]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def prep(bids_dir: Path, out: Path, mask8: Path) -> Prep:
    def run(**options: object) -> PrepSummary:
        return prepare(bids_dir, out, PrepOptions(mask=mask8, resolution="8mm", **options))

    return run


def write_still_and_moved(write_run: WriteRun) -> tuple[Path, Path]:
    """A run that hardly moves, and one that moves by 2 mm four times and whose intensity jumps twice."""
    data = head_series(FRAMES)
    still = write_run("sub-still", data=data)
    data[..., SPIKES] *= 1.2
    moved = write_run("sub-moved", data=data)
    for path, frames in ((still, []), (moved, MOVED)):
        displacement = np.full(FRAMES, 0.1)
        displacement[frames] = 2.0
        values = ["n/a", *(f"{value:.1f}" for value in displacement[1:])]
        name = path.name.split("_space")[0] + "_desc-confounds_timeseries.tsv"
        path.with_name(name).write_text("\n".join(["framewise_displacement", *values]) + "\n")
    return still, moved


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "excluded.tsv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def keys(out: Path) -> list[str]:
    return [info.subject for info in Store(out).sessions]


# --- figures of a run with planted motion and spikes


def test_planted_spikes_and_motion_arrive_in_table_and_sidecar(write_run: WriteRun, prep: Prep, out: Path, grid8: Grid) -> None:
    write_still_and_moved(write_run)
    assert prep().exit_code == 0
    store = Store(out)
    infos = {info.subject: info for info in store.sessions}
    sidecar = store.sidecar(infos["sub-moved"].key)
    qc, series = sidecar["QC"], sidecar["Series"]
    assert qc["fd_max"] == 2.0 and qc["fd_mean"] == pytest.approx((4 * 2.0 + 35 * 0.1) / 39, rel=1e-5)
    # Frames that jump and those after them change much; whatever else is marked is chance.
    planted = {*MOVED, *SPIKES, *(frame + 1 for frame in SPIKES)}
    assert planted <= set(series["flagged"]) and len(series["flagged"]) <= len(planted) + 2
    assert qc["flagged"] == len(series["flagged"]) and qc["flagged_share"] == pytest.approx(qc["flagged"] / FRAMES, rel=1e-5)
    assert series["flagged_stored"] == series["flagged"]
    level = np.array(series["global_signal"])
    others = np.delete(level, SPIKES)
    np.testing.assert_allclose(level[SPIKES] / others.mean(), 1.2, rtol=2e-2)
    assert qc["global_signal_mean"] == pytest.approx(level.mean(), rel=1e-5)
    assert qc["global_signal_std"] == pytest.approx(level.std(), rel=1e-4)
    # tSNR once more, from the stored moments.
    mean, std = store.moments(infos["sub-moved"].key)
    assert qc["tsnr"] == pytest.approx(np.median((mean / np.where(std, std, 1))[std > 0]), rel=1e-5)
    for name in ("coverage", "tsnr", "dvars_mean", "spikes", "fd_mean", "fd_max", "flagged_share", "global_signal_std", "template_overlap"):
        assert float(infos["sub-moved"].qc[name]) == pytest.approx(qc[name], rel=1e-3), name
    assert Store(out).sessions[0].n_frames == FRAMES, "flagged frames are marked, not dropped"


# --- exclusion


def test_a_limit_leaves_out_and_says_so(
    write_run: WriteRun, prep: Prep, bids_dir: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, moved = write_still_and_moved(write_run)
    summary = prep(max_fd_mean=0.2, max_flagged=0.05)
    assert (len(summary.prepared), len(summary.excluded), len(summary.failures), summary.exit_code) == (1, 1, 0, 0)
    assert keys(out) == ["sub-still"]
    assert not list(out.rglob("sub-moved*.safetensors"))
    rows = table(out)
    assert [row["measure"] for row in rows] == ["fd_mean", "flagged_share"]
    assert {row["file"] for row in rows} == {moved.relative_to(bids_dir).as_posix()}
    assert float(rows[0]["value"]) == pytest.approx((4 * 2.0 + 35 * 0.1) / 39, rel=1e-5) and float(rows[0]["threshold"]) == 0.2
    assert str(moved) in rows[0]["reason"] and "--max-fd-mean 0.2" in rows[0]["reason"]
    assert "\n" not in rows[0]["reason"]
    printed = capfd.readouterr().err
    assert all(row["reason"] in printed for row in rows)


def test_coverage_leaves_out_and_names_what_is_missing(write_run: WriteRun, prep: Prep, out: Path) -> None:
    data = head_series(20)
    data[:, :, :7] = 0
    write_run(data=data)
    summary = prep()
    assert (len(summary.excluded), summary.exit_code) == (1, 0)
    assert "below z" in table(out)[0]["reason"] and "--min-coverage 0.7" in table(out)[0]["reason"]
    assert len(prep(min_coverage=0.1).prepared) == 1


def test_what_was_left_out_is_not_read_again(write_run: WriteRun, prep: Prep, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_still_and_moved(write_run)
    prep(max_fd_mean=0.2)
    before = (out / "excluded.tsv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "prepare_image", lambda *_, **__: pytest.fail("read again"))
        again = prep(max_fd_mean=0.2)
        assert (len(again.skipped), len(again.excluded), again.exit_code) == (1, 1, 0)
        assert (out / "excluded.tsv").read_bytes() == before
        # Another limit that it is beyond as well.
        assert [breach.measure for breach in prep(max_flagged=0.01).excluded[0].breaches] == ["flagged_share"]
    assert table(out)[0]["measure"] == "flagged_share"


def test_a_wider_limit_takes_in_what_was_left_out(write_run: WriteRun, prep: Prep, out: Path, tmp_path: Path) -> None:
    write_still_and_moved(write_run)
    prep(max_fd_mean=0.2)
    summary = prep(max_fd_mean=1.0)
    assert ([run.file.split("/")[0] for run in summary.prepared], len(summary.excluded)) == (["sub-moved"], 0)
    assert keys(out) == ["sub-moved", "sub-still"] and table(out) == []
    assert not list((out / "excluded").glob("*"))


def test_a_stored_session_beyond_a_new_limit_leaves_the_store(write_run: WriteRun, prep: Prep, out: Path, tmp_path: Path) -> None:
    write_still_and_moved(write_run)
    prep()
    assert keys(out) == ["sub-moved", "sub-still"]
    summary = prep(max_fd_mean=0.2)
    assert (len(summary.skipped), len(summary.excluded), summary.exit_code) == (1, 1, 0)
    assert keys(out) == ["sub-still"]
    assert not list(out.glob("sub-moved/**/*.*"))
    record = json.loads(next((out / "excluded").glob("*.json")).read_text())
    assert record["QC"]["fd_max"] == 2.0 and record["Series"]["flagged"]
    # As if it had been left out from the start.
    fresh = prepare_elsewhere(write_run, prep, tmp_path)
    assert (out / "excluded.tsv").read_text() == fresh.joinpath("excluded.tsv").read_text()
    assert (out / "sessions.tsv").read_text() == fresh.joinpath("sessions.tsv").read_text()


def prepare_elsewhere(write_run: WriteRun, prep: Prep, tmp_path: Path) -> Path:
    bids_dir, mask = tmp_path / "dérivés fMRI", next(iter(tmp_path.glob("store/*mask*")))
    prepare(bids_dir, tmp_path / "fresh", PrepOptions(mask=mask, resolution="8mm", max_fd_mean=0.2))
    return tmp_path / "fresh"


def test_a_changed_source_is_measured_again(write_run: WriteRun, prep: Prep, out: Path) -> None:
    _, moved = write_still_and_moved(write_run)
    prep(max_fd_mean=0.2)
    confounds = next(moved.parent.glob("*confounds*"))
    confounds.write_text(confounds.read_text().replace("2.0", "0.2000"))
    summary = prep(max_fd_mean=0.2)
    assert (len(summary.prepared), len(summary.excluded)) == (1, 0)
    assert table(out) == [] and len(keys(out)) == 2


def test_a_source_that_became_worse_takes_its_old_session_away(write_run: WriteRun, prep: Prep, out: Path) -> None:
    still, _ = write_still_and_moved(write_run)
    prep(max_fd_mean=0.2)
    confounds = next(still.parent.glob("*confounds*"))
    confounds.write_text(confounds.read_text().replace("0.1", "0.7"))
    assert len(prep(max_fd_mean=0.2).excluded) == 2
    assert keys(out) == [] and not list(out.rglob("*.safetensors"))


def test_an_interrupted_removal_is_completed(write_run: WriteRun, prep: Prep, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_still_and_moved(write_run)
    prep()

    unlink = Path.unlink

    def interrupt(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith("_bold.safetensors"):
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prep(max_fd_mean=0.2)
    assert keys(out) == ["sub-still"] and list(out.rglob("sub-moved*.safetensors"))
    assert len(prep(max_fd_mean=0.2).excluded) == 1
    assert not list(out.rglob("sub-moved*.safetensors"))


def test_a_limit_on_what_is_not_known_is_a_failure(write_run: WriteRun, prep: Prep, out: Path) -> None:
    write_run()
    summary = prep(max_fd_mean=0.2)
    assert (summary.exit_code, len(summary.excluded)) == (1, 0)
    assert "has no motion in a table of confounds, which --max-fd-mean needs" in summary.failures[0].reason
    assert keys(out) == []


@pytest.mark.slow
def test_processes_leave_out_the_same(write_run: WriteRun, bids_dir: Path, tmp_path: Path, mask8: Path) -> None:
    write_still_and_moved(write_run)
    texts = []
    for nprocs in (1, 2):
        root = tmp_path / f"by{nprocs}"
        prepare(bids_dir, root, PrepOptions(mask=mask8, resolution="8mm", nprocs=nprocs, max_fd_mean=0.2))
        texts.append([(root / name).read_text() for name in ("excluded.tsv", "sessions.tsv", "failures.tsv")])
    assert texts[0] == texts[1]


# --- limits by themselves


MEASURED = {"coverage": 0.8, "tsnr": 50.0, "fd_mean": 0.25, "flagged_share": 0.1, "template_overlap": 0.9}


def test_every_limit_has_an_option_and_all_but_coverage_are_off() -> None:
    assert {limit.option for limit in _LIMITS} == set(Limits.model_fields)
    assert {name for name, value in Limits().model_dump().items() if value is not None} == {"min_coverage"}


@pytest.mark.parametrize("limit", _LIMITS, ids=lambda limit: limit.option)
@given(value=st.floats(0, 1), threshold=st.floats(0, 1))
def test_a_limit_is_what_its_name_says(limit: object, value: float, threshold: float) -> None:
    limits = Limits(**{"min_coverage": 0.0, limit.option: threshold})  # type: ignore[attr-defined]
    found = judge("run", {**MEASURED, limit.measure: value}, limits)  # type: ignore[attr-defined]
    beyond = value < threshold if limit.option.startswith("min") else value > threshold  # type: ignore[attr-defined]
    assert [(breach.value, breach.threshold) for breach in found] == ([(value, threshold)] if beyond else [])


def test_a_value_that_is_no_number_is_beyond_every_limit() -> None:
    found = judge("run", {**MEASURED, "tsnr": float("nan"), "fd_mean": float("nan")}, Limits(min_tsnr=1, max_fd_mean=100))
    assert [breach.measure for breach in found] == ["tsnr", "fd_mean"]


def test_without_the_measure_nobody_knows() -> None:
    with pytest.raises(InputError, match="--min-tsnr"):
        judge("run", {"coverage": 1.0}, Limits(min_tsnr=1))
    assert judge("run", {"coverage": 1.0}, Limits()) == ()
