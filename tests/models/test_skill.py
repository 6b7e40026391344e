"""Skill in closed form: a constant has none, whoever knows has one, and half of the way is three quarters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimbrain.data.masking import TARGET_KINDS
from slimbrain.models.hiera import Tokens
from slimbrain.models.jepa import Prediction
from slimbrain.models.skill import skill

NOWHERE = Tokens(*(torch.empty(0),) * 6, (), ())
KIND = torch.tensor([0, 1, 2, 3] * 50)


def made(predicted: Tensor, wanted: Tensor, squared: bool = True, weight: Tensor | None = None, kind: Tensor = KIND) -> Prediction:
    weight = torch.ones_like(wanted) / wanted.shape[1] if weight is None else weight
    return Prediction(NOWHERE, NOWHERE, predicted, wanted, weight, kind, None, squared)


def wanted_signals(seed: int = 0) -> Tensor:
    """With a mean that differs between values, which a constant may know."""
    return torch.randn(150, 4, generator=torch.Generator().manual_seed(seed)) + torch.tensor([0.0, 3.0, -2.0, 1.0])


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("answer", [[0.0, 0.0, 0.0, 0.0], [0.0, 3.0, -2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
def test_a_constant_has_no_skill(answer: list[float], squared: bool) -> None:
    wanted = wanted_signals()
    for value in skill([made(torch.tensor(answer).expand_as(wanted), wanted, squared)]).values():
        assert value <= 0.002


def test_a_planted_signal_has_the_skill_that_it_was_planted_with() -> None:
    wanted = wanted_signals()
    centre = wanted.mean(0)
    for share, expected in ((1.0, 1.0), (0.5, 0.75), (-1.0, -3.0)):
        found = skill([made(centre + share * (wanted - centre), wanted)])
        assert found["skill"] == pytest.approx(expected, abs=1e-5)
        assert set(found) == {"skill", *(f"skill_{kind}" for kind in TARGET_KINDS)}


def test_kinds_and_weights_are_those_of_each_token() -> None:
    wanted = wanted_signals()
    kind, predicted = KIND[KIND > 0], wanted.clone()
    predicted[kind == 2] = 0
    weight = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand_as(wanted)
    predicted[:, 2:] = 99  # what has no weight does not count
    found = skill([made(predicted, wanted, weight=weight)])
    own = wanted[kind == 2][:, :2].numpy()
    expected = 1 - np.square(own).mean() / np.square(own - own.mean(0)).mean()
    assert found["skill_cross_location"] == pytest.approx(expected, abs=1e-5)
    assert found["skill_cross_time"] == found["skill_double_cross"] == pytest.approx(1)


def test_clips_are_taken_together_and_kinds_that_are_missing_are_left_out() -> None:
    both = [wanted_signals(seed) for seed in range(2)]
    kind = torch.full((150,), 2)
    parts = [made(0.5 * wanted, wanted, kind=kind) for wanted in both]
    whole = made(0.5 * torch.cat(both), torch.cat(both), kind=kind.repeat(2))
    assert skill(parts) == pytest.approx(skill([whole])) and set(skill(parts)) == {"skill", "skill_cross_location"}


def test_zero_is_the_best_constant_of_smooth_l1_where_the_mean_is_not() -> None:
    wanted = torch.cat((torch.zeros(100, 1), torch.full((20, 1), 6.0)))
    kind = torch.full((120,), 1)
    assert skill([made(torch.zeros_like(wanted), wanted, squared=False, kind=kind)])["skill"] == pytest.approx(0, abs=1e-6)
