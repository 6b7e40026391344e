"""Tokens of a clip to one vector: what the brain is like, how much it varies, and how slowly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from slimbrain.errors import InputError
from slimbrain.models.hiera import Tokens

_ADJACENT = 1.5
"""Steps follow each other where the time between them is at most this much longer than the shortest in the clip."""


def pool_tokens(tokens: Tokens, pooling: str = "moments") -> Tensor:
    """One vector per clip.

    `mean`: the mean of each feature over all tokens, D wide.

    `moments`: mean, standard deviation and persistence of each feature, 3 D wide. The mean runs over all tokens, the deviation over
    a unit's own steps. Persistence is the correlation of a unit's tokens with those of the step after, over all units and all steps
    that follow each other in the scan: the time scale of the feature, which neither mean nor deviation shows.

    `units`: the mean over time of each unit's tokens, unit by unit in grid order, U D wide: what is where.

    Parameters
    ----------
    tokens : Tokens
        Of whole clips (nothing hidden), D wide.
    pooling : str, default 'moments'
        One of `POOLINGS`.

    Returns
    -------
    (B, N).

    Raises
    ------
    InputError
        If there is no such pooling.
    """
    pool = _choose(pooling).pool
    steps = tokens.seconds.split(list(tokens.lengths))
    values = tokens.values.split(list(tokens.lengths))
    return torch.stack([pool(value.double(), second) for value, second in zip(values, steps, strict=True)]).to(tokens.values.dtype)


def pooled_names(pooling: str, width: int, places: Sequence[Sequence[float]]) -> list[str]:
    """A name for each number of `pool_tokens`, in its order.

    Parameters
    ----------
    pooling : str
        One of `POOLINGS`.
    width : int
        D of the tokens.
    places : Sequence[Sequence[float]]
        (U, 3) centres of the grid's units in MNI mm.
    """
    units = [f"unit_{x:+g}_{y:+g}_{z:+g}" for x, y, z in places]
    return [f"{part}_{number}" for part in _choose(pooling).parts(units) for number in range(width)]


def _mean(values: Tensor, seconds: Tensor) -> Tensor:
    return values.mean(0)


def _units(values: Tensor, seconds: Tensor) -> Tensor:
    return _by_step(values, seconds).mean(0).flatten()


def _moments(values: Tensor, seconds: Tensor) -> Tensor:
    by_step = _by_step(values, seconds)
    moving = by_step - by_step.mean(0)
    gap = seconds.unique_consecutive().diff()
    follows = gap <= _ADJACENT * gap.min() if len(gap) else gap.bool()
    early, late = moving[:-1][follows], moving[1:][follows]
    power = (early.square() + late.square()).sum((0, 1)) / 2
    persistence = (early * late).sum((0, 1)) / power.clamp_min(torch.finfo(power.dtype).tiny)
    spread = moving.square().mean((0, 1)).clamp_min(torch.finfo(power.dtype).tiny).sqrt()
    return torch.cat((by_step.mean((0, 1)), spread, persistence))


def _by_step(values: Tensor, seconds: Tensor) -> Tensor:
    """(L, D) tokens of one clip, step by step -> (S, U, D)."""
    return values.unflatten(0, (len(seconds.unique_consecutive()), -1))


class _Pooling(NamedTuple):
    """How the (L, D) tokens of one clip, at (L,) seconds, become one vector, and what its parts are called, D numbers each."""

    pool: Callable[[Tensor, Tensor], Tensor]
    parts: Callable[[list[str]], list[str]]


MOMENTS = "moments"
"""The default."""

_POOLINGS = {
    "mean": _Pooling(_mean, lambda units: ["mean"]),
    MOMENTS: _Pooling(_moments, lambda units: ["mean", "deviation", "persistence"]),
    "units": _Pooling(_units, lambda units: units),
}
POOLINGS = tuple(_POOLINGS)
"""What may be asked for."""


def require_pooling(pooling: str | None) -> str:
    """The pooling asked for, or the default; InputError if there is no such."""
    if pooling is not None and pooling not in _POOLINGS:
        raise InputError(f"pooling {pooling!r}: is not known to a stage 2 model; choose one of {', '.join(POOLINGS)}.")
    return pooling or MOMENTS


def _choose(pooling: str) -> _Pooling:
    return _POOLINGS[require_pooling(pooling)]
