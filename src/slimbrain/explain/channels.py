"""Stage 1: how much each channel contributes to the reconstruction of hidden windows, or to a probe's decision on the session.

Every third window is hidden at a time, as in `saliency.fast`, so that each is reconstructed once from its neighbours. A channel's
contribution, by gradient x input, is its share of the energy of hidden windows that the visible ones reconstruct; only visible values
count as input.
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


def reconstruction_shares(model: TemporalExtractor, series: Tensor, coordinates: Tensor, tr: float) -> NDArray[Any]:
    """Each channel's share of the energy of hidden windows that visible ones reconstruct.

    Parameters
    ----------
    series : Tensor
        (T, C) channels as stored.
    coordinates : Tensor
        (C, 3) in MNI mm.
    tr : float
        Seconds per frame.

    Returns
    -------
    (N, C) by window in which the channel was visible, in squared standard deviations of a channel, mean over hidden windows.
    """
    standard = standardise(series[None])
    return _shares(model, standard, lambda visible: -_reconstruction_error(model, visible, standard, coordinates, tr))


def _reconstruction_error(model: TemporalExtractor, visible: Tensor, series: Tensor, coordinates: Tensor, tr: float) -> Tensor:
    """Mean squared error of `series` (1, T, C) in hidden windows, each hidden once, reconstructed from `visible` (1, T, C).

    Channels without signal are neither visible nor counted.
    """
    target = cut_windows(series, model.window_frames)
    n, live = target.shape[1], series.ne(0).any(1)[0]
    hidden = torch.arange(n) % HIDE_EVERY == torch.arange(min(HIDE_EVERY, n))[:, None]
    channel_visible = ~hidden.to(live.device)[:, :, None] & live
    output = model(visible, coordinates, tr, channel_visible=channel_visible)
    error = (output.reconstruction - target).square().mean(2)[..., live].mean(-1)
    return error[hidden.to(error.device)].mean()


def decision_shares(model: TemporalExtractor, head: LinearHead, series: Tensor, coordinates: Tensor, tr: float) -> NDArray[Any]:
    """Each channel's contribution, by gradient x input, to a probe's decision on the session: (N, C) by window."""
    standard = standardise(series[None])
    return _shares(model, standard, lambda visible: head.decide(model.embed_standardised(visible, coordinates, tr)[0])[0])


def _shares(model: TemporalExtractor, standard: Tensor, decide: Callable[[Tensor], Tensor]) -> NDArray[Any]:
    """(N, C) sums over each window's frames of value times gradient."""
    leaf = standard.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(decide(leaf), leaf)
    by_window = cut_windows(standard * gradient, model.window_frames).sum(2)[0]
    return np.asarray(by_window.double().cpu().numpy())
