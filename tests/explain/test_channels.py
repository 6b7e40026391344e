"""Stage 1's channels: differences of the error itself, and nothing from windows that were hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slimbrain.config import TemporalConfig
from slimbrain.evaluate.probes import LinearRule
from slimbrain.explain.channels import _reconstruction_error, decision_shares, reconstruction_shares
from slimbrain.explain.heads import LinearHead
from slimbrain.models.temporal import TemporalExtractor, standardise

FRAMES, CHANNELS, TR, WINDOW = 30, 9, 0.72, 4


@pytest.fixture(scope="module")
def model() -> TemporalExtractor:
    torch.manual_seed(0)
    network = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=WINDOW)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def session() -> tuple[torch.Tensor, torch.Tensor]:
    """A series whose last channel has no signal, and places."""
    generator = torch.Generator().manual_seed(1)
    series = torch.randn(FRAMES, CHANNELS, generator=generator, dtype=torch.float64).cumsum(0)
    series[:, -1] = 2.0
    return series, 40 * torch.randn(CHANNELS, 3, generator=generator, dtype=torch.float64)


def test_shares_are_the_slope_of_the_error(model: TemporalExtractor, session: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Scaling one channel by 1 + e where it is seen moves the error by -e times its share."""
    series, mm = session
    found = reconstruction_shares(model, series, mm, TR)
    standard, step = standardise(series[None]), 1e-6
    for channel in range(CHANNELS):
        errors = []
        for sign in (1, -1):
            seen = standard.clone()
            seen[..., channel] *= 1 + sign * step
            with torch.no_grad():
                errors.append(float(_reconstruction_error(model, seen, standard, mm, TR)))
        assert found[:, channel].sum() == pytest.approx(-(errors[0] - errors[1]) / (2 * step), abs=1e-8)
    assert np.abs(found[:, :-1]).min(axis=1).max() > 1e-7 and (found[:, -1] == 0).all()
    assert found.shape == (FRAMES // WINDOW, CHANNELS)


def test_the_error_is_that_of_windows_nobody_saw(model: TemporalExtractor, session: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Three passes by hand, each with other windows hidden by the model's own `visible`."""
    series, mm = session
    standard, live = standardise(series[None]), slice(0, CHANNELS - 1)
    n, errors = FRAMES // WINDOW, []
    for first in range(3):
        hidden = torch.arange(n) % 3 == first
        channels = (~hidden)[None, :, None] & (torch.arange(CHANNELS) < CHANNELS - 1)
        with torch.no_grad():
            rebuilt = model(standard, mm, TR, channel_visible=channels).reconstruction[0, hidden][..., live]
        truth = standard[0, : n * WINDOW, live].reshape(n, WINDOW, -1)[hidden]
        errors += (rebuilt - truth).square().mean((1, 2)).tolist()
    with torch.no_grad():
        assert float(_reconstruction_error(model, standard, standard, mm, TR)) == pytest.approx(np.mean(errors))


def test_a_probe_on_stage_one_is_explained_by_its_slope(model: TemporalExtractor, session: tuple[torch.Tensor, torch.Tensor]) -> None:
    series, mm = session
    rng = np.random.default_rng(0)
    head = LinearHead(LinearRule(rng.normal(size=(2, 32)), np.zeros(2)), 1)
    found = decision_shares(model, head, series, mm, TR)
    standard, step = standardise(series[None]), 1e-6
    decisions = []
    for sign in (1, -1):
        seen = standard.clone()
        seen[..., 2] *= 1 + sign * step
        with torch.no_grad():
            decisions.append(float(head.decide(model.embed_standardised(seen, mm, TR)[0])[0]))
    assert found[:, 2].sum() == pytest.approx((decisions[0] - decisions[1]) / (2 * step), rel=1e-4)
    with torch.no_grad():
        (decision,) = head.decide(model.embed(series[None], mm, TR)[0])
        assert float(decision) == pytest.approx(float(head.decide(model.embed_standardised(standard, mm, TR)[0])[0]))
