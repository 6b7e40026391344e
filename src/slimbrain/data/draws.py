"""Training samples: the sample of draw number n is the same for any number of workers and after any restart."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimbrain.config import AugmentConfig, JepaConfig, SamplingConfig, WindowConfig
from slimbrain.data.augment import augment
from slimbrain.data.clip import Clip, read_clip
from slimbrain.data.masking import JepaMask, draw_mask, visible_stretches
from slimbrain.data.mixture import divide
from slimbrain.data.samplers import Pace, mix, spread_windows
from slimbrain.errors import InputError
from slimbrain.store import SessionInfo, Store

_IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """One session as stage 1 sees it.

    Attributes
    ----------
    values : Tensor
        (T, C) float32 channel series.
    mm : Tensor
        (C, 3) float32 places of the channels in MNI mm.
    tr : float
        Seconds per frame.
    draw : int
        Number of the draw, the seed of whatever is random about it.
    key : str
        The session.
    """

    values: Tensor
    mm: Tensor
    tr: float
    draw: int
    key: str


@dataclass(frozen=True)
class MaskedClip:
    """One clip as stage 2 learns from it, and the key of the session it is of."""

    clip: Clip
    mask: JepaMask
    key: str


class Pick(NamedTuple):
    """A draw whose session is chosen already, so that data-loading processes need no weights."""

    draw: int
    session: int


_HELD_OUT = 2**40
"""Number of the first draw of a session that is held out: no training gets there, so that no randomness is shared."""


class Draws(Dataset[object]):
    """Sessions in shuffled order, epoch after epoch, cohorts by weight; draw n depends on the seed, the weights and n alone.

    Parameters
    ----------
    store : Store
        Where sessions are.
    sessions : sequence of SessionInfo
        What to draw from; those of cohorts without weight, or of no component of a mixture, are left out.
    seed : int
        Seed of the shuffling.
    sampling : SamplingConfig
        Cohorts, or a mixture, and their weights.
    pace : Pace or None
        How draws fall on steps, where weights change.
    held_out : float
        Share of participants who only measure skill.

    Attributes
    ----------
    sessions, cohorts : what is drawn, and as what.
    held_out, held_out_cohorts : what is not, but measured on.
    notes : what the user should read about the mixture.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sequence[SessionInfo],
        seed: int,
        sampling: SamplingConfig,
        pace: Pace | None = None,
        held_out: float = 0.0,
    ) -> None:
        if not sessions:
            raise InputError(
                "there is no session to train on: each is shorter than one window, or prep refused it or left it out; "
                "see failures.tsv and excluded.tsv of the store."
            )
        self.store, self.seed, self.sampling = store, seed, sampling
        division, config = divide(store, sessions, sampling, seed, held_out), sampling.mixture
        self.sessions, self.cohorts = division.trained, division.drawn_as
        self.held_out, self.held_out_cohorts = division.held_out, division.held_out_as
        self.weights, self.notes, self.pace = division.weights, division.notes, pace or Pace(1, 1)
        interval = config.adaptive.every * self.pace.per_step if config and config.adaptive else None
        self.mixture = mix(self.cohorts, seed, division.weights, self.pace, config.most_repeats if config else None, interval)

    def pick(self, draw: int | Pick) -> Pick:
        """Draw number `draw` with its session."""
        return draw if isinstance(draw, Pick) else Pick(draw, self.mixture.session(draw))

    def pick_held_out(self, cohort: str, number: int) -> Pick:
        """Held-out draw `number` of a cohort: its sessions in turn, each time with a choice of windows and masks of its own."""
        own = [place for place, name in enumerate(self.held_out_cohorts) if name == cohort]
        return Pick(_HELD_OUT + number, len(self.sessions) + own[number % len(own)])

    def scored(self, count: int) -> tuple[Pick, ...]:
        """Draws to measure a model on: held-out sessions in turn, or those trained on where none is held out."""
        first, sessions = (len(self.sessions), len(self.held_out)) if len(self.held_out) else (0, len(self.sessions))
        return tuple(Pick(_HELD_OUT + number, first + number % sessions) for number in range(count))

    def session_of(self, draw: int | Pick) -> SessionInfo:
        """The session that a draw takes."""
        number = self.pick(draw).session
        return self.sessions[number] if number < len(self.sessions) else self.held_out[number - len(self.sessions)]

    def generator(self, draw: int) -> np.random.Generator:
        """Randomness of one draw."""
        return np.random.default_rng((self.seed, 1, draw))


class SeriesDraws(Draws):
    """Whole sessions for stage 1.

    Parameters
    ----------
    store : Store
        Where they are.
    window : WindowConfig
        Sessions shorter than two windows are left out, since one window has nothing to be rebuilt from.
    seed : int
        Seed of order and masks.
    sampling, pace : SamplingConfig or None, Pace or None
        As in `Draws`.
    change : AugmentConfig or None
        How each session is changed at random; not at all if None.
    """

    def __init__(
        self,
        store: Store,
        window: WindowConfig,
        seed: int,
        sampling: SamplingConfig | None = None,
        pace: Pace | None = None,
        change: AugmentConfig | None = None,
    ) -> None:
        long = store.sessions.of_windows(window.frames, 2)
        super().__init__(store, long, seed, sampling or SamplingConfig(), pace)
        self.shortest, self.change = 2 * window.frames, change or AugmentConfig()

    def __getitem__(self, draw: int | Pick) -> Series:
        pick = self.pick(draw)
        info = self.session_of(pick)
        mm = torch.tensor(self.store.channels(info.key).mm, dtype=torch.float32)
        values = torch.from_numpy(self.store.coarse(info.key))
        # Whole sessions are measured on, so that numbers of other runs compare.
        if pick.draw < _HELD_OUT:
            values, mm = augment(values, mm, self.shortest, self.change, self._changes(pick.draw))
        return Series(values, mm, info.tr, pick.draw, info.key)

    def _changes(self, draw: int) -> np.random.Generator:
        """Apart from `generator`, which decides what is hidden."""
        return np.random.default_rng((self.seed, 2, draw))


class ClipDraws(Draws):
    """Clips of k windows with a JEPA mask, for stage 2.

    Parameters
    ----------
    store : Store
        Where sessions are.
    window : WindowConfig
        Frames per window, windows per clip, and from how many of the best they are drawn.
    seed : int
        Seed of order, choice and masks.
    unit, unit_frames : str, int
        The encoder's mask unit.
    jepa : JepaConfig
        What is visible to the context, and what is hidden.
    ranked : mapping of str to sequence of int or None
        Windows of each session, best first.
    sampling, pace : SamplingConfig or None, Pace or None
        As in `Draws`; also how windows are chosen.
    """

    def __init__(
        self,
        store: Store,
        window: WindowConfig,
        seed: int,
        unit: str,
        unit_frames: int,
        jepa: JepaConfig,
        ranked: Mapping[str, Sequence[int]] | None = None,
        sampling: SamplingConfig | None = None,
        pace: Pace | None = None,
    ) -> None:
        sampling = sampling or SamplingConfig()
        if sampling.windows == "saliency" and ranked is None:
            raise InputError("sampling.windows=saliency: needs scores of windows; give the table of `slimbrain rank` with --windows.")
        self.choice = sampling.windows if sampling.windows != "auto" else "random" if ranked is None else "saliency"
        if self.choice != "saliency":
            ranked = None
        sessions = store.sessions.of_windows(window.frames, window.k)
        drawn = sessions if ranked is None else _with_windows(sessions, ranked, window.k)
        super().__init__(store, drawn, seed, sampling, pace, sampling.held_out)
        if not self.held_out:
            self.notes.append("skill is measured on participants who are trained on: there are too few to hold one out.")
        self.window, self.ranked = window, ranked
        self.unit_frames, self.jepa = unit_frames, jepa
        self.places_mm = (store.grid.regions if unit == "region" else store.grid.units).mm

    def __getitem__(self, draw: int | Pick) -> MaskedClip:
        pick = self.pick(draw)
        info, generator = self.session_of(pick), self.generator(pick.draw)
        clip = read_clip(self.store, info, self._choose(info, generator), self.window.frames)
        stretches = visible_stretches(self.window.k, self.window.frames, self.unit_frames, self.jepa.hide)
        mask = draw_mask(self.places_mm, *stretches, self.jepa, generator)
        return MaskedClip(clip, mask, info.key)

    def _choose(self, info: SessionInfo, generator: np.random.Generator) -> _IntArray:
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
