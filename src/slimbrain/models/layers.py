"""Small layers that both stages share: a two-layer perceptron, attention, Fourier features of a place or a moment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

INIT_STD = 0.02
"""Standard deviation that transformer weights start from, as in ViT and Hiera, which cut the distribution off at 100 of them."""


class Mlp(nn.Module):
    """Two linear layers with a GELU between them: (..., D) -> (..., out)."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention over the second to last axis: (..., L, D) -> (..., L, D).

    Runs through `scaled_dot_product_attention`, whose fused kernels never hold the (L, L) weights, so memory is
    linear in L.

    Raises
    ------
    ValueError
        If `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; choose one that is.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor
            (..., L, D).
        mask : Tensor or None
            Broadcastable to (..., heads, L, L), True where a query (row) may see a key (column).
        angles : Tensor or None
            (..., 1, L, D / heads / 2) rotary angles of every position; attention then knows how far apart positions lie, and not where
            they lie (`_rotate`).
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        # Queries and keys turn together: one pass over what is the largest tensor here.
        q, k = _rotate(qkv[:2], angles) if angles is not None else qkv[:2]
        v = qkv[2]
        if mask is not None and mask.ndim > 3:
            mask = mask.expand(*q.shape[:-3], *mask.shape[-3:]).flatten(0, -4)
        # The fused kernels take four axes; five would fall back, without a word, to one that holds the weights.
        q, k, v = (part.reshape(-1, *part.shape[-3:]) for part in (q, k, v))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).reshape(x.shape))


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (i, F + i) of the last axis by its angle: (..., 2 F) and (..., F) -> (..., 2 F).

    A query and a key turned by angles in proportion to their positions have a product that depends on the
    difference of the positions alone (rotary embedding, arXiv 2104.09864).
    """
    turned: Tensor = _Rotation.apply(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    """Rotation of pairs with a backward pass of its own, which is the rotation back.

    Written out in torch operations it keeps four products for the backward pass and joins halves by copying: a tenth of a
    training step of stage 1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(x)
    (a, b), (first, second) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
    return out


def wavelengths(shortest: float, longest: float, count: int) -> Tensor:
    """`count` wavelengths from `shortest` to `longest`, evenly spaced in octaves: (count,)."""
    return torch.logspace(math.log2(shortest), math.log2(longest), count, base=2.0, dtype=torch.float64).float()


def fourier_features(position: Tensor, waves: Tensor) -> Tensor:
    """Sine and cosine of each coordinate at each wavelength.

    Parameters
    ----------
    position : Tensor
        (..., K) places in mm, or moments in s.
    waves : Tensor
        (F,) wavelengths in the unit of `position`.

    Returns
    -------
    (..., 2 * K * F): all sines, then all cosines.
    """
    angle = (2 * math.pi * position.unsqueeze(-1) / waves).flatten(-2)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class FourierPosition(nn.Module):
    """Embed places in mm, or moments in s, by a linear map of their Fourier features: (..., K) -> (..., D).

    Continuous, so that one set of weights reads any lattice, any parcellation and any TR.
    """

    waves: Tensor

    def __init__(self, coordinates: int, width: int, shortest: float, longest: float, count: int) -> None:
        super().__init__()
        self.register_buffer("waves", wavelengths(shortest, longest, count), persistent=False)
        self.project = nn.Linear(2 * coordinates * count, width)

    def forward(self, position: Tensor) -> Tensor:
        # Positions are few, and under autocast would lose digits that are then added up from block to block.
        with torch.autocast(position.device.type, enabled=False):
            return self.project(fourier_features(position.to(self.waves.dtype), self.waves))


def init_transformer(module: nn.Module) -> None:
    """Give a linear layer normal weights, from a seed the same with torch 2.9 and 2.13, and zero bias; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
