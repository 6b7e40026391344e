"""Windows of a session, read as one clip or several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import make_store

from slimbrain.config import WindowConfig
from slimbrain.data.clip import read_clips
from slimbrain.grid import Grid


@pytest.mark.parametrize(
    ("unit_frames", "k", "clips"),
    [
        (4, 7, [[0, 1, 2, 3, 4, 5, 6]]),
        (4, 3, [[0, 3, 6], [1, 4], [2, 5]]),
        # Windows that share a mask unit stay together.
        (8, 4, [[0, 1, 4, 5], [2, 3]]),
    ],
)
def test_clips_have_every_window_once_and_span_the_session(
    tmp_path: Path, grid8: Grid, unit_frames: int, k: int, clips: list[list[int]]
) -> None:
    store = make_store(tmp_path / "store", grid8, subjects=1, frames=28)
    info, windows = store.sessions[0], sorted(number for clip in clips for number in clip)
    whole = torch.from_numpy(np.stack(store.windows(info.key, [0], 28)))
    found = read_clips(store, info, windows, WindowConfig(frames=4, k=k), unit_frames)
    assert len(found) == len(clips)
    for clip, numbers in zip(found, clips, strict=True):
        frames = np.concatenate([np.arange(number * 4, number * 4 + 4) for number in numbers])
        np.testing.assert_allclose(clip.seconds, frames * info.tr)
        torch.testing.assert_close(clip.voxels, whole[frames])
