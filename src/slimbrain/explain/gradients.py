"""Attribution by gradients: how much each z-scored value that the model saw moved its decision.

Gradient x input is the first-order share of every value (Shrikumar et al., arXiv 1605.01713). Integrated gradients (Sundararajan et al.,
arXiv 1703.01365) average the gradient on the way from a baseline to the input, so that the shares add up to the difference that the
input makes. The baseline is zero: every voxel at its own mean of the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.explain.heads import Head
from slimbrain.models.hiera import Hiera
from slimbrain.models.packing import Clip

FIRST_STEPS, MOST_STEPS = 16, 128
"""Points on the way from the baseline, doubled until the shares add up."""

TOKENS_AT_ONCE = 2**15
"""Patches of all copies of a clip that gradients are taken of together."""

LARGEST_GAP = 0.01
"""Of the difference that the input makes: how far the shares' sum may be from it."""


@dataclass(frozen=True)
class Attribution:
    """Shares of one clip in a decision.

    Attributes
    ----------
    values : (T, P, V) share of every value, in the unit of the decision.
    decision, at_baseline : the decision on the clip, and on zeros.
    steps : gradients taken.
    """

    values: NDArray[Any]
    decision: float
    at_baseline: float
    steps: int

    @property
    def gap(self) -> float:
        """How far the shares' sum is from the difference between clip and baseline, as a share of that difference."""
        difference = self.decision - self.at_baseline
        return abs(float(self.values.sum(dtype=np.float64)) - difference) / max(abs(difference), 1e-12)


def gradient_input(encoder: Hiera, head: Head, clip: Clip) -> Attribution:
    """Value times the decision's gradient by it."""
    gradient = _gradient(encoder, head, clip, [1.0], [1.0])
    return Attribution(gradient * clip.voxels.double().numpy(), *_ends(encoder, head, clip), 1)


def integrated_gradients(encoder: Hiera, head: Head, clip: Clip, steps: int | None = None) -> Attribution:
    """Value times the mean gradient between zero and the clip.

    Parameters
    ----------
    steps : Gauss-Legendre points on the way; if None as many as it takes for a gap under `LARGEST_GAP`, at most `MOST_STEPS`.
    """
    count, ends = steps or FIRST_STEPS, _ends(encoder, head, clip)
    while True:
        points, weights = np.polynomial.legendre.leggauss(count)
        gradient = _gradient(encoder, head, clip, ((points + 1) / 2).tolist(), (weights / 2).tolist())
        found = Attribution(gradient * clip.voxels.double().numpy(), *ends, count)
        if steps or found.gap < LARGEST_GAP or count >= MOST_STEPS:
            return found
        count *= 2


def _gradient(encoder: Hiera, head: Head, clip: Clip, points: Sequence[float], weights: Sequence[float]) -> NDArray[np.float64]:
    """Weighted sum of the decision's gradients at these multiples of the clip: (T, P, V)."""
    size = max(1, TOKENS_AT_ONCE // clip.voxels[..., 0].numel())
    total = np.zeros(clip.voxels.shape)
    for start in range(0, len(points), size):
        chosen = slice(start, start + size)
        copies = [_scaled(encoder, clip, point) for point in points[chosen]]
        with torch.enable_grad():
            leaves = [copy.voxels.detach().requires_grad_() for copy in copies]
            decisions = head(encoder([replace(copy, voxels=leaf) for copy, leaf in zip(copies, leaves, strict=True)]))
            gradients = torch.autograd.grad(decisions @ torch.tensor(weights[chosen]).to(decisions), leaves)
        total += sum(gradient.double().cpu().numpy() for gradient in gradients)
    return total


@torch.no_grad()
def _ends(encoder: Hiera, head: Head, clip: Clip) -> tuple[float, float]:
    """The decision on the clip, and on zeros."""
    there, here = head(encoder([_scaled(encoder, clip, 1.0), _scaled(encoder, clip, 0.0)])).tolist()
    return there, here


def _scaled(encoder: Hiera, clip: Clip, factor: float) -> Clip:
    return replace(clip, voxels=factor * clip.voxels.to(encoder.patch_embed.weight.dtype))
