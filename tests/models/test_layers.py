"""Shared layers, against torch's own attention and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from slimbrain.models.layers import Attention, FourierPosition, Mlp, _rotate, fourier_features, wavelengths


def reference_attention(ours: Attention) -> nn.MultiheadAttention:
    """torch's module with the same weights."""
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs


def test_attention_equals_torch_multihead_attention() -> None:
    torch.manual_seed(0)
    ours, x = Attention(12, 3).double(), torch.randn(2, 7, 12, dtype=torch.float64)
    expected, _ = reference_attention(ours)(x, x, x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)


def test_attention_sees_only_what_the_mask_allows() -> None:
    torch.manual_seed(0)
    ours, x = Attention(8, 2).double(), torch.randn(1, 5, 8, dtype=torch.float64)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    expected, _ = reference_attention(ours)(x, x, x, attn_mask=~causal)
    torch.testing.assert_close(ours(x, causal), expected, rtol=0, atol=1e-12)
    changed = x.clone()
    changed[:, 3:] += 1
    assert torch.equal(ours(changed, causal)[:, :3], ours(x, causal)[:, :3])
    assert not torch.allclose(ours(changed, causal)[:, 3:], ours(x, causal)[:, 3:])


def test_attention_takes_any_leading_axes() -> None:
    torch.manual_seed(0)
    ours, x = Attention(8, 2).double(), torch.randn(2, 3, 5, 8, dtype=torch.float64)
    mask = torch.rand(2, 3, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    mask |= torch.eye(5, dtype=torch.bool)
    masked = ours(x, mask)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(ours(x)[i, j], ours(x[i, j]), rtol=0, atol=1e-12)
            torch.testing.assert_close(masked[i, j], ours(x[i, j], mask[i, j]), rtol=0, atol=1e-12)


def test_attention_refuses_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(10, 3)


def test_rotation_keeps_length_and_makes_products_relative() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, dtype=torch.float64)
    waves = torch.tensor([3.0, 10.0, 40.0], dtype=torch.float64)

    def product(at_q: float, at_k: float) -> float:
        return float(_rotate(q, 2 * math.pi * at_q / waves) @ _rotate(k, 2 * math.pi * at_k / waves))

    assert _rotate(q, 2 * math.pi * 5.0 / waves).norm() == pytest.approx(float(q.norm()), abs=1e-12)
    assert product(5.0, 8.0) == pytest.approx(product(105.5, 108.5), abs=1e-10)
    assert product(5.0, 8.0) != pytest.approx(product(5.0, 9.0), abs=1e-3)
    assert product(0.0, 0.0) == pytest.approx(float(q @ k), abs=1e-12)


def test_rotation_and_its_gradient_are_those_of_complex_numbers() -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)
    weights = torch.randn_like(x)

    def as_complex(values: torch.Tensor) -> torch.Tensor:
        turned = torch.complex(values[..., :4], values[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), -1)

    torch.testing.assert_close(_rotate(x, angles), as_complex(x), rtol=0, atol=1e-14)
    ours, theirs = (torch.autograd.grad((turn * weights).sum(), x)[0] for turn in (_rotate(x, angles), as_complex(x)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_rotary_attention_does_not_know_where_it_is() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2).double(), torch.randn(1, 6, 8, dtype=torch.float64)
    seconds = torch.tensor([0.0, 2.0, 5.0, 6.0, 20.0, 21.0], dtype=torch.float64)[:, None]
    angles = seconds * torch.tensor([0.5, 0.05], dtype=torch.float64)
    moved = attention(x, angles=angles + 40 * torch.tensor([0.5, 0.05], dtype=torch.float64))
    torch.testing.assert_close(attention(x, angles=angles), moved, rtol=0, atol=1e-10)
    assert not torch.allclose(attention(x, angles=angles), attention(x), atol=1e-4)


def test_wavelengths_are_evenly_spaced_in_octaves() -> None:
    torch.testing.assert_close(wavelengths(4.0, 64.0, 5), torch.tensor([4.0, 8.0, 16.0, 32.0, 64.0]))


def test_fourier_features_are_sines_and_cosines() -> None:
    place = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    waves = torch.tensor([8.0, 32.0], dtype=torch.float64)
    turns = [1 / 8, 1 / 32, -3 / 8, -3 / 32]
    expected = [math.sin(2 * math.pi * t) for t in turns] + [math.cos(2 * math.pi * t) for t in turns]
    torch.testing.assert_close(fourier_features(place, waves), torch.tensor([expected], dtype=torch.float64))


def test_fourier_position_repeats_after_the_longest_wave_and_not_before() -> None:
    torch.manual_seed(0)
    embed = FourierPosition(1, 16, 4.0, 64.0, 5).double()
    at = embed(torch.tensor([[10.0], [74.0], [42.0]]))
    torch.testing.assert_close(at[0], at[1], rtol=0, atol=1e-5)
    assert not torch.allclose(at[0], at[2], atol=1e-2)


def test_mlp_is_two_linear_maps_around_a_gelu() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(4, 9, 2).double(), torch.randn(3, 4, dtype=torch.float64)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.fc2.weight.T + mlp.fc2.bias, rtol=0, atol=1e-12)
