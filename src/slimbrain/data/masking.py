"""Which mask units are visible to the context, and which of three kinds of targets are predicted.

A clip is cut in time units (a few frames) and in places (spatial mask units). Some places are visible at some
times; what is hidden is cross-time (a visible place at another time), cross-location (another place at a visible
time) or double-cross (neither), as in SLIM-Brain (arXiv 2512.21881). Where no times are hidden, all targets are cross-location;
where only a part of the places is in view, the rest is neither visible nor a target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimbrain.config import JepaConfig, Preset
from slimbrain.errors import InputError
from slimbrain.grid import Grid

_BoolArray = npt.NDArray[np.bool_]
_FloatArray = npt.NDArray[np.floating]

TARGET_KINDS = ("cross_time", "cross_location", "double_cross")
_MAX_PLACE_SHARE = 0.8
"""At most this share of the places is visible, so that every clip has places to predict."""

_TYPICAL_DRAWS = 64
"""The context's share of the tokens varies between masks; of this many, `typical_mask` takes the one nearest to the setting."""


@dataclass(frozen=True)
class JepaMask:
    """Visible places and visible times; the four parts of the view follow from their product.

    Attributes
    ----------
    times : ndarray of bool
        (N,) bool over the clip's time units.
    places : ndarray of bool
        (U,) bool over the grid's mask units.
    view : ndarray of bool or None
        (U,) bool, mask units that are visible or predicted at all; all of them if None.
    """

    times: _BoolArray
    places: _BoolArray
    view: _BoolArray | None = None

    @property
    def viewed(self) -> _BoolArray:
        """(N, U) what is visible or predicted."""
        view = np.ones_like(self.places) if self.view is None else self.view
        return np.outer(np.ones_like(self.times), view)

    @property
    def context(self) -> _BoolArray:
        """(N, U) what the context encoder computes."""
        return np.outer(self.times, self.places) & self.viewed

    def targets(self, kind: str) -> _BoolArray:
        """(N, U) what is predicted, for one of `TARGET_KINDS`."""
        times = self.times if kind == "cross_location" else ~self.times
        places = self.places if kind == "cross_time" else ~self.places
        return np.outer(times, places) & self.viewed


def draw_mask(places_mm: _FloatArray, windows: int, units_per_window: int, jepa: JepaConfig, generator: np.random.Generator) -> JepaMask:
    """Draw a mask as `JepaConfig` has it: `sample_jepa_mask` on the places in view.

    Parameters
    ----------
    places_mm : ndarray of float
        (U, 3) centres of the mask units.
    windows, units_per_window : int
        As from `visible_stretches`.
    """
    if jepa.view_fraction == 1:
        return sample_jepa_mask(places_mm, windows, units_per_window, jepa.context_fraction, generator)
    count = max(2, round(jepa.view_fraction * len(places_mm)))
    viewed = np.sort(generator.permutation(len(places_mm))[:count])
    inner = sample_jepa_mask(places_mm[viewed], windows, units_per_window, jepa.context_fraction, generator)
    places, view = np.zeros((2, len(places_mm)), dtype=bool)
    places[viewed], view[viewed] = inner.places, True
    return JepaMask(inner.times, places, view)


def sample_jepa_mask(
    places_mm: _FloatArray, windows: int, units_per_window: int, fraction: float, generator: np.random.Generator
) -> JepaMask:
    """Draw a mask whose context holds about `fraction` of the clip.

    Whole windows are visible or hidden, since neighbouring frames of one window predict each other almost perfectly. Hidden
    places are compact regions for the same reason: a lone hidden unit could be filled in from its neighbours.

    Parameters
    ----------
    places_mm : ndarray of float
        (U, 3) centres of the mask units.
    windows : int
        Windows in the clip; with one window nothing is cross-time.
    units_per_window : int
        Time units in a window.
    fraction : float
        Share of (time, place) pairs that are visible.
    """
    if len(places_mm) < 2:
        raise InputError(
            f"the mask touches {len(places_mm)} unit, masked prediction needs at least 2; use a finer lattice or a larger mask."
        )
    fewest = min(windows, int(np.ceil(windows * fraction / _MAX_PLACE_SHARE)))
    visible_windows = int(generator.integers(fewest, max(fewest + 1, windows)))
    window_visible = np.zeros(windows, dtype=bool)
    window_visible[generator.permutation(windows)[:visible_windows]] = True
    place_share = min(_MAX_PLACE_SHARE, fraction * windows / visible_windows)
    hidden = min(len(places_mm) - 1, max(1, round(len(places_mm) * (1 - place_share))))
    return JepaMask(np.repeat(window_visible, units_per_window), ~_compact_places(places_mm, hidden, generator))


def visible_stretches(windows: int, frames: int, unit_frames: int, hide: str) -> tuple[int, int]:
    """How many stretches of a clip are visible or hidden as a whole, and the time units in each.

    A time unit that spans two windows cannot be partly visible, so then time units take the place of windows. Where no times are hidden,
    the clip is one stretch.

    Parameters
    ----------
    windows, frames : int
        Windows of the clip, and frames of each.
    unit_frames : int
        Frames per time unit.
    hide : str
        As in `JepaConfig`.
    """
    times = windows * frames // unit_frames
    if hide == "places":
        return 1, times
    return (windows, times // windows) if frames % unit_frames == 0 else (times, 1)


def typical_mask(grid: Grid, preset: Preset, frames: int) -> tuple[JepaMask, float]:
    """A mask to measure or plan with: of several drawn as in pretraining, the one whose context is nearest to `jepa.context_fraction`.

    Returns
    -------
    The mask of a clip of so many frames, and the share of the brain's tokens that it shows.
    """
    level = grid.regions if preset.voxel.unit == "region" else grid.units
    windows, times = math.ceil(frames / preset.window.frames), frames // preset.voxel.unit_frames
    windows, times_per_window = (windows, times // windows) if times % windows == 0 else (times, 1)
    if preset.jepa.hide == "places":
        windows, times_per_window = 1, times
    wanted = preset.jepa.context_fraction * preset.jepa.view_fraction
    masks = [draw_mask(level.mm, windows, times_per_window, preset.jepa, np.random.default_rng(seed)) for seed in range(_TYPICAL_DRAWS)]
    shares = [float((mask.context @ level.sizes).sum() / (times * grid.n_patches)) for mask in masks]
    nearest = int(np.argmin(np.abs(np.array(shares) - wanted)))
    return masks[nearest], shares[nearest]


def _compact_places(places_mm: _FloatArray, count: int, generator: np.random.Generator) -> _BoolArray:
    """The `count` places nearest to one to three random ones."""
    seeds = places_mm[generator.choice(len(places_mm), size=min(len(places_mm), int(generator.integers(1, 4))), replace=False)]
    distance = np.linalg.norm(places_mm[:, None] - seeds[None], axis=-1).min(axis=1)
    # Ties between lattice neighbours are broken at random, not by their order.
    nearest = np.lexsort((generator.random(len(places_mm)), distance))
    chosen = np.zeros(len(places_mm), dtype=bool)
    chosen[nearest[:count]] = True
    return chosen
