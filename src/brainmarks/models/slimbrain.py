"""slimbrain as a model of Brainmarks, MedARC's evaluation suite, found by it because this folder is part of its namespace package.

A sample of the space `mni` takes the way of `slimbrain prep` and `slimbrain embed`: its z-score is undone, its voxels go to the
checkpoint's lattice and its frames to the checkpoint's TR. Then windows are chosen, and stage 2 sees their brain patches alone; or, with a
checkpoint of stage 1 such as the one that comes with slimbrain, it sees the means of cells of 16 mm over the whole recording.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from brainmarks.models.base import Embeddings
from brainmarks.models.registry import register_model
from slimbrain.config import WindowConfig
from slimbrain.data.clip import Clip, read_clip
from slimbrain.embed.pooling import pool_tokens, require_pooling
from slimbrain.embed.series import series_pooling, series_vectors
from slimbrain.errors import InputError
from slimbrain.governance.fingerprint import signature
from slimbrain.governance.provenance import Person, Provenance
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.prep.layouts.brainmarks import MASK_NAME, SPACE, mask_places, masked_source
from slimbrain.prep.runs import as_label
from slimbrain.prep.timing import TARGET_TR_S, TimeAxis, repetition_time, require_length
from slimbrain.prep.volume import Prepared, prepare_image
from slimbrain.saliency.choose import window_choice
from slimbrain.store import Channels, Contract, SessionInfo
from slimbrain.store.channels import cell_channels

FloatArray = npt.NDArray[Any]

CHECKPOINT_VARIABLE, TEMPORAL_VARIABLE, MASK_VARIABLE = "SLIMBRAIN_CHECKPOINT", "SLIMBRAIN_TEMPORAL", "SLIMBRAIN_MASK"
"""Stand in for the arguments `ckpt_path`, `temporal_path` and `mask_path`, since Brainmarks' test of models passes no arguments."""

NAMES = ("path", "sub")
"""Columns by which messages call a sample, the first that it has."""

SHIPPED = "slimbrain-temporal"
"""The model that is taken where none is named."""

SERIES_FRAMES = 2048
"""Most frames of a recording that stage 1 is given, 25 minutes at 0.72 s; shorter ones are filled up, so that they make a batch."""

STRETCHES = 8
"""Parts of a recording whose means are stage 1's patch tokens."""

TR_DECIMALS = 6
"""A TR arrives as float32: 0.8 is 0.8000000119, and would be resampled."""


@dataclass(frozen=True)
class SampleSession:
    """A prepared sample that is read like the one session of a store.

    Attributes
    ----------
    voxels : ndarray of float
        (T, P, V) float16, z-scored.
    info : SessionInfo
        The session.
    """

    voxels: FloatArray
    info: SessionInfo
    grid: Grid

    @property
    def contract(self) -> Contract:
        return contract_of(self.grid)

    @property
    def sessions(self) -> list[SessionInfo]:
        return [self.info]

    def channels(self, key: str) -> Channels:
        """Names and MNI places of the cells."""
        return cell_channels(self.grid)

    def coarse(self, key: str) -> FloatArray:
        """(T, C) float32 mean of each cell."""
        return self.grid.coarse(self.voxels)

    def windows(self, key: str, starts: Sequence[int], frames: int) -> FloatArray:
        """(len(starts) * frames, P, V) z-scored voxels of stretches of `frames` frames, in the order given."""
        return np.concatenate([self.voxels[start : start + frames] for start in starts])


def contract_of(grid: Grid) -> Contract:
    """What every sample fulfils once it is on the grid."""
    return Contract(grid.lattice.id, grid.hash, "MNI152", TARGET_TR_S)


class _SampleReader:
    """What both transforms share: a sample as a session, and the refusal of those that a model was trained on."""

    def __init__(self, grid: Grid, mask: Path, shortest: int, trained: Sequence[Provenance]) -> None:
        self.grid, self.place, self.shortest, self.trained = grid, mask_places(mask), shortest, tuple(trained)

    def _require_no_overlap(self, sample: Mapping[str, Any], session: SampleSession) -> None:
        if not self.trained:
            return
        # As `slimbrain prep` names the participant of a row.
        subject = f"sub-{as_label(str(sample.get('sub', '')).removeprefix('sub-'))}"
        person = Person(subject, recordings=(signature(session.coarse(session.info.key)),))
        if any(provenance.trained_on([person]) for provenance in self.trained):
            raise InputError(
                f"{subject}: the model was trained on this participant or recording, or on a participant of the same name; evaluate on "
                "others, or say that you know with `model_kwargs.allow_overlap=true`."
            )

    def session(self, sample: Mapping[str, Any]) -> SampleSession:
        """The whole recording on the checkpoint's grid, at the store's TR, z-scored."""
        name = next((str(sample[column]) for column in NAMES if sample.get(column)), "a sample of Brainmarks")
        values, mean, std = (np.asarray(sample[column]) for column in ("bold", "mean", "std"))
        source = masked_source(Path(name), values, mean, std, self.place)
        tr, _ = repetition_time(source, {"RepetitionTime": round(float(sample["tr"]), TR_DECIMALS)}, None, "column `tr`")
        times = TimeAxis(source.n_frames, tr)
        require_length(source.path, times, 1)
        voxels = self._long_enough(prepare_image(source, self.grid, tr), times)
        return SampleSession(voxels, SessionInfo(name, "", "", "", "", SPACE, len(voxels), times.tr, name), self.grid)

    def _long_enough(self, prepared: Prepared, times: TimeAxis) -> FloatArray:
        """The voxels, followed by their mean where they are shorter than the shortest clip that stage 2 can read."""
        missing = self.shortest - times.n_frames
        if missing <= 0:
            return prepared.voxels
        warnings.warn(
            f"{times.n_frames} frames of {times.tr:g} s are under the {self.shortest} that the checkpoint needs; "
            "the mean fills them up, as other models of Brainmarks do.",
            stacklevel=2,
        )
        return np.concatenate((prepared.voxels, np.zeros((missing, *prepared.voxels.shape[1:]), prepared.voxels.dtype)))


class SlimBrainTransform(_SampleReader):
    """A sample of the space `mni` to the clip that stage 2 sees.

    Parameters
    ----------
    grid : Grid
        Lattice and mask of the checkpoint.
    window : WindowConfig
        Frames per window, and how many.
    unit_frames : int
        Of the checkpoint's mask unit.
    mask : Path
        Image of Brainmarks' mask, which says where the voxels of a sample belong.
    temporal : TemporalExtractor or None
        Scores the windows of which the best are taken; without, they are spread evenly.
    trained : Sequence[Provenance], default ()
        Of models whose participants are refused.
    """

    def __init__(
        self,
        grid: Grid,
        window: WindowConfig,
        unit_frames: int,
        mask: Path,
        temporal: TemporalExtractor | None = None,
        trained: Sequence[Provenance] = (),
    ) -> None:
        super().__init__(grid, mask, math.lcm(window.frames, unit_frames), trained)
        self.window, self.unit_frames, self.temporal = window, unit_frames, temporal
        if self.shortest > window.frames * window.k:
            raise InputError(
                f"k={window.k}: {window.k} windows of {window.frames} frames are not a whole number of the checkpoint's units of "
                f"{unit_frames} frames; give a multiple of {self.shortest // window.frames}."
            )

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare one sample.

        Parameters
        ----------
        sample : Mapping[str, Any]
            `bold` (T, V) z-scored, `mean` and `std` (1, V), `tr` in seconds; other columns are passed on.

        Returns
        -------
        `bold` (k * w, P, V) float16, `seconds` (k * w,) and `frames`, how many of the k * w hold a window; the others are 0,
        so that samples of any length make a batch.

        Raises
        ------
        InputError
            If the sample is of another space, has no TR, does not change over time, or is of a participant of the pretraining.
        """
        session = self.session(sample)
        self._require_no_overlap(sample, session)
        temporal = self.temporal if session.info.n_windows(self.window.frames) > 1 else None
        chosen = window_choice(temporal, session, self.unit_frames, self.window)(session.info)
        clip = read_clip(session, session.info, chosen, self.window.frames)
        frames = len(clip.seconds)
        missing = self.window.frames * self.window.k - frames
        others = {name: value for name, value in sample.items() if name not in ("bold", "mean", "std", "tr")}
        return {
            **others,
            "bold": nn.functional.pad(clip.voxels, (0, 0, 0, 0, 0, missing)),
            "seconds": nn.functional.pad(clip.seconds, (0, missing)),
            "frames": frames,
        }


class SlimBrainWrapper(nn.Module):
    """Stage 2's encoder on batches of `SlimBrainTransform`.

    Parameters
    ----------
    model : HieraJEPA
        The checkpoint; only its encoder is kept.
    grid : Grid
        The checkpoint's.
    pooling : str, default 'moments'
        How the tokens of a clip become its one vector; see `pool_tokens`.
    """

    __space__ = "mni"

    def __init__(self, model: HieraJEPA, grid: Grid, pooling: str = "moments") -> None:
        super().__init__()
        self.encoder, self.grid, self.pooling = model.encoder, grid, pooling

    def forward(self, batch: Mapping[str, Tensor]) -> Embeddings:
        """Embed B clips.

        Returns
        -------
        cls (B, 1, N), the pooled clips; no register tokens; patch (B, L, D), a token for each step and unit, in this order. Where a clip
        is shorter than others, its mean token stands for those it lacks, so that its mean over tokens stays its own.
        """
        lengths = batch["frames"].tolist()
        clips = [
            Clip(voxels[:length], seconds[:length], self.grid)
            for voxels, seconds, length in zip(batch["bold"], batch["seconds"], lengths, strict=True)
        ]
        tokens = self.encoder(clips)
        longest = max(tokens.lengths)
        patches = [
            torch.cat((values, values.mean(0, keepdim=True).expand(longest - len(values), -1)))
            for values in tokens.values.split(list(tokens.lengths))
        ]
        return Embeddings(pool_tokens(tokens, self.pooling)[:, None], None, torch.stack(patches))


class SeriesTransform(_SampleReader):
    """A sample of the space `mni` to the series of its cells of 16 mm, which stage 1 sees.

    Parameters
    ----------
    grid : Grid
        Lattice and mask, whose cells are the channels.
    window_frames : int
        Of the checkpoint.
    mask, trained
        As of `SlimBrainTransform`.
    """

    def __init__(self, grid: Grid, window_frames: int, mask: Path, trained: Sequence[Provenance] = ()) -> None:
        super().__init__(grid, mask, window_frames, trained)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """`bold` (SERIES_FRAMES, C) float32, of which the first `frames` are the recording's; other columns are passed on."""
        session = self.session(sample)
        self._require_no_overlap(sample, session)
        series = torch.from_numpy(session.coarse(session.info.key))
        if len(series) > SERIES_FRAMES:
            warnings.warn(f"{session.info.key}: only the first {SERIES_FRAMES} of {len(series)} frames are read.", stacklevel=2)
            series = series[:SERIES_FRAMES]
        others = {name: value for name, value in sample.items() if name not in ("bold", "mean", "std", "tr")}
        return {**others, "bold": nn.functional.pad(series, (0, 0, 0, SERIES_FRAMES - len(series))), "frames": len(series)}


class SeriesWrapper(nn.Module):
    """Stage 1 on batches of `SeriesTransform`.

    Parameters
    ----------
    model : TemporalExtractor
        The checkpoint.
    grid : Grid
        Whose cells are the channels.
    pooling : str or None
        How a series becomes the cls vector; see `slimbrain.embed.series.SERIES_POOLINGS`. The checkpoint's default if None.
    """

    __space__ = "mni"
    mm: Tensor

    def __init__(self, model: TemporalExtractor, grid: Grid, pooling: str | None = None) -> None:
        super().__init__()
        self.model, self.pooling = model, series_pooling(model, pooling)
        self.register_buffer("mm", torch.tensor(cell_channels(grid).mm, dtype=torch.float32), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Embeddings:
        """Embed B series: cls (B, 1, N); no register tokens; patch (B, STRETCHES, D), means over windows of as many equal stretches."""
        series = [values[:length] for values, length in zip(batch["bold"], batch["frames"].tolist(), strict=True)]
        vectors = series_vectors(self.model, series, self.mm, TARGET_TR_S, self.pooling)
        patches = [self._stretches(self.model.embed(values[None], self.mm, TARGET_TR_S)[1][0]) for values in series]
        return Embeddings(vectors[:, None], None, torch.stack(patches))

    @staticmethod
    def _stretches(windows: Tensor) -> Tensor:
        """(STRETCHES, D) of (N, D): of short recordings, windows repeat."""
        ends = [round(place * len(windows) / STRETCHES) for place in range(STRETCHES + 1)]
        return torch.stack([windows[min(a, len(windows) - 1) : max(b, a + 1)].mean(0) for a, b in pairwise(ends)])


@register_model
def slimbrain(
    ckpt_path: str | None = None,
    temporal_path: str | None = None,
    k: int | None = None,
    pooling: str | None = None,
    mask_path: str | None = None,
    allow_overlap: bool = False,
) -> tuple[SlimBrainTransform, SlimBrainWrapper] | tuple[SeriesTransform, SeriesWrapper]:
    """A checkpoint of slimbrain; the stage 1 model that comes with it, if none is named.

    Parameters
    ----------
    ckpt_path : str or None
        Model folder or hub id, of stage 2 or of stage 1; the environment variable SLIMBRAIN_CHECKPOINT if None, and the model that comes
        with slimbrain without either.
    temporal_path : str or None
        Stage 1's, by whose scores windows are chosen; SLIMBRAIN_TEMPORAL if None, and evenly spread windows without either.
    k : int or None
        Windows per sample; as many as in training if None.
    pooling : str or None
        Of the cls embedding: for stage 2 see `slimbrain.embed.pooling.pool_tokens`, for stage 1 `slimbrain.embed.series.SERIES_POOLINGS`;
        `moments` or `both` if None.
    mask_path : str or None
        Brainmarks' brain mask; the file that SLIMBRAIN_MASK names if None, and TemplateFlow's without either.
    allow_overlap : bool, default False
        Take participants that either stage was pretrained on, whose results say little of others.

    Raises
    ------
    InputError
        If a checkpoint cannot be read, or `temporal_path` is one of stage 2.
    ContractError
        If the checkpoint reads other data than MNI volumes at 0.72 s.
    """
    ckpt_path = ckpt_path or os.environ.get(CHECKPOINT_VARIABLE) or SHIPPED
    temporal_path = temporal_path or os.environ.get(TEMPORAL_VARIABLE)
    mask_path = mask_path or os.environ.get(MASK_VARIABLE)
    mask = Path(mask_path) if mask_path else _template_mask()
    model = from_pretrained(ckpt_path)
    if isinstance(model, TemporalExtractor):
        return _of_series(model, ckpt_path, mask, pooling, allow_overlap)
    provenance = model.provenance
    if provenance is None or provenance.grid is None:
        raise InputError(f"{ckpt_path}: does not say which brain it reads; export the model again.")
    provenance.contract.require(contract_of(provenance.grid), f"the model {ckpt_path}", "Brainmarks' data once resampled")
    temporal = require_model(from_pretrained(temporal_path), TemporalExtractor, temporal_path) if temporal_path else None
    window = provenance.window.model_copy(update={"k": k or provenance.window.k})
    trained = [found for found in (provenance, temporal and temporal.provenance) if found and not allow_overlap]
    transform = SlimBrainTransform(provenance.grid, window, model.config.unit_frames, mask, temporal, trained)
    return transform, SlimBrainWrapper(model, provenance.grid, require_pooling(pooling))


def _of_series(
    model: TemporalExtractor, source: str, mask: Path, pooling: str | None, allow_overlap: bool
) -> tuple[SeriesTransform, SeriesWrapper]:
    """A checkpoint of stage 1, on cells of the lattice that it was trained on, or of 2 mm where it reads any channels."""
    provenance = model.provenance
    if provenance is None:
        raise InputError(f"{source}: does not say what it was trained on; export the model again.")
    grid = provenance.grid or Grid.from_nifti(mask, "2mm")
    provenance.require(contract_of(grid), f"the model {source}", "Brainmarks' data once resampled")
    trained = [] if allow_overlap else [provenance]
    return SeriesTransform(grid, model.window_frames, mask, trained), SeriesWrapper(model, grid, pooling)


def _template_mask() -> Path:
    """Brainmarks' mask as Brainmarks itself gets it."""
    from templateflow import api

    try:
        found = api.get(SPACE, desc="brain", resolution=2, suffix="mask", extension="nii.gz")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"TemplateFlow does not give {MASK_NAME} ({error}); fetch it once, or name it with mask_path or the variable {MASK_VARIABLE}."
        ) from error
    if not isinstance(found, Path):
        raise InputError(f"TemplateFlow has not one {MASK_NAME} but {found}; name the file with mask_path.")
    return found
