"""Attention within spans against softmax written out."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from slimbrain.models import attention
from slimbrain.models.attention import _Ragged, attend, spans_of


def written_out(q: Tensor, k: Tensor, v: Tensor, queries: tuple[int, ...], keys: tuple[int, ...]) -> Tensor:
    """One sequence, head and query after the other."""
    out = torch.zeros_like(q)
    first_query = first_key = 0
    for n_queries, n_keys in zip(queries, keys, strict=True):
        for query in range(first_query, first_query + n_queries):
            for head in range(q.shape[1]):
                seen = slice(first_key, first_key + n_keys)
                weights = torch.softmax(k[seen, head] @ q[query, head] / q.shape[-1] ** 0.5, dim=0)
                out[query, head] = weights @ v[seen, head]
        first_query, first_key = first_query + n_queries, first_key + n_keys
    return out.flatten(1)


@pytest.mark.parametrize(
    ("queries", "keys"), [((3, 3), (3, 3)), ((2, 2, 2), (5, 5, 5)), ((1, 4, 2), (1, 4, 2)), ((1, 3), (6, 2)), ((4,), (7,))]
)
def test_each_span_sees_itself_alone(queries: tuple[int, ...], keys: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q = torch.randn(sum(queries), 2, 3, dtype=torch.float64)
    k, v = torch.randn(2, sum(keys), 2, 3, dtype=torch.float64)
    expected = written_out(q, k, v, queries, keys)
    torch.testing.assert_close(attend(q, k, v, spans_of(queries, keys)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attend(q, k, v, _Ragged(queries, keys)), expected, rtol=0, atol=1e-12)


def test_equal_lengths_are_one_batch() -> None:
    assert spans_of([4, 4], [8, 8]) == 2
    assert spans_of([4, 4], [8, 7]) == _Ragged((4, 4), (8, 7))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_variable_length_kernel_equals_softmax(dtype: torch.dtype) -> None:
    queries, keys = (3, 1, 17), (40, 1, 5)
    q, k, v = (torch.randn(sum(lengths), 2, 16, device="cuda", dtype=dtype, requires_grad=True) for lengths in (queries, keys, keys))
    double = [part.detach().cpu().double().requires_grad_() for part in (q, k, v)]
    out, expected = attend(q, k, v, spans_of(queries, keys)), written_out(*double, queries, keys)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=2e-2, atol=2e-2)
    out.float().sum().backward()
    expected.sum().backward()
    for ours, theirs in zip((q, k, v), double, strict=True):
        torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("there", [True, False])
def test_the_kernel_is_used_only_where_this_torch_has_it(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.9 has no variable-length kernel, on whatever device; there the sequences are computed one by one."""
    q: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(0, 4, 32), device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.has_variable_length_kernel(q) == (importlib.util.find_spec("torch.nn.attention.varlen") is not None)
    monkeypatch.setattr(attention, "_HAS_VARLEN", there)
    assert attention.has_variable_length_kernel(q) is there
