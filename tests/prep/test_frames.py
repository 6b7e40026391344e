"""Frames that are not finite, frozen, or copied: counted, named, flagged, and bridged where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prep_samples import Array, affine, head_series, save

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, PrepSummary, prepare
from slimbrain.prep.frames import FrameWatch
from slimbrain.prep.roi import prepare_roi
from slimbrain.prep.runs import RoiSeries
from slimbrain.prep.timing import TimeAxis
from slimbrain.store import Channels, Store

WriteRun = Callable[..., Path]
FRAMES = 20


@pytest.fixture
def prep(bids_dir: Path, tmp_path: Path, mask8: Path) -> Callable[..., PrepSummary]:
    def run(name: str = "store", **options: object) -> PrepSummary:
        return prepare(bids_dir, tmp_path / name, PrepOptions(mask=mask8, resolution="8mm", **options))

    return run


def with_nan(*frames: int) -> Array:
    data = head_series(FRAMES)
    data[..., list(frames)] = np.nan
    return data


# --- not finite


def test_a_frame_of_nan_is_called_that_and_can_be_flagged(
    write_run: WriteRun, prep: Callable[..., PrepSummary], bids_dir: Path, tmp_path: Path
) -> None:
    """The session is that of an image in which the mean of both neighbours stands in place of the frame."""
    write_run(data=with_nan(7))
    (failure,) = prep().failures
    assert "1 of 20 frames" in failure.reason and "not finite" in failure.reason and "--flag-nonfinite" in failure.reason
    assert "constant" not in failure.reason and failure.reason.endswith(".")
    summary = prep(flag_nonfinite=True)
    assert any("1 of 20 frames have no finite value" in warning for warning in summary.prepared[0].warnings)
    store = Store(tmp_path / "store")
    info = store.sessions[0]
    assert (info.qc["nonfinite_frames"], info.qc["coverage"]) == ("1", "1")
    assert 7 in store.sidecar(info.key)["Series"]["flagged"]
    mended = head_series(FRAMES)
    mended[..., 7] = (mended[..., 6] + mended[..., 8]) / 2
    write_run(data=mended)
    prep("mended")
    np.testing.assert_allclose(store.coarse(info.key), Store(tmp_path / "mended").coarse(info.key), atol=2e-3)
    # The same command skips it; without the option the run is another.
    write_run(data=with_nan(7))
    prep(flag_nonfinite=True)
    assert len(prep(flag_nonfinite=True).skipped) == 1 and len(prep().failures) == 1


@pytest.mark.parametrize("frames", [(0,), (FRAMES - 1,), (0, 1, 2), (5, 6, 7, 12)])
def test_missing_frames_at_the_ends_and_in_rows_are_bridged(
    frames: tuple[int, ...], write_run: WriteRun, prep: Callable[..., PrepSummary]
) -> None:
    write_run(data=with_nan(*frames))
    assert len(prep(flag_nonfinite=True).prepared) == 1


def test_a_frame_that_misses_little_costs_its_voxels_as_before(
    write_run: WriteRun, prep: Callable[..., PrepSummary], tmp_path: Path
) -> None:
    data = head_series(FRAMES)
    data[:, :, 9:, 3] = np.nan
    write_run(data=data)
    for name, flag in (("a", False), ("b", True)):
        (run,) = prep(name, flag_nonfinite=flag).prepared
        assert any("in 1 of 20 frames and count as not covered" in warning for warning in run.warnings)
    assert Store(tmp_path / "a").sessions[0].qc["coverage"] == Store(tmp_path / "b").sessions[0].qc["coverage"] != "1"


def test_all_frames_missing_is_no_matter_of_flags(write_run: WriteRun, prep: Callable[..., PrepSummary]) -> None:
    write_run(data=with_nan(*range(FRAMES)))
    for flag in (False, True):
        (failure,) = prep(flag_nonfinite=flag).failures
        assert "in all frames" in failure.reason and "--flag-nonfinite" not in failure.reason and "constant" not in failure.reason


def test_values_beyond_float32_are_called_that(bids_dir: Path, prep: Callable[..., PrepSummary]) -> None:
    path = bids_dir / "sub-01" / "func" / "sub-01_task-rest_space-MNI152Lin_bold.nii.gz"
    save(path, head_series(FRAMES).astype(np.float64) * 1e38, affine(16.0), 0.75)
    (failure,) = prep().failures
    assert "beyond float32" in failure.reason and "constant" not in failure.reason


def test_integers_whose_slope_leads_beyond_float32_are_called_that(bids_dir: Path, prep: Callable[..., PrepSummary]) -> None:
    import nibabel

    path = bids_dir / "sub-01" / "func" / "sub-01_task-rest_space-MNI152Lin_bold.nii"
    image = nibabel.load(save(path, head_series(FRAMES).astype(np.int16), affine(16.0), 0.75))
    raw = bytearray(path.read_bytes())
    header = image.header.copy()
    header["scl_slope"], header["scl_inter"] = 1e37, 0
    raw[:348] = header.binaryblock[:348]
    path.write_bytes(raw)
    (failure,) = prep().failures
    assert "beyond float32" in failure.reason and "constant" not in failure.reason


def test_a_still_image_is_still_called_constant(write_run: WriteRun, prep: Callable[..., PrepSummary]) -> None:
    write_run(data=np.full((14, 14, 14, FRAMES), 5.0, np.float32))
    assert "constant over time" in prep().failures[0].reason


# --- copies


def test_frozen_frames_are_flagged(write_run: WriteRun, prep: Callable[..., PrepSummary], tmp_path: Path) -> None:
    data = head_series(FRAMES)
    data[..., 5:8] = data[..., 4:5]
    write_run(data=data, tr=2.0)
    (run,) = prep().prepared
    assert any("3 of 20 frames are the same as the frame before" in warning for warning in run.warnings)
    store = Store(tmp_path / "store")
    info = store.sessions[0]
    assert (info.qc["frozen_frames"], info.qc["repeated_frames"]) == ("3", "0")
    assert {5, 6, 7} <= set(store.sidecar(info.key)["Series"]["flagged"])


def test_a_half_that_was_copied_is_flagged(write_run: WriteRun, prep: Callable[..., PrepSummary], tmp_path: Path) -> None:
    data = head_series(FRAMES)
    data[..., FRAMES // 2 :] = data[..., : FRAMES // 2]
    write_run(data=data)
    (run,) = prep().prepared
    assert any("10 of 20 frames are copies of earlier ones (frame 10 of frame 0)" in warning for warning in run.warnings)
    store = Store(tmp_path / "store")
    info = store.sessions[0]
    assert (info.qc["frozen_frames"], info.qc["repeated_frames"]) == ("0", "10")
    assert set(range(10, 20)) <= set(store.sidecar(info.key)["Series"]["flagged"])
    assert prep(max_flagged=0.4).excluded


def test_a_sound_run_has_neither(write_run: WriteRun, prep: Callable[..., PrepSummary], tmp_path: Path) -> None:
    write_run()
    prep()
    qc = Store(tmp_path / "store").sessions[0].qc
    assert (qc["frozen_frames"], qc["repeated_frames"], qc["nonfinite_frames"]) == ("0", "0", "0")


def test_the_report_shows_both(write_run: WriteRun, bids_dir: Path, tmp_path: Path, mask8: Path) -> None:
    data = head_series(FRAMES)
    data[..., 12:] = data[..., :8]
    write_run(data=data)
    assert run_command(["prep", str(bids_dir), str(tmp_path / "store"), "--mask", str(mask8), "--resolution", "8mm"]) == 0
    page = (tmp_path / "store" / "report.html").read_text(encoding="utf-8")
    assert "frozen frames" in page and "copied frames" in page and "8 of 20 frames are copies of earlier ones" in page
    assert "8 flagged frames" in page


@given(st.integers(2, 12), st.integers(1, 5), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_noticed_is_what_a_look_at_everything_finds(n_frames: int, n_voxels: int, data: st.DataObject) -> None:
    kinds = st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf])
    values = np.array(
        data.draw(st.lists(st.lists(kinds, min_size=n_voxels, max_size=n_voxels), min_size=n_frames, max_size=n_frames)), np.float32
    )
    counted = np.array(data.draw(st.lists(st.booleans(), min_size=n_voxels, max_size=n_voxels)))
    watch, cut = FrameWatch(n_frames, counted), data.draw(st.integers(0, n_frames))
    seen = values.copy()
    for block in (seen[:cut], seen[cut:]):
        watch.look(block)
    found = watch.record(np.asarray)
    bad = ~np.isfinite(values) & counted
    never = bad.all(axis=0)
    missing = [2 * (row & ~never).sum() > (counted & ~never).sum() for row in bad]
    zeroed = np.where(np.isfinite(values), values, 0)
    np.testing.assert_array_equal(seen, zeroed)
    np.testing.assert_array_equal(found.missing, missing)
    np.testing.assert_array_equal(found.lost, bad.any(axis=0))
    np.testing.assert_array_equal(found.lost_elsewhere, bad[~np.array(missing)].any(axis=0))
    np.testing.assert_array_equal(found.nonfinite, [(row & ~never).any() for row in bad])
    if not any(missing):
        same = [[bool((zeroed[late] == zeroed[early]).all()) for early in range(late)] for late in range(n_frames)]
        np.testing.assert_array_equal(found.frozen, [bool(row and row[-1]) for row in same])
        np.testing.assert_array_equal(found.repeated, [bool(any(row) and not row[-1]) for row in same])


# --- series of regions


def regions(values: Array) -> RoiSeries:
    names = tuple(f"r{number}" for number in range(values.shape[1]))
    return RoiSeries(Path("regions.tsv"), values, Channels(names, np.zeros((len(names), 3))), 0.72)


def test_regions_are_treated_alike() -> None:
    values = np.random.default_rng(0).standard_normal((FRAMES, 6))
    missing, copied, still = values.copy(), values.copy(), np.ones_like(values)
    missing[4] = np.nan
    with pytest.raises(
        InputError, match=r"^regions\.tsv: every channel holds values that are not finite .* in 1 of 20 frames.*--flag-nonfinite"
    ):
        prepare_roi(regions(missing), TimeAxis(FRAMES, 0.72))
    found = prepare_roi(regions(missing), TimeAxis(FRAMES, 0.72), flag_nonfinite=True)
    mended = values.copy()
    mended[4] = (values[3] + values[5]) / 2
    np.testing.assert_allclose(found.series, prepare_roi(regions(mended), TimeAxis(FRAMES, 0.72)).series, atol=1e-6)
    assert "1 of 20 frames" in found.warnings[-1]
    copied[10:] = copied[:10]
    assert "copies of earlier ones" in prepare_roi(regions(copied), TimeAxis(FRAMES, 0.72)).warnings[0]
    with pytest.raises(InputError, match="no channel changes over time"):
        prepare_roi(regions(still), TimeAxis(FRAMES, 0.72))
