"""Whether an encoder has collapsed: numbers for every line of a training log, and a quick look at a model that is being loaded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slimbrain.data.clip import Clip
from slimbrain.models.hiera import Hiera, Tokens
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor

_SAME = 1e-6
"""Vectors that differ by less than this, relative to the larger, are the same but for rounding."""

_CHANNELS, _WINDOWS = 6, 3
"""Of the series that stage 1 is asked about."""


@torch.no_grad()
def standard_deviations(values: Tensor) -> dict[str, float]:
    """How much, and along how many directions, embeddings differ.

    Parameters
    ----------
    values : Tensor
        (L, D), at least two rows.

    Returns
    -------
    std : mean over dimensions of the standard deviation over rows.
    effective_rank : exp of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli, 2007), from 1 to D.
    """
    centred = values.double() - values.double().mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return {"std": float(centred.std(0).mean()), "effective_rank": float(torch.exp(-torch.xlogy(share, share).sum()))}


@torch.no_grad()
def token_health(tokens: Tokens) -> dict[str, float]:
    """`standard_deviations` of the tokens, and `content_std`: their std after each unit's mean over time and clips is taken out.

    Tokens know their place, so an encoder that has learnt the places alone keeps a high `std`; its `content_std` is 0.
    """
    values = tokens.values.float()
    units = int(tokens.unit.max()) + 1
    count = values.new_zeros(units).index_add_(0, tokens.unit, values.new_ones(len(values))).clamp_min(1)
    place = values.new_zeros(units, values.shape[1]).index_add_(0, tokens.unit, values) / count[:, None]
    return {**standard_deviations(values), "content_std": float((values - place[tokens.unit]).std(0).mean())}


@torch.no_grad()
def tells_apart(model: HieraJEPA | TemporalExtractor) -> bool:
    """Whether two different inputs get different, finite vectors; asked of a few windows, or of one unit of the brain.

    A model without a grid in its provenance is asked nothing if it needs one.
    """
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, TemporalExtractor):
        series = torch.randn(2, _WINDOWS * model.config.window_frames, _CHANNELS, generator=generator)
        places = 40 * torch.randn(_CHANNELS, 3, generator=generator)
        first, second = (model.embed(one[None], places, 1.0)[0] for one in series)
    elif model.provenance is None or model.provenance.grid is None:
        return True
    else:
        first, second = (_unit_tokens(model.encoder, model, generator) for _ in range(2))
    difference, size = (first - second).abs().max(), torch.maximum(first.abs().max(), second.abs().max())
    return bool(torch.isfinite(first).all() and torch.isfinite(second).all() and difference > _SAME * size)


def _unit_tokens(encoder: Hiera, model: HieraJEPA, generator: torch.Generator) -> Tensor:
    """Tokens of a clip of noise of which only the mask unit with the most patches is visible."""
    assert model.provenance is not None and model.provenance.grid is not None
    grid, frames = model.provenance.grid, encoder.config.unit_frames
    voxels = torch.randn(frames, grid.n_patches, grid.voxels_per_patch, generator=generator)
    clip = Clip(voxels, torch.arange(frames, dtype=torch.float64) * model.provenance.contract.tr, grid)
    units = grid.regions if encoder.config.unit == "region" else grid.units
    visible = np.zeros((1, len(units)), dtype=bool)
    visible[0, np.diff(units.offsets).argmax()] = True
    return encoder([clip], [visible]).values
