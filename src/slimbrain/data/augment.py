"""A session as another scanner or atlas would have given it: an excerpt, fewer and other parcels, places that are a little off."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimbrain.config import AugmentConfig


def augment(values: Tensor, mm: Tensor, shortest: int, config: AugmentConfig, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Change a session at random, so that one network reads any parcellation and length; unchanged with the default settings.

    Parameters
    ----------
    values : Tensor
        (T, C) channel series.
    mm : Tensor
        (C, 3) places of the channels in MNI mm.
    shortest : int
        Frames that are left at least, if there are as many.
    config : AugmentConfig
        What is changed, and how much.
    generator : numpy.random.Generator
        Decides; the same state gives the same session.

    Returns
    -------
    (T', C') series and (C', 3) places.
    """
    if config.frames is not None:
        values = _excerpt(values, max(shortest, config.frames[0]), config.frames[1], generator)
    if config.drop:
        kept = _kept(len(mm), config, generator)
        values, mm = values[:, kept], mm[kept]
    if config.merge and len(mm) > config.fewest and generator.random() < config.merge:
        values, mm = _merge(values, mm, config.fewest, generator)
    if config.jitter_mm:
        mm = mm + config.jitter_mm * torch.from_numpy(generator.standard_normal(mm.shape).astype(np.float32))
    return values, mm


def _excerpt(values: Tensor, shortest: int, longest: int, generator: np.random.Generator) -> Tensor:
    """Contiguous frames; every octave of lengths alike often, since a second more matters less the more there are."""
    longest = min(longest, len(values))
    shortest = min(shortest, longest)
    frames = round(float(np.exp(generator.uniform(np.log(shortest), np.log(longest)))))
    first = int(generator.integers(len(values) - frames + 1))
    return values[first : first + frames]


def _kept(channels: int, config: AugmentConfig, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Numbers of the channels that are kept, at least `fewest` of them."""
    share = generator.uniform(0, config.drop)
    count = max(min(config.fewest, channels), round((1 - share) * channels))
    return np.sort(generator.permutation(channels)[:count])


def _merge(values: Tensor, mm: Tensor, fewest: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A coarser parcellation: some channels at random are centres, each channel joins the nearest, and a parcel is its members' mean."""
    # Few large parcels are as common as many small ones: every octave alike.
    count = round(float(np.exp(generator.uniform(np.log(fewest), np.log(len(mm))))))
    centres = torch.from_numpy(generator.permutation(len(mm))[:count])
    nearest = torch.cdist(mm, mm[centres]).argmin(1)
    member = torch.nn.functional.one_hot(nearest, count).to(values.dtype)
    # Two channels at one place: the centre that comes second has no member.
    member = member[:, member.any(0)]
    weights = member / member.sum(0)
    return values @ weights, weights.T.to(mm.dtype) @ mm
