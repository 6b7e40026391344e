"""The connectome of a stage 2 model: of the cells that its tokens decode to, or of parcels of the patches, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, JepaConfig, WindowConfig
from slimbrain.data.clip import read_clip
from slimbrain.embed.encoder import SlimBrainEncoder
from slimbrain.embed.features import embed_store, feature_names
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Person, Provenance
from slimbrain.grid import Grid
from slimbrain.models.connectome import turn
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.parcels import learn_parcels
from slimbrain.models.signals import signal_series
from slimbrain.store import Store
from slimbrain.train.connectome import CELL_READOUT, PARCEL_READOUT, Recordings, fit_connectome, fit_readout

WINDOW = WindowConfig(frames=8, k=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, grid8: Grid) -> Store:
    return make_store(tmp_path_factory.mktemp("cohort") / "store", grid8, subjects=6)


def network(store: Store, **jepa: object) -> HieraJEPA:
    torch.manual_seed(0)
    encoder = HieraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    settings = JepaConfig.model_validate({"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, **jepa})
    model = HieraJEPA(encoder, settings, store.grid.voxels_per_patch).eval()
    model.provenance = Provenance(store.contract, WINDOW, store.grid)
    return model


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that `slimbrain connectome` made."""
    root = tmp_path_factory.mktemp("model")
    save_pretrained(network(store, visible="cells"), root / "network")
    assert run_command(["connectome", str(store.root), "--model", str(root / "network"), "--out", str(root / "model")]) == 0
    return root / "model"


def decoded(store: Store, model: HieraJEPA, clips: list[list[int]]) -> list[torch.Tensor]:
    """Standardised series of cells by the decoder's own weights, clip by clip, step by step and unit by unit."""
    assert model.decoder is not None
    octant, made = store.grid.cells.index % 2 @ np.array([4, 2, 1]), []
    for info in store.sessions:
        rows = []
        for windows in clips:
            clip = read_clip(store, info, windows, WINDOW.frames)
            with torch.inference_mode():
                values = (model.encoder([clip]).values @ model.decoder.weight.T + model.decoder.bias).view(-1, store.grid.n_units, 8, 2)
            rows += [values[step, store.grid.cell_unit, octant, half] for step in range(len(values)) for half in range(2)]
        series = torch.stack(rows)
        made.append((series - series.mean(0)) / series.std(0, correction=0))
    return made


@pytest.mark.parametrize(("asked", "clips"), [({"k": 2}, [[0, 1]]), ({"k": 3}, [[0, 2], [1]]), ({}, [[0, 3], [1, 4], [2]])])
def test_vectors_are_a_readout_of_decoded_cells(store: Store, asked: dict[str, int], clips: list[list[int]]) -> None:
    """Of as many windows as it was fitted to, all by default: more than in training clip by clip, each of which spans the session."""
    model = fit_connectome(store, network(store, visible="cells"), **asked)
    assert isinstance(model, HieraJEPA)
    made = embed_store(store, model)
    read = [int(frames[0]) // WINDOW.frames for frames in np.split(made.frames_used[store.sessions[0].key], sum(map(len, clips)))]
    series = decoded(store, model, [[read[number] for number in clip] for clip in clips])
    mm = torch.tensor(store.grid.cells.mm, dtype=torch.float32)
    people = tuple(info.subject for info in store.sessions)
    readout = fit_readout([Recordings(mm, people, series.__getitem__)], np.zeros((6, 0)), settings=CELL_READOUT, numbers_per_axis=1)
    with torch.inference_mode():
        expected = turn(readout(series, [mm] * 6)).numpy()
    assert made.pooling == "connectome" and made.values.shape == (6, 4) == (6, len(feature_names(model)))
    chosen = embed_store(store, model, windows="still")
    assert {len(frames) for frames in chosen.frames_used.values()} == {WINDOW.k * WINDOW.frames}
    np.testing.assert_allclose(made.values, expected, atol=1e-3 * np.abs(expected).max())


def test_the_network_stays_and_people_are_remembered(store: Store, folder: Path) -> None:
    made, before = from_pretrained(folder), network(store, visible="cells")
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.state_dict().items())
    assert made.provenance is not None and made.provenance.trained_on([Person("sub-03"), Person("sub-77")]) == ["sub-03"]
    assert not made.provenance.any_channels


def test_tokens_that_decode_patches_are_read_by_parcels(store: Store, tmp_path: Path) -> None:
    """Learnt from the same windows' voxels, kept with the model, and averaged over the decoder's own patches."""
    save_pretrained(network(store), tmp_path / "network")
    out = ["--out", str(tmp_path / "model"), "--anchors", "40", "--k", str(WINDOW.k)]
    assert run_command(["connectome", str(store.root), "--model", str(tmp_path / "network"), *out]) == 0
    model, grid = from_pretrained(tmp_path / "model"), store.grid
    assert isinstance(model, HieraJEPA) and model.parcels is not None and model.decoder is not None
    made = embed_store(store, model)
    windows = [int(frames[0]) // WINDOW.frames for frames in np.split(made.frames_used[store.sessions[0].key], WINDOW.k)]
    clips = [read_clip(store, info, windows, WINDOW.frames) for info in store.sessions]
    halves = [clip.voxels.float().sum(-1).view(-1, 2, grid.n_patches).mean(1) / torch.from_numpy(grid.patch_voxels) for clip in clips]
    learnt = learn_parcels(grid, halves, 40)
    groups = {frozenset(np.flatnonzero(parcels.of_patch == number)) for parcels in (model.parcels, learnt) for number in range(40)}
    assert len(groups) == 40
    member = np.eye(40)[model.parcels.of_patch] * grid.patch_voxels[:, None]
    member /= member.sum(0)
    series, mm = [], torch.tensor(member.T @ grid.patches.mm, dtype=torch.float32)
    with torch.inference_mode():
        for clip in clips:
            values = model.decoder(model.encoder([clip]).values)
            read = signal_series(values, grid, "patches") @ torch.tensor(member, dtype=torch.float32)
            series.append((read - read.mean(0)) / read.std(0, correction=0))
        people = tuple(info.subject for info in store.sessions)
        readout = fit_readout([Recordings(mm, people, series.__getitem__)], np.zeros((6, 0)), settings=PARCEL_READOUT, numbers_per_axis=1)
        expected = turn(readout(series, [mm] * 6)).numpy()
    np.testing.assert_allclose(made.values, expected, atol=1e-3 * np.abs(expected).max())
    assert "learnt parcels of the patches" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(("pooling", "width"), [("axes", 4), ("tangent", 87 * 88 // 2), ("moments", 3 * 64)])
def test_other_poolings(store: Store, folder: Path, pooling: str, width: int) -> None:
    encoder = SlimBrainEncoder(folder, pooling=pooling).fit()
    with pytest.warns(UserWarning, match="trained on 6 of the 6"):
        assert encoder.transform(store).shape == (6, width) == (6, len(encoder.get_feature_names_out()))


def test_a_model_without_one(store: Store) -> None:
    assert embed_store(store, network(store)).pooling == "moments"
    with pytest.raises(InputError, match="pooling axes: the model has no connectome"):
        embed_store(store, network(store), pooling="axes")


def test_tokens_that_nothing_decodes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pretrained(network(store, targets="latents"), tmp_path / "network")
    assert run_command(["connectome", str(store.root), "--model", str(tmp_path / "network"), "--out", str(tmp_path / "model")]) == 1
    assert "does not decode its tokens" in capsys.readouterr().err
