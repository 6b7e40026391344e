"""The window scores from as many masked reconstructions for a long session as for a short one.

What a window tells of others it tells of its neighbours: the gain that it brings falls off within a few windows. So windows far
apart can be shown, or hidden, together. Pass o shows every `show_every`-th window from window o on, each alone in its stretch;
other passes hide every `hide_every`-th, each among its neighbours. What is hidden may stand closer than what is shown: of the
windows that help to rebuild one most, those just beside it, none is missing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slimbrain.config import SaliencyConfig
from slimbrain.saliency.scores import (
    SMALLEST_ERROR,
    Reconstructor,
    WindowParts,
    WindowScores,
    combine,
    explained,
    scorable,
    window_dvars,
    window_errors,
)

SHOW_EVERY, HIDE_EVERY = 6, 3
"""Windows from one that is shown, or hidden, to the next; 10 passes. docs/saliency.md compares it with the exact scores."""


def fast_scores(
    model: Reconstructor,
    series: Tensor,
    coordinates: Tensor,
    tr: float,
    weights: SaliencyConfig | None = None,
    batch: int = 16,
    show_every: int = SHOW_EVERY,
    hide_every: int = HIDE_EVERY,
) -> WindowScores:
    """Estimate `exact_scores` by show_every + hide_every + 1 masked reconstructions instead of 2 N + 1.

    A window's gains are added up over its stretch, the windows that lie nearer to it than to the next one shown, and divided by N - 1
    like the exact mean over all other windows. With no more windows than either number this is the exact computation.

    Parameters
    ----------
    series, coordinates, tr, weights, batch : Tensor or float or SaliencyConfig or None or int
        As of `exact_scores`.
    show_every, hide_every : int
        Windows from one that is shown, or hidden, to the next.

    Raises
    ------
    InputError
        If there are fewer than two windows, or no channel has a signal.
    """
    series, coordinates, n = scorable(model, series, coordinates)
    window, first_shown, first_hidden = np.arange(n), np.arange(min(show_every, n)), np.arange(min(hide_every, n))
    shown = torch.from_numpy(window[None] % show_every == first_shown[:, None])
    hidden = torch.from_numpy(window[None] % hide_every == first_hidden[:, None])
    visible = torch.cat((torch.zeros(1, n, dtype=torch.bool), shown, ~hidden))
    hiding = len(first_shown) + window % hide_every
    errors = window_errors(model, series, coordinates, tr, visible, torch.from_numpy(1 + hiding), batch)
    ratio = errors.absolute[1:] / np.maximum(errors.absolute[0], SMALLEST_ERROR)
    nearest = _nearest_shown(n, show_every, first_shown)
    gain = np.where(nearest == window, 0.0, 1 - ratio[: len(first_shown)])
    parts = WindowParts(
        informativeness=np.bincount(nearest.ravel(), gain.ravel(), minlength=n) / (n - 1),
        novelty=ratio[hiding, window],
        explained=explained(errors.rebuilt),
        dvars=window_dvars(series, model.window_frames),
    )
    return combine(parts, model.window_frames * tr, weights or SaliencyConfig())


def _nearest_shown(n: int, spacing: int, offset: np.ndarray) -> np.ndarray:
    """(O, N) the window nearest to each of N among those shown at each of O offsets; the earlier of two."""
    places = offset[:, None] + spacing * np.round((np.arange(n) - offset[:, None] - 0.25) / spacing).astype(np.int64)
    last = offset + (n - 1 - offset) // spacing * spacing
    return np.clip(places, offset[:, None], last[:, None])
