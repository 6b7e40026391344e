"""Weights cast together: the values and gradients that autocast gives one by one, in two kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from slimbrain.models.autocast import cast_together


def make_layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, 10), nn.Linear(10, 4), nn.Linear(4, 3)]


class Casts(TorchDispatchMode):
    """Operations that write a tensor of another type."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names += [name] * (name in ("_to_copy", "_foreach_copy_"))
        return func(*args, **(kwargs or {}))


def test_without_autocast_they_are_the_parameters_themselves() -> None:
    layers = make_layers()
    for layer, (weight, bias) in zip(layers, cast_together(*layers), strict=True):
        assert weight is layer.weight and bias is layer.bias


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_and_gradients_are_those_of_autocast(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 30).view(5, 6)

    def run(together: bool) -> list[Tensor]:
        layers, y = make_layers(), x
        with torch.autocast("cpu", dtype=dtype):
            weights = cast_together(*layers) if together else [(layer.weight, layer.bias) for layer in layers]
            for weight, bias in weights:
                y = linear(y, weight, bias)
        y.float().square().sum().backward()
        grads = [parameter.grad for layer in layers for parameter in layer.parameters()]
        assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)
        return [y, *(grad for grad in grads if grad is not None)]

    for mine, other in zip(run(together=True), run(together=False), strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)


def test_two_kernels_cast_all_weights_and_all_gradients() -> None:
    layers, x = make_layers(), torch.randn(5, 6, dtype=torch.bfloat16)
    with Casts() as casts, torch.autocast("cpu", dtype=torch.bfloat16):
        for weight, bias in cast_together(*layers):
            x = linear(x, weight, bias)
        x.sum().backward()
    assert casts.names == ["_foreach_copy_"] * 2


def test_a_layer_that_nothing_was_made_of_gets_no_gradient_but_zero() -> None:
    first, second = make_layers()[:2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        used, _ = cast_together(first, second)
        linear(torch.ones(1, 6), *used).sum().backward()
    assert first.weight.grad is not None and torch.equal(first.weight.grad, torch.ones(10, 6))
    assert second.weight.grad is not None and not second.weight.grad.any()
