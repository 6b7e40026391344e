"""Stage 2's predictors: what is hidden, from the context encoder's tokens of what is visible.

Among all tokens of a clip, attention by Fourier features of place and time does not find "the same moment, elsewhere" within any
budget that we could pay: after 200 steps the joint predictor's skill was 0.00 where the factorised one's was 0.32 (docs/stage2.md). So
the latter is told: its attention runs over places within a step, then over steps within a place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.config import JepaConfig
from slimbrain.errors import ContractError
from slimbrain.models.attention import spans_of
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
        nn.init.trunc_normal_(self.query, std=INIT_STD)

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
        # In the weights' precision: under autocast, what is added up from block to block must not lose digits.
        entered, place, time = (
            part.to(self.query.dtype)
            for part in (self.proj_in(context.values), self.space_embed(everything.mm), self.time_embed(everything.seconds[:, None]))
        )
        x = (place + time).index_add(0, visible, entered).index_add(0, asked, self.query.expand(len(asked), -1))
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

    def forward(self, x: Tensor, place: Tensor | None, bias: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor
            (N, L, D).
        place : Tensor or None
            (L, D) added to queries and keys, and not to values.
        bias : Tensor
            Broadcastable to (N, heads, L, L), added to the logits; -inf where a key is hidden.

        Returns
        -------
        (N, L, D); the projection's bias alone where all keys are hidden, since nothing is known there.
        """
        asked = x if place is None else x + place
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(asked), self.key(asked), self.value(x)))
        known = torch.isfinite(bias).any(-1, keepdim=True)
        bias = torch.where(known, bias, torch.zeros_like(bias)).to(q.dtype)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(*q.shape[:-1], k.shape[-2]))
        return self.proj(torch.where(known, attended, torch.zeros_like(attended)).transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, place: Tensor, seconds: Tensor, visible: Tensor | None) -> Tensor:
        """Predict.

        Parameters
        ----------
        x : Tensor
            (S, U, D) tokens of one clip, by step and unit.
        place : Tensor
            (U, D) embedding of each unit's place.
        seconds : Tensor
            (S,) time of each step.
        visible : Tensor or None
            (S, U) bool, tokens that may be keys; all if None.
        """
        lag = (seconds[:, None] - seconds).abs().to(x.dtype)
        among_places, among_steps = x.new_zeros(1, 1, 1, 1), -self.log_slope.exp()[:, None, None] * lag
        if visible is not None:
            among_places = among_places.masked_fill(~visible[:, None, None], -math.inf)
            among_steps = among_steps.masked_fill(~visible.T[:, None, None], -math.inf)
        x = x + self.places(self.norm_places(x), place, among_places)
        x = x + self.steps(self.norm_steps(x).transpose(0, 1), None, among_steps).transpose(0, 1)
        return x + self.mlp(self.norm_mlp(x))


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
        nn.init.trunc_normal_(self.proj_out.weight, std=INIT_STD)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, context: Tokens, everything: Tokens, hidden: Tensor) -> Tensor:
        """Predict, as `JointPredictor`; a clip's tokens in `everything` must be a whole table of steps and units."""
        entered = self.proj_in(context.values).to(self.query.dtype)
        x = self.query.expand(len(hidden), -1).index_copy(0, torch.nonzero(~hidden)[:, 0].to(entered.device), entered)
        # One clip at a time, since grids and lengths may differ.
        parts = (part.split(everything.lengths) for part in (x, hidden, everything.step, everything.mm, everything.seconds))
        return self.proj_out(self.norm(torch.cat([self._clip(*part) for part in zip(*parts, strict=True)])))

    def _clip(self, x: Tensor, hidden: Tensor, step: Tensor, mm: Tensor, seconds: Tensor) -> Tensor:
        """(H, inner) of one clip, whose tokens lie step by step."""
        units = int((step == step[0]).sum())
        place, visible = self.space_embed(mm[:units]).to(x.dtype), ~hidden.unflatten(0, (-1, units)).to(x.device)
        asked, x = torch.nonzero(hidden)[:, 0].to(x.device), x.unflatten(0, (-1, units))
        for number, block in enumerate(self.blocks):
            # At first only what is known may be asked; then hidden tokens have something to tell each other.
            x = block(x, place, seconds[::units], visible if number == 0 else None)
        return x.flatten(0, 1)[asked]
