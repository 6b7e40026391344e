"""Numbers that fall when an encoder collapses, for every line of a training log."""

from __future__ import annotations

import torch
from torch import Tensor

from slimbrain.models.hiera import Tokens


@torch.no_grad()
def standard_deviations(values: Tensor) -> dict[str, float]:
    """How much, and along how many directions, embeddings differ.

    Parameters
    ----------
    values : (L, D), at least two rows.

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
