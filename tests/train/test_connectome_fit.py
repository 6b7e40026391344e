"""Fitting the connectome: a planted axis is found in other people and another parcellation; who took part is remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from slimbrain.cli import run_command
from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.embed.features import embed_store
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Person, Provenance
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session
from slimbrain.train.connectome import Recordings, fit_connectome, fit_readout

Floats = NDArray[np.floating]
K, FRAMES, TR_S = 12, 300, 0.72


def places(n: int = K, spacing: float = 20.0) -> Floats:
    return np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3)[:n] * spacing - 30.0


def planted(n_people: int, seed: int = 0) -> tuple[list[Floats], Floats]:
    """Series (T, K) of people who differ in how strongly one pattern is coupled, and that strength."""
    rng = np.random.default_rng(2)
    mixing = rng.normal(size=(K, 2 * K)) + rng.normal(size=(K, 1))
    root = scipy.linalg.sqrtm(np.corrcoef(mixing)).real
    direction = rng.normal(size=K)
    pattern = np.outer(direction, direction) / (direction @ direction)
    rng = np.random.default_rng(seed)
    amounts = rng.normal(size=n_people)
    runs = [rng.normal(size=(FRAMES, K)) @ scipy.linalg.expm(0.35 * amount * pattern) @ root for amount in amounts]
    return [standardise(torch.from_numpy(run)).float().numpy() for run in runs], amounts


def recordings(runs: list[Floats], mm: Floats, name: str = "p") -> Recordings:
    people = tuple(f"{name}{number}" for number in range(len(runs)))
    return Recordings(torch.tensor(mm, dtype=torch.float32), people, lambda number: torch.from_numpy(runs[number]))


def correlation(scores: Floats, amounts: Floats) -> float:
    return float(abs(np.corrcoef(scores, amounts)[0, 1]))


@pytest.mark.parametrize("dropped", [0, 3])
def test_a_planted_axis_is_found_in_others(dropped: int) -> None:
    runs, _ = planted(60)
    others, amounts = planted(30, seed=1)
    readout = fit_readout([recordings(runs, places())], np.zeros((60, 0)), axes=8)
    mm = torch.tensor(places()[dropped:], dtype=torch.float32)
    scores = readout([torch.from_numpy(run[:, dropped:]) for run in others], [mm] * len(others)).numpy()
    found = [correlation(scores[:, axis], amounts) for axis in range(8)]
    assert scores.shape == (30, 8 + 56) and found[0] > 0.85 and max(found[1:]) < found[0] - 0.15


def test_another_parcellation_has_a_part_in_the_axes_by_its_own_mean() -> None:
    """Its offset is no axis: with the others' channels shifted in what they share, the first axis stays the planted one."""
    runs, _ = planted(40)
    rng = np.random.default_rng(3)
    shift = rng.normal(size=(FRAMES, 1)) * 2
    more = [standardise(torch.from_numpy(run[:, :9] + shift)).float().numpy() for run in planted(20, seed=4)[0]]
    both = fit_readout([recordings(runs, places()), recordings(more, places()[:9], "q")], np.zeros((60, 0)), axes=8)
    others, amounts = planted(30, seed=1)
    scores = both([torch.from_numpy(run) for run in others], [both.anchors] * 30).numpy()
    assert correlation(scores[:, 0], amounts) > 0.85


def test_people_may_outnumber_the_entries_of_a_tangent_vector() -> None:
    """Three channels have six entries, so that twelve people's vectors span no more than six axes."""
    runs = [run[:, :3] for run in planted(12)[0]]
    readout = fit_readout([recordings(runs, places(3))], np.zeros((12, 0)), axes=8)
    scores = readout([torch.from_numpy(run) for run in runs], [readout.anchors] * 12)
    assert scores.shape == (12, 6 + 26) and readout.config.axes == 6 and bool(scores.isfinite().all())


def test_many_channels_are_read_at_anchors_among_them() -> None:
    rng = np.random.default_rng(0)
    mm = places(300, 15.0)
    runs = [standardise(torch.from_numpy(rng.normal(size=(60, 300)))).float().numpy() for _ in range(6)]
    readout = fit_readout([recordings(runs, mm)], np.zeros((6, 0)))
    assert readout.config.anchors == 256 and readout.config.axes == 4
    assert bool(torch.isfinite(readout([torch.from_numpy(runs[0])], [torch.tensor(mm, dtype=torch.float32)])).all())


@pytest.mark.parametrize(("settings", "most"), [({"reference": 1.0, "shrinkage": 0.5}, 0.3), ({}, 0.5)])
def test_sums_tell_what_the_pretraining_people_share(settings: dict[str, float], most: float) -> None:
    """One pattern of coupling is the same in all whom the axes are learnt from, and tells others apart.

    At the population it moves one entry of the tangent; elsewhere others as well, so that the axes tell more of it.
    """
    readout = fit_readout([recordings(planted(60)[0], places())], np.zeros((60, 0)), axes=2, settings=settings)
    _, modes = np.linalg.eigh(readout.mean.numpy())
    rng = np.random.default_rng(5)
    amounts = rng.normal(size=40)
    # Two of the population's modes go together, more or less.
    turned = [np.eye(K) + 0.6 * np.tanh(amount) * (np.eye(K)[[7, 3]].T @ np.eye(K)[[3, 7]]) for amount in amounts]
    root = scipy.linalg.sqrtm(readout.mean.numpy()).real
    runs = [rng.normal(size=(FRAMES, K)) @ scipy.linalg.sqrtm(modes @ own @ modes.T).real @ root for own in turned]
    scores = readout([standardise(torch.from_numpy(run)).float() for run in runs], [readout.anchors] * 40).double().numpy()
    assert scores.shape == (40, 2 + 14)

    def told(features: Floats) -> float:
        """Correlation of the amounts with those predicted by ridge regression from the other people."""
        kernel = (features - features.mean(0)) @ (features - features.mean(0)).T
        inverse = np.linalg.inv(kernel + 0.1 * np.trace(kernel) / len(kernel) * np.eye(len(kernel)))
        return float(np.corrcoef(amounts - inverse @ amounts / np.diag(inverse), amounts)[0, 1])

    assert told(scores[:, :2]) < most < 0.6 < told(scores)


def test_too_few_people() -> None:
    runs, _ = planted(3)
    with pytest.raises(InputError, match="3 participants are too few"):
        fit_readout([recordings(runs, places())], np.zeros((3, 0)))


def store_and_network(root: Path) -> tuple[Store, TemporalExtractor]:
    """Ten people, and a network that was never trained."""
    store = Store.create(root / "store", None, TR_S)
    channels = Channels(tuple(f"r{n}" for n in range(K)), places())
    for number, run in enumerate(planted(10)[0]):
        write_roi_session(store, {"sub": f"{number:02d}", "task": "rest", "space": ROI}, run, channels, TR_S)
    store.refresh()
    torch.manual_seed(0)
    network = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=8)).eval()
    network.provenance = Provenance(store.contract, WindowConfig(frames=8), None)
    return store, network


def test_the_command_keeps_the_network_and_remembers_the_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, network = store_and_network(tmp_path)
    save_pretrained(network, tmp_path / "network")
    arguments = ["connectome", str(tmp_path / "store"), "--model", str(tmp_path / "network"), "--out", str(tmp_path / "model")]
    assert run_command(arguments) == 0
    assert "8 axes of 10 participants" in capsys.readouterr().out
    made = from_pretrained(tmp_path / "model")
    assert isinstance(made, TemporalExtractor) and made.provenance is not None
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in network.state_dict().items())
    assert made.provenance.trained_on([Person("sub-03"), Person("sub-77")]) == ["sub-03"]
    assert embed_store(store, made).values.shape == (10, 8 + 56 + 4)


def test_a_connectome_is_fitted_anew_on_fewer_people(tmp_path: Path) -> None:
    """Nothing of the old one stays: the new one is that of the bare network, also where it has fewer axes."""
    store, network = store_and_network(tmp_path)
    few = store.select([f"sub-{number:02d}" for number in range(6)])
    again, once = fit_connectome(few, fit_connectome(store, network)), fit_connectome(few, network)
    assert again.state_dict().keys() == once.state_dict().keys()
    assert all(torch.equal(value, once.state_dict()[name]) for name, value in again.state_dict().items())
