"""Steps that keep little: the gradients of plain autograd, and fewer bytes than plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from slimbrain.models.autocast import Affine
from slimbrain.models.layers import Mlp
from slimbrain.models.memory_efficient import add, add_mlp, mean_children, merge_children, norm_linear, pool_children

WIDTH, ROWS = 12, 40
CHILDREN = torch.tensor([[0, 3, 7, 7], [1, 1, 1, 1], [9, 20, 4, 39]])
EXISTS = torch.tensor([[True, True, True, False], [False, True, False, False], [True] * 4])


def parts() -> tuple[nn.LayerNorm, nn.Linear, Mlp]:
    torch.manual_seed(0)
    modules = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), Mlp(WIDTH, 4 * WIDTH)
    for module in modules:
        module.double()
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return modules


def affine(layer: nn.Linear) -> Affine:
    return layer.weight, layer.bias


def plain_mean(x: Tensor) -> Tensor:
    return torch.stack([x[children[exists]].mean(0) for children, exists in zip(CHILDREN, EXISTS, strict=True)])


def plain_merge(x: Tensor) -> Tensor:
    """Child after child, each with its own columns of the weights."""
    rows = []
    for children, exists in zip(CHILDREN, EXISTS, strict=True):
        row = MERGE.bias
        for place in exists.nonzero()[:, 0]:
            columns = slice(WIDTH * int(place), WIDTH * (int(place) + 1))
            row = row + len(exists) / int(exists.sum()) * MERGE.weight[:, columns] @ NORM(x[children[place]])
        rows.append(row)
    return torch.stack(rows)


NORM, LINEAR, MLP = parts()
MERGE = nn.Linear(4 * WIDTH, 2 * WIDTH).double()
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "norm_linear": (lambda x: norm_linear(x, NORM, affine(LINEAR)), lambda x: LINEAR(NORM(x))),
    "add_mlp, hidden kept": (lambda x: add_mlp(x, NORM, affine(MLP.fc1), affine(MLP.fc2), True), lambda x: x + MLP(NORM(x))),
    "add_mlp, hidden computed again": (lambda x: add_mlp(x, NORM, affine(MLP.fc1), affine(MLP.fc2), False), lambda x: x + MLP(NORM(x))),
    "pool_children": (lambda x: pool_children(x, CHILDREN), lambda x: x[CHILDREN].amax(1)),
    "mean_children": (lambda x: mean_children(x, CHILDREN, EXISTS), plain_mean),
    "merge_children": (lambda x: merge_children(x, NORM, affine(MERGE), CHILDREN, EXISTS), plain_merge),
}


def gradients(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    learnt = [parameter for module in (NORM, LINEAR, MLP, MERGE) for parameter in module.parameters()]
    out = function(x)
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), [x, *learnt], allow_unused=True)
    return [out, *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_plain_autograd(name: str) -> None:
    ours, plain = (gradients(function) for function in CASES[name])
    assert len(ours) == len(plain)
    for mine, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


KEPT = {"norm_linear": 1, "add_mlp, hidden kept": 5, "add_mlp, hidden computed again": 1}


@pytest.mark.parametrize(("name", "rows_of_width"), KEPT.items())
def test_what_is_kept(name: str, rows_of_width: int) -> None:
    """In units of the input: itself, and the hidden layer, four times as wide, where it is kept."""
    ours, plain = (kept_bytes(function) for function in CASES[name])
    moments = 2 * ROWS * 8
    assert ours == rows_of_width * ROWS * WIDTH * 8 + moments
    assert plain > ours


def test_pooling_keeps_a_byte_a_maximum() -> None:
    ours, _ = CASES["pool_children"]
    assert kept_bytes(ours) == len(CHILDREN) * WIDTH + CHILDREN.nbytes


def test_merging_keeps_the_input_and_the_tables() -> None:
    ours, _ = CASES["merge_children"]
    assert kept_bytes(ours) == (ROWS * WIDTH + 2 * ROWS + CHILDREN.numel()) * 8 + CHILDREN.nbytes


def kept_bytes(function: Callable[[Tensor], Tensor]) -> int:
    """Bytes of distinct storages that one call keeps, weights left out."""
    own = {parameter.data_ptr() for module in (NORM, LINEAR, MLP, MERGE) for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = function(torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True))
    assert out.grad_fn is not None
    return sum(kept.values())


def test_equal_candidates_send_the_whole_gradient_to_one_row() -> None:
    x = torch.zeros(ROWS, WIDTH, requires_grad=True)
    pool_children(x, CHILDREN).sum().backward()
    assert torch.equal(x.grad.sum(0), torch.full((WIDTH,), float(len(CHILDREN))))


def test_the_residual_stream_stays_wide() -> None:
    wide, narrow = torch.ones(3), torch.full((3,), 1e-3, dtype=torch.bfloat16)
    assert add(wide, narrow).dtype == torch.float32
    assert torch.equal(add(wide, narrow), wide + narrow)
    branch = torch.full((3,), 2.0)
    assert add(wide, branch) is branch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*KEPT, "merge_children"])
def test_half_precision_gradients_are_those_of_plain_autograd(name: str, dtype: torch.dtype) -> None:
    def run(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        modules = [module.float() for module in (NORM, LINEAR, MLP, MERGE)]
        try:
            x = torch.linspace(-1, 1, ROWS * WIDTH).view(ROWS, WIDTH).requires_grad_()
            with torch.autocast("cpu", dtype=dtype):
                out = function(x)
            learnt = [parameter for module in modules for parameter in module.parameters()]
            grads = torch.autograd.grad(out.float().square().sum(), [x, *learnt], allow_unused=True)
            return [out.float(), *(grad for grad in grads if grad is not None)]
        finally:
            for module in modules:
                module.double()

    ours, plain = (run(function) for function in CASES[name])
    for mine, other in zip(ours, plain, strict=True):
        assert mine.dtype == other.dtype == torch.float32
        assert float((mine - other).detach().norm()) <= 0.01 * float(other.detach().norm())
