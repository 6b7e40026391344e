"""Region-of-interest series: three containers, their channels, and the real ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
from layout_samples import Prep, write_table
from nibabel.cifti2 import BrainModelAxis, ParcelsAxis, SeriesAxis
from prep_samples import Array
from scipy.interpolate import CubicSpline

from slimbrain.errors import ContractError, InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.base import RecordingQuery, Recordings
from slimbrain.prep.layouts.roi import REGIONS
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

NAMES = ("V1", "M1 left", "Précuneus", "dlPFC")
PLACES = np.array([[2.0, -90, 1], [-38, -20, 55], [4, -60, 40], [40, 36, 25]])


def courses(frames: int = 40, seed: int = 0) -> Array:
    """(T, C) with a level and a scale of its own for each channel."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal((frames, len(NAMES))) * (1, 20, 0.01, 5) + (0, 1000, 3, -7))


def write_channels(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    rows = [dict(zip(("name", "x", "y", "z"), (name, *map(str, place)), strict=True)) for name, place in zip(names, PLACES, strict=False)]
    return write_table(root / "channels.tsv", *rows)


def write_npz(root: Path, arrays: Mapping[str, Array]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "timeseries.npz", **arrays)  # type: ignore[arg-type]
    return root / "timeseries.npz"


def write_tsv(path: Path, values: Array, names: tuple[str, ...] = NAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (names, *values.tolist())) + "\n", encoding="utf-8")
    return path


def write_cifti(path: Path, values: Array, names: tuple[str, ...] = NAMES, tr: float = 0.8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices = [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([number])} for number in range(len(names))]
    parcels = ParcelsAxis(names, [np.zeros((0, 3), int)] * len(names), vertices, np.eye(4), (1, 1, 1), {"CIFTI_STRUCTURE_CORTEX_LEFT": 99})
    nibabel.Cifti2Image(values.astype(np.float32), (SeriesAxis(0, tr, len(values)), parcels)).to_filename(path)
    return path


def opened(root: Path, channels: str | None = None) -> Recordings:
    return REGIONS.find(root, RecordingQuery(channels=channels))


def zscored(values: Array) -> Array:
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


@pytest.mark.parametrize("container", ["npz", "tsv", "cifti"])
def test_every_container_gives_the_same_session(tmp_path: Path, out: Path, prep: Prep, container: str) -> None:
    values, stem = courses(), "sub-01_ses-a_task-rest_run-1"
    write_channels(tmp_path)
    shuffled = [2, 0, 3, 1]
    if container == "npz":
        write_npz(tmp_path, {stem: values})
    elif container == "tsv":
        write_tsv(tmp_path / "sub-01" / "ses-a" / "func" / f"{stem}_timeseries.tsv", values[:, shuffled], tuple(NAMES[i] for i in shuffled))
    else:
        write_cifti(tmp_path / "sub-01" / f"{stem}_x.ptseries.nii", values[:, shuffled], tuple(NAMES[i] for i in shuffled))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\n")
    assert choose_layout(tmp_path) is REGIONS
    summary = prep(tmp_path, **({} if container == "cifti" else {"tr": 0.8}))
    assert (len(summary.prepared), summary.failures) == (1, [])
    store = Store(out)
    (info,) = store.sessions
    assert (info.key, info.tr) == (f"{stem}_space-roi", 0.8)
    np.testing.assert_allclose(store.coarse(info.key), zscored(values), atol=1e-4)
    channels, sidecar = store.channels(info.key), store.sidecar(info.key)
    assert channels.names == NAMES
    np.testing.assert_allclose(channels.mm, PLACES)
    np.testing.assert_allclose(sidecar["ChannelMean"], values.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sidecar["ChannelStd"], values.std(axis=0), rtol=1e-4)
    assert (sidecar["Layout"], sidecar["SourceRepetitionTimeFrom"]) == ("roi", "header" if container == "cifti" else "--tr")
    assert store.participants["sub-01"]["age"] == "31"
    assert len(prep(tmp_path, **({} if container == "cifti" else {"tr": 0.8})).skipped) == 1


def test_another_tr_is_resampled_as_voxels_are(tmp_path: Path, out: Path, prep: Prep) -> None:
    values = courses(30)
    write_channels(tmp_path)
    write_npz(tmp_path, {"sub-01": values})
    prep(tmp_path, tr=2.0)
    store = Store(out)
    (info,) = store.sessions
    wanted = np.arange(0, 29 * 2.0 + 1e-9, 0.72)
    assert (info.tr, info.n_frames) == (0.72, len(wanted))
    np.testing.assert_allclose(store.coarse(info.key), zscored(CubicSpline(np.arange(30) * 2.0, values)(wanted)), atol=1e-3)


def test_processes_share_one_file(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_channels(tmp_path)
    write_npz(tmp_path, {f"sub-{number}": courses(seed=number) for number in range(3)})
    assert len(prep(tmp_path, tr=0.72, nprocs=2).prepared) == 3
    store = Store(out)
    for number in range(3):
        np.testing.assert_allclose(store.coarse(f"sub-{number}_space-roi"), zscored(courses(seed=number)), atol=1e-4)


def test_a_tr_is_asked_for_unless_a_sidecar_says(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_channels(tmp_path)
    path = write_npz(tmp_path, {"sub-01": courses(), "sub-02": courses(seed=1)})
    summary = prep(tmp_path)
    assert [failure.file for failure in summary.failures] == ["timeseries.npz (sub-01)", "timeseries.npz (sub-02)"]
    assert "give it in seconds with --tr" in summary.failures[0].reason
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 0.75}))
    assert len(prep(tmp_path).prepared) == 2
    assert {info.tr for info in Store(out).sessions} == {0.75}


def test_channels_without_signal_are_zero_and_named(tmp_path: Path, out: Path, prep: Prep) -> None:
    values = courses()
    values[3, 1], values[:, 3] = np.nan, 7.1
    write_channels(tmp_path)
    write_tsv(tmp_path / "sub-01_timeseries.tsv", values)
    warning = prep(tmp_path, tr=0.72).prepared[0].warnings[0]
    assert "2 of 4 channels have no signal" in warning and "M1 left" in warning and warning.endswith("dlPFC.")
    coarse = Store(out).coarse("sub-01_space-roi")
    np.testing.assert_allclose(coarse[:, [0, 2]], zscored(values[:, [0, 2]]), atol=1e-4)
    assert not coarse[:, [1, 3]].any()


def test_regions_may_join_a_store_of_voxels_and_not_one_of_another_tr(tmp_path: Path, out: Path, prep: Prep, grid8: object) -> None:
    write_channels(tmp_path)
    write_npz(tmp_path, {"sub-01": courses()})
    Store.create(out, grid8, 0.72)  # type: ignore[arg-type]
    assert len(prep(tmp_path, tr=0.72).prepared) == 1
    slow = Store.create(tmp_path / "slow", None, 2.0)
    with pytest.raises(ContractError, match=r"TR 0\.72 s but the store .*slow has 2 s"):
        write_roi_session(slow, {"sub": "01"}, courses(), Channels(NAMES, PLACES), 0.72)


def test_places_that_nobody_knows_have_to_be_said(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_npz(tmp_path, {"sub-01_task-rest1": courses()})
    with pytest.raises(InputError, match=r"channels\.tsv: is not there.*--channels none"):
        prep(tmp_path, tr=0.72)
    summary = prep(tmp_path, tr=0.72, channels="none")
    assert "not known" in summary.prepared[0].warnings[0]
    channels = Store(out).channels("sub-01_task-rest1_space-roi")
    assert channels.names == tuple(f"channel-{number:03d}" for number in range(4)) and not channels.mm.any()
    table = write_channels(tmp_path / "elsewhere")
    assert len(prep(tmp_path, tr=0.72, channels=str(table)).prepared) == 1
    assert Store(out).channels("sub-01_task-rest1_space-roi").names == NAMES


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("name\tx\ty\nV1\t1\t2\n", "'z'"),
        ("name\tx\ty\tz\nV1\t1\t2\tfar\n", "could not convert"),
        ("name\tx\ty\tz\nV1\t1\t2\tnan\n", "finite place"),
        ("name\tx\ty\tz\nV1\t1\t2\t3\nV1\t1\t2\t3\n", "name of its own"),
        ("name\tx\ty\tz\n", "for every channel"),
    ],
)
def test_a_table_of_channels_that_is_wrong_is_refused(tmp_path: Path, table: str, reason: str) -> None:
    write_npz(tmp_path, {"sub-01": courses()})
    (tmp_path / "channels.tsv").write_text(table)
    with pytest.raises(InputError, match=reason):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (courses().T, r"40 columns for 4 channels; it seems to be \(channels, frames\)"),
        (courses()[:, :3], "3 columns for 4 channels; give the table"),
        (courses()[None], "not .frames, channels."),
        (courses().astype(str), "of real numbers"),
    ],
)
def test_arrays_that_do_not_fit_cost_themselves(tmp_path: Path, out: Path, prep: Prep, values: Array, reason: str) -> None:
    write_channels(tmp_path)
    write_npz(tmp_path, {"anonymous": courses(), "sub-01": courses(), "sub-02": values})
    summary = prep(tmp_path, tr=0.72)
    assert [run.key for run in summary.prepared] == ["sub-01_space-roi"]
    nameless, wrong = summary.failures
    assert nameless.file == "timeseries.npz (anonymous)" and "begin it with sub-LABEL" in nameless.reason
    assert re.search(reason, wrong.reason), wrong.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1\t2\t3\t4\n1\t2\t3\t4\n", "does not name the channels"),
        ("V1\tM1 left\tPrécuneus\tdlPFC\n1\t2\t3\n", "another number of cells"),
        ("V1\tM1 left\tPrécuneus\tdlPFC\n1\t2\t3\tx\n", "what is no number"),
        ("V1\tM1 left\tPrécuneus\n1\t2\t3\n", "lacks the channel dlPFC"),
        ("V1\tM1 left\tPrécuneus\tMT\n1\t2\t3\t4\n", "its channel MT is not in the table"),
        ("V1\tV1\tPrécuneus\tdlPFC\n1\t2\t3\t4\n", "names a channel twice"),
        ("", "does not name the channels"),
    ],
)
def test_a_table_of_series_that_is_wrong_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    write_channels(tmp_path)
    (tmp_path / "sub-01_timeseries.tsv").write_text(content, encoding="utf-8")
    (run,) = opened(tmp_path).runs
    with pytest.raises(InputError, match=reason):
        run.reader(run)


def test_a_cifti_file_of_another_kind_or_damaged_is_refused(tmp_path: Path) -> None:
    write_channels(tmp_path)
    path = tmp_path / "sub-01.ptseries.nii"
    dense = BrainModelAxis.from_mask(np.ones(4, bool), name="CortexLeft")
    nibabel.Cifti2Image(courses().astype(np.float32), (SeriesAxis(0, 1, 40), dense)).to_filename(path)
    path.rename(tmp_path / "sub-01_x.ptseries.nii")
    (run,) = opened(tmp_path).runs
    with pytest.raises(InputError, match="not a series of parcels"):
        run.reader(run)
    run.image.write_bytes(run.image.read_bytes()[:700])
    with pytest.raises(InputError, match="damaged or incomplete"):
        run.reader(run)


def test_confounds_of_fmriprep_are_no_series(tmp_path: Path) -> None:
    write_tsv(tmp_path / "sub-01" / "func" / "sub-01_task-rest_desc-confounds_timeseries.tsv", courses())
    assert not REGIONS.matches(tmp_path)


def test_denoising_and_short_series_are_refused(tmp_path: Path, prep: Prep) -> None:
    write_channels(tmp_path)
    write_npz(tmp_path, {"sub-01": courses()})
    assert "use --denoise none" in prep(tmp_path, tr=0.72, denoise="simple").failures[0].reason
    write_npz(tmp_path, {"sub-01": courses(5)})
    assert "under a window" in prep(tmp_path, tr=0.72).failures[0].reason


def test_real_parcels_with_places(shared_data: Path, tmp_path: Path) -> None:
    summary = prepare(shared_data / "roi" / "rpn122", tmp_path / "store", PrepOptions(tr=2.0))
    assert (len(summary.prepared), summary.failures) == (119, [])
    store = Store(tmp_path / "store")
    first = store.sessions[0]
    assert store.coarse(first.key).shape == (int(199 * 2.0 / 0.72) + 1, 122)
    assert store.participants[first.subject]["site"] == "bochum"
    assert store.channels(first.key).names[0] == "CER6_p"


def test_real_networks_without_places(shared_data: Path, tmp_path: Path) -> None:
    summary = prepare(shared_data / "roi" / "song25", tmp_path / "store", PrepOptions(tr=1.0, channels="none"))
    assert (len(summary.prepared), summary.failures) == (108, [])
    store = Store(tmp_path / "store")
    assert {info.task for info in store.sessions} == {"rest1", "rest2", "gradCPTface", "gradCPTscene"}
    assert len({info.subject for info in store.sessions}) == 27
