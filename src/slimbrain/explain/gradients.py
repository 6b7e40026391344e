"""Attribution by gradients: how much each z-scored input value moved the model's decision.

Gradient x input is the first-order share of every value (Shrikumar et al., arXiv 1605.01713). Integrated gradients (Sundararajan et al.,
arXiv 1703.01365) average the gradient along the path from a baseline to the input, so that the shares add up to the difference that the
input makes. The baseline is zero: every voxel at its own mean of the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.data.clip import Clip
from slimbrain.explain.heads import Head
from slimbrain.models.hiera import Hiera

_FIRST_INTERVALS, _POINTS = 4, 4
"""Equal intervals of the way from the baseline that are tried first, and Gauss-Legendre points in each."""

_MOST_STEPS = 512
"""Gradients after which no interval is halved any more."""

_SETTLED = 1 / 16
"""An interval whose shares miss what the decision does on it by less than this part of the gap allowed in all is not halved."""

_TOKENS_AT_ONCE = 2**15
"""Patches of all copies of a clip that gradients are taken of together."""

_LARGEST_GAP = 0.01
"""Of the difference that the input makes: how far the shares' sum may be from it."""


@dataclass(frozen=True)
class Attribution:
    """Shares of one clip in a decision.

    Attributes
    ----------
    values : array
        (T, P, V) share of every value, in the unit of the decision.
    decision, at_baseline : float
        The decision on the clip, and on zeros.
    steps : int
        Number of gradients computed.
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
    (gradient,) = _gradients(encoder, head, clip, [1.0])
    return Attribution(gradient * clip.voxels.double().numpy(), *_ends(encoder, head, clip), 1)


def integrated_gradients(encoder: Hiera, head: Head, clip: Clip, steps: int | None = None) -> Attribution:
    """Value times the mean gradient between zero and the clip.

    Where the winner of a max-pooling changes along the path the gradient jumps, and equally spaced points converge slowly over a jump.
    The decision's change between two points is known, so intervals whose shares miss it are halved.

    Parameters
    ----------
    steps : int or None
        Gauss-Legendre points on the whole path; if None, intervals are halved until the gap is under `_LARGEST_GAP`.
    """
    ends = _ends(encoder, head, clip)
    if steps:
        (shares,) = _shares(encoder, head, clip, [(0.0, 1.0)], steps)
        return Attribution(shares, *ends, steps)
    marks = np.linspace(0, 1, _FIRST_INTERVALS + 1).tolist()
    intervals, settled, taken = list(pairwise(marks)), np.zeros(clip.voxels.shape), 0
    allowed = _SETTLED * _LARGEST_GAP * abs(ends[0] - ends[1])
    while True:
        missing, open_intervals = np.zeros(clip.voxels.shape), []
        changes = _changes(encoder, head, clip, intervals)
        for interval, change, shares in zip(intervals, changes, _shares(encoder, head, clip, intervals, _POINTS), strict=True):
            if abs(float(shares.sum()) - change) <= allowed:
                settled += shares
            else:
                missing += shares
                open_intervals.append(interval)
        taken += _POINTS * len(intervals)
        found = Attribution(settled + missing, *ends, taken)
        if found.gap < _LARGEST_GAP or not open_intervals or taken >= _MOST_STEPS:
            return found
        intervals = [half for start, stop in open_intervals for half in pairwise((start, (start + stop) / 2, stop))]


def _shares(encoder: Hiera, head: Head, clip: Clip, intervals: Sequence[tuple[float, float]], points: int) -> Iterator[NDArray[np.float64]]:
    """(T, P, V) of each interval: value times the gradient's integral over it, by so many Gauss-Legendre points."""
    places, weights = np.polynomial.legendre.leggauss(points)
    gradients = _gradients(
        encoder, head, clip, [start + (stop - start) * (place + 1) / 2 for start, stop in intervals for place in places.tolist()]
    )
    voxels = clip.voxels.double().numpy()
    for start, stop in intervals:
        total = np.zeros(voxels.shape)
        for weight in weights:
            total += (stop - start) * weight / 2 * next(gradients)
        yield total * voxels


def _gradients(encoder: Hiera, head: Head, clip: Clip, factors: Sequence[float]) -> Iterator[NDArray[np.float64]]:
    """(T, P, V) gradient of the decision by the voxels at each of these multiples of the clip."""
    for part in _batches(clip, factors):
        copies = [_scaled(encoder, clip, factor) for factor in part]
        with torch.enable_grad():
            leaves = [copy.voxels.detach().requires_grad_() for copy in copies]
            decisions = head(encoder([replace(copy, voxels=leaf) for copy, leaf in zip(copies, leaves, strict=True)]))
            gradients = torch.autograd.grad(decisions.sum(), leaves)
        yield from (gradient.double().cpu().numpy() for gradient in gradients)


@torch.no_grad()
def _decisions(encoder: Hiera, head: Head, clip: Clip, factors: Sequence[float]) -> list[float]:
    """On these multiples of the clip."""
    return [
        said for part in _batches(clip, factors) for said in head(encoder([_scaled(encoder, clip, factor) for factor in part])).tolist()
    ]


def _changes(encoder: Hiera, head: Head, clip: Clip, intervals: Sequence[tuple[float, float]]) -> list[float]:
    """The change of the decision over each interval."""
    marks = sorted({mark for interval in intervals for mark in interval})
    known = dict(zip(marks, _decisions(encoder, head, clip, marks), strict=True))
    return [known[stop] - known[start] for start, stop in intervals]


def _ends(encoder: Hiera, head: Head, clip: Clip) -> tuple[float, float]:
    """The decision on the clip, and on zeros."""
    there, here = _decisions(encoder, head, clip, [1.0, 0.0])
    return there, here


def _batches(clip: Clip, factors: Sequence[float]) -> Iterator[Sequence[float]]:
    size = max(1, _TOKENS_AT_ONCE // clip.voxels[..., 0].numel())
    return (factors[start : start + size] for start in range(0, len(factors), size))


def _scaled(encoder: Hiera, clip: Clip, factor: float) -> Clip:
    return replace(clip, voxels=factor * clip.voxels.to(encoder.patch_embed.weight.dtype))
