"""Training samples: what a store gives at draw number n, the same for any number of workers and after any restart."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimbrain.config import SamplingConfig, WindowConfig
from slimbrain.contract import Contract
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.manifest import SessionInfo
from slimbrain.masking import JepaMask, sample_jepa_mask, seen_together
from slimbrain.models.packing import Clip
from slimbrain.samplers import cohorts_of, mix, spread_windows
from slimbrain.store import Channels, Store

IntArray = npt.NDArray[np.int64]


class Sessions(Protocol):
    """What models read sessions from: a `Store`, or images that are prepared as they are read (`slimbrain.prep.images`)."""

    @property
    def contract(self) -> Contract: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def sessions(self) -> list[SessionInfo]: ...

    def channels(self, key: str) -> Channels: ...

    def coarse(self, key: str) -> npt.NDArray[Any]: ...

    def windows(self, key: str, starts: Sequence[int], frames: int) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Series:
    """One session as stage 1 sees it.

    Attributes
    ----------
    values : (T, C) float32 channel series.
    mm : (C, 3) float32 places of the channels in MNI mm.
    tr : seconds a frame.
    draw : number of the draw, the seed of whatever is random about it.
    """

    values: Tensor
    mm: Tensor
    tr: float
    draw: int


@dataclass(frozen=True)
class MaskedClip:
    """One clip as stage 2 learns from it."""

    clip: Clip
    mask: JepaMask


class Draws(Dataset[object]):
    """Sessions in shuffled order, epoch after epoch, cohorts by weight; draw n depends on the seed and n alone.

    Parameters
    ----------
    store : where sessions are.
    sessions : what to draw from; those of cohorts without weight are left out.
    seed : of the shuffling.
    sampling : cohorts and their weights.

    Attributes
    ----------
    sessions : what is drawn.
    """

    def __init__(self, store: Store, sessions: Sequence[SessionInfo], seed: int, sampling: SamplingConfig) -> None:
        if not sessions:
            raise InputError(
                "there is no session to train on: each is shorter than one window, or prep refused it or left it out; "
                "see failures.tsv and excluded.tsv of the store."
            )
        self.store, self.seed = store, seed
        cohorts = cohorts_of(store, sessions, sampling.by)
        weights = sampling.weights or {}
        drawn = [(info, cohort) for info, cohort in zip(sessions, cohorts, strict=True) if weights.get(cohort, 1) > 0]
        self.sessions = [info for info, _ in drawn]
        self.cohorts = [cohort for _, cohort in drawn]
        self.mixture = mix(self.cohorts, seed, sampling.weights)

    def session_of(self, draw: int) -> SessionInfo:
        """The session that draw number `draw` takes."""
        return self.sessions[self.mixture.session(draw)]

    def generator(self, draw: int) -> np.random.Generator:
        """Randomness of one draw."""
        return np.random.default_rng((self.seed, 1, draw))


class SeriesDraws(Draws):
    """Whole sessions for stage 1.

    Parameters
    ----------
    store : where they are.
    window : sessions shorter than two windows are left out, since one window has nothing to be rebuilt from.
    seed : of order and masks.
    sampling : cohorts and their weights.
    """

    def __init__(self, store: Store, window: WindowConfig, seed: int, sampling: SamplingConfig | None = None) -> None:
        long = [info for info in store.sessions if info.n_windows(window.frames) >= 2]
        super().__init__(store, long, seed, sampling or SamplingConfig())

    def __getitem__(self, draw: int) -> Series:
        info = self.session_of(draw)
        mm = torch.tensor(self.store.channels(info.key).mm, dtype=torch.float32)
        return Series(torch.from_numpy(self.store.coarse(info.key)), mm, info.tr, draw)


class ClipDraws(Draws):
    """Clips of k windows with a JEPA mask, for stage 2.

    Parameters
    ----------
    store : where sessions are.
    window : frames a window, windows a clip, and from how many of the best they are drawn.
    seed : of order, choice and masks.
    unit, unit_frames : the encoder's mask unit.
    context_fraction : share of the clip that the context sees.
    ranked : windows of each session, best first.
    sampling : cohorts and their weights, and how windows are chosen.
    """

    def __init__(
        self,
        store: Store,
        window: WindowConfig,
        seed: int,
        unit: str,
        unit_frames: int,
        context_fraction: float,
        ranked: Mapping[str, Sequence[int]] | None = None,
        sampling: SamplingConfig | None = None,
    ) -> None:
        sampling = sampling or SamplingConfig()
        if sampling.windows == "saliency" and ranked is None:
            raise InputError("sampling.windows=saliency: needs scores of windows; give the table of `slimbrain rank` with --windows.")
        self.choice = sampling.windows if sampling.windows != "auto" else "random" if ranked is None else "saliency"
        if self.choice != "saliency":
            ranked = None
        sessions = [info for info in store.sessions if info.n_windows(window.frames) >= window.k]
        super().__init__(store, sessions if ranked is None else _with_windows(sessions, ranked, window.k), seed, sampling)
        self.window, self.ranked = window, ranked
        self.unit_frames, self.context_fraction = unit_frames, context_fraction
        self.places_mm = (store.grid.regions if unit == "region" else store.grid.units).mm

    def __getitem__(self, draw: int) -> MaskedClip:
        info, generator = self.session_of(draw), self.generator(draw)
        clip = read_clip(self.store, info, self._choose(info, generator), self.window.frames)
        windows, units_per_window = seen_together(self.window.k, self.window.frames, self.unit_frames)
        return MaskedClip(clip, sample_jepa_mask(self.places_mm, windows, units_per_window, self.context_fraction, generator))

    def _choose(self, info: SessionInfo, generator: np.random.Generator) -> IntArray:
        n_windows, k = info.n_windows(self.window.frames), self.window.k
        if self.choice == "uniform":
            return spread_windows(n_windows, k, generator)
        candidates = range(n_windows) if self.ranked is None else self.ranked[info.key][: k * self.window.pool]
        return np.sort(generator.permutation(np.asarray(candidates))[:k])


def _with_windows(sessions: Sequence[SessionInfo], ranked: Mapping[str, Sequence[int]], k: int) -> list[SessionInfo]:
    """Sessions of which a window table leaves at least k windows.

    Raises
    ------
    InputError
        If a session is not in the table, or none has as many windows.
    """
    if missing := [info.key for info in sessions if info.key not in ranked]:
        raise InputError(f"window table: lacks {len(missing)} sessions, first {missing[0]}; run `slimbrain rank` on this store.")
    taken = [info for info in sessions if len(ranked[info.key]) >= k]
    if sessions and not taken:
        raise InputError(f"window table: leaves no session {k} windows; rank with a larger --per-run and --per-session, or lower window.k.")
    if len(taken) < len(sessions):
        print(f"{len(sessions) - len(taken)} sessions are not trained on: the window table leaves them under {k} windows.", file=sys.stderr)
    return taken


def read_clip(store: Sessions, info: SessionInfo, windows: Sequence[int] | IntArray, frames: int) -> Clip:
    """Read windows of a session and join them in the order given; each frame keeps its own time.

    Parameters
    ----------
    windows : window numbers, counted from frame 0.
    frames : frames a window.
    """
    starts = [int(number) * frames for number in windows]
    frame = np.concatenate([np.arange(start, start + frames) for start in starts])
    return Clip(torch.from_numpy(store.windows(info.key, starts, frames)), torch.from_numpy(frame * info.tr), store.grid)
