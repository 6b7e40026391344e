"""The factorised predictor against attention written out with masks over all tokens of a clip."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimbrain.config import JepaConfig
from slimbrain.errors import ContractError
from slimbrain.models.hiera import Tokens
from slimbrain.models.predictor import FactorisedBlock, FactorisedPredictor, MaskedAttention

WIDTH = 8


def dense_attention(attention: MaskedAttention, x: Tensor, place: Tensor | float, logits: Tensor) -> Tensor:
    """(L, D) attention among all tokens, head by head; `logits` (heads, L, L) is -inf where a query may not ask."""
    q, k, v = attention.query(x + place), attention.key(x + place), attention.value(x)
    heads, width = [], x.shape[1] // attention.heads
    for head, extra in enumerate(logits):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width) + extra, dim=-1)
        heads.append(weights.nan_to_num(0) @ v[:, part])  # a row of -inf is a query that nobody may answer
    return attention.proj(torch.cat(heads, 1))


def dense_predictor(predictor: FactorisedPredictor, context: Tensor, mm: Tensor, seconds: Tensor, hidden: Tensor) -> Tensor:
    """Predictions of one clip's hidden tokens; everything is (L, ...) over all tokens, step by step."""
    place, x = predictor.space_embed(mm).double(), predictor.query.repeat(len(hidden), 1)
    x[~hidden] = predictor.proj_in(context)
    same_step, same_place = seconds[:, None] == seconds, (mm[:, None] == mm).all(-1)
    for number, block in enumerate(predictor.blocks):
        askable = (~hidden if number == 0 else torch.ones_like(hidden))[None]
        heads = block.places.heads
        logits = torch.zeros(heads, len(x), len(x)).double().masked_fill(~(same_step & askable), -math.inf)
        x = x + dense_attention(block.places, block.norm_places(x), place, logits)
        decay = -block.log_slope.exp()[:, None, None] * (seconds[:, None] - seconds).abs()
        x = x + dense_attention(block.steps, block.norm_steps(x), 0.0, decay.masked_fill(~(same_place & askable), -math.inf))
        x = x + block.mlp(block.norm_mlp(x))
    return predictor.proj_out(predictor.norm(x[hidden]))


def make_predictor() -> FactorisedPredictor:
    torch.manual_seed(0)
    return FactorisedPredictor(JepaConfig(predictor_width=16, predictor_depth=2, predictor_heads=4), WIDTH, 6).double()


def make_tokens(*hidden: Tensor) -> tuple[Tokens, Tokens, Tensor]:
    """Context values, and where all tokens are, of clips with these hidden tokens, (S, U) bool each; places and times are their own."""
    torch.manual_seed(1)
    clip, step, unit, seconds, mm = [], [], [], [], []
    for number, (steps, units) in enumerate(part.shape for part in hidden):
        clip.append(torch.full((steps * units,), number))
        step.append(torch.arange(steps).repeat_interleave(units))
        unit.append(torch.arange(units).repeat(steps))
        seconds.append(torch.rand(steps, dtype=torch.float64).mul(10).cumsum(0)[step[-1]])
        mm.append(40 * torch.randn(units, 3, dtype=torch.float64)[unit[-1]])
    columns = (torch.cat(part) for part in (clip, step, unit, seconds, mm))
    flat = torch.cat([part.flatten() for part in hidden])
    everything = Tokens(torch.empty(len(flat), 0), *columns, tuple(part.numel() for part in hidden), tuple(map(len, hidden)))
    context = Tokens(torch.randn(int((~flat).sum()), WIDTH, dtype=torch.float64), *(None,) * 5, (), ())  # type: ignore[arg-type]
    return context, everything, flat


@pytest.mark.parametrize("whole_step_hidden", [False, True])
def test_equals_attention_with_masks_over_all_tokens(whole_step_hidden: bool) -> None:
    """In a batch of two clips of one shape, which are computed together, one of another, and one of the first again."""
    predictor = make_predictor()
    for parameter in predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hidden = [torch.rand(shape) < 0.5 for shape in ((3, 5), (3, 5), (2, 4), (3, 5))]
    if whole_step_hidden:
        hidden[1][0] = True
    context, everything, flat = make_tokens(*hidden)
    found = predictor(context, everything, flat).split([int(part.sum()) for part in hidden])
    own = context.values.split([int((~part).sum()) for part in hidden])
    where = zip(everything.mm.split(everything.lengths), everything.seconds.split(everything.lengths), strict=True)
    for one, values, (mm, seconds), part in zip(found, own, where, hidden, strict=True):
        torch.testing.assert_close(one, dense_predictor(predictor, values, mm, seconds, part.flatten()), rtol=0, atol=1e-6)


class Counter(TorchDispatchMode):
    """Counts operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(value.alias_info for value in func._schema.returns)
        return func(*args, **(kwargs or {}))


def test_clips_of_one_shape_start_hardly_more_kernels_than_one() -> None:
    predictor, counts = make_predictor(), []
    for clips in (1, 4):
        inputs = make_tokens(*[torch.rand(3, 5) < 0.5 for _ in range(clips)])
        with Counter() as counter:
            predictor(*inputs)
        counts.append(counter.count)
    assert counts[0] > 50
    assert counts[1] < 1.1 * counts[0]


@pytest.mark.parametrize("hidden_step", [0, 2])
def test_a_first_block_hears_no_hidden_token_and_a_later_one_its_step_and_its_place(hidden_step: int) -> None:
    torch.manual_seed(0)
    block, place, seconds = FactorisedBlock(8, 2).double(), torch.randn(1, 4, 8).double(), torch.arange(3).double() * 2.88
    visible = torch.ones(1, 3, 4, dtype=torch.bool)
    visible[0, hidden_step] = False
    x, lag = torch.randn(1, 3, 4, 8, dtype=torch.float64), (seconds[:, None] - seconds).abs()[None]
    other = x.clone()
    other[0, hidden_step, 1, 0] += 1

    def changed(keys: Tensor | None) -> list[list[int]]:
        difference = (block(other, place, lag, keys) - block(x, place, lag, keys))[0]
        return (difference.abs().amax(-1) > 1e-9).nonzero().tolist()

    assert changed(visible) == [[hidden_step, 1]]
    heard = changed(None)
    assert all([hidden_step, unit] in heard for unit in range(4)) and all([step, 1] in heard for step in range(3))


def test_starts_at_answers_near_the_mean() -> None:
    inputs = make_tokens(torch.arange(15).view(3, 5) % 2 == 0)
    assert float(make_predictor()(*inputs).detach().abs().max()) < 0.5


def test_refuses_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ContractError, match=r"jepa.predictor_heads"):
        FactorisedBlock(10, 4)
