"""The factorised predictor against attention written out with masks over all tokens of a clip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimbrain.config import JepaConfig
from slimbrain.errors import ContractError
from slimbrain.models.hiera import Tokens
from slimbrain.models.predictor import FactorisedBlock, FactorisedPredictor, MaskedAttention

STEPS, UNITS, WIDTH = 3, 5, 8


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
    step, unit = torch.arange(STEPS).repeat_interleave(UNITS), torch.arange(UNITS).repeat(STEPS)
    place, x = predictor.space_embed(mm).double(), predictor.query.repeat(len(hidden), 1)
    x[~hidden] = predictor.proj_in(context)
    same_step, same_place = step[:, None] == step, unit[:, None] == unit
    for number, block in enumerate(predictor.blocks):
        askable = (~hidden if number == 0 else torch.ones_like(hidden))[None]
        heads = block.places.heads
        logits = torch.zeros(heads, len(x), len(x)).double().masked_fill(~(same_step & askable), -math.inf)
        x = x + dense_attention(block.places, block.norm_places(x), place, logits)
        decay = -block.log_slope.exp()[:, None, None] * (seconds[:, None] - seconds).abs()
        x = x + dense_attention(block.steps, block.norm_steps(x), 0.0, decay.masked_fill(~(same_place & askable), -math.inf))
        x = x + block.mlp(block.norm_mlp(x))
    return predictor.proj_out(predictor.norm(x[hidden]))


def make_tokens(hidden: Tensor, clips: int = 1) -> tuple[Tokens, Tokens, Tensor]:
    """Context values, and where all tokens are, of clips that are visible alike."""
    torch.manual_seed(1)
    steps = torch.tensor([0.0, 2.88, 40.0], dtype=torch.float64)
    step, unit = torch.arange(STEPS).repeat_interleave(UNITS), torch.arange(UNITS).repeat(STEPS)
    mm = (40 * torch.randn(UNITS, 3, dtype=torch.float64))[unit]
    columns = [part.repeat(clips, *([1] * (part.ndim - 1))) for part in (step, unit, steps[step], mm)]
    clip = torch.arange(clips).repeat_interleave(len(step))
    everything = Tokens(torch.empty(len(clip), 0), clip, *columns, (len(step),) * clips)
    visible = (~hidden).repeat(clips)
    context = Tokens(torch.randn(int(visible.sum()), WIDTH, dtype=torch.float64), *(None,) * 5, ())  # type: ignore[arg-type]
    return context, everything, hidden.repeat(clips)


@pytest.mark.parametrize("whole_step_hidden", [False, True])
def test_equals_attention_with_masks_over_all_tokens(whole_step_hidden: bool) -> None:
    torch.manual_seed(0)
    predictor = FactorisedPredictor(JepaConfig(predictor_width=16, predictor_depth=2, predictor_heads=4), WIDTH, 6).double()
    for parameter in predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hidden = torch.rand(STEPS * UNITS) < 0.5
    if whole_step_hidden:
        hidden[:UNITS] = True
    context, everything, both = make_tokens(hidden, clips=2)
    found = predictor(context, everything, both)
    for half in range(2):
        rows, own = slice(half * STEPS * UNITS, (half + 1) * STEPS * UNITS), context.values.chunk(2)[half]
        expected = dense_predictor(predictor, own, everything.mm[rows], everything.seconds[rows], hidden)
        torch.testing.assert_close(found.chunk(2)[half], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden_step", [0, 2])
def test_a_first_block_hears_no_hidden_token_and_a_later_one_its_step_and_its_place(hidden_step: int) -> None:
    torch.manual_seed(0)
    block, place, seconds = FactorisedBlock(8, 2).double(), torch.randn(4, 8).double(), torch.arange(3) * 2.88
    visible = torch.ones(3, 4, dtype=torch.bool)
    visible[hidden_step] = False
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    other = x.clone()
    other[hidden_step, 1, 0] += 1

    def changed(keys: Tensor | None) -> list[list[int]]:
        difference = block(other, place, seconds, keys) - block(x, place, seconds, keys)
        return (difference.abs().amax(-1) > 1e-9).nonzero().tolist()

    assert changed(visible) == [[hidden_step, 1]]
    heard = changed(None)
    assert all([hidden_step, unit] in heard for unit in range(4)) and all([step, 1] in heard for step in range(3))


def test_starts_at_answers_near_the_mean() -> None:
    torch.manual_seed(0)
    predictor = FactorisedPredictor(JepaConfig(predictor_width=16, predictor_depth=2, predictor_heads=4), WIDTH, 6).double()
    context, everything, hidden = make_tokens(torch.arange(STEPS * UNITS) % 2 == 0)
    assert float(predictor(context, everything, hidden).detach().abs().max()) < 0.5


def test_refuses_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ContractError, match=r"jepa.predictor_heads"):
        FactorisedBlock(10, 4)
