"""Skill: how much better than the best constant stage 2 predicts; 0 has learnt nothing, whatever its loss says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimbrain.data.masking import TARGET_KINDS
from slimbrain.models.jepa import Prediction


@torch.no_grad()
def skill(found: Sequence[Prediction]) -> dict[str, float]:
    """1 - error / error of the best constant, over all hidden tokens, and over those of each kind of target.

    The constant may differ between the values of a token, and is the best one for these very tokens: their mean, or zero where that has a
    smaller smooth-L1.

    Parameters
    ----------
    found : sequence of Prediction
        Of one model, at least one.

    Returns
    -------
    `skill`, and `skill_KIND` of each kind that there is.
    """
    kind = torch.cat([part.kind[part.kind > 0].to(part.wanted.device) for part in found])
    errors = torch.cat([part.errors() for part in found]).double()
    skills = {"skill": _skill(found, errors, torch.ones_like(kind, dtype=torch.bool))}
    for number, name in enumerate(TARGET_KINDS, start=1):
        if bool((own := kind == number).any()):
            skills[f"skill_{name}"] = _skill(found, errors, own)
    return skills


def _skill(found: Sequence[Prediction], errors: Tensor, chosen: Tensor) -> float:
    wanted, weight = (torch.cat([getattr(part, name) for part in found])[chosen].double() for name in ("wanted", "weight"))
    mean = (wanted * weight).sum(0) / weight.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    sums = [torch.cat([part.errors(answer.to(part.wanted)) for part in found])[chosen].double().sum() for answer in (mean, 0 * mean)]
    return 1 - float(errors[chosen].sum() / torch.stack(sums).min().clamp_min(torch.finfo(torch.float64).tiny))
