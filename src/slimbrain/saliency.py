"""Which windows are worth looking at: scores by mutual masked reconstruction, and selectors to compare with.

The definitions are those of DESIGN section 7. The paper (arXiv 2512.21881) names the idea, mutual masked
reconstruction, but publishes no formula in what is available to us.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from slimbrain.atomic import write_text
from slimbrain.config import SaliencyConfig
from slimbrain.errors import InputError
from slimbrain.models.temporal import TemporalExtractor, cut_windows, standardise
from slimbrain.progress import track
from slimbrain.store import Store, format_tsv, read_tsv

FloatArray = NDArray[np.float64]

NOVELTY_WEIGHT = SaliencyConfig().novelty_weight
SMALLEST_ERROR = 1e-8
"""Floor of the error with nothing visible, so that a window without any signal gives a ratio and not NaN."""


class Reconstruction(Protocol):
    """What a model gives back: `reconstruction` (B, N, w, C)."""

    @property
    def reconstruction(self) -> Tensor: ...


class Reconstructor(Protocol):
    """What the scores need of a model; `TemporalExtractor` is one."""

    @property
    def window_frames(self) -> int: ...

    def __call__(self, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor) -> Reconstruction: ...


@dataclass(frozen=True)
class WindowScores:
    """Scores of the N windows of one session, each an array (N,).

    Attributes
    ----------
    onset_s, duration_s : seconds since the session's first frame, and seconds.
    informativeness : how well the window lets the rest be rebuilt.
    novelty : how badly the rest rebuilds the window.
    score : z(informativeness) + novelty_weight * z(novelty), z over the session's windows.
    """

    onset_s: FloatArray
    duration_s: FloatArray
    informativeness: FloatArray
    novelty: FloatArray
    score: FloatArray

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class WindowRow:
    """One line of a window table; `rank` 1 is the best window of its session."""

    session: str
    window: int
    onset_s: float
    duration_s: float
    informativeness: float
    novelty: float
    score: float
    rank: int


COLUMNS = tuple(field.name for field in fields(WindowRow))


def z(values: ArrayLike) -> FloatArray:
    """Z-score over all values; zeros where they do not differ."""
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean()
    std = centred.std()
    # Below rounding, differences are noise that a division would blow up to unit variance.
    return centred / std if std > 1e-12 * max(1.0, float(np.abs(values).max())) else np.zeros_like(centred)


@torch.no_grad()
def window_errors(model: Reconstructor, series: Tensor, coordinates: Tensor, tr: float, visible: Tensor, batch: int = 16) -> Tensor:
    """Mean absolute reconstruction error of every window under each of M patterns of visible windows: (M, N).

    Parameters
    ----------
    series : (T, C) standardised; a channel without signal should have been left out, it would dilute the errors.
    coordinates : (C, 3) in MNI mm.
    visible : (M, N) bool.
    batch : patterns a pass.
    """
    target = cut_windows(series[None], model.window_frames)
    passes = []
    for patterns in visible.to(series.device).split(batch):
        rebuilt = model(series[None], coordinates, tr, visible=patterns).reconstruction
        passes.append((rebuilt - target).abs().mean((2, 3)))
    return torch.cat(passes)


def exact_scores(
    model: Reconstructor, series: Tensor, coordinates: Tensor, tr: float, novelty_weight: float = NOVELTY_WEIGHT, batch: int = 16
) -> WindowScores:
    """Score every window of a session by 2 N + 1 masked reconstructions.

    With E(j | S) the mean absolute error of window j when the windows S are visible:
    informativeness of i = mean over j != i of 1 - E(j | only i) / E(j | nothing);
    novelty of i = E(i | all others) / E(i | nothing);
    score = z(informativeness) + novelty_weight * z(novelty).
    These are this package's definitions (DESIGN section 7): the paper publishes no formula available to us.

    Parameters
    ----------
    model : in evaluation mode, on the device of `series`.
    series : (T, C) channels as stored; standardised here, channels without signal left out.
    coordinates : (C, 3) in MNI mm.
    tr : seconds a frame.
    batch : masked reconstructions a pass; more is faster and takes more memory.

    Raises
    ------
    InputError
        If there are fewer than two windows, or no channel has a signal.
    """
    series = standardise(series)
    live = series.ne(0).any(0)
    frames = model.window_frames
    n = len(series) // frames
    if n < 2 or not live.any():
        raise InputError(
            f"a series of {len(series)} frames with {int(live.sum())} channels that vary cannot be scored; "
            f"it takes a signal over two windows of {frames} frames: lower window.frames or leave it out."
        )
    one = torch.eye(n, dtype=torch.bool)
    visible = torch.cat((torch.zeros(1, n, dtype=torch.bool), ~one, one))
    errors = window_errors(model, series[:, live], coordinates[live.to(coordinates.device)], tr, visible, batch).double().cpu().numpy()
    ratio = errors[1:] / np.maximum(errors[0], SMALLEST_ERROR)
    novelty = ratio[:n].diagonal().copy()
    gain = 1 - ratio[n:]
    informativeness = (gain.sum(1) - gain.diagonal()) / (n - 1)
    return combine(informativeness, novelty, frames * tr, novelty_weight)


def combine(informativeness: FloatArray, novelty: FloatArray, duration_s: float, novelty_weight: float) -> WindowScores:
    """Both parts (N,) of windows that follow each other every `duration_s`, with their score."""
    return WindowScores(
        onset_s=np.arange(len(novelty), dtype=np.float64) * duration_s,
        duration_s=np.full(len(novelty), duration_s),
        informativeness=informativeness,
        novelty=novelty,
        score=z(informativeness) + novelty_weight * z(novelty),
    )


def ranks(scores: ArrayLike) -> NDArray[np.int64]:
    """Rank of each window, 1 the highest score; the earlier window wins a tie. (N,) -> (N,)"""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def select_top_k(scores: ArrayLike, k: int) -> NDArray[np.int64]:
    """The k windows with the highest scores (N,), in order of time; all if there are fewer."""
    return np.flatnonzero(ranks(scores) <= k)


def select_uniform(n: int, k: int) -> NDArray[np.int64]:
    """k of n windows at equal distances, each in the middle of its stretch; all if there are fewer."""
    k = min(k, n)
    return np.floor((np.arange(k) + 0.5) * n / k).astype(np.int64) if k else np.empty(0, np.int64)


def select_random(n: int, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """k of n windows drawn without replacement, in order of time; all if there are fewer."""
    return np.sort(rng.choice(n, size=min(k, n), replace=False)).astype(np.int64)


def select_highest_variance(series: NDArray[np.floating], w: int, k: int) -> NDArray[np.int64]:
    """The k windows of `w` frames whose samples lie furthest from each channel's mean over the session.

    Parameters
    ----------
    series : (T, C); the squared distance from the mean is averaged over frames and channels.
    """
    n = len(series) // w
    squared = (series - series.mean(0))[: n * w] ** 2
    return select_top_k(squared.reshape(n, -1).mean(1), k)


def rank_store(store: Store, model: Reconstructor, novelty_weight: float = NOVELTY_WEIGHT, device: str = "cpu") -> list[WindowRow]:
    """Score all windows of all sessions of a store, session by session in manifest order."""
    rows: list[WindowRow] = []
    for info in track(store.sessions, "rank"):
        series = torch.from_numpy(store.coarse(info.key)).to(device)
        places = torch.from_numpy(np.asarray(store.channels(info.key).mm, np.float32)).to(device)
        try:
            scores = exact_scores(model, series, places, info.tr, novelty_weight)
        except InputError as error:
            raise InputError(f"{info.path}: {error}") from error
        rows += window_rows(info.key, scores)
    return rows


def trained_novelty_weight(model: TemporalExtractor) -> float:
    """The novelty weight of the preset that a model was trained with; the default's where it does not say."""
    training = model.provenance.training if model.provenance else {}
    return float(training.get("novelty_weight", NOVELTY_WEIGHT))


def window_rows(session: str, scores: WindowScores) -> list[WindowRow]:
    """The scores of one session as lines of a table, in order of time."""
    columns = (scores.onset_s, scores.duration_s, scores.informativeness, scores.novelty, scores.score, ranks(scores.score))
    return [WindowRow(session, i, *row) for i, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))]


def top_windows(rows: Iterable[WindowRow], k: int) -> list[WindowRow]:
    """The k best-ranked windows of one session, in order of time."""
    return sorted((row for row in rows if row.rank <= k), key=lambda row: row.window)


def write_window_table(path: str | Path, rows: Sequence[WindowRow]) -> Path:
    """Write rows as TSV, atomically; numbers are written so that they read back to the bit."""
    return write_text(path, format_tsv(COLUMNS, [asdict(row) for row in rows]))


def read_window_table(path: str | Path) -> dict[str, list[WindowRow]]:
    """Rows by session, in the order of the file.

    Raises
    ------
    InputError
        If the file lacks a column or holds something that is not a number.
    StoreError
        If the file cannot be read.
    """
    sessions: dict[str, list[WindowRow]] = {}
    for line, cells in enumerate(read_tsv(Path(path)), start=2):
        try:
            row = _parse_row(cells)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}, line {line}: is no row of a window table ({reason}); run `slimbrain rank` again.") from error
        sessions.setdefault(row.session, []).append(row)
    return sessions


def _parse_row(cells: dict[str, str]) -> WindowRow:
    onset, duration, informativeness, novelty, score = (float(cells[name]) for name in COLUMNS[2:7])
    return WindowRow(cells["session"], int(cells["window"]), onset, duration, informativeness, novelty, score, int(cells["rank"]))
