"""What the context sees and what is predicted: a partition of the clip, about as large as asked, compact in space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slimbrain.data.masking import _MAX_PLACE_SHARE, TARGET_KINDS, JepaMask, sample_jepa_mask
from slimbrain.errors import InputError

PLACES = np.stack(np.meshgrid(*[np.arange(5.0) * 32] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
CLIPS = {
    "units": st.integers(2, 125),
    "windows": st.integers(1, 8),
    "units_per_window": st.integers(1, 4),
    "fraction": st.floats(0.05, 0.95),
    "seed": st.integers(0, 2**32),
}


def draw(units: int, windows: int, units_per_window: int, fraction: float, seed: int) -> JepaMask:
    return sample_jepa_mask(PLACES[:units], windows, units_per_window, fraction, np.random.default_rng(seed))


@settings(max_examples=75, deadline=None)
@given(**CLIPS)
def test_context_and_targets_partition_the_clip(units: int, windows: int, units_per_window: int, fraction: float, seed: int) -> None:
    mask = draw(units, windows, units_per_window, fraction, seed)
    parts = [mask.context, *(mask.targets(kind) for kind in TARGET_KINDS)]
    assert all(part.shape == (windows * units_per_window, units) and part.dtype == bool for part in parts)
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
    assert mask.context.any() and mask.targets("cross_location").any()


@settings(max_examples=40, deadline=None)
@given(**CLIPS)
def test_each_kind_is_what_its_name_says(units: int, windows: int, units_per_window: int, fraction: float, seed: int) -> None:
    mask = draw(units, windows, units_per_window, fraction, seed)
    for time, place in np.ndindex(windows * units_per_window, units):
        seen_time, seen_place = mask.context[time].any(), mask.context[:, place].any()
        kinds = [kind for kind in TARGET_KINDS if mask.targets(kind)[time, place]]
        wanted = {(True, True): [], (False, True): ["cross_time"], (True, False): ["cross_location"], (False, False): ["double_cross"]}
        assert kinds == wanted[bool(seen_time), bool(seen_place)]


@settings(max_examples=75, deadline=None)
@given(**CLIPS)
def test_windows_are_seen_whole_or_not_at_all(units: int, windows: int, units_per_window: int, fraction: float, seed: int) -> None:
    seen = draw(units, windows, units_per_window, fraction, seed).times.reshape(windows, units_per_window)
    np.testing.assert_array_equal(seen.all(1), seen.any(1))
    assert seen.any()
    if windows > 1 and fraction <= _MAX_PLACE_SHARE / 2:
        assert not seen.all()


@settings(max_examples=75, deadline=None)
@given(**CLIPS)
def test_the_context_is_about_as_large_as_asked(units: int, windows: int, units_per_window: int, fraction: float, seed: int) -> None:
    """Places are whole, so the share is met to half a place in the windows seen; above MAX_PLACE_SHARE it is cut off there."""
    mask = draw(units, windows, units_per_window, fraction, seed)
    seen_times, wanted = mask.times.mean(), min(fraction, _MAX_PLACE_SHARE * mask.times.mean())
    assume(1 <= wanted / seen_times * units <= units - 1)
    assert abs(mask.context.mean() - wanted) <= 0.5 / units * seen_times + 1e-9
    assert wanted == fraction or windows * fraction / _MAX_PLACE_SHARE > windows - 1


def test_the_share_is_met_on_average() -> None:
    shares = [draw(125, 5, 2, 0.3, seed).context.mean() for seed in range(300)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.002) and np.std(shares) < 0.005


def test_all_numbers_of_seen_windows_and_all_places_occur() -> None:
    masks = [draw(125, 5, 2, 0.3, seed) for seed in range(300)]
    assert {int(mask.times.sum()) // 2 for mask in masks} == {2, 3, 4}
    assert np.any([mask.places for mask in masks], axis=0).all() and np.any([~mask.places for mask in masks], axis=0).all()
    assert np.any([mask.times for mask in masks], axis=0).all()


def test_hidden_places_are_compact() -> None:
    """They lie closer to each other than as many places drawn singly: fewer of their lattice neighbours are seen."""
    neighbours = np.linalg.norm(PLACES[:, None] - PLACES[None], axis=-1) == 32

    def seen_neighbours(hidden: np.ndarray) -> float:
        return float(neighbours[hidden][:, ~hidden].sum() / neighbours[hidden].sum())

    ours, single = [], []
    for seed in range(200):
        hidden = ~draw(125, 5, 2, 0.3, seed).places
        ours.append(seen_neighbours(hidden))
        single.append(seen_neighbours(np.random.default_rng(seed).permutation(hidden)))
    assert np.mean(ours) < 0.75 * np.mean(single)


def test_hidden_places_are_the_nearest_to_few_seeds() -> None:
    """With one seed, hidden is a ball: no seen place is nearer to it than a hidden one. Some draws have one seed."""
    balls = 0
    for seed in range(60):
        hidden = ~draw(125, 5, 1, 0.3, seed).places
        distance = np.linalg.norm(PLACES[:, None] - PLACES[None], axis=-1)
        balls += any(distance[centre, hidden].max() <= distance[centre, ~hidden].min() for centre in np.flatnonzero(hidden))
    assert 5 < balls < 55


def test_a_seed_gives_one_mask() -> None:
    first, again, other = (draw(60, 5, 2, 0.3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.context, again.context)
    assert (first.context != other.context).any()


def test_one_window_is_seen_and_has_only_other_places_to_predict() -> None:
    mask = draw(60, 1, 2, 0.3, 0)
    assert mask.times.all() and not mask.targets("cross_time").any() and not mask.targets("double_cross").any()
    assert mask.context.mean() == pytest.approx(0.3, abs=0.01)


def test_one_place_cannot_be_masked() -> None:
    with pytest.raises(InputError, match="at least 2"):
        draw(1, 5, 2, 0.3, 0)
