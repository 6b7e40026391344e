"""Images that are read like the sessions of a store without becoming one: what `slimbrain prep` would store, made when it is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.prep.bids import describe_image
from slimbrain.prep.exclusion import judge
from slimbrain.prep.likeness import template_likeness
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.quality import assess
from slimbrain.prep.runs import Run, require_mni152
from slimbrain.prep.source import Source, open_source, source_of
from slimbrain.prep.timing import TARGET_TR_S, TimeAxis, repetition_time, require_length
from slimbrain.prep.volume import Prepared, prepare_image
from slimbrain.store import Channels, Contract, SessionInfo
from slimbrain.store.channels import cell_channels
from slimbrain.store.manifest import session_key

_FloatArray = npt.NDArray[Any]


@dataclass(frozen=True)
class _Recording:
    info: SessionInfo
    run: Run
    source: Source
    tr: float


class ImageSessions:
    """Images as sessions, on a given grid, with the defaults of `slimbrain prep`.

    Headers are read and checked at once; an image is prepared when something of it is asked for, and the last one is kept, in temporary
    files, not in memory. What `slimbrain prep` would leave out is refused, and what it would warn of is warned of.

    Parameters
    ----------
    images : sequence of object
        NIfTI paths and nibabel images.
    grid : Grid
        Lattice and mask of the sessions.
    tr : float or None
        Seconds per frame, where neither a JSON sidecar nor the header says.
    window_frames : int
        Shorter recordings are refused.

    Attributes
    ----------
    grid : Grid
        As given.
    contract : that of a store of such images.
    sessions : one per image, in the order given, the same image twice if it was given twice. The key of one with a BIDS name is the
        key that it has in a store; else it is its path, or its place in `images`.

    Raises
    ------
    InputError
        If one cannot be read, is too short, is not in MNI space by its name, or does not say its TR.
    """

    def __init__(self, images: Sequence[object], grid: Grid, tr: float | None = None, window_frames: int = 1) -> None:
        self.grid = grid
        self.contract = Contract(grid.lattice.id, grid.hash, "MNI152", TARGET_TR_S)
        self._recordings: dict[str, _Recording] = {}
        self.sessions = [self._add(number, image, tr, window_frames) for number, image in enumerate(images)]
        self._last: tuple[str, Prepared] | None = None

    def channels(self, key: str) -> Channels:
        """Names and MNI places of the cells."""
        return cell_channels(self.grid)

    def coarse(self, key: str) -> _FloatArray:
        """(T, C) float32 mean of each cell."""
        return self.grid.coarse(self._prepared(key).voxels)

    def windows(self, key: str, starts: Sequence[int], frames: int) -> _FloatArray:
        """(len(starts) * frames, P, V) float16 z-scored voxels of stretches of `frames` frames, in the order given."""
        voxels = self._prepared(key).voxels
        return np.concatenate([voxels[start : start + frames] for start in starts])

    def _add(self, number: int, image: object, tr: float | None, window_frames: int) -> SessionInfo:
        if isinstance(image, (str, os.PathLike)):
            run = describe_image(Path(image))
            if "sub" in run.entities:
                require_mni152(run.entities.get("space", ""), str(run.image))
            source: Source = open_source(run.image)
        else:
            source = source_of(image, f"image {number} of {type(image).__name__}")
            run = Run(image=source.path, entities={})
        seconds, _ = repetition_time(source, run.sidecar, tr, option="tr=")
        times = TimeAxis(source.n_frames, seconds)
        require_length(source.path, times, window_frames)
        info = self._describe(number, run, isinstance(image, (str, os.PathLike)), times)
        self._recordings[info.key] = _Recording(info, run, source, seconds)
        return info

    def _describe(self, number: int, run: Run, is_path: bool, times: TimeAxis) -> SessionInfo:
        labels = {name: f"{name}-{run.entities[name]}" if name in run.entities else "" for name in ("sub", "ses")}
        key = session_key(run.entities) if run.entities else str(run.image) if is_path else f"image-{number}"
        taken = self._recordings.get(key)
        if taken and taken.run.image != run.image:
            # Another version of the same run: neither may pass for the other.
            key = str(run.image)
        task, which, space = (run.entities.get(name, "") for name in ("task", "run", "space"))
        return SessionInfo(key, labels["sub"], labels["ses"], task, which, space, times.n_frames, times.tr, str(run.image))

    def _prepared(self, key: str) -> Prepared:
        if self._last is None or self._last[0] != key:
            # The one before gives its temporary file back first.
            self._last = None
            self._last = (key, _prepare(self._recordings[key], self.grid))
        return self._last[1]


def _prepare(recording: _Recording, grid: Grid) -> Prepared:
    source, run, options = recording.source, recording.run, PrepOptions()
    prepared = prepare_image(source, grid, recording.tr)
    times = TimeAxis(source.n_frames, recording.tr)
    quality = assess(prepared, grid, run, times, options.warn_coverage, template_likeness(source))
    for breach in judge(str(source.path), quality.record(), options, quality.gap):
        reason = breach.reason.removesuffix("; it is left out.")
        raise InputError(f"{reason}, as `slimbrain prep` has it by default; leave it out, or embed a store prepared with another limit.")
    for warning in (*source.notes, *quality.warnings):
        warnings.warn(f"{source.path}: {warning}", stacklevel=2)
    return prepared
