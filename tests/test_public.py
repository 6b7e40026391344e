"""What a user of the Python package meets: names, how objects show themselves, images, and types that a strict checker accepts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from encoder_samples import write_models
from nilearn.masking import apply_mask
from nilearn.plotting import plot_stat_map
from store_samples import make_store, network_series

import slimbrain
from slimbrain.display import Displayed
from slimbrain.errors import StoreError
from slimbrain.grid import Grid
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

KEY = "sub-01_task-rest_run-1_space-MNI152NLin6Asym"


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("public") / "store", grid8, frames=24)


# --- names


def test_dir_shows_the_public_names_and_nothing_else() -> None:
    code = (
        "import slimbrain; before = dir(slimbrain); slimbrain.Store; import slimbrain.cli; assert dir(slimbrain) == before; print(*before)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert shown == sorted(slimbrain.__all__)
    for name in shown:
        assert getattr(slimbrain, name) is not None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Sotre", "Store"),
        ("store_", "Store"),
        ("SlimbrainEncoder", "SlimBrainEncoder"),
        ("from_pretraned", "from_pretrained"),
        ("ploting", "plotting"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean '{meant}'"):
        getattr(slimbrain, name)


def test_a_name_like_none_of_them_gets_the_list() -> None:
    with pytest.raises(AttributeError, match=r"public are Grid, .*, save_pretrained"):
        _ = slimbrain.xyzzy


# --- how objects show themselves


def test_a_store_says_what_is_in_it(store: Store) -> None:
    shown = repr(store)
    for fact in ("sessions: 3", "participants: 3", "voxels on mni-8mm-24-p2", "frames: 24 to 28", "TR: 0.72 s", "licence: unknown"):
        assert fact in shown, shown
    assert "\n" not in shown and f'<td style="text-align:left">{store.root}</td>' in store._repr_html_()


def test_models_say_what_they_read(grid8: Grid, tmp_path: Path) -> None:
    write_models(tmp_path, grid8)
    for name, kind in (("voxel", "HieraJEPA"), ("temporal", "TemporalExtractor")):
        model = slimbrain.from_pretrained(str(tmp_path / name))
        count = sum(parameter.numel() for parameter in model.parameters())
        assert repr(model).startswith(f"<{kind} parameters: {count:,}, reads: voxels on mni-8mm-24-p2")
        assert "windows: 3, of 8 frames each, pretrained on: nobody known" in repr(model) and kind in model._repr_html_()
        assert "TR: 0.7 to 0.8 s, to which prep resamples all others (pretrained on series of 0.72 s)" in repr(model)
        contract = replace(model.provenance.contract, tr=2.0)
        model.provenance = replace(model.provenance, contract=contract)
        assert "TR: 2 s alone (pretrained on series of 2 s)" in repr(model), "its contract refuses all others"
    shipped = repr(slimbrain.from_pretrained("slimbrain-temporal"))
    assert "reads: series of regions of any parcellation, and voxel stores" in shipped
    assert "TR: any (pretrained on series of 0.72 s)" in shipped
    model.provenance = None
    assert "provenance: none; from_pretrained reads it" in repr(model)


def test_what_a_damaged_store_says_is_no_traceback(grid8: Grid, tmp_path: Path) -> None:
    broken = make_store(tmp_path / "store", grid8, frames=12)
    (broken.root / "sessions.tsv").write_text("session\tparticipant_id\nsub-01\tsub-01\n")
    assert "cannot be read" in repr(Store(broken.root))


def test_names_cannot_bring_markup_into_a_notebook() -> None:
    class Thing(Displayed):
        def display_facts(self) -> dict[str, object]:
            return {"name": "<script>x</script>"}

    assert "<script>" not in Thing()._repr_html_() and "&lt;script&gt;" in Thing()._repr_html_()


# --- images


def test_an_image_has_the_source_s_values_and_places(store: Store, grid8: Grid, tmp_path: Path) -> None:
    """As nilearn reads it inside the mask: mean 100 and deviation 1, which the sample stores beside the z-scores."""
    image = store.image(KEY)
    assert image.shape == (24, 24, 24, 28) and image.header.get_zooms()[3] == pytest.approx(0.72)
    np.testing.assert_array_equal(image.affine, grid8.lattice.affine)
    grid8.save_mask(tmp_path / "mask.nii.gz")
    inside = apply_mask(image, str(tmp_path / "mask.nii.gz"))
    expected = network_series(grid8, 28, seed=1)[:, grid8.voxel_mask] + 100
    np.testing.assert_allclose(np.sort(inside, axis=1), np.sort(expected, axis=1), atol=0.01)
    np.testing.assert_allclose(apply_mask(store.image(KEY, zscored=True), str(tmp_path / "mask.nii.gz")) + 100, inside, atol=1e-3)


def test_frames_of_an_image(store: Store) -> None:
    whole = store.image(KEY).get_fdata()
    with pytest.raises(StoreError, match="neither one frame nor a stretch"):
        store.image(KEY, "3")  # type: ignore[arg-type]
    for third in (3, np.int64(3), np.uint8(3)):
        np.testing.assert_array_equal(store.image(KEY, third).get_fdata(), whole[..., 3])
    np.testing.assert_array_equal(store.image(KEY, -1).get_fdata(), whole[..., 27])
    np.testing.assert_array_equal(store.image(KEY, slice(4, 9)).get_fdata(), whole[..., 4:9])
    for wrong in (28, -29, slice(5, 5), slice(0, 10, 2)):
        with pytest.raises(StoreError, match="asked for, it has 28"):
            store.image(KEY, wrong)


def test_nilearn_plots_a_frame(store: Store) -> None:
    display = plot_stat_map(store.image(KEY, 0, zscored=True))
    assert len(display.axes) == 3
    display.close()


def test_regions_give_no_image(tmp_path: Path) -> None:
    regions = Store.create(tmp_path / "regions", None, 0.72)
    write_roi_session(
        regions, {"sub": "01", "task": "rest", "space": "roi"}, np.zeros((20, 2)), Channels(("a", "b"), np.zeros((2, 3))), 0.72
    )
    with pytest.raises(StoreError, match="without voxels"):
        regions.image(regions.sessions[0].key)
    assert "series of regions" in repr(regions)


# --- types

SCRIPT = """
from pathlib import Path

import matplotlib.axes
import nibabel
import numpy as np

import slimbrain
from slimbrain import plotting
from slimbrain.datasets import FetchedDataset, fetch_abide_parcels

store: slimbrain.Store = slimbrain.Store("store")
encoder = slimbrain.SlimBrainEncoder("model", windows=Path("windows.tsv")).fit()
vectors: np.ndarray = encoder.transform(store)
image: nibabel.Nifti1Image = store.image(store.sessions[0].key, slice(0, 5))
axes: matplotlib.axes.Axes = plotting.plot_scores("sex.json")
fetched: FetchedDataset = fetch_abide_parcels(20, "data")
model = slimbrain.from_pretrained("model", store.contract)
print(model.provenance, fetched.prep_command, slimbrain.plotting.plot_map(image))
"""


@pytest.mark.slow
def test_a_strict_type_checker_accepts_a_user_s_script_and_finds_a_slip(tmp_path: Path) -> None:
    source = Path(slimbrain.__file__).parents[1]
    assert (source / "slimbrain" / "py.typed").is_file()
    (tmp_path / "good.py").write_text(SCRIPT)
    (tmp_path / "slip.py").write_text('import slimbrain\nslimbrain.Store("store").image(3)\nslimbrain.Sotre\n')
    # As for an installed package: it is read, and its own lines are not reported.
    options = ("--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}")
    environment = {"MYPYPATH": str(source), "PATH": ""}
    command = [sys.executable, "-m", "mypy", *options, "good.py", "slip.py"]
    out = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment).stdout
    reported = [line for line in out.splitlines() if ": error:" in line]
    assert [line.split(":")[:2] for line in reported] == [["slip.py", "2"], ["slip.py", "3"]], out


def test_nibabel_is_what_the_annotation_says() -> None:
    assert nibabel.nifti1.Nifti1Image is nibabel.Nifti1Image
