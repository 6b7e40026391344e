"""Hiera-JEPA: predict the target encoder's tokens of hidden units from the context encoder's tokens of visible ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import TARGET_KINDS, JepaMask
from slimbrain.governance.provenance import Provenance
from slimbrain.models.attention import spans_of
from slimbrain.models.hiera import SPACE_WAVES_MM, TIME_WAVES_S, Hiera, HieraBlock, Tokens
from slimbrain.models.layers import FourierPosition, init_transformer
from slimbrain.models.position import PositionBaseline, take_out_position


@dataclass(frozen=True)
class JepaOutput:
    """Loss of one batch, and the target tokens that `models.health` reads signs of collapse from.

    Attributes
    ----------
    loss : Tensor
        Scalar to descend.
    by_kind : dict of str to Tensor
        Mean smooth-L1 of each kind of target that the batch holds.
    target : Tokens
        The target encoder's tokens.
    """

    loss: Tensor
    by_kind: dict[str, Tensor]
    target: Tokens


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


_MLP_RATIO = 4.0
"""Hidden width of the predictor's perceptrons over their width."""


class _TargetPredictor(nn.Module):
    """A light transformer that predicts target tokens from the context's tokens and the places and times of the targets."""

    def __init__(self, config: JepaConfig, width: int, keep_hidden: bool) -> None:
        super().__init__()
        inner, heads = config.predictor_width, config.predictor_heads
        self.proj_in = nn.Linear(width, inner)
        self.query = nn.Parameter(torch.zeros(inner))
        self.space_embed = FourierPosition(3, inner, *SPACE_WAVES_MM)
        self.time_embed = FourierPosition(1, inner, *TIME_WAVES_S)
        blocks = (HieraBlock(inner, inner, heads, _MLP_RATIO, keep_hidden=keep_hidden) for _ in range(config.predictor_depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(inner)
        self.proj_out = nn.Linear(inner, width)
        self.apply(init_transformer)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, context: Tokens, everything: Tokens, hidden: Tensor) -> Tensor:
        """Predict the tokens marked `hidden` among `everything`.

        Parameters
        ----------
        context : Tokens
            Visible tokens of each clip.
        everything : Tokens
            Where and when every token of the batch is; its values are not read.
        hidden : Tensor
            (L,) bool, in CPU memory.

        Returns
        -------
        (H, D) predictions, in the order of `everything`.
        """
        device, spans = context.values.device, spans_of(everything.lengths, everything.lengths)
        asked, visible = (torch.nonzero(which)[:, 0].to(device) for which in (hidden, ~hidden))
        # In the weights' precision: under autocast, what is added up from block to block must not lose digits.
        entered, place, time = (
            part.to(self.query.dtype)
            for part in (self.proj_in(context.values), self.space_embed(everything.mm), self.time_embed(everything.seconds[:, None]))
        )
        x = (place + time).index_add(0, visible, entered).index_add(0, asked, self.query.expand(len(asked), -1))
        for block in self.blocks:
            x = block(x, spans)
        return self.proj_out(self.norm(x[asked]))


_GRAPHS = 64
"""More than `compile_blocks` needs: 5 widths, pooled or not, with gradients or without, one clip or several."""


class HieraJEPA(nn.Module):
    """Context encoder, EMA target encoder and predictor.

    Parameters
    ----------
    config : HieraConfig
        The encoder.
    jepa : JepaConfig
        The objective.
    voxels_per_patch : int
        V of the grid's lattice.
    """

    provenance: Provenance | None = None

    def __init__(self, config: HieraConfig, jepa: JepaConfig, voxels_per_patch: int) -> None:
        super().__init__()
        self.config, self.jepa, self.voxels_per_patch = config, jepa, voxels_per_patch
        self.context = Hiera(config, voxels_per_patch)
        self.target = deepcopy(self.context).requires_grad_(False)
        self.predictor = _TargetPredictor(jepa, self.context.width, not config.recompute)
        self.baseline = PositionBaseline(self.context.width) if jepa.remove_position else None

    @property
    def encoder(self) -> Hiera:
        """The encoder to use downstream: the target, a running mean of the context encoder."""
        return self.target

    def forward(self, clips: Sequence[Clip], masks: Sequence[JepaMask], penalties: bool = True) -> JepaOutput:
        """One forward pass of pretraining.

        The loss is the mean over clips and kinds of smooth-L1 between predictions and layer-normalised targets, plus the
        regularisers of `JepaConfig`, which are statistics of the batch as a whole.

        Parameters
        ----------
        clips, masks : sequence of Clip, sequence of JepaMask
            B of each.
        penalties : bool
            False leaves the regularisers out, and the loss is the prediction error alone.
        """
        with torch.no_grad():
            target = self.target(clips)
        context = self.context(clips, [mask.context for mask in masks])
        kind = self._kinds(clips, masks)
        error = self.prediction_error(context, target, self.contents(target), kind > 0)
        loss, parts = self._by_clip_and_kind(error, kind, target.lengths)
        if penalties and (self.jepa.variance_weight or self.jepa.covariance_weight):
            variance, covariance = _spread_penalties(context)
            loss = loss + self.jepa.variance_weight * variance + self.jepa.covariance_weight * covariance
        return JepaOutput(loss, {name: part.detach() for name, part in parts.items()}, target)

    @torch.no_grad()
    def contents(self, target: Tokens) -> Tensor:
        """(L, D) what is to be predicted of the target encoder's tokens: all of them, or what place and time alone do not predict."""
        return target.values if self.baseline is None else self.baseline(target)

    def prediction_error(self, context: Tokens, target: Tokens, contents: Tensor, hidden: Tensor) -> Tensor:
        """(H,) mean smooth-L1, over dimensions, of each token marked `hidden` (L,): predicted, and layer-normalised as it is."""
        asked = torch.nonzero(hidden)[:, 0].to(target.values.device)
        predicted = self.predictor(context, target, hidden).float()
        wanted = functional.layer_norm(contents[asked].float(), contents.shape[-1:], eps=TARGET_EPSILON)
        return functional.smooth_l1_loss(predicted, wanted, reduction="none").mean(-1)

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
        """(L,) 0 for context tokens, else 1 + place in `TARGET_KINDS`; in CPU memory, where masks are made."""
        tables = [sum(rank * mask.targets(kind) for rank, kind in enumerate(TARGET_KINDS, start=1)) for mask in masks]
        # The target encodes everything, so its tokens are in the table's order: step by step, unit by unit.
        parts = [self.context.per_token(clip, np.asarray(table)).ravel() for clip, table in zip(clips, tables, strict=True)]
        return torch.from_numpy(np.concatenate(parts))

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
        all_reduce : callable
            Sums a tensor over all processes, in place.
        """
        slow, fast = list(self.target.parameters()), list(self.context.parameters())
        # One kernel for many tensors: one for each would be a tenth of all that a step starts on a GPU.
        torch._foreach_lerp_(slow, [new.to(old.dtype) for old, new in zip(slow, fast, strict=True)], 1 - momentum)
        if self.baseline is not None:
            self.baseline.absorb(all_reduce)
