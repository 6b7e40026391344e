"""What the loop needs from each stage: a model, its draws, its loss, its health."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimbrain.config import Preset, TrainConfig
from slimbrain.data.draws import ClipDraws, Draws, MaskedClip, Pick, Series, SeriesDraws
from slimbrain.data.masking import TARGET_KINDS
from slimbrain.data.samplers import Pace
from slimbrain.errors import InputError
from slimbrain.models.health import standard_deviations, token_health
from slimbrain.models.hiera import HieraBlock
from slimbrain.models.jepa import HieraJEPA, Prediction
from slimbrain.models.predictor import FactorisedBlock
from slimbrain.models.temporal import TemporalExtractor, temporal_loss
from slimbrain.store import Store
from slimbrain.train.distributed import all_reduce, rank
from slimbrain.train.online_probe import OnlineProbe
from slimbrain.train.schedule import momentum


class Stage(ABC):
    """One stage of pretraining.

    Attributes
    ----------
    name : {'temporal', 'voxel'}
        As in `train_NAME` of a preset.
    model : HieraJEPA or TemporalExtractor
        What is trained.
    draws : Draws
        What it is trained on.
    parts : tuple of str
        Names of the parts of the loss that the log shows.
    floors : mapping of str to float
        Logged values under which the model counts as collapsing, or as learning nothing.
    floors_after : mapping of str to int
        Steps that such a value has to reach its floor, where it needs more than the warm-up.
    scored : tuple of Pick
        Draws whose hidden tokens are predicted at every logged line.
    shards : tuple of nn.Module
        Modules that are worth spreading over processes by themselves.
    probed : tuple of nn.Parameter
        Weights whose gradients tell whether components of a mixture help each other; the last ones, whose gradients are cheap.
    """

    name: Literal["temporal", "voxel"]
    model: HieraJEPA | TemporalExtractor
    draws: Draws
    parts: tuple[str, ...] = ()
    floors: Mapping[str, float] = MappingProxyType({})
    floors_after: Mapping[str, int] = MappingProxyType({})
    scored: tuple[Pick, ...] = ()
    shards: tuple[nn.Module, ...] = ()
    probed: tuple[nn.Parameter, ...] = ()
    _last: Any = None

    @abstractmethod
    def loss(self, batch: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro-batch, and those of `parts` that it has."""

    @abstractmethod
    def health(self) -> dict[str, float]:
        """`std`, `effective_rank` and the like of the last micro-batch's tokens."""

    def held_out_loss(self, batch: Sequence[Any]) -> Tensor:
        """Prediction error of sessions that are not trained on."""
        return self.loss(batch)[0]

    def predict(self, batch: Sequence[Any]) -> Prediction:
        """What is predicted of hidden tokens, for `skill`; stages that have `scored` draws have it."""
        raise NotImplementedError

    def probe(self, step: int) -> dict[str, float]:
        """What an online probe says at a logged step; nothing at most steps, and of most stages."""
        return {}

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Losses computed within leave no trace in the stage."""
        last = self._last
        yield
        self._last = last

    def after_step(self, progress: float) -> float | None:
        """Updates after an optimiser step at `progress` 0 to 1; returns the EMA momentum if there is one."""
        return None


class TemporalStage(Stage):
    """Stage 1: masked reconstruction of whole sessions."""

    name = "temporal"

    def __init__(self, store: Store, preset: Preset, seed: int) -> None:
        torch.manual_seed(seed)
        self.model: TemporalExtractor = TemporalExtractor(preset.temporal)
        self.draws = SeriesDraws(store, preset.window, seed, preset.sampling, _pace(preset.train_temporal), preset.augment)
        model, self.masks = self.model, preset.augment.masks
        self.probed = _parameters(model.blocks[-1], model.norm, model.write, model.scatter)

    def loss(self, batch: Sequence[Series]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sessions of one length are computed together; each counts alike."""
        device = next(self.model.parameters()).device
        total = torch.zeros((), device=device)
        by_shape = sorted(batch, key=_shape)
        for _, group in groupby(by_shape, key=_shape):
            members = list(group)
            generator = torch.Generator().manual_seed(int(self.draws.generator(members[0].draw).integers(2**63)))
            for together in _passes(members, 1 if device.type == "cpu" else len(members)):
                series = torch.stack([member.values for member in together]).to(device)
                loss, _ = temporal_loss(self.model, series, together[0].mm.to(device), together[0].tr, generator, self.masks)
                total = total + loss * len(together) / len(batch)
        self._last = by_shape[0]
        return total, {}

    @torch.no_grad()
    def health(self) -> dict[str, float]:
        assert self._last is not None
        device = next(self.model.parameters()).device
        _, windows = self.model.embed(self._last.values[None].to(device), self._last.mm.to(device), self._last.tr)
        return standard_deviations(windows[0])


def _passes(members: Sequence[Series], size: int) -> Iterator[Sequence[Series]]:
    """Sessions that are computed in one pass: one on a CPU, whose caches hold one and not a batch, which takes 1.3 times as long."""
    return (members[first : first + size] for first in range(0, len(members), size))


def _shape(series: Series) -> tuple[int, int, float, bytes]:
    """What sessions of one pass share; parcellations may have as many parcels and others."""
    return (*series.values.shape, series.tr, series.mm.numpy().tobytes())


def _pace(config: TrainConfig) -> Pace:
    return Pace(config.batch * config.accumulate, config.steps)


def _parameters(*modules: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(parameter for module in modules for parameter in module.parameters() if parameter.requires_grad)


_SCORED_CLIPS = 4
"""Clips of held-out participants that skill is measured on, always the same ones; a tenth of the time of `tiny`, less of larger batches."""


class VoxelStage(Stage):
    """Stage 2: Hiera-JEPA on clips of the chosen windows."""

    name = "voxel"
    parts = tuple(f"loss_{kind}" for kind in TARGET_KINDS)

    def __init__(self, store: Store, preset: Preset, seed: int, ranked: Mapping[str, Sequence[int]] | None) -> None:
        torch.manual_seed(seed)
        self.model: HieraJEPA = HieraJEPA(preset.voxel, preset.jepa, store.grid.voxels_per_patch)
        if preset.voxel.compile:
            self.model.compile_blocks()
        # Levels 1 and 2 hold a twentieth of the weights, and would be gathered once for each of their blocks of units.
        encoders = (self.model.context, self.model.target)
        late = [block for encoder in encoders for block in encoder.blocks[encoder.first_global :]]
        self.shards = tuple(block for block in (*late, *self.model.predictor.modules()) if isinstance(block, (HieraBlock, FactorisedBlock)))
        jepa, voxel = preset.jepa, preset.voxel
        # The published objective kept a rank of 12 while its tokens' std fell to 0.08, and without a covariance term all
        # dimensions may be redundant at a std of 1: each floor catches what the others miss (docs/collapse.md).
        self.floors = {"effective_rank": jepa.rank_floor, "std": jepa.std_floor, "content_std": jepa.std_floor}
        if jepa.skill_floor is not None:
            self.floors, self.floors_after = {**self.floors, "skill": jepa.skill_floor}, {"skill": jepa.skill_after}
        choice = (ranked, preset.sampling, _pace(preset.train_voxel))
        self.draws = ClipDraws(store, preset.window, seed, voxel.unit, voxel.unit_frames, jepa, *choice)
        self.scored = self.draws.scored(_SCORED_CLIPS)
        self.train = preset.train_voxel
        if self.train.probe and self.train.parallel == "fsdp2":
            raise InputError("train_voxel.probe: needs whole weights, which parallel: fsdp2 has not; set it to ddp.")
        self.online_probe = OnlineProbe(self.draws, self.train.probe) if self.train.probe else None
        context = self.model.context
        self.probed = _parameters(*context.blocks[-voxel.depths[-1] :], context.norm, self.model.predictor)

    def loss(self, batch: Sequence[MaskedClip]) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model([sample.clip for sample in batch], [sample.mask for sample in batch])
        self._last = output.tokens
        return output.loss, {f"loss_{kind}": value for kind, value in output.by_kind.items()}

    def held_out_loss(self, batch: Sequence[MaskedClip]) -> Tensor:
        """Without the regularisers, which are statistics of a batch and mean nothing for one clip."""
        return self.model([sample.clip for sample in batch], [sample.mask for sample in batch], penalties=False).loss

    def predict(self, batch: Sequence[MaskedClip]) -> Prediction:
        return self.model.predict([sample.clip for sample in batch], [sample.mask for sample in batch])

    def probe(self, step: int) -> dict[str, float]:
        due = step % self.train.probe_every < self.train.log_every or step + 1 == self.train.steps
        return self.online_probe.measure(self.model.encoder) if self.online_probe and due and rank() == 0 else {}

    def health(self) -> dict[str, float]:
        assert self._last is not None
        return token_health(self._last)

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Nor does the position baseline absorb anything."""
        baseline = self.model.baseline
        news = [] if baseline is None else [baseline.new_gram, baseline.new_moment]
        before = [new.clone() for new in news]
        with super().without_trace():
            yield
        for new, value in zip(news, before, strict=True):
            new.copy_(value)

    def after_step(self, progress: float) -> float:
        """The target follows the context, and the position baseline absorbs the step's tokens of all processes."""
        followed = momentum(progress, self.model.jepa)
        self.model.update_target(followed, all_reduce)
        return followed
