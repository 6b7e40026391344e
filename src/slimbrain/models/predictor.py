"""Stage 2's predictors: what is hidden, from the context encoder's tokens of what is visible.

Among all tokens of a clip, attention by Fourier features of place and time does not find "the same moment, elsewhere" within any
budget that we could pay: after 200 steps the joint predictor's skill was 0.00 where the factorised one's was 0.32 (docs/stage2.md). So
the latter is told: its attention runs over places within a step, then over steps within a place.
"""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.config import JepaConfig
from slimbrain.errors import ContractError
from slimbrain.models.attention import spans_of
from slimbrain.models.autocast import cast_together
from slimbrain.models.hiera import SPACE_WAVES_MM, TIME_WAVES_S, HieraBlock, Tokens
from slimbrain.models.layers import INIT_STD, FourierPosition, Mlp, init_transformer

_JOINT_MLP_RATIO, _FACTORISED_MLP_RATIO = 4.0, 2.0
"""Hidden width of the perceptrons over their width."""

_SLOPES_PER_S = (0.02, 1.0)
"""Slowest and fastest decay of attention with time, over heads, at the start: from a whole clip of 30 s to a step of 3 s."""


class JointPredictor(nn.Module):
    """Attention among all tokens of a clip, with Fourier features of place and time, as published.

    Parameters
    ----------
    config : JepaConfig
        Width, depth and heads.
    width : int
        D of the encoder's tokens.
    out : int
        Values predicted per token.
    keep_hidden : bool
        As in `HieraBlock`.
    """

    def __init__(self, config: JepaConfig, width: int, out: int, keep_hidden: bool) -> None:
        super().__init__()
        inner, heads = config.predictor_width, config.predictor_heads
        self.proj_in = nn.Linear(width, inner)
        self.query = nn.Parameter(torch.zeros(inner))
        self.space_embed = FourierPosition(3, inner, *SPACE_WAVES_MM)
        self.time_embed = FourierPosition(1, inner, *TIME_WAVES_S)
        blocks = (HieraBlock(inner, inner, heads, _JOINT_MLP_RATIO, keep_hidden=keep_hidden) for _ in range(config.predictor_depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(inner)
        self.proj_out = nn.Linear(inner, out)
        self.apply(init_transformer)
        nn.init.normal_(self.query, std=INIT_STD)

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
        (H, out) predictions, in the order of `everything`.
        """
        device, spans = context.values.device, spans_of(everything.lengths, everything.lengths)
        asked, visible = (torch.nonzero(which)[:, 0].to(device) for which in (hidden, ~hidden))
        # In the weights' precision, as places and times are: what is added up from block to block must not lose digits.
        entered = self.proj_in(context.values).to(self.query.dtype)
        position = self.space_embed(everything.mm) + self.time_embed(everything.seconds[:, None])
        x = position.index_add(0, visible, entered).index_add(0, asked, self.query.expand(len(asked), -1))
        for block in self.blocks:
            x = block(x, spans)
        return self.proj_out(self.norm(x[asked]))


class MaskedAttention(nn.Module):
    """Multi-head attention whose keys may be hidden, with a bias that is added to its logits.

    Parameters
    ----------
    width : int
        D of queries, keys and values.
    heads : int
        Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ContractError(
                f"predictor width {width} is not a multiple of its {heads} heads; change jepa.predictor_width or jepa.predictor_heads."
            )
        self.heads = heads
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.proj):
            # Embeddings must tell places apart from the first step on; normal weights of 0.02 give flat attention.
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, place: Tensor | None, bias: Tensor | None, visible: Tensor | None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor
            (..., L, D).
        place : Tensor or None
            (..., L, D) added to queries and keys, and not to values.
        bias : Tensor or None
            Broadcastable to (..., heads, L, L), added to the logits.
        visible : Tensor or None
            (..., L) bool, keys that are not hidden; all if None.

        Returns
        -------
        (..., L, D); the projection's bias alone where all keys are hidden, since nothing is known there.
        """
        query, key, value, proj = cast_together(self.query, self.key, self.value, self.proj)
        asked = _narrowed(x if place is None else x + place, query[0].dtype)
        given = asked if place is None else _narrowed(x, query[0].dtype)
        q, k, v = (self._heads(functional.linear(part, *layer)) for part, layer in ((asked, query), (asked, key), (given, value)))
        if visible is not None:
            # Where all keys are hidden, all are asked and the answer is dropped: the softmax of no key is not a number.
            hidden = visible.any(-1, keepdim=True) & ~visible
            bias = (q.new_zeros(1) if bias is None else bias).masked_fill(hidden[..., None, None, :], -math.inf)
        if bias is not None:
            bias = bias.to(q.dtype).expand(*x.shape[:-2], *q.shape[1:-1], k.shape[-2]).flatten(0, -4)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(x.shape)
        if visible is not None:
            attended = attended.masked_fill(~visible.any(-1)[..., None, None], 0)
        return functional.linear(attended, *proj)

    def _heads(self, x: Tensor) -> Tensor:
        """(..., L, D) -> (N, heads, L, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).flatten(0, -4)


def _narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in autocast's precision, and in the order that a linear layer takes without copying."""
    return x.to(dtype, memory_format=torch.contiguous_format)


class FactorisedBlock(nn.Module):
    """Attention over places within a step, attention over steps within a place, a perceptron; pre-norm.

    Parameters
    ----------
    width : int
        D of the tokens.
    heads : int
        Heads of both attentions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_places, self.places = nn.LayerNorm(width), MaskedAttention(width, heads)
        self.norm_steps, self.steps = nn.LayerNorm(width), MaskedAttention(width, heads)
        slowest, fastest = (math.log(slope) for slope in _SLOPES_PER_S)
        self.log_slope = nn.Parameter(torch.linspace(slowest, fastest, heads))
        self.norm_mlp, self.mlp = nn.LayerNorm(width), Mlp(width, int(width * _FACTORISED_MLP_RATIO))

    def forward(self, x: Tensor, place: Tensor, lag: Tensor, visible: Tensor | None) -> Tensor:
        """Predict.

        Parameters
        ----------
        x : Tensor
            (B, S, U, D) tokens of clips, by step and unit.
        place : Tensor
            (B, U, D) embedding of each unit's place.
        lag : Tensor
            (B, S, S) seconds between steps.
        visible : Tensor or None
            (B, S, U) bool, tokens that may be keys; all if None.
        """
        decay = -self.log_slope.exp()[:, None, None] * lag[:, None, None]
        x = x + self.places(self.norm_places(x), place[:, None], None, visible)
        of_unit = None if visible is None else visible.transpose(1, 2)
        x = x + self.steps(self.norm_steps(x).transpose(1, 2), None, decay, of_unit).transpose(1, 2)
        fc1, fc2 = cast_together(self.mlp.fc1, self.mlp.fc2)
        return x + functional.linear(functional.gelu(functional.linear(self.norm_mlp(x), *fc1)), *fc2)


class FactorisedPredictor(nn.Module):
    """Predicts hidden tokens from visible ones, step by step and place by place.

    Parameters
    ----------
    config : JepaConfig
        Width, depth and heads.
    width : int
        D of the encoder's tokens.
    out : int
        Values predicted per token.
    """

    def __init__(self, config: JepaConfig, width: int, out: int) -> None:
        super().__init__()
        inner = config.predictor_width
        self.proj_in, self.query = nn.Linear(width, inner), nn.Parameter(torch.zeros(inner))
        self.space_embed = FourierPosition(3, inner, *SPACE_WAVES_MM)
        self.blocks = nn.ModuleList(FactorisedBlock(inner, config.predictor_heads) for _ in range(config.predictor_depth))
        self.norm, self.proj_out = nn.LayerNorm(inner), nn.Linear(inner, out)
        # The first answers are near the mean, so that skill starts at 0 and not far below.
        nn.init.normal_(self.proj_out.weight, std=INIT_STD)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, context: Tokens, everything: Tokens, hidden: Tensor) -> Tensor:
        """Predict, as `JointPredictor`; a clip's tokens in `everything` must be a whole table of steps and units."""
        entered = self.proj_in(context.values).to(self.query.dtype)
        x = self.query.expand(len(hidden), -1).index_copy(0, torch.nonzero(~hidden)[:, 0].to(entered.device), entered)
        # Clips of one shape that follow each other are computed together: each group starts as many kernels as one clip.
        same = groupby(zip(everything.lengths, everything.steps, strict=True))
        shapes = [(len(list(group)), steps, length // steps) for (length, steps), group in same]
        parts = (part.split([math.prod(shape) for shape in shapes]) for part in (x, hidden, everything.mm, everything.seconds))
        return self.proj_out(self.norm(torch.cat([self._clips(*part) for part in zip(shapes, *parts, strict=True)])))

    def _clips(self, shape: tuple[int, int, int], x: Tensor, hidden: Tensor, mm: Tensor, seconds: Tensor) -> Tensor:
        """(H, inner) of B clips of S steps and U units each, whose tokens lie clip by clip and step by step."""
        asked, visible = torch.nonzero(hidden)[:, 0].to(x.device), ~hidden.view(shape).to(x.device)
        x, mm, seconds = x.unflatten(0, shape), mm.unflatten(0, shape)[:, 0], seconds.view(shape)[..., 0]
        place, lag = self.space_embed(mm), (seconds[:, :, None] - seconds[:, None]).abs().to(x.dtype)
        for number, block in enumerate(self.blocks):
            # At first only what is known may be asked; then hidden tokens have something to tell each other.
            x = block(x, place, lag, visible if number == 0 else None)
        return x.flatten(0, 2)[asked]
