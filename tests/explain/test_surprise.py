"""Surprise: what pretraining's own loss says of the same masks, every token once or more, painted where it belongs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from explain_samples import clip, jepa, slab
from torch.nn import functional

from slimbrain.explain import surprise, token_surprise
from slimbrain.explain.surprise import by_window, paint_units
from slimbrain.masking import JepaMask


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
