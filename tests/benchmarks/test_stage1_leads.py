"""The objectives of benchmarks/stage1/objectives.py against autograd, closed forms and planted signals."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

STAGE1 = Path(__file__).resolve().parents[2] / "benchmarks" / "stage1"
Floats = NDArray[np.floating]
MODES, PATCH, WIDTH = 6, 4, 16


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as its programs import it: benchmarks/stage1 is no package."""
    monkeypatch.syspath_prepend(str(STAGE1))
    return __import__("objectives")


@pytest.fixture
def small(objectives: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same, with networks and excerpts of reduced size."""
    sizes = {"BATCH": 12, "FRAMES": 24, "PART_FRAMES": 24}
    for name, value in sizes.items():
        monkeypatch.setattr(objectives, name, value)
    network = objectives.SeriesNetwork
    monkeypatch.setattr(objectives, "SeriesNetwork", lambda: network(MODES, WIDTH, PATCH))
    return objectives


def recordings(n: int, frames: int, coupling: float, seed: int) -> list[Floats]:
    """(frames, MODES) smooth series of people, whose modes differ in size; the last mode is the first, as far as `coupling` says."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        own = rng.normal(size=(frames + 4, MODES))
        own = np.stack([own[lag : lag + frames] for lag in range(5)]).mean(0) * 5**0.5
        own[:, -1] = coupling * own[:, 0] + (1 - coupling**2) ** 0.5 * own[:, -1]
        made.append((own * np.exp(rng.normal(0, 0.3, MODES))).astype(np.float32))
    return made


def test_a_fisher_vector_is_the_gradient_of_the_last_layer(small: ModuleType) -> None:
    model = small.twin(0)
    series = torch.from_numpy(np.stack(recordings(2, 24, 0.0, 1)))
    torch.manual_seed(3)
    found = small.fisher(model, series, 0.5, n_masks=1)
    torch.manual_seed(3)
    patches = model.patches(series)
    hidden = small.hide(patches, 0.5)
    for person in range(2):
        own = hidden[person]
        error = model.rebuilt(model(patches, hidden))[person][own] - patches[person][own]
        (gradient,) = torch.autograd.grad((error**2).mean(), [model.rebuild])
        torch.testing.assert_close(found[person], gradient.flatten(), rtol=1e-4, atol=1e-6)


def test_hidden_entries_are_not_seen(small: ModuleType) -> None:
    model = small.twin(0)
    patches = model.patches(torch.from_numpy(np.stack(recordings(2, 24, 0.0, 1))))
    hidden = small.hide(patches, 0.5)
    changed = torch.where(hidden[..., None], 100.0, patches)
    torch.testing.assert_close(model(patches, hidden), model(changed, hidden))
    assert not torch.allclose(model(patches), model(changed))


def test_alignment_is_one_for_a_rotated_and_moved_copy(objectives: ModuleType) -> None:
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.normal(size=(9, 5)))
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(5, 5)))[0])
    assert objectives.alignment(own, 3 * own @ rotation + 1).item() == pytest.approx(1)
    assert objectives.alignment(own, torch.from_numpy(rng.normal(size=(9, 5)))).item() < 0.9


def test_an_excerpt_and_the_rest_do_not_overlap(objectives: ModuleType) -> None:
    series = np.arange(50, dtype=np.float32)[:, None]
    part, rest = objectives.cut(series, 20, np.random.default_rng(0))
    assert np.array_equal(np.diff(part[:, 0]), np.ones(19))
    assert sorted(np.concatenate((part, rest))[:, 0]) == list(range(50))


def test_resampling_keeps_a_slow_wave_on_its_own_clock(objectives: ModuleType) -> None:
    wave = lambda times: np.sin(times / 9)[:, None].astype(np.float32)  # noqa: E731
    for factor in (0.5, 1.0, 2.0):
        made = objectives.resampled(wave(np.arange(60)), factor)
        np.testing.assert_allclose(made, wave(np.arange(len(made)) / factor), atol=2e-3)


def test_the_weight_of_features_beside_is_chosen_inside_the_labelled_people(objectives: ModuleType) -> None:
    """Features that carry the trait alone are used, and noise does next to no harm."""
    contests = __import__("contests")
    rng = np.random.default_rng(0)
    trait = rng.normal(size=160)
    noise, signal = (own / 20**0.5 for own in (rng.normal(size=(160, 20)), trait[:, None] + rng.normal(size=(160, 20))))
    target = contests.Target("age", trait, False)

    def r2(*embedding: Floats) -> float:
        kernel = contests.Embedding({0: embedding[0]}, beside=dict(enumerate(embedding[1:]))).kernel(0)
        predicted = contests.fit_predict(kernel, target, np.arange(100), np.arange(100, 160), np.random.default_rng(1), 1)
        return float(contests.score(target, trait[100:], predicted)[0])

    assert r2(noise) < 0.2 < 0.8 < r2(noise, signal)
    assert r2(signal, noise) > r2(signal) - 0.05


@pytest.mark.parametrize("name", ["contrast", "contrast of second moments", "alignment", "masked 0.5", "JEPA", "JEPA and rebuilt series"])
def test_every_objective_learns(small: ModuleType, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss falls in people whom the network has not met."""
    people, held = recordings(40, 72, 0.95, 0), recordings(40, 72, 0.95, 1)
    model = small.train(name, 0, [small.Recordings(people)], small.Recordings(held), steps=30)
    before, after = (float(part.split()[0].strip(",")) for part in capsys.readouterr().out.split("held-out loss ")[1].split(" to "))
    assert after < before
    if name == "masked 0.5":  # what the coupled mode shows of the hidden one
        assert after < 0.95
    assert not torch.equal(model.embed.weight, small.twin(0).embed.weight)


def test_augmented_recordings_vary_in_length_and_reading(small: ModuleType) -> None:
    people = recordings(20, 120, 0.0, 0)
    data = small.Recordings(people, readers=[np.eye(MODES, dtype=np.float32), 2 * np.eye(MODES, dtype=np.float32)])
    drawn = [data.draw(np.random.default_rng(seed), two=False)[0] for seed in range(12)]
    assert len({len(parts[0]) for parts in drawn}) > 2
    assert all(len({len(part) for part in parts}) == 1 for parts in drawn)
    spreads = [part.std() for part in drawn[0]]
    assert max(spreads) > 1.4 * min(spreads)
