"""Stage 1: how much each channel matters, for rebuilding what is hidden or for a probe's decision on the session.

Every third window is hidden at a time, as in `saliency.fast`, so that each is rebuilt once from those around it. What a channel is worth
is its share, by gradient x input, in the energy of hidden windows that the visible ones rebuild; only what is visible counts as input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.explain.heads import LinearHead
from slimbrain.models.temporal import TemporalExtractor, cut_windows, standardise
from slimbrain.saliency.fast import HIDE_EVERY


def rebuilding_shares(model: TemporalExtractor, series: Tensor, coordinates: Tensor, tr: float) -> NDArray[Any]:
    """Each channel's share in the energy that visible windows rebuild of hidden ones.

    Parameters
    ----------
    series : (T, C) channels as stored.
    coordinates : (C, 3) in MNI mm.
    tr : seconds a frame.

    Returns
    -------
    (N, C) by window in which the channel was seen, in squared standard deviations of a channel, mean over hidden windows.
    """
    standard = standardise(series[None])
    return _shares(model, standard, lambda seen: -rebuilding_error(model, seen, standard, coordinates, tr))


def rebuilding_error(model: TemporalExtractor, seen: Tensor, series: Tensor, coordinates: Tensor, tr: float) -> Tensor:
    """Mean squared error of `series` (1, T, C) where windows are hidden, each once, rebuilt from `seen` (1, T, C) where they are not.

    Channels without signal are neither seen nor counted.
    """
    target = cut_windows(series, model.window_frames)
    n, live = target.shape[1], series.ne(0).any(1)[0]
    hidden = torch.arange(n) % HIDE_EVERY == torch.arange(min(HIDE_EVERY, n))[:, None]
    channel_visible = ~hidden.to(live.device)[:, :, None] & live
    output = model(seen, coordinates, tr, channel_visible=channel_visible)
    error = (output.reconstruction - target).square().mean(2)[..., live].mean(-1)
    return error[hidden.to(error.device)].mean()


def decision_shares(model: TemporalExtractor, head: LinearHead, series: Tensor, coordinates: Tensor, tr: float) -> NDArray[Any]:
    """Each channel's share, by gradient x input, in a probe's decision on the session: (N, C) by window."""
    standard = standardise(series[None])
    return _shares(model, standard, lambda seen: head.decide(model.embed_standardised(seen, coordinates, tr)[0])[0])


def _shares(model: TemporalExtractor, standard: Tensor, decide: Callable[[Tensor], Tensor]) -> NDArray[Any]:
    """(N, C) sums over each window's frames of value times gradient."""
    leaf = standard.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(decide(leaf), leaf)
    by_window = cut_windows(standard * gradient, model.window_frames).sum(2)[0]
    return np.asarray(by_window.double().cpu().numpy())
