"""The models that come with the package: small, sealed, licensed, silent about people, and able to read what they promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import store_samples
import torch

import slimbrain
from slimbrain.cli import run_command
from slimbrain.data.clip import read_clip
from slimbrain.disk.tsv import read_tsv
from slimbrain.doctor import inspect_path
from slimbrain.embed.features import embed_store, read_embeddings
from slimbrain.embed.series import SERIES_POOLINGS
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Match, Provenance
from slimbrain.grid import Grid
from slimbrain.models.hub import is_sealed, model_folder
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.shipped import TEMPORAL, VOXEL, list_models
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session


@pytest.fixture(scope="module")
def model() -> TemporalExtractor:
    loaded = slimbrain.from_pretrained(TEMPORAL)
    assert isinstance(loaded, TemporalExtractor)
    return loaded


def make_store(root: Path, channels: int, tr: float, frames: int = 90, sessions: int = 3) -> Store:
    store, rng = Store.create(root, None, tr), np.random.default_rng(channels)
    mm = rng.normal(size=(channels, 3)) * (30, 40, 30) + (0, -17, 4)
    for number in range(sessions):
        series = rng.normal(size=(frames, channels)).astype(np.float32)
        write_roi_session(
            store,
            {"sub": f"{number:02d}", "task": "rest", "space": ROI},
            series,
            Channels(tuple(f"r{n}" for n in range(channels)), mm),
            tr,
        )
    store.refresh()
    return store


@pytest.mark.parametrize(("name", "beside", "most_bytes"), [(TEMPORAL, set(), 8_000_000), (VOXEL, {"desc-brain_mask.nii.gz"}, 6_000_000)])
def test_they_are_listed_and_whole(name: str, beside: set[str], most_bytes: int) -> None:
    assert name in slimbrain.list_models()
    folder = model_folder(name)
    files = {"README.md", "config.json", "model.safetensors", "seal.json"} | beside
    assert is_sealed(folder) and {path.name for path in folder.iterdir()} == files
    assert sum(path.stat().st_size for path in folder.iterdir()) <= most_bytes


# ABIDE's 877 less two copied recordings, both of each pair; and HCP's 70.
@pytest.mark.parametrize(("name", "cohorts", "people"), [(TEMPORAL, ("ABIDE", "HCP"), 873 + 70), (VOXEL, ("ABIDE",), 873)])
def test_their_cards_have_licence_and_data_and_name_nobody(name: str, cohorts: tuple[str, ...], people: int) -> None:
    folder = model_folder(name)
    card, config = ((folder / file).read_text(encoding="utf-8") for file in ("README.md", "config.json"))
    assert card.startswith("---\n") and "license: cc-by-nc-4.0" in card
    assert all(cohort in card for cohort in cohorts) and "## Contests" in card and "## Out of scope" in card
    assert not re.search(r"sub-\w", card) and not re.search(r"sub-\w", config)
    assert len(json.loads(config)["training"]["participants"]["persons"]) == people


def test_the_voxel_model_reads_images_that_prep_made(tmp_path: Path) -> None:
    """By the parcels and axes it carries; tokens keep what their patches are, as those of an untrained twin do not."""
    grid = Grid.mni152("8mm-p1")
    store = store_samples.make_store(tmp_path / "store", grid, subjects=3, frames=80)
    model = slimbrain.from_pretrained(VOXEL)
    assert isinstance(model, HieraJEPA) and model.connectome is not None and model.parcels is not None
    assert len(set(model.parcels.of_patch.tolist())) == 200
    made, whole = embed_store(store, model), embed_store(store, model, pooling="tangent")
    assert made.pooling == "connectome" and made.values.shape == (3, 256) and whole.values.shape == (3, 200 * 201 // 2)
    assert np.isfinite(made.values).all() and np.isfinite(whole.values).all() and not made.all_alike()
    clip = read_clip(store, store.sessions[0], range(5), 8)
    with torch.inference_mode():
        decoded = model.decode(clip)
    voxels = clip.voxels.float()[..., 0].unflatten(0, (-1, 2)).mean(1)
    assert float(1 - (decoded - voxels).square().sum() / voxels.square().sum()) > 0.5


@pytest.mark.parametrize(("channels", "tr"), [(30, 2.0), (122, 0.72), (419, 1.1)])
def test_it_reads_any_parcellation_at_any_tr(model: TemporalExtractor, tmp_path: Path, channels: int, tr: float) -> None:
    made = embed_store(make_store(tmp_path / "store", channels, tr), model)
    assert model.connectome is not None
    config = model.connectome.config
    assert made.pooling == "both" and made.values.shape == (3, config.axes + config.sums + config.token_axes)
    assert np.isfinite(made.values).all() and not made.all_alike()


def test_it_reads_the_cells_of_a_voxel_grid(model: TemporalExtractor) -> None:
    assert model.connectome is not None
    cells = torch.tensor(Grid.mni152("2mm").cells.mm, dtype=torch.float32)
    series = torch.randn(100, len(cells), generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(model.connectome([(series - series.mean(0)) / series.std(0)], [cells])).all())


def test_commands_use_it_where_no_model_is_named_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store", 40, 0.72)
    store, vectors, windows = (str(tmp_path / name) for name in ("store", "vectors.npz", "windows.tsv"))
    assert run_command(["embed", store, "--out", vectors]) == 0
    assert TEMPORAL in capsys.readouterr().err
    assert read_embeddings(vectors).pooling == "both"
    assert run_command(["rank", store, "--method", "fast", "--out", windows]) == 0
    assert TEMPORAL in capsys.readouterr().err
    assert len(read_tsv(Path(windows))) == 3 * (90 // 8)


@pytest.mark.parametrize("pooling", SERIES_POOLINGS)
def test_every_pooling_can_be_a_derivative(pooling: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store", 40, 0.72)
    store, folder, vectors = (str(tmp_path / name) for name in ("store", "bids", "vectors.npz"))
    for out in (folder, vectors):
        assert run_command(["embed", store, "--pooling", pooling, "--out", out]) == 0
    np.testing.assert_array_equal(read_embeddings(folder).values, read_embeddings(vectors).values)


def test_an_evaluation_without_a_model_asks_whom_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", 40, 0.72, sessions=4)
    rows = "".join(f"sub-{number:02d}\t{'FM'[number % 2]}\n" for number in range(4))
    (store.root / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    monkeypatch.setattr(Provenance, "matches", lambda self, people: [Match("sub-02")])
    assert run_command(["evaluate", str(store.root), "--task", "column:sex", "--out", str(tmp_path / "sex.json")]) == 1
    said = capsys.readouterr().err
    known = f"its data, terms and card: slimbrain inspect {TEMPORAL}"
    assert f"no model is named: using {TEMPORAL}, which comes with slimbrain ({known})" in said
    assert f"slimbrain: {TEMPORAL}: was trained on 1 of the 4 participants to be evaluated: sub-02 by name" in said


@pytest.mark.parametrize("name", list_models())
def test_inspect_knows_its_name_and_where_its_card_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = inspect_path(Path(name))
    assert facts["kind"].startswith("model (") and facts["subjects"] > 500 and "Cohort: " in facts["ledger"]
    card = Path(facts["card"]).read_text(encoding="utf-8")
    assert f"license: {facts['licence'].casefold()}" in card and f"{facts['subjects']} participants" in card
    Path(name).mkdir()
    with pytest.raises(InputError):
        inspect_path(Path(name))


def test_it_has_no_revisions() -> None:
    with pytest.raises(InputError, match="comes with the package"):
        slimbrain.from_pretrained(TEMPORAL, revision="v1")


def test_the_scikit_learn_encoder_takes_it_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 40, 0.72)
    encoder = slimbrain.SlimBrainEncoder(TEMPORAL).fit()
    vectors = encoder.transform(store)
    assert vectors.shape == (3, len(encoder.get_feature_names_out()))
