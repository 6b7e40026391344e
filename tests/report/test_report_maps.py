"""What the page carries for its maps: read back, and compared with the arrays and files it came from."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from report_samples import EVIL, EXPLAINED, EXPLAINED_MM, FRAMES, PEAK, PEAK_MM, TR, WINDOW_S, Page, make_store, window_rows

from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.grid import LATTICES, Grid
from slimbrain.report import ReportInputs, maps, window_maps, write_report
from slimbrain.report.nifti import read_map
from slimbrain.report.volumes import Volume, encode, scale_of, template
from slimbrain.report.window_maps import Blocks, _window_means, choose_blocks, encode_windows
from slimbrain.saliency import write_window_table

ONES = np.ones(3)


def decode_values(encoded: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """The values back, (N,), NaN where there is none: what the page's script does."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(encoded["data"])), np.uint8).astype(np.float64)
    values = encoded["low"] + (codes - 1) / encoded["steps"] * (encoded["high"] - encoded["low"])
    return np.where(codes > 0, values, np.nan)


def from_page(text: str, name: str) -> Any:
    """JSON that the page carries under an id."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def dense(encoded: dict[str, Any]) -> dict[tuple[float, ...], float]:
    """Value by place in mm, where there is one."""
    values = decode_values(encoded).reshape(encoded["shape"])
    places = np.argwhere(np.isfinite(values))
    return {tuple(np.array(encoded["origin"]) + place * encoded["step"]): float(values[tuple(place)]) for place in places}


# --- volumes


@pytest.mark.parametrize("signs", [(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)])
def test_a_volume_comes_back_to_half_a_step_at_its_place(signs: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(*signs, (7, 5, 6))
    values[0], values[:, -1] = np.nan, np.nan
    encoded = encode(Volume(values, np.array([-10.0, 4, 6]), np.array([2.0, 3, 4])))
    back = dense(encoded)
    assert encoded["shape"] == [6, 4, 6] and len(back) == np.isfinite(values).sum()
    step = (encoded["high"] - encoded["low"]) / encoded["steps"]
    for place in ((1, 0, 0), (3, 2, 5), (6, 3, 4)):
        assert back[tuple(np.array([-10.0, 4, 6]) + np.array(place) * (2, 3, 4))] == pytest.approx(values[place], abs=step / 2 + 1e-9)


def test_zero_is_exact_on_a_signed_scale() -> None:
    encoded = encode(Volume(np.array([[[-0.7, 0.0, 2.3]]]), np.zeros(3), ONES))
    assert decode_values(encoded)[1] == 0 and (encoded["low"], encoded["high"]) == (-2.3, 2.3)


def test_one_wild_value_does_not_fade_the_others_where_that_is_asked_for() -> None:
    values = np.full(5000, 50.0)
    values[7] = 1e6
    assert scale_of(values) == (0.0, 1e6) and scale_of(values, clip=True) == (0.0, 50.0)
    clipped = encode(Volume(values.reshape(50, 10, 10), np.zeros(3), ONES), clip=True)
    assert clipped["clipped"] and clipped["peak"]["value"] == 1e6
    assert not encode(Volume(np.ones((2, 2, 2)), np.zeros(3), ONES), clip=True)["clipped"]


def test_halving_takes_means_over_what_is_known() -> None:
    values = np.arange(27.0).reshape(3, 3, 3)
    values[0, 0, 0] = np.nan
    half = Volume(values, np.zeros(3), np.full(3, 2.0)).halved()
    assert half.values.shape == (2, 2, 2) and half.values[0, 0, 0] == pytest.approx(np.nanmean(values[:2, :2, :2]))
    assert half.values[1, 1, 1] == 26 and half.origin_mm.tolist() == [1, 1, 1] and half.step_mm.tolist() == [4, 4, 4]


def test_a_flat_map_has_its_peak_in_the_middle(grid8: Grid) -> None:
    values = np.where(grid8.mask, 1.0, np.nan)
    mm, value = Volume(values, grid8.lattice.origin_mm, np.full(3, 8.0)).peak()
    centre = grid8.lattice.origin_mm + 8 * np.argwhere(grid8.mask).mean(axis=0)
    assert value == 1 and np.abs(np.array(mm) - centre).max() <= 4


def test_the_template_is_a_brain_that_lies_in_mni_space() -> None:
    """By anatomy: cerebellum below and behind and nothing below and in front, sides alike, the volume of an adult brain in litres."""
    encoded = template()
    values = decode_values(encoded).reshape(encoded["shape"])
    brain = np.pad(np.isfinite(values), 30)
    first = np.array(encoded["origin"]) - 30 * np.array(encoded["step"])

    def is_brain(*mm: float) -> bool:
        return bool(brain[tuple(np.round((mm - first) / encoded["step"]).astype(int))])

    assert all(is_brain(*mm) for mm in ((0, -20, 8), (0, -60, -40), (40, 20, 10), (-20, -90, 0), (0, 0, 60)))
    assert not any(is_brain(*mm) for mm in ((0, 60, -40), (0, 90, 0), (74, 60, 60), (0, 0, 90)))
    assert brain.sum() * 8 / 1e6 == pytest.approx(1.85, abs=0.25)
    # Its middle plane is at x = 0, and the template is a symmetrical one.
    middle = round(-encoded["origin"][0] / encoded["step"][0])
    left, right = values[middle - 1 : middle - 31 : -1], values[middle + 1 : middle + 31]
    both = np.isfinite(left) & np.isfinite(right)
    assert np.corrcoef(left[both], right[both])[0, 1] > 0.95
    assert len(json.dumps(encoded)) < 300_000


# --- the maps of a store


def test_tsnr_and_coverage_equal_those_of_the_moments(inputs: ReportInputs, text: str) -> None:
    maps = {one["name"]: one for one in from_page(text, "viewer-maps")}
    store = inputs.store
    explained = ["Gradient x input: B less others", "JEPA surprise", "Gradient x input: mean"]
    assert store is not None and {*maps} == {"planted", *explained, "Chosen windows", "tSNR", "Coverage"} and next(iter(maps)) == "planted"
    # Mean 1000 and SD 10 wherever there is signal; the last of three sessions lacks the first 20 patches.
    tsnr, coverage = decode_values(maps["tSNR"]), decode_values(maps["Coverage"])
    assert np.nanmin(tsnr) == pytest.approx(100) and np.nanmax(tsnr) == pytest.approx(100)
    lost = store.grid.voxel_mask[:20].sum()
    shares = np.array(sorted(value for value in coverage if np.isfinite(value)))
    assert len(shares) == store.grid.n_voxels
    np.testing.assert_allclose(shares[:lost], 200 / 3, atol=0.3)
    np.testing.assert_allclose(shares[lost:], 100, atol=0.3)


def test_the_map_of_chosen_windows_is_their_mean_over_sessions(inputs: ReportInputs, text: str) -> None:
    """Windows 0 and 3, 4 and 5, 0 and 1 are chosen (`make_inputs`), 8 frames each."""
    store = inputs.store
    assert store is not None
    means = []
    for info, chosen in zip(store.sessions, ((0, 3), (4, 5), (0, 1)), strict=True):
        voxels = store.voxels(info.key).astype(np.float64)
        means.append(np.mean([voxels[8 * window : 8 * window + 8] for window in chosen], axis=(0, 1)))
    wanted = store.grid.unpack(np.mean(means, axis=0), fill=np.nan)
    encoded = next(one for one in from_page(text, "viewer-maps") if one["name"] == "Chosen windows")
    step = (encoded["high"] - encoded["low"]) / encoded["steps"]
    for mm, value in dense(encoded).items():
        index = tuple(np.round((np.array(mm) - store.grid.lattice.origin_mm) / 8).astype(int))
        if np.isfinite(wanted[index]):
            assert value == pytest.approx(wanted[index], abs=step)


@pytest.mark.parametrize("level", ["voxel", "patch", "cell"])
def test_window_means_equal_means_of_dense_volumes(grid8: Grid, tmp_path: Path, level: str) -> None:
    store = make_store(tmp_path / "store", grid8, n=1)
    key = store.sessions[0].key
    rows = window_rows(key, [1.0, 2, 3])
    blocks: Blocks = window_maps._level(grid8, level)
    means = _window_means(store, key, rows, blocks)
    volumes = store.grid.unpack(store.voxels(key).astype(np.float64), fill=np.nan)
    side = round(blocks.edge_mm / 8)
    for block in (0, 5, len(blocks.index) - 1):
        corner = blocks.index[block] * side
        cube = volumes[(slice(None), *(slice(start, start + side) for start in corner))]
        for window in range(3):
            assert means[window, block] == pytest.approx(np.nanmean(cube[8 * window : 8 * window + 8]), abs=2e-3)


def test_many_windows_are_shown_on_coarser_blocks_and_then_not_at_all(grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store", grid8, n=2)
    windows = {info.key: window_rows(info.key, [1.0, 2, 3]) for info in store.sessions}
    levels = []
    for n_bytes in (6 * grid8.n_voxels, 6 * grid8.n_patches, 6 * grid8.n_cells, 3 * grid8.n_cells):
        monkeypatch.setattr(window_maps, "_MAPS_BYTES", n_bytes)
        blocks = choose_blocks(store, windows)
        levels.append((blocks.level, len(list(encode_windows(store, blocks, windows)))))
    assert levels == [("voxel", 2), ("patch", 2), ("cell", 2), ("cell", 1)]
    monkeypatch.setattr(window_maps, "_MAPS_BYTES", 6 * grid8.n_voxels)
    monkeypatch.setattr(window_maps, "_READ_BYTES", FRAMES)
    assert choose_blocks(store, windows).level == "cell"


def test_a_window_table_of_another_store_is_refused(grid8: Grid, tmp_path: Path) -> None:
    """Its sessions may have the same names: sub-001 is in both."""
    store = make_store(tmp_path / "store", grid8, n=1)
    table = write_window_table(tmp_path / "windows.tsv", window_rows(store.sessions[0].key, [0.0] * 7))
    with pytest.raises(InputError, match=r"windows\.tsv: has 7 windows of .*, which has 6; give the table that was ranked on this store"):
        write_report(tmp_path / "page.html", ReportInputs(store=store, windows=table))


def test_a_window_begins_at_a_frame() -> None:
    assert window_maps.frames_of(window_rows("a", [0.0, 0.0])[1], TR) == (8, 16) and pytest.approx(8 * TR) == WINDOW_S


# --- maps that are given


def test_a_given_map_keeps_its_values_and_places(text: str) -> None:
    planted = from_page(text, "viewer-maps")[0]
    assert planted["peak"] == {"mm": list(PEAK_MM), "value": PEAK}
    assert dense(planted)[PEAK_MM] == pytest.approx(PEAK, abs=3 / 127)


def test_averages_of_explain_are_shown_with_unit_trust_and_their_strongest_quarter(inputs: ReportInputs, text: str) -> None:
    maps = {one["name"]: one for one in from_page(text, "viewer-maps")}
    contrast, surprise = maps["Gradient x input: B less others"], maps["JEPA surprise"]
    assert contrast["peak"] == {"mm": list(EXPLAINED_MM), "value": EXPLAINED} and contrast["unit"] == "log-odds of B"
    assert "Held-out AUC 0.75 [0.60, 0.90]; trained on 1 of 3 participants." in contrast["about"]
    assert "Red speaks for it, blue against it." in contrast["about"] and "Red" not in surprise["about"]
    image = nibabel.load(inputs.explained[0] / "group_desc-gradientContrast_map.nii.gz").get_fdata()
    size = np.abs(image[image != 0])
    assert np.mean(size >= contrast["threshold"] * size.max()) == pytest.approx(0.25, abs=0.01)
    # What has no sign is drawn whole, in all the colours that there are.
    assert (
        surprise["threshold"] == 0 and surprise["low"] == pytest.approx(0.4, abs=1e-3) and surprise["high"] == pytest.approx(0.41, abs=1e-3)
    )
    assert "smooth-L1" in surprise["about"] and surprise["unit"] == ""
    assert EVIL not in maps, "maps of single sessions are not shown unasked"


def test_regions_of_explain_stand_in_tables(inputs: ReportInputs, text: str) -> None:
    page = Page(text)
    table = page.rows("share (%)")
    rows = read_tsv(inputs.explained[0] / "group_desc-gradientContrast_regions.tsv")
    assert list(table) == [row["region"] for row in rows[:12]]
    for row in rows[:12]:
        shown = {head: cell.replace("\N{MINUS SIGN}", "-") for head, cell in table[row["region"]].items()}
        assert float(shown["share (%)"]) == pytest.approx(100 * float(row["share"]), abs=0.051)
        assert float(shown["peak"]) == pytest.approx(float(row["peak"]), rel=0.006) and float(shown["x"]) == float(row["peak_x_mm"])
    assert "Regions of 3 maps of group" in page.words and "Gradient x input: B less others: the 12 of" in page.words


def test_a_map_of_one_session_is_shown_when_it_is_named(inputs: ReportInputs, tmp_path: Path) -> None:
    image = inputs.explained[0] / "sessions" / "sub-001_task-rest_desc-gradient_map.nii.gz"
    text = write_report(tmp_path / "page.html", ReportInputs(maps=(image,))).read_text(encoding="utf-8")
    (shown,) = from_page(text, "viewer-maps")
    assert (shown["name"], shown["unit"], shown["peak"]["mm"]) == (EVIL, "log-odds of B", list(EXPLAINED_MM))


def test_a_folder_whose_averages_are_missing_says_so(inputs: ReportInputs, tmp_path: Path) -> None:
    shutil.copytree(inputs.explained[0] / "sessions", tmp_path / "maps" / "sessions")
    page = Page(write_report(tmp_path / "page.html", ReportInputs(explained=(tmp_path / "maps",))).read_text(encoding="utf-8"))
    assert "has 1 map of a session and no average; run the same slimbrain explain to its end" in page.words


def test_many_maps_do_not_make_the_page_larger(inputs: ReportInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_VIEWER_BYTES", 20_000)
    for number in range(6):
        shutil.copytree(inputs.explained[0], tmp_path / str(number))
    text = write_report(tmp_path / "page.html", ReportInputs(explained=tuple(tmp_path / str(n) for n in range(6)))).read_text(
        encoding="utf-8"
    )
    shown = from_page(text, "viewer-maps")
    assert len(shown) == 18 and sum(len(one["data"]) for one in shown) <= 20_000
    assert all("to keep the page small" in one["about"] for one in shown)


@pytest.mark.parametrize("codes", ["LAS", "PSR", "ASL"])
def test_how_a_map_is_stored_does_not_matter(tmp_path: Path, codes: str) -> None:
    lattice = LATTICES["8mm"]
    values = np.random.default_rng(0).standard_normal((24, 24, 24))
    image = nibabel.Nifti1Image(values, lattice.affine)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes))
    image.as_reoriented(turn).to_filename(tmp_path / "map.nii.gz")
    volume = read_map(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(volume.values, values, rtol=1e-6)
    np.testing.assert_allclose(volume.origin_mm, lattice.origin_mm)
    np.testing.assert_allclose(volume.step_mm, 8)


def test_a_tilted_map_lies_where_its_affine_says(tmp_path: Path) -> None:
    """A ball about a place in mm, on axes turned by 20 degrees; its centre of mass comes back."""
    centre, angle = np.array([20.0, -30, 10]), np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = 3 * turn, turn @ np.full(3, -60.0)
    places = np.moveaxis(np.indices((40, 40, 40)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    ball = (((places - centre) ** 2).sum(axis=-1) < 14**2).astype(np.float32)
    nibabel.Nifti1Image(ball, affine).to_filename(tmp_path / "map.nii")
    volume = read_map(tmp_path / "map.nii")
    found = np.argwhere(volume.values == 1)
    assert volume.step_mm.tolist() == [2, 2, 2]
    np.testing.assert_allclose(volume.origin_mm + 2 * found.mean(axis=0), centre, atol=0.7)
    assert len(found) * 8 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.05)


def test_what_is_no_map_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def written(name: str, values: Any, affine: Any = LATTICES["8mm"].affine) -> Path:
        nibabel.Nifti1Image(np.asarray(values, np.float32), affine).to_filename(tmp_path / name)
        return tmp_path / name

    (tmp_path / "text.nii").write_text("no image")
    far = LATTICES["8mm"].affine.copy()
    far[:3, 3] += 1000
    cases = {
        "cannot be read": tmp_path / "text.nii",
        "cannot be read.*": tmp_path / "missing.nii.gz",
        "has 4 dimensions": written("four.nii", np.ones((4, 4, 4, 2))),
        "no value other than 0": written("zero.nii", np.zeros((4, 4, 4))),
        "within the MNI box": written("far.nii", np.ones((4, 4, 4)), far),
    }
    for words, path in cases.items():
        with pytest.raises(InputError, match=rf"{path.name}: .*{words}"):
            read_map(path)
    assert read_map(written("one.nii", np.ones((4, 4, 4, 1)))).values.shape == (4, 4, 4)
