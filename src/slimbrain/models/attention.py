"""Attention within concatenated sequences: the tokens of many mask units, or of the clips of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_HALF = (torch.float16, torch.bfloat16)
_HAS_VARLEN = find_spec("torch.nn.attention.varlen") is not None
"""torch 2.9 has none."""


@dataclass(frozen=True)
class _Ragged:
    """Sequences of many lengths: sequence i has `queries[i]` queries and `keys[i]` keys."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


Spans: TypeAlias = int | _Ragged
"""Which consecutive tokens attend to each other: a number of sequences of one length, or sequences of several lengths."""


def spans_of(queries: Sequence[int], keys: Sequence[int]) -> Spans:
    """Spans of sequences with these numbers of queries and keys."""
    even = len(set(queries)) == 1 and len(set(keys)) == 1
    return len(keys) if even else _Ragged(tuple(queries), tuple(keys))


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """Softmax attention within each span.

    Sequences of one length are one batch of the fused kernel. Others go through torch's variable-length kernel where it runs (CUDA,
    half precision, heads that are a multiple of 8 wide), else one by one; nothing is padded.

    Parameters
    ----------
    q : Tensor
        (Lq, H, D/H) queries of all spans, one span behind the other.
    k, v : Tensor
        (Lk, H, D/H) keys and values.

    Returns
    -------
    (Lq, D).
    """
    if isinstance(spans, int):
        parts = (part.unflatten(0, (spans, -1)).transpose(1, 2) for part in (q, k, v))
        return scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2).flatten(0, 1)
    if has_variable_length_kernel(q):
        return _variable_length(q, k, v, spans).flatten(1)
    pieces = zip(q.split(spans.queries), k.split(spans.keys), v.split(spans.keys), strict=True)
    return torch.cat([attend(*piece, 1) for piece in pieces])


def has_variable_length_kernel(q: Tensor) -> bool:
    """Whether torch has a variable-length kernel for heads like those of `q`, on its device."""
    return _HAS_VARLEN and q.is_cuda and q.dtype in _HALF and q.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _variable_length(q: Tensor, k: Tensor, v: Tensor, spans: _Ragged) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    first_query, first_key = (
        torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=q.device) for lengths in (spans.queries, spans.keys)
    )
    return cast(Tensor, varlen_attn(q, k, v, first_query, first_key, max(spans.queries), max(spans.keys)))
