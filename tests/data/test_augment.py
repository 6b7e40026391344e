"""Random changes of a session: each against what it must leave alone, and against parcellations made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimbrain.config import AugmentConfig, load_preset
from slimbrain.data.augment import augment
from slimbrain.errors import InputError


def session(frames: int = 60, channels: int = 30) -> tuple[Tensor, Tensor]:
    """Sample (t, c) is 1000 t + c, so that each one says where it is from; places on a line, 10 mm apart."""
    values = 1000.0 * torch.arange(frames)[:, None] + torch.arange(channels)
    return values, 10.0 * torch.arange(channels)[:, None] * torch.tensor([1.0, 0.0, 0.0])


def test_the_default_changes_nothing() -> None:
    values, mm = session()
    changed, places = augment(values, mm, 16, AugmentConfig(), np.random.default_rng(0))
    assert torch.equal(changed, values) and torch.equal(places, mm)


@given(st.integers(0, 2**32), st.integers(16, 90))
@settings(deadline=None)
def test_excerpts_and_dropped_channels_hold_samples_as_they_were(seed: int, frames: int) -> None:
    values, mm = session(frames)
    config = AugmentConfig(frames=(20, 40), drop=0.6, fewest=20)
    changed, places = augment(values, mm, 16, config, np.random.default_rng(seed))
    assert min(20, frames) <= len(changed) <= min(40, frames)
    first, channels = int(changed[0, 0]) // 1000, changed[0].long() % 1000
    assert torch.equal(changed, values[first : first + len(changed)][:, channels])
    assert torch.equal(places, mm[channels])
    assert 20 <= len(channels) <= 30 and (channels.diff() > 0).all()


def test_a_session_keeps_the_frames_that_it_takes_to_be_trained_on() -> None:
    values, mm = session()
    lengths = [len(augment(values, mm, 16, AugmentConfig(frames=(2, 17)), np.random.default_rng(seed))[0]) for seed in range(40)]
    assert set(lengths) == {16, 17}


def test_lengths_are_even_in_octaves() -> None:
    values, mm = session(400)
    config = AugmentConfig(frames=(25, 400))
    lengths = np.array([len(augment(values, mm, 16, config, np.random.default_rng(seed))[0]) for seed in range(2000)])
    shares = np.histogram(lengths, [25, 50, 100, 200, 401])[0] / len(lengths)
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_merged_parcels_are_means_of_channels_that_lie_together(seed: int) -> None:
    values, mm = session()
    changed, places = augment(values, mm, 16, AugmentConfig(merge=1, fewest=5), np.random.default_rng(seed))
    assert 5 <= changed.shape[1] <= 30 and len(changed) == 60
    # On a line each parcel is a stretch: its mean channel number is a tenth of its mean place, in the first frame and in all.
    torch.testing.assert_close(changed[0], places[:, 0] / 10)
    torch.testing.assert_close(changed - changed[:1], 1000.0 * torch.arange(60.0)[:, None].expand_as(changed))
    # Sizes, from the mean and the neighbours, add up to all channels, each once.
    order = places[:, 0].argsort()
    edge, total = 0.0, 0
    for mean in (places[order, 0] / 10).tolist():
        size = round(2 * (mean - edge) + 1)
        edge, total = edge + size, total + size
    assert total == 30


def test_channels_at_one_place_do_not_leave_an_empty_parcel() -> None:
    values, mm = session()
    changed, places = augment(values, torch.zeros_like(mm), 16, AugmentConfig(merge=1, fewest=5), np.random.default_rng(0))
    assert changed.shape[1] == len(places) == 1 and changed.isfinite().all()


def test_jitter_moves_places_by_as_much_as_asked() -> None:
    values, mm = session(channels=3000)
    changed, places = augment(values, mm, 16, AugmentConfig(jitter_mm=3), np.random.default_rng(0))
    assert torch.equal(changed, values)
    assert float((places - mm).std()) == pytest.approx(3, rel=0.03)


def test_the_state_of_the_generator_decides() -> None:
    values, mm = session()
    config = AugmentConfig(frames=(20, 40), drop=0.5, merge=0.5, jitter_mm=2)
    one, same, other = (augment(values, mm, 16, config, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert one[0].shape != other[0].shape or not torch.equal(one[0], other[0])


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(InputError, match="shortest excerpt, 40, comes before the longest, 20"):
        load_preset("tiny", ["augment.frames=[40, 20]"])
