"""Surprise: the error with which each place and time is predicted from the rest of the clip.

Masks are drawn as in pretraining, until every mask unit has been hidden, at every time, as often as asked for. The context encoder
encodes what is visible, the predictor predicts the rest, and the error is that of pretraining: squared of the units' signals; or, as
published, smooth-L1 to the target encoder's layer-normalised tokens, less what place and time alone predict of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.data.clip import Clip
from slimbrain.data.masking import sample_jepa_mask, visible_stretches
from slimbrain.grid import Grid
from slimbrain.models.jepa import HieraJEPA

TIMES_HIDDEN = 4
"""How often, at least, every unit is a target at every time; errors are averaged."""


class Surprise(NamedTuple):
    """Prediction errors of the tokens of a clip.

    Attributes
    ----------
    errors : array
        (S, U) by step of the encoder and 16-voxel unit of the grid.
    guessing : float
        Mean error of always predicting the mean; a model whose errors are no smaller predicts nothing.
    """

    errors: NDArray[np.float64]
    guessing: float


@torch.no_grad()
def token_surprise(model: HieraJEPA, clip: Clip, windows: int, seed: int, times_hidden: int = TIMES_HIDDEN) -> Surprise:
    """Mean prediction error of every token of a clip.

    Parameters
    ----------
    windows : int
        Windows in the clip.
    seed : int
        Of the masks.
    times_hidden : int
        How often, at least, every token is predicted.
    """
    encoder, frames = model.context, len(clip.seconds) // windows
    places = (clip.grid.regions if model.config.unit == "region" else clip.grid.units).mm
    cut = visible_stretches(windows, frames, model.config.unit_frames, model.jepa.hide)
    generator = np.random.default_rng(seed)
    size = len(clip.seconds) // encoder.token_frames * len(clip.grid.units)
    total, guesses, count = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
    while int(count.min()) < times_hidden:
        mask = sample_jepa_mask(places, *cut, model.jepa.context_fraction, generator)
        found = model.predict([clip], [mask])
        hidden = found.kind > 0
        total[hidden] += found.errors().double().cpu()
        guesses[hidden] += found.errors(torch.zeros_like(found.wanted)).double().cpu()
        count[hidden] += 1
    return Surprise((total / count).view(-1, len(clip.grid.units)).numpy(), float((guesses / count).mean()))


def by_window(errors: NDArray[np.float64], windows: int, token_frames: int) -> NDArray[Any]:
    """(W, U) mean over the frames of each window of (S, U) errors of steps, which may straddle two windows."""
    by_frame = np.repeat(errors, token_frames, axis=0)
    return by_frame.reshape(windows, -1, errors.shape[1]).mean(axis=1)


def paint_units(values: NDArray[Any], grid: Grid, unit: str = "unit") -> NDArray[Any]:
    """Assign every brain voxel the value of its mask unit: (..., U) -> (..., P, V), 0 outside the mask."""
    level = grid.regions if unit == "region" else grid.units
    return np.where(grid.voxel_mask, values[..., level.of_patch, None], 0.0)
