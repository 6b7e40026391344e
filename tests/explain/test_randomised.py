"""Maps belong to the weights: with random ones in their place, from the top down, nothing of a map is left (arXiv 1810.03292)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice

import numpy as np
import pytest
import torch
from explain_samples import clip, encoder, head, jepa, slab
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from slimbrain.config import TemporalConfig
from slimbrain.explain import gradient_input, integrated_gradients, occlude_units, token_surprise
from slimbrain.explain.channels import reconstruction_shares
from slimbrain.models.hiera import Hiera
from slimbrain.models.temporal import TemporalExtractor

Values = NDArray[np.float64]
SEEDS = range(1, 7)
"""Of the random weights: a map of six units agrees with another by chance, but not with six others."""


def cascade(network: Hiera, fresh: Hiera) -> Iterator[Hiera]:
    """The network with more and more of its parts exchanged for those of another, from the last norm down to the patch embedding."""
    network = deepcopy(network)
    parts: list[tuple[nn.Module, nn.Module]] = [
        (network.norm, fresh.norm),
        *zip(reversed(network.blocks), reversed(fresh.blocks), strict=True),
    ]
    names = ("patch_embed", "space_embed", "time_embed")
    for ours, theirs in [*parts, *((getattr(network, name), getattr(fresh, name)) for name in names)]:
        ours.load_state_dict(theirs.state_dict())
        yield network


METHODS: dict[str, Callable[[Hiera], Values]] = {
    "gradient": lambda network: gradient_input(network, head(network.width), SAMPLE).values.sum(0)[SAMPLE.grid.voxel_mask],
    "integrated": lambda network: integrated_gradients(network, head(network.width), SAMPLE, steps=6).values.sum(0)[SAMPLE.grid.voxel_mask],
    "occlusion": lambda network: occlude_units(network, head(network.width), SAMPLE),
}
SAMPLE = clip(slab(), frames=8)


@pytest.mark.parametrize("method", METHODS)
def test_randomised_weights_leave_nothing_of_a_map(method: str) -> None:
    explain, trained = METHODS[method], encoder()
    before, steps = explain(trained), len(trained.blocks) + 4
    half, whole = (
        np.mean([spearmanr(before, explain(next(islice(cascade(trained, encoder(seed)), step, None))))[0] for seed in SEEDS])
        for step in (steps // 2, steps - 1)
    )
    assert spearmanr(before, explain(deepcopy(trained)))[0] == pytest.approx(1)
    assert abs(whole) < 0.2 if method == "occlusion" else abs(whole) < 0.05
    # The head is asked for what is above it from the first step on: half the network is enough to lose the map.
    assert abs(half) < 0.35


def test_randomised_weights_leave_nothing_of_surprise() -> None:
    before = token_surprise(jepa(), SAMPLE, 2, seed=0).errors.ravel()
    found = [spearmanr(before, token_surprise(jepa(seed), SAMPLE, 2, seed=0).errors.ravel())[0] for seed in SEEDS]
    assert abs(np.mean(found)) < 0.25


def test_randomised_weights_leave_nothing_of_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    series, mm = torch.randn(60, 40, generator=generator).cumsum(0), 40 * torch.randn(40, 3, generator=generator)

    def shares(seed: int) -> Values:
        torch.manual_seed(seed)
        network = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return reconstruction_shares(network, series, mm, 0.72).sum(0)

    assert abs(np.mean([spearmanr(shares(0), shares(seed))[0] for seed in SEEDS])) < 0.2
