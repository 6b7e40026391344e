"""Steps of a transformer block that keep little for the backward pass.

Plain autograd keeps every intermediate result. What a norm or a GELU gives is cheap to have again from what went in, and the place
of a maximum says as much as all that was compared; so these functions keep that, and gradients stay the same. `torch.compile` is
given the plain formulas: it decides by itself what to keep.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from slimbrain.models.autocast import Affine


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: Affine) -> Tensor:
    """`linear(norm(x))`: (L, D) -> (L, out), keeping `x` and not the normalised copy for the backward pass."""
    if torch.compiler.is_compiling():
        return functional.linear(norm(x), *linear)
    return _apply(_NormLinear, x, norm.weight, norm.bias, norm.eps, *linear)


def add_mlp(x: Tensor, norm: nn.LayerNorm, fc1: Affine, fc2: Affine, keep_hidden: bool) -> Tensor:
    """`x + fc2(gelu(fc1(norm(x))))`: (L, D) -> (L, D).

    Parameters
    ----------
    keep_hidden : bool
        Keep the hidden layer, as it is before the GELU; without, a third of the forward pass is done again.
    """
    if torch.compiler.is_compiling():
        return x + functional.linear(functional.gelu(functional.linear(norm(x), *fc1)), *fc2)
    return _apply(_AddMlp, x, norm.weight, norm.bias, norm.eps, *fc1, *fc2, keep_hidden and torch.is_grad_enabled())


def pool_children(x: Tensor, children: Tensor) -> Tensor:
    """Maximum over the rows that each pooled element is made of.

    Parameters
    ----------
    x : Tensor
        (L, D).
    children : Tensor
        (Q, C) rows of `x`, at most 256 a pooled element.

    Returns
    -------
    (Q, D).
    """
    if torch.compiler.is_compiling() or not x.requires_grad:
        return x[children].amax(1)
    return _apply(_PoolChildren, x, children)


def mean_children(x: Tensor, children: Tensor, exists: Tensor) -> Tensor:
    """Mean over those rows that each pooled element is made of that exist.

    Parameters
    ----------
    x : Tensor
        (L, D).
    children, exists : Tensor
        (Q, C) rows of `x`, and which of them count.

    Returns
    -------
    (Q, D).
    """
    share = _shares(exists, x.dtype)
    if torch.compiler.is_compiling() or not x.requires_grad:
        return (x[children] * share[..., None]).sum(1)
    return _apply(_MeanChildren, x, children, share)


def merge_children(x: Tensor, norm: nn.LayerNorm, linear: Affine, children: Tensor, exists: Tensor) -> Tensor:
    """One linear map of all children together, so that a pooled token keeps how they differ; as Swin's patch merging (arXiv 2103.14030).

    Children that do not exist count as zero, and those that do for them: were all children alike, a rim element would be like any other.

    Parameters
    ----------
    x : Tensor
        (L, D).
    norm, linear : nn.LayerNorm, Affine
        Applied to each row; maps C * D values, child by child, to `out`.
    children, exists : Tensor
        (Q, C) rows of `x`, and which of them count.

    Returns
    -------
    (Q, out).
    """
    weight = children.shape[1] * _shares(exists, x.dtype)
    if torch.compiler.is_compiling():
        return functional.linear((norm(x)[children] * weight[..., None]).flatten(1), *linear)
    return _apply(_MergeChildren, x, norm.weight, norm.bias, norm.eps, children, weight, *linear)


def _shares(exists: Tensor, dtype: torch.dtype) -> Tensor:
    """(Q, C) weights with a sum of 1 over what exists."""
    return exists.to(dtype) / exists.sum(1, keepdim=True)


def add(x: Tensor, branch: Tensor) -> Tensor:
    """`x + branch`, into `branch` where autocast has not made it narrower than the residual stream."""
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


def _apply(function: type[Function], *inputs: Any) -> Tensor:
    return cast(Tensor, function.apply(*inputs))


class _NormLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, weight)
        ctx.eps = eps
        return functional.linear(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gain, shift, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0]
        of_normed, of_weight, of_bias = _linear_backward(grad, normed, weight)
        of_x, of_gain, of_shift = _norm_backward(of_normed, x, mean, rstd, gain, shift)
        return of_x, of_gain, of_shift, None, of_weight, of_bias


class _AddMlp(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        fc1: Tensor,
        fc1_bias: Tensor,
        fc2: Tensor,
        fc2_bias: Tensor,
        keep: bool,
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        hidden = functional.linear(normed, fc1, fc1_bias)
        ctx.save_for_backward(x, mean, rstd, gain, shift, fc1, fc1_bias, fc2, hidden if keep else None)
        ctx.eps, ctx.dtype = eps, hidden.dtype
        active = functional.gelu(hidden) if keep else torch.ops.aten.gelu_(hidden)
        return add(x, functional.linear(active, fc2, fc2_bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gain, shift, fc1, fc1_bias, fc2, hidden = ctx.saved_tensors
        normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0].to(ctx.dtype)
        if hidden is None:
            hidden = functional.linear(normed, fc1.to(ctx.dtype), fc1_bias.to(ctx.dtype))
        of_active, of_fc2, of_fc2_bias = _linear_backward(grad.to(ctx.dtype), functional.gelu(hidden), fc2)
        of_hidden = torch.ops.aten.gelu_backward(of_active, hidden)
        of_normed, of_fc1, of_fc1_bias = _linear_backward(of_hidden, normed, fc1)
        of_x, of_gain, of_shift = _norm_backward(of_normed, x, mean, rstd, gain, shift)
        return of_x.add_(grad), of_gain, of_shift, None, of_fc1, of_fc1_bias, of_fc2, of_fc2_bias, None


class _PoolChildren(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, children: Tensor) -> Tensor:
        candidates = x[children]
        best = candidates.amax(1)
        # The last of equal candidates: a rim element repeats its first child, and either of the two stands for the same row.
        place = torch.arange(children.shape[1], dtype=torch.uint8, device=x.device)[:, None]
        ctx.save_for_backward(children, ((candidates == best[:, None]) * place).amax(1))
        ctx.rows = len(x)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        children, place = ctx.saved_tensors
        of_x = grad.new_zeros(ctx.rows, grad.shape[1])
        return of_x.scatter_add_(0, children.gather(1, place.long()), grad), None


class _MeanChildren(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, children: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(children, share)
        ctx.rows = len(x)
        return (x[children] * share[..., None]).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        children, share = ctx.saved_tensors
        of_x = grad.new_zeros(ctx.rows, grad.shape[1])
        return of_x.index_add_(0, children.flatten(), (grad[:, None] * share[..., None]).flatten(0, 1)), None, None


class _MergeChildren(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, children: Tensor, share: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, children, share, weight)
        ctx.eps = eps
        return functional.linear((normed[children] * share[..., None]).flatten(1), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gain, shift, children, share, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0]
        of_together, of_weight, of_bias = _linear_backward(grad, (normed[children] * share[..., None]).flatten(1), weight)
        of_child = of_together.view(*share.shape, -1).to(x.dtype) * share[..., None]
        of_normed = torch.zeros_like(x).index_add_(0, children.flatten(), of_child.flatten(0, 1))
        of_x, of_gain, of_shift = _norm_backward(of_normed, x, mean, rstd, gain, shift)
        return of_x, of_gain, of_shift, None, None, None, of_weight, of_bias


def _linear_backward(grad: Tensor, given: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (L, out) = given (L, D) @ weight.T + bias, computed in the precision that the forward pass had."""
    return grad @ weight.to(grad.dtype), grad.T @ given.to(grad.dtype), grad.sum(0, dtype=weight.dtype)


def _norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.native_layer_norm_backward(grad.to(x.dtype), x, x.shape[-1:], mean, rstd, gain, shift, [True, True, True])
