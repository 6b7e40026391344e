"""The window scores from as many masked reconstructions for a long session as for a short one.

What a window tells of others it tells of its neighbours: the gain that it brings falls off within a few windows. So windows far
apart can be shown, or hidden, together. Pass o shows every `spacing`-th window from window o on, and a second pass hides just
those: in the first each visible window is alone in its stretch, in the second each hidden window has all its neighbours.
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
    scorable,
    window_dvars,
    window_errors,
)

SPACING = 12
"""Windows from one that is shown to the next; 25 passes. docs/saliency.md has the curve: 8 would do, 4 would not."""


def fast_scores(
    model: Reconstructor,
    series: Tensor,
    coordinates: Tensor,
    tr: float,
    weights: SaliencyConfig | None = None,
    batch: int = 16,
    spacing: int = SPACING,
) -> WindowScores:
    """Estimate `exact_scores` by 2 * spacing + 1 masked reconstructions instead of 2 N + 1.

    A window's gains are added up over its stretch, the windows that lie nearer to it than to the next one shown, and divided by N - 1
    like the exact mean over all other windows. With no more windows than `spacing` this is the exact computation.

    Parameters
    ----------
    series, coordinates, tr, weights, batch : as of `exact_scores`.
    spacing : windows from one that is shown to the next.

    Raises
    ------
    InputError
        If there are fewer than two windows, or no channel has a signal.
    """
    series, coordinates, n = scorable(model, series, coordinates)
    window, offset = np.arange(n), np.arange(min(spacing, n))
    shown = torch.from_numpy(window[None] % spacing == offset[:, None])
    visible = torch.cat((torch.zeros(1, n, dtype=torch.bool), shown, ~shown))
    errors = window_errors(model, series, coordinates, tr, visible, batch)
    ratio = errors.absolute[1:] / np.maximum(errors.absolute[0], SMALLEST_ERROR)
    nearest, hiding = _nearest_shown(n, spacing, offset), len(offset) + window % spacing
    gain = np.where(nearest == window, 0.0, 1 - ratio[: len(offset)])
    parts = WindowParts(
        informativeness=np.bincount(nearest.ravel(), gain.ravel(), minlength=n) / (n - 1),
        novelty=ratio[hiding, window],
        explained=errors.squared[0] - errors.squared[1 + hiding, window],
        dvars=window_dvars(series, model.window_frames),
    )
    return combine(parts, model.window_frames * tr, weights or SaliencyConfig())


def _nearest_shown(n: int, spacing: int, offset: np.ndarray) -> np.ndarray:
    """(O, N) the window nearest to each of N among those shown at each of O offsets; the earlier of two."""
    places = offset[:, None] + spacing * np.round((np.arange(n) - offset[:, None] - 0.25) / spacing).astype(np.int64)
    last = offset + (n - 1 - offset) // spacing * spacing
    return np.clip(places, offset[:, None], last[:, None])
