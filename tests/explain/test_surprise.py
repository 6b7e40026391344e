"""Surprise: what pretraining's own loss says of the same masks, every token painted where it belongs; and what was planted is found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from explain_samples import clip, jepa, slab
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, sample_jepa_mask, visible_stretches
from slimbrain.explain import surprise, token_surprise
from slimbrain.explain.surprise import by_window, paint_units
from slimbrain.models.hiera import Tokens
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.signals import token_signals


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[JepaMask]:
    """The masks that surprise draws, as they are drawn."""
    masks: list[JepaMask] = []
    draw: Callable[..., JepaMask] = surprise.sample_jepa_mask

    def keep(*arguments: object) -> JepaMask:
        masks.append(draw(*arguments))
        return masks[-1]

    monkeypatch.setattr(surprise, "sample_jepa_mask", keep)
    return masks


def test_errors_are_those_that_each_mask_gives_averaged_over_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample, masks = jepa(), clip(slab()), recorded(monkeypatch)
    found, guessing = token_surprise(model, sample, windows=2, seed=0)
    assert found.shape == (4, len(sample.grid.units))
    errors: list[list[float]] = [[] for _ in range(found.size)]
    target = model.target([sample])
    with torch.no_grad():
        contents = model.baseline(target) if model.baseline else target.values
        wanted = functional.layer_norm(contents.float(), contents.shape[-1:], eps=1e-12)
        for mask in masks:
            hidden = torch.from_numpy((~mask.context).ravel())
            predicted = model.predictor(model.context([sample], [mask.context]), target, hidden)
            gap = (predicted - wanted[hidden]).abs()
            smooth = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean(1)
            for token, value in zip(torch.nonzero(hidden)[:, 0].tolist(), smooth.tolist(), strict=True):
                errors[token].append(value)
    assert min(map(len, errors)) >= 4, "every unit is a target at every time, as often as asked for"
    size = wanted.abs()
    assert guessing == pytest.approx(float(torch.where(size < 1, size.square() / 2, size - 0.5).mean()), rel=1e-5)
    np.testing.assert_allclose(found.ravel(), [np.mean(values) for values in errors], rtol=1e-5)


def test_errors_of_signals_are_squared_and_zero_is_the_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample, masks = jepa(targets="signals", predictor="factorised", hide="places"), clip(slab()), recorded(monkeypatch)
    found, guessing = token_surprise(model, sample, windows=2, seed=0)
    values, exists = (part.numpy() for part in token_signals([sample], 4))
    errors: list[list[float]] = [[] for _ in range(found.size)]
    with torch.no_grad():
        for mask in masks:
            hidden = torch.from_numpy((~mask.context).ravel())
            predicted = model.predictor(model.context([sample], [mask.context]), model.context.layout([sample]), hidden).numpy()
            for row, token in enumerate(torch.nonzero(hidden)[:, 0].tolist()):
                errors[token].append(float(np.square(predicted[row] - values[token])[exists[token]].mean()))
    np.testing.assert_allclose(found.ravel(), [np.mean(each) for each in errors], rtol=1e-4)
    assert guessing == pytest.approx(np.mean([np.square(row[there]).mean() for row, there in zip(values, exists, strict=True)]), rel=1e-4)


def test_the_model_is_not_changed_by_being_asked() -> None:
    model, sample = jepa(), clip(slab())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = token_surprise(model, sample, windows=2, seed=0).errors
    assert np.array_equal(first, token_surprise(model, sample, windows=2, seed=0).errors)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_steps_that_straddle_windows_count_in_both_by_their_frames() -> None:
    """The published cut: windows of 5 frames, steps of 4."""
    errors = np.arange(10.0).reshape(5, 2)
    found = by_window(errors, 4, 4)
    np.testing.assert_allclose(found[0], (4 * errors[0] + errors[1]) / 5)
    np.testing.assert_allclose(found[2], (2 * errors[2] + 3 * errors[3]) / 5)


def test_units_are_painted_where_they_lie() -> None:
    grid = slab()
    values = np.arange(1.0, 1 + len(grid.units))
    dense = grid.unpack(paint_units(values, grid))
    for place in np.argwhere(grid.mask):
        unit = np.flatnonzero((grid.units.index == place // 8).all(axis=1))
        assert dense[tuple(place)] == values[unit[0]]
    assert (dense[~grid.mask] == 0).all()


# --- a planted disturbance

WINDOWS, WINDOW_FRAMES, UNITS = 4, 4, 6
STRENGTH = np.random.default_rng(7).normal(size=slab().voxel_mask.shape)
"""How every voxel of a brain answers to the state that the whole of it is in."""


def brain_in_a_state(seed: int, planted: tuple[int, int] | None = None) -> Clip:
    """All of the brain is in one of two states, with noise; the planted unit, in the planted window, is in the other."""
    grid, rng = slab(), np.random.default_rng(seed)
    state = np.full((WINDOWS * WINDOW_FRAMES, grid.n_patches, 1), rng.choice([-1.0, 1.0])) * rng.uniform(0.8, 1.2, (16, 1, 1))
    if planted:
        unit, window = planted
        state[window * WINDOW_FRAMES : (window + 1) * WINDOW_FRAMES, grid.patch_unit == unit] *= -1
    values = np.where(grid.voxel_mask, state * STRENGTH + 0.3 * rng.normal(size=(16, *STRENGTH.shape)), 0.0)
    seconds = 0.72 * (np.arange(WINDOW_FRAMES) + 20 * np.arange(WINDOWS)[:, None]).ravel()
    return Clip(torch.from_numpy(values).float(), torch.from_numpy(seconds), grid)


class Deviation(nn.Module):
    """Tokens less the mean token of their place and time, in place of `PositionBaseline`."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, tokens: Tokens) -> Tensor:
        return tokens.values - self.mean[tokens.step * UNITS + tokens.unit]


class FromTheMean(nn.Module):
    """Predicts every hidden token from the mean deviation of the visible ones, by a map of its place: a predictor in closed form."""

    def __init__(self, deviation: Deviation, maps: Tensor) -> None:
        super().__init__()
        self.deviation, self.maps = deviation, maps

    def forward(self, context: Tokens, everything: Tokens, hidden: Tensor) -> Tensor:
        return torch.einsum("f,hfd->hd", self.deviation(context).mean(0), self.maps[everything.unit[hidden]])


@pytest.fixture(scope="module")
def foreseeing() -> HieraJEPA:
    """A random encoder whose predictor is fitted by ridge regression on thirty undisturbed clips: what a trained one does, in a second."""
    model = jepa().requires_grad_(False)
    for part in (model.context, model.target):
        generator = torch.Generator().manual_seed(1)
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    clips, rng = [brain_in_a_state(seed) for seed in range(30)], np.random.default_rng(0)
    targets = [model.target([one]) for one in clips]
    model.baseline = deviation = Deviation(torch.stack([target.values for target in targets]).mean(0))  # type: ignore[assignment]
    cut = visible_stretches(WINDOWS, WINDOW_FRAMES, model.config.unit_frames, model.jepa.hide)
    masks = [sample_jepa_mask(slab().units.mm, *cut, model.jepa.context_fraction, rng).context for _ in clips]
    seen = torch.stack([deviation(model.context([one], [mask])).mean(0) for one, mask in zip(clips, masks, strict=True)])
    wanted = torch.stack([functional.layer_norm(deviation(target), target.values.shape[-1:], eps=1e-12) for target in targets])
    penalty = 0.01 * len(seen) * seen.square().mean() * torch.eye(seen.shape[1])
    solve = torch.linalg.solve(seen.T @ seen + penalty, seen.T)
    maps = [torch.einsum("fn,nd->fd", solve, wanted[:, targets[0].unit == unit].mean(1)) for unit in range(UNITS)]
    model.predictor = FromTheMean(deviation, torch.stack(maps))  # type: ignore[assignment]
    return model


def planted_ranks(model: HieraJEPA) -> np.ndarray:
    """Share of the other units and windows with a smaller error than the planted one, in twelve clips; 0.5 by chance."""
    ranks = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        unit, window = int(rng.integers(UNITS)), int(rng.integers(WINDOWS))
        errors = token_surprise(model, brain_in_a_state(2000 + seed, (unit, window)), WINDOWS, seed=0).errors
        found = by_window(errors, WINDOWS, model.context.token_frames)
        ranks.append((found < found[window, unit]).sum() / (found.size - 1))
    return np.array(ranks)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the mean, by resampling."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def test_surprise_is_largest_where_and_when_a_place_leaves_the_common_state(foreseeing: HieraJEPA) -> None:
    ranks = planted_ranks(foreseeing)
    assert interval(ranks)[0] > 0.85, ranks.round(2)


def test_a_predictor_that_knows_nothing_does_not_find_it(foreseeing: HieraJEPA) -> None:
    blind = deepcopy(foreseeing)
    blind.predictor.maps.zero_()
    low, high = interval(planted_ranks(blind))
    assert low < 0.5 < high


def test_errors_of_a_disturbed_clip_are_those_reckoned_token_by_token(foreseeing: HieraJEPA, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy, from the encoders' tokens alone, through to windows."""
    sample, masks = brain_in_a_state(2000, (3, 1)), recorded(monkeypatch)
    found = by_window(token_surprise(foreseeing, sample, WINDOWS, seed=0).errors, WINDOWS, foreseeing.context.token_frames)
    mean, maps = foreseeing.baseline.mean.numpy(), foreseeing.predictor.maps.numpy()  # type: ignore[union-attr]
    tokens = foreseeing.target([sample]).values.numpy() - mean
    wanted = (tokens - tokens.mean(1, keepdims=True)) / tokens.std(1, keepdims=True)
    errors: dict[tuple[int, int], list[float]] = {}
    for mask in masks:
        context = foreseeing.context([sample], [mask.context])
        seen = context.values.numpy() - mean[[int(step) * UNITS + int(unit) for step, unit in zip(context.step, context.unit, strict=True)]]
        for window, unit in np.argwhere(~mask.context):
            gap = np.abs(seen.mean(0) @ maps[unit] - wanted[window * UNITS + unit])
            errors.setdefault((window, unit), []).append(float(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()))
    expected = [[np.mean(errors[window, unit]) for unit in range(UNITS)] for window in range(WINDOWS)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
