"""The connectome readout: rebuilt in numpy from its file of weights, exact where it must be, and blind to nothing it can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.embed.features import embed_store
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Provenance
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout, hadamard, pack_axes, unpack_axes
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session
from slimbrain.train.connectome import fit_connectome

Floats = NDArray[np.floating]
K, PEOPLE, FRAMES, TR_S = 12, 20, 120, 0.72


def places(n: int = K, spacing: float = 20.0) -> Floats:
    return np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)[:n] * spacing - 30.0


def recordings(seed: int = 0) -> list[Floats]:
    """One (T, K) series per person, whose coupling along one direction is the person's."""
    rng = np.random.default_rng(seed)
    common, direction = rng.normal(size=(K, K)) + np.eye(K), rng.normal(size=K)
    made = []
    for _ in range(PEOPLE):
        strength = rng.normal()
        series = rng.normal(size=(FRAMES, K)) @ common + strength * rng.normal(size=(FRAMES, 1)) * direction
        made.append(series.astype(np.float32))
    return made


def store_of(root: Path, series: list[Floats], mm: Floats) -> Store:
    store = Store.create(root, None, TR_S)
    channels = Channels(tuple(f"r{n}" for n in range(len(mm))), mm)
    for number, values in enumerate(series):
        write_roi_session(store, {"sub": f"{number:02d}", "task": "rest", "space": ROI}, values, channels, TR_S)
    store.refresh()
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("store"), recordings(), places())


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, untrained, with a readout fitted to the store."""
    torch.manual_seed(0)
    network = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=8)).eval()
    network.provenance = Provenance(store.contract, WindowConfig(frames=8), None)
    return save_pretrained(fit_connectome(store, network), tmp_path_factory.mktemp("model"))


def in_numpy(folder: Path, series: Floats, mm: Floats) -> tuple[Floats, Floats, Floats]:
    """Scores on the axes, the turned ones, and the tangent vector, by the formulas of docs/pretrained.md and nothing of the package."""
    kept = {name.removeprefix("connectome."): value for name, value in load_file(folder / "model.safetensors").items()}
    said: dict[str, Any] = json.loads((folder / "config.json").read_text())["connectome"]
    z = series - series.mean(0)
    deviation = z.std(0)
    live = deviation > 1e-3
    z = (z / np.where(live, deviation, 1))[:, live].astype(np.float64)
    mean, modes = kept["mean"].astype(float), kept["modes"].astype(float)

    def read(mm: Floats) -> tuple[Floats, Floats, Floats]:
        squared = ((mm[:, None].astype(np.float32) - kept["anchors"].astype(float)) ** 2).sum(-1)
        weights = np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * said["width_mm"] ** 2))
        weights /= weights.sum(1, keepdims=True)
        power = np.diag(weights @ mean @ weights.T)
        weights *= np.sqrt(np.minimum(1, (1 - said["nugget"]) / power))[:, None]
        signal = weights @ mean @ weights.T
        expected = signal + np.diag(np.maximum(1 - np.diag(signal), said["nugget"]))
        gain = modes.T @ mean @ weights.T @ np.linalg.inv(expected)
        return gain, expected, np.diag(gain @ expected @ gain.T)

    gain, expected, share = read(mm[live])
    gain = gain * (np.clip(read(mm)[2] / share, 1, 3) ** said["restore"])[:, None]
    difference = gain @ (z.T @ z / len(z) - expected) @ gain.T

    keep = 1 - said["shrinkage"]
    values, vectors = np.linalg.eigh(np.eye(len(difference)) + keep * difference)
    tangent = (vectors * np.log(np.maximum(values, 1e-3)) / keep) @ vectors.T
    rows, columns = np.tril_indices(len(tangent))
    vector = tangent[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))

    packed = kept["packed_axes"].astype(int)
    axes = np.stack((packed % 16, packed // 16), -1).reshape(len(packed), -1) - 8
    scores = (vector - kept["centre"]) @ axes * kept["axis_scales"]
    turn = np.ones((1, 1))
    while len(turn) < len(scores):
        turn = np.block([[turn, turn], [turn, -turn]])
    return scores, scores @ turn / np.sqrt(len(scores)), vector - kept["centre"]


@pytest.mark.parametrize("changed", ["as fitted", "channels missing", "another parcellation", "short"])
def test_numpy_rebuilds_it_from_the_file_of_weights(folder: Path, tmp_path: Path, changed: str) -> None:
    series, mm = recordings(3)[:2], places()
    if changed == "channels missing":
        series = [values * (np.arange(K) % 3 != 0) for values in series]
    if changed == "another parcellation":
        mm = mm[:7] + np.random.default_rng(1).normal(size=(7, 3)) * 6
        series = [values[:, :7] for values in series]
    if changed == "short":
        series = [values[:9] for values in series]
    other, model = store_of(tmp_path / "store", [values.astype(np.float32) for values in series], mm), from_pretrained(folder)
    ordered, both, tangent = (embed_store(other, model, pooling=pooling).values for pooling in ("axes", "both", "tangent"))
    wide = ordered.shape[1]
    for row, mixed, whole, values in zip(ordered, both, tangent, series, strict=True):
        expected, turned, vector = in_numpy(folder, values, mm)
        size = np.abs(expected).max()
        np.testing.assert_allclose(row, expected, atol=2e-4 * size)
        np.testing.assert_allclose(mixed[:wide], turned, atol=2e-4 * size)
        np.testing.assert_allclose(whole, vector, atol=2e-4 * np.abs(vector).max())


def test_axes_are_ordered_and_the_default_has_columns_alike(folder: Path, store: Store) -> None:
    model = from_pretrained(folder)
    ordered, both = embed_store(store, model, pooling="axes"), embed_store(store, model)
    variance = ordered.values.var(0)
    assert both.pooling == "both" and ordered.values.shape == (PEOPLE, 16)
    # Rounding to 4 bits bends axes a little.
    assert (variance[:-1] > 0.97 * variance[1:]).all() and variance[0] > 3 * variance[-1]
    np.testing.assert_allclose(variance.mean(), 1, rtol=1e-3)
    # But for rounding, scores are uncorrelated in these people, and every turned column weighs all of them alike.
    np.testing.assert_allclose(both.values.var(0), 1, rtol=0.25)
    np.testing.assert_allclose(both.values.mean(0), 0, atol=0.1)


def test_inner_products_of_the_default_are_those_of_both_parts(folder: Path, store: Store) -> None:
    model = from_pretrained(folder)
    ordered, turned, both = (embed_store(store, model, pooling=pooling).values for pooling in ("axes", "connectome", "both"))
    own = both[:, ordered.shape[1] :]
    np.testing.assert_allclose(turned, both[:, : ordered.shape[1]], atol=1e-5)
    np.testing.assert_allclose(both @ both.T, ordered @ ordered.T + own @ own.T, rtol=1e-4, atol=1e-3)
    tokens = embed_store(store, model, pooling="tokens").values
    assert tokens.shape == (PEOPLE, 32) and own.shape == (PEOPLE, 4)
    # The tokens' part has their leading axes: distances along these, scaled, are as near as the variance that is left out allows.
    centred = tokens.astype(np.float64) - tokens.mean(0, dtype=np.float64)
    values, left = np.linalg.eigh(centred @ centred.T)
    leading = left[:, -4:] * np.sqrt(values[-4:] * PEOPLE * 4 / values[-4:].sum())
    np.testing.assert_allclose(own @ own.T, leading @ leading.T, atol=0.05 * np.abs(own @ own.T).max())


def test_a_batch_gives_what_each_session_gives_alone(folder: Path, store: Store) -> None:
    model, keys = from_pretrained(folder), [info.key for info in store.sessions]
    together = embed_store(store, model).by_session()
    alone = embed_store(store.only(keys[5:6]), model).values[0]
    np.testing.assert_allclose(together[keys[5]], alone, atol=1e-4)


def test_channels_of_unknown_place(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, nowhere = from_pretrained(folder), store_of(tmp_path / "store", recordings()[:2], np.zeros((K, 3)))
    assert embed_store(nowhere, model).pooling == "tokens"
    assert "no MNI places" in capsys.readouterr().err
    with pytest.raises(InputError, match="no MNI places"):
        embed_store(nowhere, model, pooling="connectome")
    with pytest.raises(InputError, match="no MNI places"):
        fit_connectome(nowhere, model)


def test_a_model_without_a_connectome_has_tokens(store: Store) -> None:
    network = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4)).eval()
    network.provenance = Provenance(store.contract, WindowConfig(), None)
    made = embed_store(store, network)
    assert made.pooling == "tokens" and made.values.shape == (PEOPLE, 32)
    with pytest.raises(InputError, match="no connectome"):
        embed_store(store, network, pooling="both")


def test_what_no_channel_observes_stays_at_the_population() -> None:
    """Two groups of anchors that have nothing to do with each other, and channels in one of them only."""
    half = 6
    block = np.full((half, half), 0.3) + 0.7 * np.eye(half)
    mean = np.block([[block, np.zeros((half, half))], [np.zeros((half, half)), block]])
    values, vectors = np.linalg.eigh(mean)
    readout = ConnectomeReadout(ConnectomeConfig(anchors=2 * half, axes=2, restore=0), 0)
    anchors = torch.tensor(places(2 * half, 40.0), dtype=torch.float32)
    readout.fill(anchors=anchors, mean=torch.from_numpy(mean).float(), modes=torch.from_numpy(vectors / np.sqrt(values)).float())
    series = standardise(torch.randn(80, half, generator=torch.Generator().manual_seed(0)))
    tangent = readout.tangent(series, anchors[:half])
    rows, columns = np.tril_indices(2 * half)
    matrix = np.zeros((2 * half, 2 * half))
    matrix[rows, columns] = matrix[columns, rows] = tangent.numpy() / np.where(rows == columns, 1, np.sqrt(2))
    # Back from modes to anchors: the unobserved block of the deviation is 0.
    back = (vectors * np.sqrt(values)) @ matrix @ (vectors * np.sqrt(values)).T
    assert np.abs(back[:half, :half]).max() > 0.05
    np.testing.assert_allclose(back[half:], 0, atol=1e-4)


def test_axes_survive_four_bits() -> None:
    axes = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    packed, step = pack_axes(axes)
    assert packed.dtype == torch.uint8 and packed.shape == (300, 4)
    error = (unpack_axes(packed) * step - axes).abs()
    assert bool((error <= step / 2 + (axes.abs() - 7.5 * step).clamp_min(0) + 1e-6).all())
    assert float(error.square().mean() / axes.square().mean()) < 0.03


@pytest.mark.parametrize("n", [1, 2, 64])
def test_the_rotation_is_one(n: int) -> None:
    turn = hadamard(n).double()
    assert torch.allclose(turn @ turn.T, torch.eye(n).double(), atol=1e-6)
    assert torch.allclose(turn.abs(), torch.full((n, n), n**-0.5).double())


def test_axes_are_a_power_of_two() -> None:
    with pytest.raises(InputError, match="power of two; choose 256"):
        ConnectomeReadout(ConnectomeConfig(anchors=4, axes=300), 0)
