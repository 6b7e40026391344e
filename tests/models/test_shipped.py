"""The model that comes with the package: small, sealed, licensed, silent about people, and able to read what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import slimbrain
from slimbrain.cli import run_command
from slimbrain.disk.tsv import read_tsv
from slimbrain.embed.features import embed_store, read_embeddings
from slimbrain.embed.series import SERIES_POOLINGS
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Match, Provenance
from slimbrain.grid import Grid
from slimbrain.models.hub import is_sealed, model_folder
from slimbrain.models.shipped import TEMPORAL
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session

MOST_BYTES = 8_000_000


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


def test_it_is_listed_and_whole() -> None:
    assert TEMPORAL in slimbrain.list_models()
    folder = model_folder(TEMPORAL)
    assert is_sealed(folder) and {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "seal.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES


def test_its_card_has_licence_and_data_and_names_nobody() -> None:
    folder = model_folder(TEMPORAL)
    card, config = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "config.json"))
    assert card.startswith("---\n") and "license: cc-by-nc-4.0" in card
    assert "ABIDE" in card and "HCP" in card and "## Out of scope" in card
    assert not re.search(r"sub-\w", card) and not re.search(r"sub-\w", config)
    remembered = json.loads(config)["training"]["participants"]
    # ABIDE's 877 less two copied recordings, both of each pair, and HCP's 70.
    assert len(remembered["persons"]) == 873 + 70


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
    assert f"no model is named: using {TEMPORAL}" in said and "terms" in said
    assert f"slimbrain: {TEMPORAL}: was trained on 1 of the 4 participants to be evaluated: sub-02 by name" in said


def test_it_has_no_revisions() -> None:
    with pytest.raises(InputError, match="comes with the package"):
        slimbrain.from_pretrained(TEMPORAL, revision="v1")


def test_the_scikit_learn_encoder_takes_it_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 40, 0.72)
    encoder = slimbrain.SlimBrainEncoder(TEMPORAL).fit()
    vectors = encoder.transform(store)
    assert vectors.shape == (3, len(encoder.get_feature_names_out()))
