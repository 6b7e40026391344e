"""Weights in autocast's precision, cast together: left to itself, autocast starts a kernel for each weight, each bias and each gradient."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Affine: TypeAlias = tuple[Tensor, Tensor]
"""Weight (out, D) and bias (out,) of a linear layer."""


def cast_together(*layers: nn.Linear | None) -> list[Affine]:
    """Weight and bias of each layer that there is, in the precision of autocast, or as they are where it is off.

    One kernel casts all of them, and one all their gradients. `torch.compile` is given them as they are: it fuses casts by itself.
    """
    weights = [value for layer in layers if layer is not None for value in (layer.weight, layer.bias)]
    device = weights[0].device.type
    if torch.is_autocast_enabled(device) and not torch.compiler.is_compiling():
        weights = cast("list[Tensor]", _Cast.apply(torch.get_autocast_dtype(device), *weights))  # type: ignore[no-untyped-call]
    return list(zip(weights[::2], weights[1::2], strict=True))


class _Cast(Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = values[0].dtype
        return tuple(_to(values, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_to(grads, ctx.dtype)


def _to(values: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(value, dtype=dtype) for value in values]
    torch._foreach_copy_(copies, list(values))
    return copies
