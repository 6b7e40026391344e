"""Pooled numbers against closed forms: known mean, deviation and time scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slimbrain.embed.pooling import POOLINGS, pool_tokens, pooled_names
from slimbrain.errors import InputError
from slimbrain.models.hiera import Tokens


def make_tokens(values: list[torch.Tensor], seconds: list[torch.Tensor]) -> Tokens:
    """values: (S, U, D) of each clip; seconds: (S,) of each."""
    clip, step, unit, time = [], [], [], []
    for number, (value, moments) in enumerate(zip(values, seconds, strict=True)):
        steps, units = value.shape[:2]
        clip.append(torch.full((steps * units,), number))
        step.append(torch.arange(steps).repeat_interleave(units))
        unit.append(torch.arange(units).repeat(steps))
        time.append(moments.repeat_interleave(units))
    lengths = tuple(len(part) for part in clip)
    flat = torch.cat([value.flatten(0, 1) for value in values])
    return Tokens(
        flat,
        torch.cat(clip),
        torch.cat(step),
        torch.cat(unit),
        torch.cat(time),
        torch.zeros(len(flat), 3),
        lengths,
        tuple(map(len, values)),
    )


def autoregression(steps: int, units: int, carry: list[float], seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    values = np.zeros((steps, units, len(carry)))
    values[0] = generator.normal(size=values[0].shape)
    for step in range(1, steps):
        values[step] = carry * values[step - 1] + np.sqrt(1 - np.square(carry)) * generator.normal(size=values[0].shape)
    return torch.tensor(values)


def test_persistence_is_the_autocorrelation_planted() -> None:
    carry = [0.0, 0.3, 0.9, -0.5]
    values = 2 * autoregression(4000, 5, carry, 0) + torch.arange(5.0)[None, :, None]
    mean, deviation, persistence = pool_tokens(make_tokens([values], [torch.arange(4000.0)]))[0].chunk(3)
    torch.testing.assert_close(mean, torch.full((4,), 2.0, dtype=torch.float64), atol=0.15, rtol=0)
    torch.testing.assert_close(deviation, torch.full((4,), 2.0, dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(persistence, torch.tensor(carry, dtype=torch.float64), atol=0.02, rtol=0)


def test_steps_of_windows_far_apart_do_not_count_as_neighbours() -> None:
    """Each window holds a value and its negative: -1 inside windows, whatever their order."""
    level = torch.randn(200, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.stack((level, -level), dim=1).flatten(0, 1)
    seconds = (torch.arange(200.0)[:, None] * 30 + torch.tensor([0.0, 2.88])).flatten()
    persistence = pool_tokens(make_tokens([values], [seconds]))[0, 4:]
    torch.testing.assert_close(persistence, torch.full((2,), -1.0, dtype=torch.float64))


def test_clips_of_a_batch_are_pooled_alone() -> None:
    values = [autoregression(10, 4, [0.5, 0.1], 1), autoregression(6, 7, [0.5, 0.1], 2)]
    seconds = [torch.arange(10.0), torch.arange(6.0)]
    together = pool_tokens(make_tokens(values, seconds))
    for number in range(2):
        torch.testing.assert_close(together[number], pool_tokens(make_tokens([values[number]], [seconds[number]]))[0])


def test_mean_and_units_are_means_over_tokens_and_over_time() -> None:
    values = [torch.randn(6, 4, 2, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)]
    tokens = make_tokens(values, [torch.arange(6.0), torch.arange(3.0) * 7])
    torch.testing.assert_close(pool_tokens(tokens, "mean"), torch.stack([value.mean((0, 1)) for value in values]))
    by_unit = torch.stack([torch.cat([value[:, unit].mean(0) for unit in range(4)]) for value in values])
    torch.testing.assert_close(pool_tokens(tokens, "units"), by_unit)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_names_are_as_many_as_numbers(pooling: str) -> None:
    tokens = make_tokens([torch.randn(3, 4, 2)], [torch.arange(3.0)])
    names = pooled_names(pooling, 2, [[0, 0, 0], [32, 0, -8], [0, 32, 0], [0, 0, 32]])
    assert len(names) == len(set(names)) == pool_tokens(tokens, pooling).shape[1]
    if pooling == "units":
        assert names[2:4] == ["unit_+32_+0_-8_0", "unit_+32_+0_-8_1"]


def test_a_pooling_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="choose one of mean, moments, units"):
        pool_tokens(make_tokens([torch.randn(3, 4, 2)], [torch.arange(3.0)]), "max")


@pytest.mark.parametrize("values", [torch.ones(6, 3, 2), torch.ones(1, 3, 2)])
def test_constant_tokens_and_a_single_step_give_finite_numbers(values: torch.Tensor) -> None:
    pooled = pool_tokens(make_tokens([values], [torch.arange(float(len(values)))]))[0]
    assert pooled.tolist() == [1, 1, 0, 0, 0, 0]
