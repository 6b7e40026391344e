"""What place and time explain is taken out, what sets sessions apart is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hiera import Tokens
from slimbrain.models.jepa import _spread_penalties
from slimbrain.models.position import PositionBaseline, _position_features, take_out_position


def make_tokens(grid: Grid, values: Tensor, seconds: Tensor) -> Tokens:
    """Tokens of one clip: every unit at every one of `seconds`; values (steps * units, D)."""
    step, unit = (index.flatten() for index in torch.meshgrid(torch.arange(len(seconds)), torch.arange(grid.n_units), indexing="ij"))
    mm = torch.tensor(grid.units.mm)[unit]
    return Tokens(values, torch.zeros_like(step), step, unit, seconds[step].double(), mm, (len(step),), (len(seconds),))


def known_parts(grid: Grid, seconds: Tensor) -> tuple[Tensor, Tensor]:
    """Something random that depends on place alone, and a wave that depends on time alone."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(grid.n_units, 5, generator=generator, dtype=torch.float64).repeat(len(seconds), 1)
    time = torch.sin(2 * torch.pi * seconds / 2.88).repeat_interleave(grid.n_units)[:, None] * torch.arange(1.0, 6.0)
    return place, time.double()


@pytest.mark.parametrize("resolution", ["2mm", "4mm", "8mm"])
def test_every_unit_has_a_place_of_its_own(resolution: str) -> None:
    lattice = LATTICES[resolution]
    grid = Grid(lattice, np.ones((lattice.edge,) * 3, dtype=bool))
    tokens = make_tokens(grid, torch.zeros(grid.n_units, 1), torch.zeros(1))
    indicators = _position_features(tokens)[:, :216]
    assert indicators.sum(1).eq(1).all()
    assert len(indicators.argmax(1).unique()) == grid.n_units


def test_place_and_time_are_taken_out_and_nothing_else(grid8: Grid) -> None:
    seconds = torch.arange(200) * 1.13
    place, time = known_parts(grid8, seconds)
    content = torch.randn(place.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert take_out_position(make_tokens(grid8, place + time, seconds)).abs().max() < 1e-2
    left = take_out_position(make_tokens(grid8, place + time + content, seconds))
    # Least squares on 47 columns takes 47 of 5,400 degrees of freedom from noise.
    assert float((left - content).square().mean()) < 3 * 47 / len(content)


def test_equals_numpy_least_squares(grid8: Grid) -> None:
    seconds = torch.rand(40, generator=torch.Generator().manual_seed(6)) * 2000
    values = torch.randn(40 * grid8.n_units, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tokens = make_tokens(grid8, values, seconds)
    features = _position_features(tokens).numpy()
    coefficients, *_ = np.linalg.lstsq(features, values.numpy(), rcond=None)
    torch.testing.assert_close(take_out_position(tokens), values - torch.tensor(features @ coefficients), atol=2e-3, rtol=0)


def test_memory_keeps_what_sets_a_session_apart(grid8: Grid) -> None:
    """Sessions differ by a constant a place. A single clip cannot tell it from the place; many can."""
    generator = torch.Generator().manual_seed(3)
    place = torch.randn(grid8.n_units, 5, generator=generator, dtype=torch.float64)
    baseline = PositionBaseline(5)
    for _ in range(60):
        identity = torch.randn(grid8.n_units, 5, generator=generator, dtype=torch.float64)
        seconds = torch.rand(10, generator=generator).mul(300).sort().values
        tokens = make_tokens(grid8, (place + identity).repeat(10, 1), seconds)
        left = baseline(tokens)
        baseline.absorb(lambda seen: seen)
    kept = float((left * identity.repeat(10, 1)).mean() / identity.square().mean())
    alone = float((take_out_position(tokens) * identity.repeat(10, 1)).mean() / identity.square().mean())
    assert alone < 0.05 < 0.7 < kept


def test_penalties_in_closed_form(grid8: Grid) -> None:
    seconds = torch.rand(2000, generator=torch.Generator().manual_seed(4)) * 500
    noise = torch.randn(2000 * grid8.n_units, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    collapsed, _ = _spread_penalties(make_tokens(grid8, torch.ones_like(noise), seconds))
    assert float(collapsed) == pytest.approx(1 - 1e-2, abs=1e-3)
    variance, covariance = _spread_penalties(make_tokens(grid8, noise, seconds))
    assert float(variance) < 0.01
    assert float(covariance) < 0.01
    twins = torch.cat((noise[:, :1], noise[:, :1], 0.5 * noise[:, 1:2]), dim=1)
    variance, covariance = _spread_penalties(make_tokens(grid8, twins, seconds))
    assert float(variance) == pytest.approx((1 - 0.5) / 3, abs=0.02)
    assert float(covariance) == pytest.approx(2 / 3, abs=0.02)


def test_penalties_have_a_finite_slope_where_everything_has_collapsed(grid8: Grid) -> None:
    values = torch.zeros(10 * grid8.n_units, 4, dtype=torch.float64, requires_grad=True)
    variance, covariance = _spread_penalties(make_tokens(grid8, values, torch.arange(10.0)))
    (variance + covariance).backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
