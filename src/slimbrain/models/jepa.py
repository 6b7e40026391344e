"""Hiera-JEPA: predict what hidden units hold from the context encoder's tokens of visible ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import TARGET_KINDS, JepaMask
from slimbrain.errors import InputError
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout
from slimbrain.models.display import DisplayedModel
from slimbrain.models.hiera import Hiera, HieraBlock, Tokens
from slimbrain.models.parcels import Parcels, channels_of
from slimbrain.models.position import PositionBaseline, take_out_position
from slimbrain.models.predictor import FactorisedPredictor, JointPredictor
from slimbrain.models.signals import signal_series, signals_per_token, token_signals


@dataclass(frozen=True)
class JepaOutput:
    """Loss of one batch, and the tokens that `models.health` reads signs of collapse from.

    Attributes
    ----------
    loss : Tensor
        Scalar to descend.
    by_kind : dict of str to Tensor
        Mean error of each kind of target that the batch holds: squared of signals, smooth-L1 of latents.
    tokens : Tokens
        The target encoder's tokens; the context encoder's where targets are signals and nothing else is encoded.
    """

    loss: Tensor
    by_kind: dict[str, Tensor]
    tokens: Tokens


@dataclass(frozen=True)
class Prediction:
    """What was predicted of the hidden tokens of a batch.

    Attributes
    ----------
    context : Tokens
        Visible tokens.
    everything : Tokens
        Where and when all tokens are; with the target encoder's values where targets are latents.
    predicted, wanted : Tensor
        (H, K) values of each hidden token.
    weight : Tensor
        (H, K) of each value in its token's error; rows have a sum of 1.
    kind : Tensor
        (L,) 0 for context tokens, else 1 + place in `TARGET_KINDS`; in CPU memory.
    own : Tensor or None
        Mean squared error of visible tokens' own signals, where these are decoded.
    squared : bool
        Whether errors are squared, or smooth-L1.
    """

    context: Tokens
    everything: Tokens
    predicted: Tensor
    wanted: Tensor
    weight: Tensor
    kind: Tensor
    own: Tensor | None
    squared: bool

    def errors(self, answer: Tensor | None = None) -> Tensor:
        """(H,) error of each hidden token: of what was predicted, or of another answer (H, K) or (K,)."""
        answer = self.predicted if answer is None else answer.expand_as(self.wanted)
        loss = functional.mse_loss if self.squared else functional.smooth_l1_loss
        return (loss(answer, self.wanted, reduction="none") * self.weight).sum(-1)


TARGET_EPSILON = 1e-12
"""Far below any token's variance: with the usual 1e-5, targets would become easy by becoming small."""


def _spread_penalties(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of VICReg (arXiv 2105.04906) on what place and time do not explain of the tokens.

    Returns
    -------
    variance : mean over dimensions of the shortfall of the standard deviation below 1.
    covariance : sum of squared off-diagonal covariances over D.
    """
    content = take_out_position(tokens)
    content = content - content.mean(0)
    covariance = content.T @ content / len(content)
    variance = torch.diagonal(covariance)
    # The square root has no finite slope at 0, where a collapsed dimension lies.
    shortfall = functional.relu(1 - torch.sqrt(variance + 1e-4)).mean()
    return shortfall, (covariance.square().sum() - variance.square().sum()) / len(variance)


def _at(tokens: Tensor, values: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Signals (H, K) of some tokens, and the weight of each in its token's error."""
    there = exists.to(tokens.device)[tokens]
    return values.to(tokens.device)[tokens], there / there.sum(-1, keepdim=True)


_GRAPHS = 64
"""More than `compile_blocks` needs: 5 widths, pooled or not, with gradients or without, one clip or several."""


class HieraJEPA(DisplayedModel, nn.Module):
    """Context encoder, EMA target encoder and predictor.

    Parameters
    ----------
    config : HieraConfig
        The encoder.
    jepa : JepaConfig
        The objective.
    voxels_per_patch : int
        V of the grid's lattice.
    connectome : ConnectomeConfig or None
        Of the connectome readout beside the network, of the cells that its tokens decode to, or of parcels of its patches; none if None.

    Examples
    --------
    >>> from slimbrain.config import HieraConfig, JepaConfig
    >>> config = HieraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    >>> HieraJEPA(config, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2), voxels_per_patch=8).encoder.width
    64
    """

    connectome: ConnectomeReadout | None
    parcels: Parcels | None

    def __init__(self, config: HieraConfig, jepa: JepaConfig, voxels_per_patch: int, connectome: ConnectomeConfig | None = None) -> None:
        super().__init__()
        self.config, self.jepa, self.voxels_per_patch = config, jepa, voxels_per_patch
        self.context = Hiera(config, voxels_per_patch)
        self.target = deepcopy(self.context).requires_grad_(False)
        width, signals = self.context.width, jepa.targets == "signals"
        out = signals_per_token("cells") if signals else width
        self.predictor: nn.Module = (
            FactorisedPredictor(jepa, width, out)
            if jepa.predictor == "factorised"
            else JointPredictor(jepa, width, out, not config.recompute)
        )
        self.decoder = nn.Linear(width, signals_per_token(jepa.visible)) if signals and jepa.visible_weight else None
        self.connectome = None if connectome is None else ConnectomeReadout(connectome, 0)
        self.parcels = None if connectome is None or not connectome.patches else Parcels(connectome.patches)
        self.baseline = PositionBaseline(width) if jepa.remove_position and not signals else None

    @property
    def encoder(self) -> Hiera:
        """The encoder to use downstream: the target, a running mean of the context encoder."""
        return self.target

    def forward(self, clips: Sequence[Clip], masks: Sequence[JepaMask], penalties: bool = True) -> JepaOutput:
        """One forward pass of pretraining.

        The loss is the mean over clips and kinds of the prediction error, plus what `JepaConfig` gives weights to: the error of visible
        tokens' own signals, and regularisers, which are statistics of the batch as a whole.

        Parameters
        ----------
        clips, masks : sequence of Clip, sequence of JepaMask
            B of each.
        penalties : bool
            False leaves these out, and the loss is the prediction error alone.

        Returns
        -------
        JepaOutput
            The loss, the error of each kind of target, and the tokens.

        Raises
        ------
        ValueError
            If there are not as many masks as clips.
        """
        found = self.predict(clips, masks)
        loss, parts = self._by_clip_and_kind(found.errors(), found.kind, found.everything.lengths)
        if penalties and found.own is not None:
            loss = loss + self.jepa.visible_weight * found.own
        if penalties and (self.jepa.variance_weight or self.jepa.covariance_weight):
            variance, covariance = _spread_penalties(found.context)
            loss = loss + self.jepa.variance_weight * variance + self.jepa.covariance_weight * covariance
        tokens = found.context if self.jepa.targets == "signals" else found.everything
        return JepaOutput(loss, {name: part.detach() for name, part in parts.items()}, tokens)

    def predict(self, clips: Sequence[Clip], masks: Sequence[JepaMask]) -> Prediction:
        """What the predictor makes of the hidden tokens of clips, beside what was wanted."""
        context = self.context(clips, [mask.context for mask in masks])
        kind = self._kinds(clips, masks)
        if self.jepa.targets == "signals":
            return self._predict_signals(clips, masks, context, kind)
        with torch.no_grad():
            everything = self.target(clips, [mask.viewed for mask in masks])
        contents = self.contents(everything)
        asked = torch.nonzero(kind)[:, 0].to(contents.device)
        predicted = self.predictor(context, everything, kind > 0).float()
        wanted = functional.layer_norm(contents[asked].float(), contents.shape[-1:], eps=TARGET_EPSILON)
        weight = wanted.new_tensor(1 / wanted.shape[-1]).expand_as(wanted)
        return Prediction(context, everything, predicted, wanted, weight, kind, None, False)

    def _predict_signals(self, clips: Sequence[Clip], masks: Sequence[JepaMask], context: Tokens, kind: Tensor) -> Prediction:
        """Signals of hidden tokens, predicted; and of visible ones, decoded from themselves."""
        device = context.values.device
        viewed = torch.from_numpy(np.concatenate([self._per_token(clip, mask.viewed) for clip, mask in zip(clips, masks, strict=True)]))
        everything = self.context.layout(clips)
        chosen = torch.nonzero(viewed)[:, 0].to(device)
        if not bool(viewed.all()):
            everything = everything.take(chosen, tuple(int(part.sum()) for part in viewed.split(everything.lengths)))
        asked, visible = (chosen[torch.nonzero(which)[:, 0].to(device)] for which in (kind > 0, kind == 0))
        wanted = {detail: token_signals(clips, self.context.token_frames, detail) for detail in {"cells", self.jepa.visible}}
        values, weight = _at(asked, *wanted["cells"])
        predicted, own = self.predictor(context, everything, kind > 0).float(), None
        if self.decoder is not None:
            own_values, share = _at(visible, *wanted[self.jepa.visible])
            own = ((self.decoder(context.values).float() - own_values).square() * share).sum(-1).mean()
        return Prediction(context, everything, predicted, values, weight, kind, own, True)

    @torch.no_grad()
    def decode(self, clip: Clip) -> Tensor:
        """Series (2 S, N) of the cells of a clip's grid, or patches by `jepa.visible`, decoded from tokens of S steps, nothing hidden.

        Raises
        ------
        InputError
            If nothing decodes tokens: the objective must have signals as targets, and visible units' own beside them.
        """
        if self.decoder is None:
            raise InputError("the model does not decode its tokens; pretrain with jepa.targets=signals and a jepa.visible_weight above 0.")
        return signal_series(self.decoder(self.encoder([clip]).values).float(), clip.grid, self.jepa.visible)

    def connectome_series(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """What the connectome reads of a session's clips: standardised series (T, C) of decoded cells or parcels, and their MNI places."""
        return channels_of(torch.cat([self.decode(clip) for clip in clips]), clips[0].grid, self.parcels)

    @torch.no_grad()
    def contents(self, target: Tokens) -> Tensor:
        """(L, D) what is to be predicted of the target encoder's tokens: all of them, or what place and time alone do not predict."""
        return target.values if self.baseline is None else self.baseline(target)

    def _by_clip_and_kind(self, error: Tensor, kind: Tensor, lengths: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of means, so that each clip and each of its kinds of target counts alike; and the mean of each kind.

        Parameters
        ----------
        error : Tensor
            (H,) of each hidden token.
        kind : Tensor
            (L,) as of `_kinds`.
        lengths : sequence of int
            Tokens of each clip.
        """
        kinds = len(TARGET_KINDS)
        clip = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        group = (clip * kinds + kind - 1)[kind > 0]
        # A product with a table of ones, since a scattered sum would depend on the device's order.
        member = functional.one_hot(group, len(lengths) * kinds).to(error)
        count = member.sum(0).view(-1, kinds)
        mean = (error @ member).view(-1, kinds) / count.clamp_min(1)
        present = (count > 0).to(error)
        by_kind = mean.sum(0) / present.sum(0)
        parts = {name: by_kind[place] for place, name in enumerate(TARGET_KINDS) if bool((group % kinds == place).any())}
        return (mean.sum(1) / present.sum(1)).mean(), parts

    def _kinds(self, clips: Sequence[Clip], masks: Sequence[JepaMask]) -> Tensor:
        """(L,) 0 for context tokens, else 1 + place in `TARGET_KINDS`, of tokens in view; in CPU memory, where masks are made."""
        parts = []
        for clip, mask in zip(clips, masks, strict=True):
            table = np.sum([rank * mask.targets(kind) for rank, kind in enumerate(TARGET_KINDS, start=1)], axis=0)
            parts.append(self._per_token(clip, table)[self._per_token(clip, mask.viewed)])
        return torch.from_numpy(np.concatenate(parts))

    def _per_token(self, clip: Clip, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A table over (time units, mask units) in the order of a clip's tokens: step by step, unit by unit."""
        return self.context.per_token(clip, table).ravel()

    def compile_blocks(self) -> None:
        """Let `torch.compile` fuse what it can within each block; the first steps then take minutes."""
        import torch._dynamo

        blocks = [module for module in self.modules() if isinstance(module, HieraBlock)]
        # One graph for each width, with and without pooling and gradients; torch gives up after 8 of one function.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
        for block in blocks:
            block.compile(dynamic=True)

    @torch.no_grad()
    def update_target(self, momentum: float, all_reduce: Callable[[Tensor], Tensor] = lambda statistics: statistics) -> None:
        """After a step: target = momentum * target + (1 - momentum) * context, and the baseline absorbs the step's tokens.

        Parameters
        ----------
        momentum : float
            Share of the target that stays, 0 to 1.
        all_reduce : callable
            Sums a tensor over all processes, in place.
        """
        slow: list[Tensor] = [*self.target.parameters()]
        fast: list[Tensor] = [*self.context.parameters()]
        # One kernel for many tensors: one for each would be a tenth of all that a step starts on a GPU.
        torch._foreach_lerp_(slow, [new.to(old.dtype) for old, new in zip(slow, fast, strict=True)], 1 - momentum)
        if self.baseline is not None:
            self.baseline.absorb(all_reduce)
