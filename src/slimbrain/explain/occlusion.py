"""Occlusion: the change of a decision when a mask unit is deleted, as the architecture deletes background.

Nothing is put in the unit's place, so the network never gets an input that no brain could give. Units do not interact before level 3, so
levels 1 and 2 run once and only the later levels run again for each unit: exactly what encoding the clip without the unit gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.data.clip import Clip
from slimbrain.errors import InputError
from slimbrain.explain.heads import Head
from slimbrain.models.attention import spans_of
from slimbrain.models.hiera import Hiera, Tokens

_TOKENS_AT_ONCE = 4096
"""Tokens of all copies of a clip, each without another unit, that are computed together."""


@torch.no_grad()
def occlude_units(encoder: Hiera, head: Head, clip: Clip) -> NDArray[np.float64]:
    """How much each mask unit adds to a decision: that on the whole clip less that on the clip without the unit, at all times.

    Returns
    -------
    (U,), positive where the unit speaks for the decision.

    Raises
    ------
    InputError
        If the brain is one unit, without which nothing is left.
    """
    units = encoder.mask_units(clip)
    if units < 2:
        raise InputError("occlusion: the mask is a single unit, without which nothing is left; use a finer lattice or another method.")
    packing = encoder.pack([clip])
    local = encoder.local_levels([clip], packing.to(encoder.patch_embed.weight.device))
    whole = encoder([clip])
    steps = len(encoder.everything(clip))
    owner = torch.from_numpy(encoder.per_token(clip, np.tile(np.arange(units), (steps, 1))).ravel()).to(local.device)
    without = []
    for members in _batches(units, len(local)):
        kept = [torch.nonzero(owner != unit)[:, 0] for unit in members]
        lengths = [len(rows) for rows in kept]
        rows = torch.cat(kept)
        values, spans = local[rows], spans_of(lengths, lengths)
        for block in encoder.blocks[encoder.first_global :]:
            values = block(values, spans)
        without.append(head(_tokens(whole, encoder.norm(values), rows, lengths)))
    return (head(whole) - torch.cat(without)).double().cpu().numpy()


def _batches(units: int, tokens: int) -> Iterator[Sequence[int]]:
    size = max(1, _TOKENS_AT_ONCE // tokens)
    return (range(start, min(start + size, units)) for start in range(0, units, size))


def _tokens(whole: Tokens, values: torch.Tensor, rows: torch.Tensor, lengths: Sequence[int]) -> Tokens:
    """These values, at the places of `rows` of the whole clip, as a batch of clips."""
    parts: dict[str, Any] = {name: getattr(whole, name)[rows] for name in ("step", "unit", "seconds", "mm")}
    clip = torch.arange(len(lengths), device=values.device).repeat_interleave(torch.tensor(lengths, device=values.device))
    return replace(whole, values=values, clip=clip, lengths=tuple(lengths), **parts)
