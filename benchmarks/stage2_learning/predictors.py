"""Predictors and objectives that stage2_lab.py compares. Dense over (clips, steps, units): masks are products, grids are one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.models.layers import FourierPosition

TIME_WAVES_S = (5.76, 512.0, 8)


class DenseAttention(nn.Module):
    """Multi-head attention over the last token axis with keys that may be hidden and a bias by head.

    Where no key is visible the output is zero: nothing can be known there.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend: q (..., Q, D), k and v (..., K, D), visible (..., K) bool, bias (heads, Q, K) -> (..., Q, D)."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for f, x in ((self.query, q), (self.key, k), (self.value, v)))
        if bias is None and visible is None:
            seen = functional.scaled_dot_product_attention(q, k, v)
            return self.proj(seen.transpose(-3, -2).flatten(-2))
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if bias is not None:
            logits = logits + bias
        if visible is not None:
            logits = logits.masked_fill(~visible[..., None, None, :], -1e4)
        weights = logits.softmax(-1)
        if visible is not None:
            weights = weights * visible.any(-1)[..., None, None, None]
        return self.proj((weights @ v).transpose(-3, -2).flatten(-2))


class FactorisedBlock(nn.Module):
    """Places within a step, then steps within a place, then an MLP."""

    def __init__(self, width: int, heads: int, time: bool, relative: bool = True) -> None:
        super().__init__()
        self.norm_places, self.places = nn.LayerNorm(width), DenseAttention(width, heads)
        self.norm_steps = nn.LayerNorm(width) if time else None
        self.steps = DenseAttention(width, heads) if time else None
        self.relative = relative
        if time:
            self.slope = nn.Parameter(torch.linspace(-4.0, 0.0, heads))
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, place: Tensor, visible: Tensor | None, seconds: Tensor) -> Tensor:
        """x (B, S, U, D), place (U, D), visible (B, S, U), seconds (B, S)."""
        h = self.norm_places(x)
        x = x + self.places(h + place, h + place, h, visible)
        if self.steps is not None:
            h = self.norm_steps(x).transpose(1, 2)
            bias = None
            if self.relative:
                lag = (seconds[:, :, None] - seconds[:, None]).abs()
                bias = -(self.slope.exp()[:, None, None] * lag[:, None, None])
            v = None if visible is None else visible.transpose(1, 2)
            x = x + self.steps(h, h, h, v, bias).transpose(1, 2)
        return x + self.mlp(self.norm_mlp(x))


class Predictor(nn.Module):
    """Dense predictor of hidden tokens.

    kind : "places" (one step at a time), "factorised" (and steps within a place), "query" (hidden tokens ask all visible
    ones of the clip), "joint" (all tokens of the clip, as at present).
    """

    def __init__(
        self, kind: str, in_width: int, units: int, mm: Tensor, width: int = 96, heads: int = 8, depth: int = 2, learnt: bool = True
    ):
        super().__init__()
        self.kind = kind
        self.enter = nn.Linear(in_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("mm", mm, persistent=False)
        self.place = nn.Parameter(0.5 * torch.randn(units, width)) if learnt else None
        self.fourier = None if learnt else FourierPosition(3, width, 16.0, 384.0, 12)
        self.time = FourierPosition(1, width, *TIME_WAVES_S)
        if kind in ("places", "factorised"):
            self.blocks = nn.ModuleList(FactorisedBlock(width, heads, kind == "factorised") for _ in range(depth))
        elif kind == "query":
            self.norm_q, self.norm_k = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth)), nn.LayerNorm(width)
            self.cross = nn.ModuleList(DenseAttention(width, heads) for _ in range(depth))
            self.slope = nn.Parameter(torch.linspace(-4.0, 0.0, heads))
            self.norm_mlp = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.mlp = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
            )
        else:
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.attention = nn.ModuleList(DenseAttention(width, heads) for _ in range(depth))
            self.norm_mlp = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.mlp = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
            )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, visible: Tensor, seconds: Tensor) -> Tensor:
        """tokens (B, S, U, D) with zeros where not `visible` (B, S, U); seconds (B, S) -> (B, S, U, width)."""
        place = self.place if self.place is not None else self.fourier(self.mm)
        seen = visible[..., None]
        x = torch.where(seen, self.enter(tokens), self.mask_token)
        if self.kind in ("places", "factorised"):
            for number, block in enumerate(self.blocks):
                x = block(x, place, visible if number == 0 or self.kind == "places" else None, seconds)
            return self.norm(x)
        moment = self.time(seconds[..., None])[:, :, None]
        b, s, u, d = x.shape
        x = (x + place + moment).reshape(b, s * u, d)
        if self.kind == "query":
            lag = (seconds[:, :, None] - seconds[:, None]).abs().repeat_interleave(u, 1).repeat_interleave(u, 2)
            bias = -(self.slope.exp()[:, None, None] * lag[:, None])
            h = self.norm_k(x)
            keys = visible.reshape(b, -1)
            for norm, cross, norm_mlp, mlp in zip(self.norm_q, self.cross, self.norm_mlp, self.mlp, strict=True):
                q = norm(x)
                # One matrix per head and clip: small enough at this size.
                x = x + cross(q, h, h, keys, bias)
                x = x + mlp(norm_mlp(x))
        else:
            for norm, attention, norm_mlp, mlp in zip(self.norms, self.attention, self.norm_mlp, self.mlp, strict=True):
                h = norm(x)
                x = x + attention(h, h, h)
                x = x + mlp(norm_mlp(x))
        return self.norm(x).view(b, s, u, d)


# --- regularisers on (L, D) content


def vicreg(content: Tensor) -> Tensor:
    content = content - content.mean(0)
    covariance = content.T @ content / len(content)
    variance = covariance.diagonal()
    return functional.relu(1 - (variance + 1e-4).sqrt()).mean() + 0.04 * (covariance.square().sum() - variance.square().sum()) / len(
        variance
    )


def coding_rate(content: Tensor, epsilon: float = 0.5) -> Tensor:
    """SimDINO's term (arXiv 2502.10385): minus the coding rate of normalised tokens."""
    content = functional.normalize(content, dim=-1)
    d = content.shape[1]
    gram = torch.eye(d) + d / (len(content) * epsilon**2) * content.T @ content
    return -0.5 * torch.logdet(gram) / d


def sigreg(content: Tensor, slices: int = 64) -> Tensor:
    """LeJEPA's term (arXiv 2511.08544): Epps-Pulley distance of random projections from a standard normal."""
    directions = functional.normalize(torch.randn(content.shape[1], slices), dim=0)
    t = torch.linspace(-5, 5, 17)
    waves = (content @ directions)[..., None] * t
    normal = torch.exp(-t.square() / 2)
    error = (waves.cos().mean(0) - normal).square() + waves.sin().mean(0).square()
    return torch.trapezoid(error * normal, t, dim=-1).mean()
