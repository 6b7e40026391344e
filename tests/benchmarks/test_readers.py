"""The simulation of readers, against queues that have a closed form."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("readers")


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_random_arrivals_wait_as_in_an_m_d_1_queue(load: float, readers: ModuleType) -> None:
    """Pollaczek and Khinchine: mean wait = load * service / (2 (1 - load))."""
    random, queue, service = Random(1), readers.Queue(1), 2.0
    arrivals = list(accumulate(random.expovariate(load / service) for _ in range(200_000)))
    waits = [queue.serve(when, 0, service) - service - when for when in arrivals]
    assert sum(waits) / len(waits) == pytest.approx(load * service / (2 * (1 - load)), rel=0.06)
    assert queue.worked == pytest.approx(service * len(arrivals))


def plain(module: ModuleType, **changes: float) -> tuple[object, object]:
    """One device, one reader, one server; a transfer takes 1 s, the network nothing, preparing 3 s, a step 1 s."""
    training = module.Training(1, 1, 1, clip_bytes=100.0, prepare_s=3.0, clips_a_step=1, step_s=1.0)
    storage = module.Storage(1, server_bytes_s=100.0, node_bytes_s=1e12, latency_s=0.0)
    for name, value in changes.items():
        if hasattr(training, name):
            training = replace(training, **{name: value})
        else:
            storage = replace(storage, **{name: value})
    return training, storage


@pytest.mark.parametrize("n_readers", [1, 2, 3, 4, 5, 8])
def test_readers_of_one_server_are_machines_of_one_repairman(n_readers: int, readers: ModuleType) -> None:
    """Deterministic: n readers that compute Z and are served s give min(n / (Z + s), 1 / s)."""
    training, storage = plain(readers, readers=n_readers, step_s=1e-6)
    seen = readers.simulate(training, storage, steps=2000)
    assert seen.clips_s == pytest.approx(min(n_readers / (3.0 + 1.0), 1 / 1.0), rel=0.01)
    assert seen.servers_busy == pytest.approx(seen.clips_s * 1.0, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "clips_s", "busy"),
    [
        ({"readers": 8, "prepare_s": 0.0, "server_bytes_s": 1e9, "step_s": 2.0}, 0.5, "devices_busy"),
        ({"readers": 8, "prepare_s": 0.0, "server_bytes_s": 1e9, "step_s": 2.0, "clips_a_step": 4}, 2.0, "devices_busy"),
        ({"readers": 8, "prepare_s": 0.0, "node_bytes_s": 25.0, "step_s": 0.1}, 0.25, "nodes_busy"),
        ({"readers": 2, "prepare_s": 9.0, "server_bytes_s": 1e9, "step_s": 0.1}, 2 / 9, "readers_busy"),
        ({"readers": 8, "prepare_s": 0.0, "step_s": 0.1}, 1.0, "servers_busy"),
    ],
)
def test_the_slowest_part_sets_the_pace_and_is_the_busy_one(
    changes: dict[str, float], clips_s: float, busy: str, readers: ModuleType
) -> None:
    seen = readers.simulate(*plain(readers, **changes), steps=1000)
    assert seen.clips_s == pytest.approx(clips_s, rel=0.01)
    shares = {name: getattr(seen, name) for name in ("devices_busy", "nodes_busy", "readers_busy", "servers_busy")}
    assert shares[busy] == pytest.approx(1, abs=0.01)


def test_devices_wait_for_the_slowest_of_them(readers: ModuleType) -> None:
    """All devices of two nodes step together, so that twice the devices on one server are half as fast each."""
    one = readers.simulate(*plain(readers, readers=8, prepare_s=0.0, step_s=0.1), steps=1000)
    two = readers.simulate(*plain(readers, readers=8, prepare_s=0.0, step_s=0.1, nodes=2, devices_a_node=2), steps=1000)
    assert two.clips_s == pytest.approx(one.clips_s, rel=0.02)
    assert two.devices_busy == pytest.approx(one.devices_busy / 4, rel=0.02)


def test_random_servers_are_worse_than_one_of_their_sum(readers: ModuleType) -> None:
    """Ten servers asked at random idle now and then, more so where few readers ask; never faster than together."""
    many = readers.simulate(*plain(readers, readers=10, prepare_s=0.0, step_s=1e-6, servers=10), steps=5000)
    more = readers.simulate(*plain(readers, readers=100, prepare_s=0.0, step_s=1e-6, servers=10), steps=5000)
    # A closed network of n customers and m equal exponential servers does m n / (n + m - 1) of one; equal service times do better.
    assert 10 * 10 / 19 < many.clips_s < more.clips_s <= 10
    assert more.clips_s > 0.85 * 10
