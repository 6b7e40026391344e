"""Attribution by gradients: how much each z-scored value that the model saw moved its decision.

Gradient x input is the first-order share of every value (Shrikumar et al., arXiv 1605.01713). Integrated gradients (Sundararajan et al.,
arXiv 1703.01365) average the gradient on the way from a baseline to the input, so that the shares add up to the difference that the
input makes. The baseline is zero: every voxel at its own mean of the session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.explain.heads import Head
from slimbrain.models.hiera import Hiera
from slimbrain.models.packing import Clip

FIRST_STEPS, MOST_STEPS = 16, 256
"""Points on the way from the baseline, doubled until the shares add up."""

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
    decision, gradient = _gradient(encoder, head, clip, 1.0)
    return Attribution(gradient * _values(clip), decision, _decide(encoder, head, clip, 0.0), 1)


def integrated_gradients(encoder: Hiera, head: Head, clip: Clip, steps: int | None = None) -> Attribution:
    """Value times the mean gradient between zero and the clip.

    Parameters
    ----------
    steps : Gauss-Legendre points on the way; if None as many as it takes for a gap under `LARGEST_GAP`, at most `MOST_STEPS`.
    """
    count = steps or FIRST_STEPS
    ends = (_decide(encoder, head, clip, 1.0), _decide(encoder, head, clip, 0.0))
    while True:
        points, weights = np.polynomial.legendre.leggauss(count)
        total = np.zeros(clip.voxels.shape)
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            total += weight * _gradient(encoder, head, clip, float(point))[1]
        found = Attribution(total * _values(clip), *ends, count)
        if steps or found.gap < LARGEST_GAP or count >= MOST_STEPS:
            return found
        count *= 2


def _values(clip: Clip) -> NDArray[np.float64]:
    return clip.voxels.double().numpy()


def _scaled(encoder: Hiera, clip: Clip, factor: float) -> Clip:
    return replace(clip, voxels=factor * clip.voxels.to(encoder.patch_embed.weight.dtype))


def _gradient(encoder: Hiera, head: Head, clip: Clip, factor: float) -> tuple[float, NDArray[np.float64]]:
    """The decision on `factor` times the clip, and its gradient there: (T, P, V)."""
    scaled = _scaled(encoder, clip, factor)
    with torch.enable_grad():
        leaf = scaled.voxels.detach().requires_grad_()
        decision = _one(head(encoder([replace(scaled, voxels=leaf)])))
        (gradient,) = torch.autograd.grad(decision, leaf)
    return float(decision.detach()), gradient.double().cpu().numpy()


@torch.no_grad()
def _decide(encoder: Hiera, head: Head, clip: Clip, factor: float) -> float:
    return float(_one(head(encoder([_scaled(encoder, clip, factor)]))))


def _one(decisions: Tensor) -> Tensor:
    (decision,) = decisions
    return decision
