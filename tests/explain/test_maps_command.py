"""`slimbrain explain` as a user runs it, on a small store: every file, what it says, and what a second run does."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch
from explain_samples import TINY, corner, record_of
from killed_samples import assert_rerun_gives_the_same
from store_samples import make_store, write_run

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.explain import list_maps
from slimbrain.governance.provenance import Provenance
from slimbrain.models.hub import save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

_LATE = ("slimbrain.explain.run", "nibabel")

SUBJECTS, WINDOW = 12, WindowConfig(frames=4, k=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twelve, one of whose sessions is shorter than a window's unit, and a model of each stage."""
    folder = tmp_path_factory.mktemp("explain")
    store = make_store(folder / "store", corner(), SUBJECTS, frames=20)
    rows = [f"sub-{number:02d}\t{'ab'[number % 2]}\t{30 + number}" for number in range(1, SUBJECTS + 1)]
    (folder / "store" / "participants.tsv").write_text("\n".join(["participant_id\tsex\tage", *rows]) + "\n")
    provenance = Provenance(store.contract, WINDOW, store.grid, {"stage": "voxel"})
    torch.manual_seed(0)
    config = JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2)
    save_pretrained(HieraJEPA(HieraConfig.model_validate(TINY), config, 8), folder / "voxel", provenance)
    temporal = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4))
    save_pretrained(temporal, folder / "temporal", provenance)
    return folder


def explain(root: Path, out: Path, *words: object, model: str = "voxel", store: str = "store") -> int:
    return run_command(["explain", str(root / store), "--model", str(root / model), "--out", str(out), *map(str, words)])


def test_all_files_of_a_decision(root: Path, tmp_path: Path) -> None:
    store = Store(root / "store")
    words = ("--method", "integrated", "--task", "column:sex", "--target", "a", "--by-window", "--steps", 4, "--fwhm", 16)
    assert explain(root, tmp_path, *words) == 0
    entries = list_maps(tmp_path)
    assert [entry.session for entry in entries] == ["", "", "", *(info.key for info in store.sessions)]
    assert [record_of(entry)["average"] for entry in entries[:3]] == ["a less others", "mean of absolute maps", "mean"]
    assert all(entry.title.startswith("Integrated gradients, sex: ") for entry in entries)
    maps = []
    for entry in entries[3:]:
        assert entry.image is not None and entry.picture is None and entry.unit == "log-odds of a"
        image = nibabel.load(entry.image)
        np.testing.assert_array_equal(image.affine, store.grid.lattice.affine)
        assert image.header["sform_code"] == 4 and image.shape == (24, 24, 24)
        windows = nibabel.load(str(entry.image).replace("_map.nii", "_windows.nii")).get_fdata()
        np.testing.assert_allclose(windows.mean(axis=3), image.get_fdata(), atol=1e-7)
        np.testing.assert_allclose(windows.sum(axis=(0, 1, 2)), record_of(entry)["sums"], atol=1e-4)
        assert (image.get_fdata()[~store.grid.mask] == 0).all()
        total = record_of(entry)["decision"] - record_of(entry)["at_baseline"]
        assert abs(sum(record_of(entry)["sums"]) - total) == pytest.approx(record_of(entry)["gap"] * abs(total), abs=1e-4)
        assert record_of(entry)["onsets_s"] == pytest.approx([0.72 * 4 * number for number in record_of(entry)["windows"]], abs=1e-3)
        assert len(entry.rows) == len(store.grid.units) and sum(float(row["share"]) for row in entry.rows) == pytest.approx(1, abs=1e-4)
        maps.append(image.get_fdata())
    sex = np.array([number % 2 == 0 for number in range(1, SUBJECTS + 1)])
    contrast = np.mean(np.array(maps)[sex], axis=0) - np.mean(np.array(maps)[~sex], axis=0)
    assert entries[0].image is not None and entries[0].picture is not None
    found = nibabel.load(entries[0].image).get_fdata()
    # Smoothing moves what there is: averages with uneven neighbours do not keep sums, but constants they keep.
    assert np.corrcoef(found[store.grid.mask], contrast[store.grid.mask])[0, 1] > 0.3
    picture = matplotlib.image.imread(entries[0].picture)
    assert picture.shape[0] > 500 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100
    model = json.loads((root / "voxel" / "config.json").read_text())
    record = record_of(entries[0])
    assert record["model"]["weights_sha256"] == model["weights_sha256"] and record["store"]["contract"] == store.contract.to_dict()
    assert record["decided_by"]["metric"] == "auc" and record["seed"] == 0 and record["commands"][0].startswith("slimbrain explain")


def test_the_contrast_is_one_mean_less_the_other(root: Path, tmp_path: Path) -> None:
    assert explain(root, tmp_path, "--method", "gradient", "--task", "column:sex", "--pictures", "none") == 0
    values = {entry.session: nibabel.load(entry.image).get_fdata() for entry in list_maps(tmp_path) if entry.session and entry.image}
    odd = [value for key, value in values.items() if int(key[4:6]) % 2]
    even = [value for key, value in values.items() if not int(key[4:6]) % 2]
    contrast = nibabel.load(tmp_path / "group_desc-gradientContrast_map.nii.gz").get_fdata()
    np.testing.assert_allclose(contrast, np.mean(odd, axis=0) - np.mean(even, axis=0), atol=1e-6)
    size = nibabel.load(tmp_path / "group_desc-gradientMagnitude_map.nii.gz").get_fdata()
    np.testing.assert_allclose(size, np.mean(np.abs([*values.values()]), axis=0), atol=1e-6)


def test_what_is_there_is_kept_and_what_changed_is_made_again(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--method", "occlusion", "--task", "column:age", "--pictures", "none")
    assert explain(root, tmp_path, *words) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "sessions").glob("*.nii.gz")}
    killed = sorted((tmp_path / "sessions").glob("*_map.json"))[3]
    killed.unlink()
    assert explain(root, tmp_path, *words) == 0
    assert "1 sessions explained, 11 already there" in capsys.readouterr().out
    again = {path.name: nibabel.load(path).get_fdata() for path in (tmp_path / "sessions").glob("*.nii.gz")}
    assert first.keys() == again.keys() and killed.exists()
    assert explain(root, tmp_path, *words, "--seed", 1) == 0
    assert "12 sessions explained, 0 already there" in capsys.readouterr().out


def test_surprise_and_channels(root: Path, tmp_path: Path) -> None:
    assert explain(root, tmp_path, "--method", "surprise", "--pictures", "none") == 0
    assert explain(root, tmp_path, "--method", "channels", "--pictures", "none", model="temporal") == 0
    assert explain(root, tmp_path, "--method", "channels", "--task", "column:sex", "--pictures", "none", model="temporal") == 0
    assert (tmp_path / "group_desc-channelsContrast_map.json").exists()
    assert explain(root, tmp_path, "--method", "channels", "--pictures", "none", model="temporal") == 0
    assert not (tmp_path / "group_desc-channelsContrast_map.json").exists(), "an average of other settings must not stay"
    found = {entry.method: entry for entry in list_maps(tmp_path) if not entry.session}
    assert found.keys() == {"surprise", "channels"}
    grid = Store(root / "store").grid
    values = grid.pack(nibabel.load(tmp_path / "group_desc-surprise_map.nii.gz").get_fdata())
    for unit in range(grid.n_units):
        inside = values[(grid.patch_unit == unit)[:, None] & grid.voxel_mask]
        assert np.ptp(inside) == 0 and inside[0] > 0
    assert not (tmp_path / "group_desc-surpriseMagnitude_map.nii.gz").exists(), "no error is below zero"


def test_parcels_have_a_table_and_no_image(root: Path, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "parcels", None, 0.72)
    rng = np.random.default_rng(0)
    channels = Channels(("v1", "m1", "a1", "pcc"), rng.normal(size=(4, 3)) * 40)
    for number in range(3):
        write_roi_session(store, {"sub": f"{number:02d}", "task": "rest"}, rng.normal(size=(40, 4)).cumsum(0), channels, 0.72)
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4))
    save_pretrained(model, tmp_path / "model", Provenance(store.contract, WINDOW, None, {"stage": "temporal"}))
    assert explain(tmp_path, tmp_path / "maps", "--method", "channels", model="model", store="parcels") == 0
    average = list_maps(tmp_path / "maps")[0]
    assert average.image is None and {row["region"] for row in average.rows} == set(channels.names)
    tables = [read_tsv(path) for path in sorted((tmp_path / "maps" / "sessions").glob("*_regions.tsv"))]
    mean = np.mean([float(row["mean"]) for table in tables for row in table if row["region"] == "pcc"])
    assert float(next(row["mean"] for row in average.rows if row["region"] == "pcc")) == pytest.approx(mean, rel=1e-4)


def test_a_short_session_does_not_stop_the_others(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.create(tmp_path / "store", corner(), 0.72)
    for number, frames in enumerate((20, 3, 20), start=1):
        write_run(store, frames, f"{number:02d}", seed=number)
    words = ["explain", str(tmp_path / "store"), "--model", str(root / "voxel"), "--method", "surprise", "--out", str(tmp_path / "maps")]
    assert run_command([*words, "--pictures", "none"]) == 1
    captured = capsys.readouterr()
    assert "do not hold one window of 4 frames" in captured.err and "2 sessions explained, 0 already there, 1 left out" in captured.out
    assert list(record_of(list_maps(tmp_path / "maps")[0])["left_out"]) == [store.sessions[1].key]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "gradient"), "name it with --task"),
        (("--method", "x"), "there is no such method"),
        (("--method", "surprise", "--task", "column:sex"), "leave --task out"),
        (("--method", "occlusion", "--task", "column:sex", "--by-window"), "no map by window"),
        (("--method", "channels"), "a TemporalExtractor is needed"),
        (("--method", "gradient", "--task", "identity"), "two sessions"),
        (("--method", "surprise", "--pictures", "some"), "choose one of group, all, none"),
        (("--method", "surprise", "--labels", "x.tsv"), "give that with --atlas"),
    ],
)
def test_what_makes_no_map_is_refused(
    root: Path, tmp_path: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(root, tmp_path / "maps", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no map"):
        list_maps(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_thirty_moments_and_run_again_the_maps_are_those_of_an_uninterrupted_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text("participant_id\n" + "".join(f"{info.subject}\n" for info in Store(root / "store").sessions[:2]))
    words = ["explain", root / "store", "--model", root / "voxel", "--method", "surprise", "--participants", tmp_path / "two.tsv"]
    assert_rerun_gives_the_same(
        [*words, "--by-window", "--pictures", "none", "--out", tmp_path / "maps"], tmp_path / "maps", tmp_path / "log", _LATE
    )
