"""Sizes in closed form, against networks that were built and what autograd keeps of a step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimbrain.config import PRESETS, HieraConfig, JepaConfig, TemporalConfig, load_preset
from slimbrain.errors import InputError
from slimbrain.models import size
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.size import (
    _encoder_parameters,
    jepa_parameters,
    memory_bytes,
    require_memory,
    temporal_parameters,
    temporal_step_bytes,
    voxel_step_bytes,
)
from slimbrain.models.temporal import TemporalExtractor, temporal_loss


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 40), st.sampled_from([0.25, 1.0, 4.0]), st.integers(2, 9))
def test_stage_1_is_never_overstated(quarter: int, depth: int, groups: int, ratio: float, frames: int) -> None:
    config = TemporalConfig(width=8 * quarter, depth=depth, heads=2, groups=groups, mlp_ratio=ratio, window_frames=frames)
    assert 0 < temporal_parameters(config) <= parameters(TemporalExtractor(config))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.tuples(*[st.integers(1, 3)] * 4),
    st.sampled_from([0.25, 1.0, 4.0]),
    st.none() | st.tuples(st.integers(1, 6), st.integers(1, 30)),
    st.integers(1, 3),
)
def test_stage_2_is_never_overstated(
    half: int, depths: tuple[int, int, int, int], ratio: float, learned: tuple[int, int] | None, predictor: int
) -> None:
    config = HieraConfig(embed=4 * half, depths=depths, heads=(1, 1, 2, 2), mlp_ratio=ratio, learned_positions=learned)
    jepa = JepaConfig(predictor_width=8 * predictor, predictor_depth=predictor, predictor_heads=2)
    model = HieraJEPA(config, jepa, 8)
    assert 0 < _encoder_parameters(config) <= parameters(model.context)
    assert 0 < jepa_parameters(config, jepa) <= parameters(model)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_left_out_is_little_in_every_preset(name: str) -> None:
    preset = load_preset(name)
    with torch.device("meta"):
        voxel, temporal = HieraJEPA(preset.voxel, preset.jepa, 64), TemporalExtractor(preset.temporal)
    for counted, built in (
        (jepa_parameters(preset.voxel, preset.jepa), parameters(voxel)),
        (temporal_parameters(preset.temporal), parameters(temporal)),
    ):
        assert 0.5 * built < counted <= built


def test_a_step_of_stage_1_keeps_what_is_said() -> None:
    """Distinct storages that autograd keeps for the backward pass, parameters left out."""
    preset = load_preset("tiny", ["train_temporal.batch=2"])
    model, kept = TemporalExtractor(preset.temporal), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    frames, channels = 120, 20
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = temporal_loss(model, torch.randn(2, frames, channels), torch.randn(channels, 3), 1.0, torch.Generator().manual_seed(0))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters()) * 4
    said = temporal_step_bytes(preset, frames, channels)
    assert math.isfinite(loss.item())
    assert 0.2 * (sum(kept.values()) + weights) < said < sum(kept.values()) + weights


def test_sizes_grow_with_every_setting_that_costs() -> None:
    plain = load_preset("tiny")
    for override in ("train_temporal.batch=100", "temporal.depth=50", "temporal.width=512", "temporal.groups=512", "augment.masks=5"):
        assert temporal_step_bytes(load_preset("tiny", [override]), 200, 50) > temporal_step_bytes(plain, 200, 50), override
    for override in ("train_voxel.batch=100", "voxel.depths=[9,9,9,9]", "window.k=50", "voxel.learned_positions=[100,9]"):
        assert voxel_step_bytes(load_preset("tiny", [override]), 500, 8) > voxel_step_bytes(plain, 500, 8), override
    assert voxel_step_bytes(plain, 500, 8, shards=4) < voxel_step_bytes(plain, 500, 8)


def test_what_fits_no_memory_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    total, free = memory_bytes()
    assert 2**28 < free <= total
    monkeypatch.setattr(size, "memory_bytes", lambda: (4 * 2**30, 2**30))
    require_memory("this", 4 * 2**30, "never said")
    with pytest.raises(InputError, match=r"^this takes at least 5.0 GiB, this machine has 4.0 GiB; lower that\.$"):
        require_memory("this", 5 * 2**30, "lower that")
