"""Tokens of a clip to one vector: what the brain is like, how much it varies, and how slowly."""

from __future__ import annotations

import torch
from torch import Tensor

from slimbrain.models.hiera import Tokens

ADJACENT = 1.5
"""Steps follow each other where the time between them is at most this much longer than the shortest in the clip."""


def pool_tokens(tokens: Tokens) -> Tensor:
    """Mean, standard deviation and persistence of each feature.

    The mean runs over all tokens, the deviation over a unit's own steps. Persistence is the correlation of a unit's
    tokens with those of the step after, over all units and all steps that follow each other in the scan: the time
    scale of the feature, which neither mean nor deviation shows.

    Parameters
    ----------
    tokens : of whole clips (nothing hidden), D wide.

    Returns
    -------
    (B, 3 D).
    """
    steps = tokens.seconds.split(list(tokens.lengths))
    values = tokens.values.split(list(tokens.lengths))
    return torch.stack([_pool(value.double(), second) for value, second in zip(values, steps, strict=True)]).to(tokens.values.dtype)


def _pool(values: Tensor, seconds: Tensor) -> Tensor:
    moments = seconds.unique_consecutive()
    by_step = values.unflatten(0, (len(moments), -1))
    moving = by_step - by_step.mean(0)
    gap = moments.diff()
    follows = gap <= ADJACENT * gap.min() if len(gap) else gap.bool()
    early, late = moving[:-1][follows], moving[1:][follows]
    power = (early.square() + late.square()).sum((0, 1)) / 2
    persistence = (early * late).sum((0, 1)) / power.clamp_min(torch.finfo(power.dtype).tiny)
    return torch.cat((by_step.mean((0, 1)), moving.square().mean((0, 1)).clamp_min(torch.finfo(power.dtype).tiny).sqrt(), persistence))
