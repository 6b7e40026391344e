"""Every way to compute stage 2 gives the same: blocks of any size, all segments at once, half precision, compiled, on a GPU."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, sample_jepa_mask
from slimbrain.grid import LATTICES, Grid
from slimbrain.models import hiera as hiera_module
from slimbrain.models.hiera import Hiera
from slimbrain.models.jepa import HieraJEPA

ENCODER = HieraConfig(embed=16, depths=(1, 1, 1, 1), heads=(2, 2, 4, 4), mlp_ratio=2, recompute=False)
JEPA = JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def make_model(grid: Grid, **settings: object) -> HieraJEPA:
    torch.manual_seed(0)
    model = HieraJEPA(ENCODER.model_copy(update=settings), JEPA, grid.voxels_per_patch)
    for parameter in model.parameters():  # the initial weights are so small that attention would be uniform
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.target.load_state_dict(model.context.state_dict())
    return model


def make_batch(grid: Grid) -> tuple[list[Clip], list[JepaMask]]:
    """Two clips of different length and of different grids."""
    other = Grid(LATTICES["8mm"], grid.mask & (np.arange(24) < 14)[:, None, None])
    generator = torch.Generator().manual_seed(0)
    clips = [
        Clip(torch.randn(frames, *own.voxel_mask.shape, generator=generator), torch.arange(frames) * 0.72, own)
        for own, frames in ((grid, 16), (other, 8))
    ]
    masks = [
        sample_jepa_mask(clip.grid.units.mm, len(clip.seconds) // 8, 2, 0.3, np.random.default_rng(seed)) for seed, clip in enumerate(clips)
    ]
    return clips, masks


def as_dtype(clips: list[Clip], dtype: torch.dtype) -> list[Clip]:
    return [replace(clip, voxels=clip.voxels.to(dtype)) for clip in clips]


def step(model: HieraJEPA, clips: list[Clip], masks: list[JepaMask]) -> tuple[Tensor, Tensor]:
    """Loss, and all gradients in a row, on the processor."""
    output = model(clips, masks)
    output.loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return output.loss.detach().cpu(), torch.cat([grad.flatten() for grad in grads]).cpu()


@pytest.mark.parametrize(("unit", "unit_frames"), [("unit", 4), ("region", 8)])
@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_of_any_size_and_all_at_once_give_the_same(
    grid8: Grid, unit: str, unit_frames: int, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, masks = make_batch(grid8)
    if unit == "region":
        masks = [sample_jepa_mask(clip.grid.regions.mm, len(clip.seconds) // 8, 1, 0.4, np.random.default_rng(0)) for clip in clips]
    results = []
    for layout, tokens in (("blocks", 8192), ("blocks", 1), ("ragged", 8192)):
        monkeypatch.setattr(hiera_module, "BLOCK_TOKENS", tokens)
        model = make_model(grid8, layout=layout, unit=unit, unit_frames=unit_frames, recompute=recompute).double()
        packing = model.context.pack(clips)
        assert (len(packing.levels[0]) == 1) == (layout == "ragged")
        results.append(step(model, as_dtype(clips, torch.float64), masks))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=0, atol=1e-11)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-10)


def test_ragged_blocks_have_no_filling(grid8: Grid) -> None:
    encoder, (clips, _) = Hiera(ENCODER.model_copy(update={"layout": "ragged"}), grid8.voxels_per_patch), make_batch(grid8)
    for stage in encoder.pack(clips).levels:
        assert stage[0].kept is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_single_and_adds_up_in_single(grid8: Grid, dtype: torch.dtype) -> None:
    clips, masks = make_batch(grid8)
    loss, gradient = step(make_model(grid8), clips, masks)
    model = make_model(grid8)
    with torch.autocast("cpu", dtype=dtype):
        output = model(as_dtype(clips, torch.float16), masks)
        assert model.context(clips).values.dtype == torch.float32
    output.loss.backward()
    half = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert abs(float(output.loss.detach() - loss)) < 0.02 * float(loss)
    assert float(torch.nn.functional.cosine_similarity(half, gradient, dim=0)) > 0.99


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")
def test_compiled_blocks_give_the_same(grid8: Grid) -> None:
    clips, masks = make_batch(grid8)
    expected = step(make_model(grid8), clips, masks)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = make_model(grid8)
    model.compile_blocks()
    found = step(model, clips, masks)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_layouts_agree_in_half_precision(grid8: Grid, dtype: torch.dtype) -> None:
    clips, masks = make_batch(grid8)
    results = []
    for layout in ("blocks", "ragged"):
        model = make_model(grid8, layout=layout).cuda()
        with torch.autocast("cuda", dtype=dtype):
            results.append(step(model, clips, masks))
    assert float((results[0][0] - results[1][0]).abs()) < 0.01 * float(results[0][0])
    assert float(torch.nn.functional.cosine_similarity(results[0][1], results[1][1], dim=0)) > 0.99


@pytest.mark.cuda
@NEEDS_CUDA
def test_cuda_takes_the_variable_length_kernel_by_itself(grid8: Grid) -> None:
    clips, _ = make_batch(grid8)
    encoder = make_model(grid8).context.cuda()
    assert len(encoder.pack(clips).levels[0]) > 1
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert len(encoder.pack(clips).levels[0]) == 1
