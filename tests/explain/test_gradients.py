"""Gradients against differences of the decision itself, and their sums against what they have to add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_samples import clip, corner, encoder, head, slab

from slimbrain.data.clip import Clip
from slimbrain.explain import gradient_input, gradients, integrated_gradients
from slimbrain.models.hiera import Hiera, Tokens


def test_gradient_times_input_is_the_slope_that_differences_show() -> None:
    network, sample = encoder(), clip(slab())
    decide = head(network.width)
    found = gradient_input(network, decide, sample)
    rng = np.random.default_rng(1)
    places = np.stack(np.nonzero(np.broadcast_to(sample.grid.voxel_mask, sample.voxels.shape)), axis=1)
    step = 1e-5
    for frame, patch, voxel in rng.permutation(places)[:12]:
        decisions = []
        for sign in (1, -1):
            moved = sample.voxels.clone()
            moved[frame, patch, voxel] += sign * step
            decisions.append(float(decide(network([replace(sample, voxels=moved)]))))
        slope = (decisions[0] - decisions[1]) / (2 * step)
        assert found.values[frame, patch, voxel] == pytest.approx(slope * float(sample.voxels[frame, patch, voxel]), rel=1e-4, abs=1e-9)
    assert np.abs(found.values).max() > 1e-4, "nothing to compare"


@pytest.mark.parametrize("pooling", ["mean", "moments"])
def test_integrated_gradients_add_up_to_what_the_input_changes(pooling: str) -> None:
    """A maximum that changes hands on the way makes the gradient jump, so that some stretches have to be halved."""
    network, sample = encoder(noise=0.1), clip(corner(), frames=8)
    decide = head(network.width, pooling=pooling)
    found = integrated_gradients(network, decide, sample)
    zero = replace(sample, voxels=torch.zeros_like(sample.voxels))
    difference = float(decide(network([sample])) - decide(network([zero])))
    assert abs(difference) > 0.05
    assert found.values.sum() == pytest.approx(difference, rel=0.01)
    assert found.gap < 0.01 and (found.decision - found.at_baseline) == pytest.approx(difference)
    assert (found.values[:, ~sample.grid.voxel_mask] == 0).all()


def test_halved_stretches_give_what_many_even_points_give() -> None:
    """And with fewer gradients than it takes evenly dense points to come as near to the sum."""
    network, sample = encoder(noise=0.1, pooling="max", signal_std=None), clip(corner(), frames=8)  # maxima, whose gradients jump
    decide = head(network.width)
    found, dense = integrated_gradients(network, decide, sample), integrated_gradients(network, decide, sample, steps=512)
    size = np.abs(dense.values).max()
    np.testing.assert_allclose(found.values, dense.values, atol=0.05 * size)
    assert gradients._FIRST_INTERVALS * gradients._POINTS < found.steps < 512
    assert integrated_gradients(network, decide, sample, steps=found.steps).gap > found.gap


def test_halving_ends_where_it_takes_too_many_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sample = encoder(noise=0.1), clip(corner(), frames=8)
    monkeypatch.setattr(gradients, "_LARGEST_GAP", 0.0)
    monkeypatch.setattr(gradients, "_MOST_STEPS", 40)
    found = integrated_gradients(network, head(network.width), sample)
    # All four stretches of four points, then all eight.
    assert found.steps == 16 + 32 and found.gap > 0


def test_gradient_times_input_does_not_add_up() -> None:
    """Else the test above would show nothing of the integral."""
    network, sample = encoder(), clip(slab())
    assert gradient_input(network, head(network.width), sample).gap > 0.05


def test_one_point_is_enough_where_the_decision_is_linear() -> None:
    class Plain(Hiera):
        def forward(self, clips: Sequence[Clip], visible: object = None) -> Tokens:
            whole = super().forward(clips)
            return replace(whole, values=torch.stack([(one.voxels * weight).sum() for one in clips])[:, None])

    sample = clip(slab())
    weight = torch.randn(sample.voxels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = encoder()
    network.__class__ = Plain
    found = integrated_gradients(network, lambda tokens: tokens.values[:, 0], sample, steps=1)
    np.testing.assert_allclose(found.values, (sample.voxels * weight).numpy(), atol=1e-12)


def test_points_taken_together_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sample = encoder(noise=0.1), clip(corner(), frames=8)
    together = integrated_gradients(network, head(network.width), sample, steps=5)
    monkeypatch.setattr(gradients, "_TOKENS_AT_ONCE", 1)
    np.testing.assert_allclose(integrated_gradients(network, head(network.width), sample, steps=5).values, together.values, atol=1e-10)
