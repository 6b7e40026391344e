"""Recordings known again by their content: copies with noise are, strangers are not."""

from __future__ import annotations

import numpy as np
import pytest

from slimbrain.governance.fingerprint import FRAMES, PROJECTIONS, SIGNATURE_BITS_APART, _sketch, nearest, signature


def recording(seed: int, frames: int = 200, channels: int = 30) -> np.ndarray:
    """Smooth courses mixed into channels, with a drift that all recordings share."""
    rng = np.random.default_rng(seed)
    courses = np.cumsum(rng.normal(size=(frames, 6)), axis=0)
    mixed = courses @ rng.normal(size=(6, channels)) + rng.normal(size=(frames, channels))
    return mixed / mixed.std(axis=0) + 2 * np.linspace(-1, 1, frames)[:, None]


def copy_of(series: np.ndarray, correlation: float, seed: int = 9) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=series.shape) * np.sqrt(1 / correlation**2 - 1)
    return series + noise * series.std(axis=0)


def test_the_cosine_of_sketches_is_the_correlation_of_what_they_are_of() -> None:
    """Random projections keep angles; channels are independent noise here, so that the average over pairs shows a bias."""
    rng = np.random.default_rng(0)
    errors = []
    for wanted in np.linspace(-0.9, 0.9, 40):
        first, other = rng.normal(size=(2, FRAMES, 40))
        second = wanted * first + np.sqrt(1 - wanted**2) * other
        errors.append(float(_sketch(first) @ _sketch(second)) - wanted)
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(len(errors)) + 0.01 and np.std(errors) < 2 / np.sqrt(PROJECTIONS)


def test_a_copy_with_noise_is_recognised_and_strangers_are_not() -> None:
    everyone = [recording(seed) for seed in range(40)]
    signatures = [signature(series) for series in everyone]
    copies = [signature(copy_of(series, 0.999)) for series in everyone]
    assert nearest(copies, signatures)[0].max() <= SIGNATURE_BITS_APART
    for place, mine in enumerate(signatures):
        assert nearest([mine], signatures[:place] + signatures[place + 1 :])[0][0] > SIGNATURE_BITS_APART


def test_scale_offset_and_drift_do_not_matter() -> None:
    series = recording(3)
    changed = series * np.linspace(1, 50, 30) - 7 + 20 * np.linspace(0, 1, 200)[:, None] ** 2
    assert nearest([signature(changed)], [signature(series)])[0][0] <= 4


def test_nearest_counts_differing_bits() -> None:
    width = PROJECTIONS // 8
    zero, one, many = "00" * width, "01" + "00" * (width - 1), "ff" * width
    assert [values.tolist() for values in nearest([one, many], [zero, one])] == [[0, PROJECTIONS - 1], [1, 1]]


@pytest.mark.parametrize("frames", [1, 2, 3, 200])
def test_what_does_not_change_is_like_nothing(frames: int) -> None:
    assert signature(np.full((frames, 4), 3.7, dtype=np.float32)) == ""


def test_a_constant_channel_adds_nothing() -> None:
    series = recording(1)
    beyond = series.copy()
    beyond[:, 5] = 123.0
    silent = series.copy()
    silent[:, 5] = 0.0
    assert np.allclose(_sketch(beyond), _sketch(silent))
