"""Windows of one session, joined: the input of stage 2, and where it is read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimbrain.config import WindowConfig
from slimbrain.errors import ContractError
from slimbrain.grid import Grid
from slimbrain.store import Channels, Contract, SessionInfo

_IntArray = npt.NDArray[np.int64]


class Sessions(Protocol):
    """What models read sessions from: a `Store`, or images that are prepared as they are read (`slimbrain.prep.images`)."""

    @property
    def contract(self) -> Contract: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def sessions(self) -> Sequence[SessionInfo]: ...

    def channels(self, key: str) -> Channels: ...

    def coarse(self, key: str) -> npt.NDArray[Any]: ...

    def windows(self, key: str, starts: Sequence[int], frames: int) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Clip:
    """Some windows of one session, concatenated: the input of stage 2.

    Attributes
    ----------
    voxels : Tensor
        (T, P, V) in the grid's order, z-scored.
    seconds : Tensor
        (T,) time of each frame since the session began.
    grid : Grid
        The grid that `voxels` is packed with.
    """

    voxels: Tensor
    seconds: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        frames, patches, values = self.voxels.shape
        if (patches, values) != self.grid.voxel_mask.shape or self.seconds.shape != (frames,):
            raise ContractError(
                f"voxels {tuple(self.voxels.shape)} and seconds {tuple(self.seconds.shape)} do not fit {self.grid!r}; pack with it."
            )


def read_clip(store: Sessions, info: SessionInfo, windows: Sequence[int] | _IntArray, frames: int) -> Clip:
    """Read windows of a session and join them in the order given; each frame keeps its own time.

    Parameters
    ----------
    store : Store or what stands in for one
        With voxels.
    info : SessionInfo
        The session.
    windows : sequence of int or ndarray of int
        W window numbers; number 0 begins at frame 0.
    frames : int
        F frames per window.

    Returns
    -------
    Clip
        (W * F, P, V) voxels, and the time of each frame.

    Raises
    ------
    StoreError
        If a window goes beyond the end of the session, or it has no voxels.

    Examples
    --------
    >>> from slimbrain import Store
    >>> from slimbrain.data.clip import read_clip
    >>> store = Store("store")
    >>> clip = read_clip(store, store.sessions[0], [0, 2], frames=8)
    >>> len(clip.voxels), round(float(clip.seconds[8]), 2)  # window 2 begins at frame 16, of 0.72 s each
    (16, 11.52)
    """
    starts = [int(number) * frames for number in windows]
    frame = np.concatenate([np.arange(start, start + frames) for start in starts])
    return Clip(torch.from_numpy(store.windows(info.key, starts, frames)), torch.from_numpy(frame * info.tr), store.grid)


def read_clips(store: Sessions, info: SessionInfo, windows: Sequence[int], cut: WindowConfig, unit_frames: int) -> list[Clip]:
    """Read windows of a session as clips of at most `cut.k`, each of which spans the session: every second window, say, is one clip's.

    Parameters
    ----------
    windows : sequence of int
        As of `read_clip`.
    cut : WindowConfig
        Frames per window, and windows per clip, as in training.
    unit_frames : int
        Of stage 2's mask unit; windows that share one stay together.
    """
    together = unit_frames // gcd(cut.frames, unit_frames)
    groups = [windows[first : first + together] for first in range(0, len(windows), together)]
    clips = -(-len(groups) // (cut.k // together))
    return [read_clip(store, info, [number for group in groups[first::clips] for number in group], cut.frames) for first in range(clips)]
