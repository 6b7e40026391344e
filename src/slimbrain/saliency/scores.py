"""What each window of a session is worth: scores by mutual masked reconstruction.

The definitions are those of DESIGN section 7. The paper (arXiv 2512.21881) names the idea, mutual masked
reconstruction, but publishes no formula in what is available to us.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from slimbrain.config import SaliencyConfig
from slimbrain.errors import InputError
from slimbrain.models.temporal import cut_windows, standardise

_FloatArray = NDArray[np.float64]

_EXPLAINED_NORM = 8
"""Order of the mean over channels of the energy that the rest rebuilds. Events happen somewhere: an even mean (1) dilutes them with the
channels where nothing does. results/saliency/trials.csv has orders from 1 to 16."""

SMALLEST_ERROR = 1e-8
"""Floor of the error with nothing visible, so that a window without any signal gives a ratio and not NaN."""


class _Reconstruction(Protocol):
    """What a model gives back: `reconstruction` (B, N, w, C)."""

    @property
    def reconstruction(self) -> Tensor: ...


class Reconstructor(Protocol):
    """What the scores need of a model; `TemporalExtractor` is one."""

    @property
    def window_frames(self) -> int: ...

    def __call__(self, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor) -> _Reconstruction: ...


@dataclass(frozen=True)
class WindowErrors:
    """Reconstruction errors of N windows.

    Attributes
    ----------
    absolute : ndarray of float
        (M, N) mean over frames and channels under each of M patterns of visible windows.
    rebuilt : ndarray of float
        (N, C) mean squared error of every channel with nothing visible, less that in the pattern that hides the window.
    """

    absolute: _FloatArray
    rebuilt: _FloatArray


@dataclass(frozen=True)
class WindowParts:
    """What scores are made of, each (N,) over the windows of one session.

    Attributes
    ----------
    informativeness : ndarray of float
        How well the window lets the rest be rebuilt.
    novelty : ndarray of float
        How badly the rest rebuilds the window.
    explained : ndarray of float
        How much of the window's energy the rest rebuilds, in squared standard deviations of a channel; channels where it is much
        count for more.
    dvars : ndarray of float
        Largest change from one frame to the next, root mean square over channels, in the same standard deviations.
    """

    informativeness: _FloatArray
    novelty: _FloatArray
    explained: _FloatArray
    dvars: _FloatArray


@dataclass(frozen=True)
class WindowScores(WindowParts):
    """Scores of the N windows of one session, each an array (N,).

    Attributes
    ----------
    onset_s, duration_s : ndarray of float
        Seconds since the session's first frame, and seconds.
    score : ndarray of float
        Weighted sum of the parts, each z-scored over the session's windows (`SaliencyConfig`).
    """

    onset_s: _FloatArray
    duration_s: _FloatArray
    score: _FloatArray

    def __len__(self) -> int:
        return len(self.score)


def z(values: ArrayLike) -> _FloatArray:
    """Z-score over all values; zeros where they do not differ."""
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean()
    std = centred.std()
    # Below rounding, differences are noise that a division would blow up to unit variance.
    return centred / std if std > 1e-12 * max(1.0, float(np.abs(values).max())) else np.zeros_like(centred)


@torch.no_grad()
def window_errors(
    model: Reconstructor, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor, hiding: Tensor, batch: int = 16
) -> WindowErrors:
    """Reconstruction errors of every window under each of M patterns of visible windows.

    Parameters
    ----------
    series : Tensor
        (T, C) standardised; a channel without signal should have been left out, it would dilute the errors.
    coordinates : Tensor
        (C, 3) in MNI mm.
    visible : Tensor
        (M, N) bool; nothing is visible in the first pattern.
    hiding : Tensor
        (N,) number of the pattern that hides each window and shows what it is to be rebuilt from.
    batch : int, default 16
        Patterns a pass.
    """
    target = cut_windows(series[None], model.window_frames)
    visible, hiding = visible.to(series.device), hiding.to(series.device)
    absolute, rebuilt = [], torch.zeros_like(target[0, :, 0])
    for first in range(0, len(visible), batch):
        error = model(series[None], coordinates, tr, visible=visible[first : first + batch]).reconstruction - target
        absolute.append(error.abs().mean((2, 3)))
        if first == 0:
            rebuilt += error[0].square().mean(1)
        here = torch.nonzero((hiding >= first) & (hiding < first + len(error)))[:, 0]
        rebuilt[here] -= error[hiding[here] - first, here].square().mean(1)
    return WindowErrors(*(values.double().cpu().numpy() for values in (torch.cat(absolute), rebuilt)))


def explained(rebuilt: _FloatArray) -> _FloatArray:
    """(N,) mean of order `_EXPLAINED_NORM` over channels of the energy rebuilt (N, C); a channel that is made worse counts as 0."""
    return np.asarray((np.maximum(rebuilt, 0) ** _EXPLAINED_NORM).mean(1) ** (1 / _EXPLAINED_NORM))


def exact_scores(
    model: Reconstructor, series: Tensor, coordinates: Tensor, tr: float, weights: SaliencyConfig | None = None, batch: int = 16
) -> WindowScores:
    """Score every window of a session by 2 N + 1 masked reconstructions.

    With E(j | S) the mean absolute error of window j when the windows S are visible, E2(j, c | S) the mean squared one of channel c:
    informativeness of i = mean over j != i of 1 - E(j | only i) / E(j | nothing);
    novelty of i = E(i | all others) / E(i | nothing);
    explained of i = (mean over c of max(0, E2(i, c | nothing) - E2(i, c | all others))^8)^(1/8).
    These are this package's definitions (DESIGN section 7): the paper publishes no formula available to us.

    Parameters
    ----------
    model : Reconstructor
        In evaluation mode, on the device of `series`.
    series : Tensor
        (T, C) channels as stored; standardised here, channels without signal left out.
    coordinates : Tensor
        (C, 3) in MNI mm.
    tr : float
        Seconds per frame.
    weights : SaliencyConfig or None
        Of the parts in the score; the defaults if not given.
    batch : int, default 16
        Masked reconstructions per pass; more is faster and takes more memory.

    Raises
    ------
    InputError
        If there are fewer than two windows, or no channel has a signal.
    """
    series, coordinates, n = scorable(model, series, coordinates)
    one = torch.eye(n, dtype=torch.bool)
    visible = torch.cat((torch.zeros(1, n, dtype=torch.bool), ~one, one))
    errors = window_errors(model, series, coordinates, tr, visible, torch.arange(1, n + 1), batch)
    ratio = errors.absolute[1:] / np.maximum(errors.absolute[0], SMALLEST_ERROR)
    gain = 1 - ratio[n:]
    parts = WindowParts(
        informativeness=(gain.sum(1) - gain.diagonal()) / (n - 1),
        novelty=ratio[:n].diagonal().copy(),
        explained=explained(errors.rebuilt),
        dvars=window_dvars(series, model.window_frames),
    )
    return combine(parts, model.window_frames * tr, weights or SaliencyConfig())


def scorable(model: Reconstructor, series: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, int]:
    """Standardised channels with a signal, their places, and the number of windows.

    Raises
    ------
    InputError
        If there are fewer than two windows, or no channel has a signal.
    """
    series = standardise(series)
    live = series.ne(0).any(0)
    n = len(series) // model.window_frames
    if n < 2 or not live.any():
        raise InputError(
            f"a series of {len(series)} frames with {int(live.sum())} channels that vary cannot be scored; "
            f"it takes a signal over two windows of {model.window_frames} frames: lower window.frames or leave it out."
        )
    return series[:, live], coordinates[live.to(coordinates.device)], n


def window_dvars(series: Tensor, frames: int) -> _FloatArray:
    """(N,) largest DVARS within each window (Power et al. 2012): root mean square over the channels of a frame's change.

    Parameters
    ----------
    series : Tensor
        (T, C); the first frame counts as no change.
    """
    change = torch.diff(series, dim=0, prepend=series[:1])
    dvars = change.double().square().mean(1).sqrt().cpu().numpy()
    n = len(dvars) // frames
    return np.asarray(dvars[: n * frames].reshape(n, frames).max(1))


def combine(parts: WindowParts, duration_s: float, weights: SaliencyConfig) -> WindowScores:
    """The parts of windows that follow each other every `duration_s`, with their score."""
    score = z(parts.informativeness) + weights.novelty_weight * z(parts.novelty)
    score = score + weights.explained_weight * z(parts.explained) - weights.dvars_weight * z(parts.dvars)
    n, own = len(score), {part.name: getattr(parts, part.name) for part in fields(WindowParts)}
    return WindowScores(**own, onset_s=np.arange(n, dtype=np.float64) * duration_s, duration_s=np.full(n, duration_s), score=score)
