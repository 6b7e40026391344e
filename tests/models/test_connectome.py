"""The connectome readout: rebuilt in numpy from its file of weights, exact where it must be, and blind to nothing it can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.embed.encoder import SlimBrainEncoder
from slimbrain.embed.features import embed_store
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Provenance
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout, pack_axes, turn, unpack_axes
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session
from slimbrain.train.connectome import Recordings, fit_connectome, fit_readout

Floats = NDArray[np.floating]
K, PEOPLE, FRAMES, TR_S = 12, 20, 120, 0.72
AXES, WIDE = 18, 128
"""Fewer axes than people, evenly many; with the sums a power of two, at most eight times as many."""


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

    def read(mm: Floats) -> tuple[Floats, Floats]:
        squared = ((mm[:, None].astype(np.float32) - kept["anchors"].astype(float)) ** 2).sum(-1)
        weights = np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * said["width_mm"] ** 2))
        weights /= weights.sum(1, keepdims=True)
        power = np.diag(weights @ mean @ weights.T)
        weights *= np.sqrt(np.minimum(1, (1 - said["nugget"]) / power))[:, None]
        signal = weights @ mean @ weights.T
        expected = signal + np.diag(np.maximum(1 - np.diag(signal), said["nugget"]))
        gain = modes.T @ mean @ weights.T @ np.linalg.inv(expected)
        return gain, expected

    gain, expected = read(mm[live])
    difference = gain @ (z.T @ z / len(z) - expected) @ gain.T

    keep = 1 - said["shrinkage"]
    # At the reference, a power of the population, modes vary by their own variance to the rest of the power.
    root = np.sqrt((1 / (modes**2).sum(0)) ** (1 - said["reference"]))
    moments = np.outer(root, root) * (np.eye(len(difference)) + difference)
    values, vectors = np.linalg.eigh(keep * moments + said["shrinkage"] * np.eye(len(difference)))
    tangent = (vectors * np.log(np.maximum(values, 1e-3)) / keep) @ vectors.T
    rows, columns = np.tril_indices(len(tangent))
    vector = tangent[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))

    packed = kept["packed_axes"].astype(int)
    axes = (np.stack((packed % 16, packed // 16), -1).reshape(len(packed), -1) - 8) * kept["entry_scales"][:, None]
    vector = vector - kept["centre"]
    if not live.all():
        whole, of_all = read(mm)
        across = gain @ of_all[live] @ whole.T @ np.linalg.pinv(whole @ of_all @ whole.T)
        across = root[:, None] * across / root
        leading = axes[:, :64] / np.linalg.norm(axes[:, :64], axis=0)
        matrices = np.zeros((leading.shape[1], *across.shape))
        matrices[:, rows, columns] = matrices[:, columns, rows] = leading.T / np.where(rows == columns, 1, np.sqrt(2))
        seen = (across @ matrices @ across.T)[:, rows, columns].T * np.where(rows == columns, 1, np.sqrt(2))[:, None]
        centre = np.zeros(across.shape)
        centre[rows, columns] = centre[columns, rows] = kept["centre"] / np.where(rows == columns, 1, np.sqrt(2))
        centre -= np.diag(np.log(keep * root**2 + said["shrinkage"]) / keep)
        vector = vector + (centre - across @ centre @ across.T)[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
        vector = vector + (leading - seen) @ np.linalg.solve(seen.T @ seen + 0.1 * np.eye(seen.shape[1]), seen.T @ vector)
    scores = vector @ axes * kept["axis_scales"]
    signed, sums = vector * kept["signs"] / (vector @ vector), said["sums"]
    both = np.concatenate((scores, [signed[first::sums].sum() for first in range(sums)]))
    rotation = np.ones((1, 1))
    while len(rotation) < len(both):
        rotation = np.block([[rotation, rotation], [rotation, -rotation]])
    return scores, both @ rotation / np.sqrt(len(both)), vector


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
    for row, mixed, whole, values in zip(ordered, both, tangent, series, strict=True):
        expected, turned, vector = in_numpy(folder, values, mm)
        size = np.abs(expected).max()
        assert row.shape == (AXES,) and mixed.shape == (WIDE + 4,)
        np.testing.assert_allclose(row, expected, atol=2e-4 * size)
        np.testing.assert_allclose(mixed[:WIDE], turned, atol=2e-4 * size)
        np.testing.assert_allclose(whole, vector, atol=2e-4 * np.abs(vector).max())


def test_axes_are_ordered_and_the_default_has_columns_alike(folder: Path, store: Store) -> None:
    model = fit_connectome(store, from_pretrained(folder), axes=16)
    ordered, both = embed_store(store, model, pooling="axes"), embed_store(store, model)
    variance = ordered.values.var(0)
    assert both.pooling == "both" and ordered.values.shape == (PEOPLE, 16)
    # Rounding to 4 bits bends axes a little.
    assert (variance[:-1] > 0.97 * variance[1:]).all() and variance[0] > 3 * variance[-1]
    np.testing.assert_allclose(variance.mean(), 1, rtol=1e-3)
    # But for rounding, scores are uncorrelated in these people, and every turned column weighs all of them alike.
    np.testing.assert_allclose(turn(torch.from_numpy(ordered.values)).numpy().var(0), 1, rtol=0.25)
    # So with the sums beside them, which are correlated by chance alone.
    turned = both.values[:, : 8 * 16]
    assert turned.var(0).max() < 3 * turned.var(0).mean() and both.values.shape == (PEOPLE, 8 * 16 + 4)
    np.testing.assert_allclose(both.values.mean(0), 0, atol=0.1)


def test_inner_products_of_the_default_are_those_of_its_parts(folder: Path, store: Store) -> None:
    model = from_pretrained(folder)
    ordered, tangent, turned, both = (
        embed_store(store, model, pooling=pooling).values for pooling in ("axes", "tangent", "connectome", "both")
    )
    sums, own = model.connectome.signed_sums(torch.from_numpy(tangent)).numpy(), both[:, turned.shape[1] :]
    np.testing.assert_allclose(turned, both[:, : turned.shape[1]], atol=1e-5)
    np.testing.assert_allclose(both @ both.T, ordered @ ordered.T + sums @ sums.T + own @ own.T, rtol=1e-4, atol=1e-3)
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
    series = [values * (np.arange(K) != 4) for values in recordings()[:2]]
    model, nowhere = from_pretrained(folder), store_of(tmp_path / "store", series, np.zeros((K, 3)))
    made = embed_store(nowhere, model)
    assert made.pooling == "native" and "no MNI places" in capsys.readouterr().err
    # The logarithm of half the correlation and half the identity, twice; an empty channel goes with none.
    for vector, values in zip(made.values, series, strict=True):
        present = np.delete(np.arange(K), 4)
        matrix = np.eye(K)
        matrix[np.ix_(present, present)] = np.corrcoef(values[:, present].T)
        expected = 2 * scipy.linalg.logm((matrix + np.eye(K)) / 2).real
        rows, columns = np.tril_indices(K)
        np.testing.assert_allclose(vector, expected[rows, columns] * np.where(rows == columns, 1, np.sqrt(2)), atol=1e-4)
    encoder = SlimBrainEncoder(folder).fit()
    assert encoder.transform(nowhere).shape == (2, K * (K + 1) // 2) == (2, len(encoder.get_feature_names_out()))
    assert SlimBrainEncoder(folder, pooling="native").fit().set_output(transform="pandas").transform(nowhere).columns[-1] == "native_77"
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
    assert embed_store(store, network, pooling="native").values.shape == (PEOPLE, K * (K + 1) // 2)


def test_native_vectors_are_of_the_same_channels(folder: Path, tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", recordings()[:1], places())
    channels = Channels(tuple(f"q{n}" for n in range(K)), places())
    write_roi_session(store, {"sub": "99", "task": "rest", "space": ROI}, recordings()[1], channels, TR_S)
    store.refresh()
    with pytest.raises(InputError, match="sub-00_task-rest_space-roi and sub-99_task-rest_space-roi have different channels"):
        embed_store(store, from_pretrained(folder), pooling="native")


def test_sums_hold_what_the_axes_leave_out() -> None:
    """Inner products of the sums are those of the vectors, over the squares of their lengths, up to chance."""
    entries, sums = 820, 4088
    readout = ConnectomeReadout(ConnectomeConfig(anchors=40, axes=8, sums=sums), 0)
    rng = np.random.default_rng(0)
    readout.fill(signs=torch.from_numpy(3.0 * rng.choice([-1, 1], entries)).float())
    common, own = rng.normal(size=(2, entries)), rng.normal(size=(30, entries))
    vectors = np.where(np.arange(30)[:, None] < 15, *common) + own
    made = readout.signed_sums(torch.from_numpy(vectors).float()).double().numpy()
    scaled = 3 * vectors / np.square(vectors).sum(1, keepdims=True)
    # More sums than entries: nothing is added up, and all is kept.
    np.testing.assert_allclose(made @ made.T, scaled @ scaled.T, rtol=1e-5, atol=1e-9)
    few = ConnectomeReadout(ConnectomeConfig(anchors=40, axes=8, sums=120), 0)
    few.fill(signs=readout.signs)
    made = few.signed_sums(torch.from_numpy(vectors).float()).double().numpy()
    assert made.shape == (30, 120) and np.corrcoef((made @ made.T).ravel(), (scaled @ scaled.T).ravel())[0, 1] > 0.9


def test_what_missing_channels_would_have_told_is_made_up_for() -> None:
    """Of new people whose coupling along one direction is their own, as it is of those whom the axes were learnt from."""
    count, rng = 24, np.random.default_rng(1)
    common, direction = 0.3 * rng.normal(size=(count, count)) + np.eye(count), rng.normal(size=count)
    mm = torch.tensor(places(count), dtype=torch.float32)

    def people(n: int) -> list[torch.Tensor]:
        mixings = [common + 0.1 * strength * np.outer(direction, direction) for strength in rng.normal(size=n)]
        return [standardise(torch.from_numpy(rng.normal(size=(300, count)) @ mixing).float()) for mixing in mixings]

    learnt_from, new = people(60), people(40)
    group = Recordings(mm, tuple(map(str, range(60))), learnt_from.__getitem__)
    readout = fit_readout([group], np.zeros((60, 0)), axes=16)
    fewer = [series * (torch.arange(count) % 3 != number % 3) for number, series in enumerate(new)]
    whole, as_read, made_up = (
        readout.scores(torch.stack([read(series, mm) for series in runs]) - readout.centre)[:, :16]
        for runs, read in ((new, readout.tangent), (fewer, readout.as_read), (fewer, readout.tangent))
    )
    assert float((made_up - whole).square().sum()) < 0.5 * float((as_read - whole).square().sum())


@pytest.mark.parametrize("reference", [0.5, 1.0])
def test_what_no_channel_observes_stays_at_the_population(reference: float) -> None:
    """Two groups of anchors that have nothing to do with each other, and channels in one of them only."""
    half = 6
    block = np.full((half, half), 0.3) + 0.7 * np.eye(half)
    mean = np.block([[block, np.zeros((half, half))], [np.zeros((half, half)), block]])
    values, vectors = np.linalg.eigh(mean)
    readout = ConnectomeReadout(ConnectomeConfig(anchors=2 * half, axes=2, reference=reference), 0)
    anchors = torch.tensor(places(2 * half, 40.0), dtype=torch.float32)
    readout.fill(anchors=anchors, mean=torch.from_numpy(mean).float(), modes=torch.from_numpy(vectors / np.sqrt(values)).float())
    series = standardise(torch.randn(80, half, generator=torch.Generator().manual_seed(0)))
    tangent = readout.tangent(series, anchors[:half])
    rows, columns = np.tril_indices(2 * half)
    matrix = np.zeros((2 * half, 2 * half))
    matrix[rows, columns] = matrix[columns, rows] = tangent.numpy() / np.where(rows == columns, 1, np.sqrt(2))
    # Less the population's own, which is 0 where it is the reference.
    shrinkage = readout.config.shrinkage
    matrix -= np.diag(np.log((1 - shrinkage) * values ** (1 - reference) + shrinkage)) / (1 - shrinkage)
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


def test_entries_are_scaled_before_axes_are_rounded() -> None:
    """Leading axes come closer to numpy's than when they are rounded as they are."""
    count, rng = 24, np.random.default_rng(1)
    common, direction = 0.3 * rng.normal(size=(count, count)) + np.eye(count), np.repeat([3.0, 0.0], (2, count - 2))
    mixings = [common + 0.3 * strength * np.outer(direction, direction) for strength in rng.normal(size=60)]
    people = [standardise(torch.from_numpy(rng.normal(size=(300, count)) @ mixing).float()) for mixing in mixings]
    mm = torch.tensor(places(count), dtype=torch.float32)
    readout = fit_readout([Recordings(mm, tuple(map(str, range(60))), people.__getitem__)], np.zeros((60, 0)), axes=16)
    vectors = torch.stack([readout.as_read(series, mm) for series in people]) - readout.centre
    exact = np.linalg.svd(vectors.numpy(), full_matrices=False)[2][:8]
    packed, step = pack_axes(torch.from_numpy(exact.T.copy()))

    def angles(axes: torch.Tensor) -> float:
        return float((1 - (torch.from_numpy(exact).T * torch.nn.functional.normalize(axes, dim=0)).sum(0).abs()).mean())

    assert angles(readout.unpacked_axes()[:, :8]) < 0.8 * angles(unpack_axes(packed) * step)


@pytest.mark.parametrize("n", [1, 2, 64])
def test_the_rotation_is_sylvesters(n: int) -> None:
    np.testing.assert_allclose(turn(torch.eye(n).double()).numpy(), scipy.linalg.hadamard(n) / np.sqrt(n), atol=1e-12)


def test_axes_are_even_and_with_the_sums_a_power_of_two() -> None:
    with pytest.raises(InputError, match="power of two; choose 256"):
        ConnectomeReadout(ConnectomeConfig(anchors=4, axes=300), 0)
    with pytest.raises(InputError, match="axes \\+ sums 20 is not a power of two; choose 16"):
        ConnectomeReadout(ConnectomeConfig(anchors=4, axes=16, sums=4), 0)
    with pytest.raises(InputError, match="axes 7 is odd, and two share a byte; choose 6"):
        ConnectomeReadout(ConnectomeConfig(anchors=4, axes=7, sums=9), 0)


@pytest.mark.parametrize("reference", [0.0, 0.5, 1.0])
def test_the_tangent_is_taken_between_no_correlation_and_the_population(reference: float) -> None:
    """Channels at the anchors, hardly averaged: the logarithm of their correlation, whitened by a power of the population's."""
    own = np.eye(K) + 0.4 * np.diag(np.ones(K - 1), 1)
    mean = own @ own.T
    mean /= np.sqrt(np.outer(np.diag(mean), np.diag(mean)))
    values, vectors = np.linalg.eigh(mean)
    config = ConnectomeConfig(anchors=K, axes=2, width_mm=0.5, nugget=1e-9, reference=reference, shrinkage=0)
    anchors = torch.tensor(places(), dtype=torch.float32)
    readout = ConnectomeReadout(config, 0)
    readout.fill(anchors=anchors, mean=torch.from_numpy(mean).float(), modes=torch.from_numpy(vectors / np.sqrt(values)).float())
    series = standardise(torch.from_numpy(np.random.default_rng(0).normal(size=(400, K)) @ own.T)).float()
    tangent = readout.tangent(series, anchors).double().numpy()
    whitening = scipy.linalg.fractional_matrix_power(mean, -reference / 2).real
    correlation = np.corrcoef(series.numpy().T)
    expected = scipy.linalg.logm(whitening @ correlation @ whitening).real
    rows, columns = np.tril_indices(K)
    matrix = np.zeros((K, K))
    matrix[rows, columns] = matrix[columns, rows] = tangent / np.where(rows == columns, 1, np.sqrt(2))
    np.testing.assert_allclose(vectors @ matrix @ vectors.T, expected, atol=1e-3)
