"""The packed encoder against a plain dense one, and the proof that what is deleted is never computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from slimbrain.config import HieraConfig
from slimbrain.data.clip import Clip
from slimbrain.errors import ContractError
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hiera import Hiera, HieraBlock
from slimbrain.models.packing import pack_clips

FRAMES = 16


def make_config(
    unit: str = "unit", unit_frames: int = 4, recompute: bool = False, patch_frames: int = 1, pooling: str = "merge"
) -> HieraConfig:
    shape = {"unit": unit, "unit_frames": unit_frames, "patch_frames": patch_frames, "pooling": pooling}
    return HieraConfig(embed=8, depths=(2, 2, 2, 1), heads=(1, 2, 4, 8), mlp_ratio=2, recompute=recompute, **shape)


def make_encoder(grid: Grid, **settings: object) -> Hiera:
    torch.manual_seed(0)
    encoder = Hiera(make_config(**settings), grid.voxels_per_patch).double()
    for parameter in encoder.parameters():  # the initial weights are so small that attention would be uniform
        parameter.data += 0.3 * torch.randn_like(parameter)
    return encoder


def make_clip(grid: Grid, seed: int = 0, frames: int = FRAMES) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    voxels = torch.randn(frames, *grid.voxel_mask.shape, generator=generator, dtype=torch.float64) * torch.tensor(grid.voxel_mask)
    return Clip(voxels, torch.arange(frames) * 0.72 + 100 * seed, grid)


@pytest.fixture(scope="module")
def full_grid() -> Grid:
    """Every voxel of the box is brain. Its 12 patches a side are 3 units, but one and a half regions."""
    return Grid(LATTICES["8mm"], np.ones((24, 24, 24), dtype=bool))


def dense_reference(encoder: Hiera, patches: Tensor, seconds: Tensor, patch_mm: Tensor, patches_per_unit: int) -> Tensor:
    """The published layout, plainly: a dense box of patches, attention in units, pooling, attention everywhere.

    patches: (T, x, y, z, V); patch_mm: (x, y, z, 3). Returns tokens (t, x, y, z, D) after level 4.
    """
    config = encoder.config
    together = config.patch_frames
    patches = torch.cat([patches[first::together] for first in range(together)], dim=-1)
    seconds = torch.stack([seconds[first::together] for first in range(together)]).mean(0)
    x = encoder.patch_embed(patches) + encoder.space_embed(patch_mm) + encoder.time_embed(seconds[:, None])[:, None, None, None]
    size, times, number = patches_per_unit, config.unit_frames // together, 0
    for depth in config.depths[:2]:
        for _ in range(depth - (number > 0)):
            x = in_units(encoder.blocks[number], x, times, size, pool=False)
            number += 1
        x = in_units(encoder.blocks[number], x, times, size, pool=True)
        number, size, times = number + 1, size // 2, times // 2
    shape = x.shape
    x = x.reshape(1, -1, shape[-1])
    for block in encoder.blocks[number:]:
        x = plain_block(block, x, None)
    return encoder.norm(x).reshape(*shape[:-1], -1)


def unfold(dense: Tensor, patch: int) -> Tensor:
    """(T, X, Y, Z) to (T, x, y, z, V), the values of a patch in (x, y, z) order."""
    for axis in (1, 2, 3):
        dense = dense.unfold(axis, patch, patch)
    return dense.flatten(-3)


def assert_equals_dense(encoder: Hiera, clip: Clip, side: int, patches_per_unit: int) -> None:
    """Compare with the dense network on the corner of `side` patches that holds the whole mask."""
    grid, corner = clip.grid, side * clip.grid.lattice.patch
    dense = torch.tensor(grid.unpack(clip.voxels.numpy()))[:, :corner, :corner, :corner]
    place = torch.zeros(side, side, side, 3, dtype=torch.float64)
    place[tuple(torch.tensor(grid.patches.index).T)] = torch.tensor(grid.patches.mm)
    expected = dense_reference(encoder, unfold(dense, grid.lattice.patch), clip.seconds.double(), place, patches_per_unit)
    tokens = encoder([clip])
    unit = torch.tensor(grid.units.index)[tokens.unit]
    assert tokens.values.shape == (expected[..., 0].numel(), expected.shape[-1])
    torch.testing.assert_close(tokens.values, expected[tokens.step, unit[:, 0], unit[:, 1], unit[:, 2]], rtol=0, atol=1e-10)


def in_units(block: HieraBlock, x: Tensor, times: int, size: int, pool: bool) -> Tensor:
    """Cut (t, x, y, z, D) into units of times x size^3, run the block in each, and put the result back in place."""
    t, a, b, c, width = x.shape
    cut = x.reshape(t // times, times, a // size, size, b // size, size, c // size, size, width).permute(0, 2, 4, 6, 1, 3, 5, 7, 8)
    units = cut.reshape(-1, times, size, size, size, width)

    def children_of(tokens: Tensor) -> Tensor:
        """(W, Q, 16, D): two frames, then x, y and z of the octant."""
        half = size // 2
        split = tokens.reshape(len(units), times // 2, 2, half, 2, half, 2, half, 2, -1).permute(0, 1, 3, 5, 7, 2, 4, 6, 8, 9)
        return split.reshape(len(units), -1, 16, tokens.shape[-1])

    out = plain_block(block, units.reshape(len(units), -1, width), children_of if pool else None)
    if pool:
        times, size = times // 2, size // 2
    n = (
        t // (times * (2 if pool else 1)),
        a // (size * (2 if pool else 1)),
        b // (size * (2 if pool else 1)),
        c // (size * (2 if pool else 1)),
    )
    back = out.reshape(*n, times, size, size, size, -1).permute(0, 4, 1, 5, 2, 6, 3, 7, 8)
    return back.reshape(n[0] * times, n[1] * size, n[2] * size, n[3] * size, -1)


def plain_block(block: HieraBlock, x: Tensor, children_of: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Softmax attention written out, one head after the other."""

    def pool(tokens: Tensor) -> Tensor:
        if children_of is None:
            return tokens
        return children_of(tokens).amax(2) if block.pooling == "max" else children_of(tokens).mean(2)

    normed = block.norm1(x)
    if block.merge is not None:
        residual = children_of(normed).flatten(2) @ block.merge.weight.T + block.merge.bias
    else:
        residual = pool(normed @ block.widen.weight.T + block.widen.bias) if block.widen is not None else pool(x)
    q, k, v = (normed @ block.qkv.weight.T + block.qkv.bias).chunk(3, -1)
    q, heads = pool(q), []
    width = q.shape[-1] // block.heads
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(-1, -2) / width**0.5, dim=-1)
        heads.append(weights @ v[..., part])
    x = residual + block.proj(torch.cat(heads, -1))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("pooling", ["max", "mean", "merge"])
def test_with_nothing_deleted_equals_a_dense_network(full_grid: Grid, pooling: str) -> None:
    assert_equals_dense(make_encoder(full_grid, pooling=pooling), make_clip(full_grid), side=12, patches_per_unit=4)


def test_octants_of_the_rim_keep_their_place_and_missing_ones_do_not_count(grid8: Grid) -> None:
    """Each cell of the first transition, child by child: 16 / n times the weights of those of the 16 places that the brain has."""
    block, unit = HieraBlock(4, 8, 1, 2.0, pooling="merge").double(), HieraConfig(embed=4)
    packing = pack_clips([grid8], [np.ones((1, grid8.n_units), dtype=bool)], unit.unit, 4)
    x = torch.randn(4, grid8.n_patches, 4, dtype=torch.float64)
    weights, checked = block.merge.weight.view(8, 16, 4), 0
    for table in packing.levels[0]:
        merged = block._residual(x.flatten(0, 1)[table.rows], table, (block.merge.weight, block.merge.bias))
        for row, (children, exists) in enumerate(zip(table.children, table.exists, strict=True)):
            if table.kept is not None and row not in table.kept:
                continue
            frame, patch = np.divmod(table.rows[children[exists]].numpy(), grid8.n_patches)
            (cell,) = set(grid8.patch_cell[patch])
            assert len(patch) == 2 * grid8.cells.sizes[cell], "every patch of the cell, in two frames"
            expected = block.merge.bias.clone()
            for t, p in zip(frame, patch, strict=True):
                place = 8 * (t % 2) + int(grid8.patches.index[p] % 2 @ [4, 2, 1])
                expected += 16 / len(patch) * weights[:, place] @ block.norm1(x[t, p])
            torch.testing.assert_close(merged[row], expected, rtol=0, atol=1e-12)
            checked += 1
    assert checked == 2 * grid8.n_cells


def test_tokens_begin_as_signal_and_not_as_position(grid8: Grid) -> None:
    for std, signal, place in ((0.5, 0.5, 0.03), (None, 0.056, 0.11)):
        torch.manual_seed(0)
        encoder = Hiera(HieraConfig(embed=64, signal_std=std), grid8.voxels_per_patch)
        voxels = torch.randn(20000, grid8.voxels_per_patch)
        assert float(encoder.patch_embed(voxels).detach().std()) == pytest.approx(signal, rel=0.15)
        assert float(encoder.space_embed(torch.tensor(grid8.patches.mm)).detach().std()) == pytest.approx(place, rel=0.4)


def test_a_merged_token_begins_about_as_large_as_its_children() -> None:
    torch.manual_seed(0)
    block = HieraBlock(32, 64, 1, 2.0, pooling="merge")
    block.start_merge()
    children = torch.randn(500, 16, 32)
    assert 0.7 < float(block.merge(children.flatten(1)).detach().std()) < 1.5
    alike = children[:, :1].expand(-1, 16, -1)
    assert 1.0 < float(block.merge(alike.flatten(1)).detach().std()) < 2.0, "their mean, and a mixture"


def test_positions_are_known_without_encoding(grid8: Grid, full_grid: Grid) -> None:
    encoder, clips = make_encoder(grid8), [make_clip(grid8, 1, frames=8), make_clip(full_grid, 2, frames=16)]
    layout, tokens = encoder.layout(clips), encoder(clips)
    assert (layout.lengths, layout.steps) == (tokens.lengths, tokens.steps) and layout.values.shape == (len(tokens.values), 0)
    for name in ("clip", "step", "unit", "seconds", "mm"):
        assert torch.equal(getattr(layout, name), getattr(tokens, name))


def test_two_frames_a_patch_equal_a_dense_network(full_grid: Grid) -> None:
    encoder, clip = make_encoder(full_grid, unit_frames=8, patch_frames=2), make_clip(full_grid)
    assert_equals_dense(encoder, clip, side=12, patches_per_unit=4)
    assert encoder([clip]).seconds.unique().tolist() == pytest.approx([3.5 * 0.72, 11.5 * 0.72])


def test_published_mask_units_equal_a_dense_network() -> None:
    """Regions of 8 patches a side and 8 frames."""
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[:16, :16, :16] = True
    grid = Grid(LATTICES["8mm"], mask)
    assert_equals_dense(make_encoder(grid, unit="region", unit_frames=8), make_clip(grid), side=8, patches_per_unit=8)


@pytest.mark.parametrize(("unit", "unit_frames"), [("unit", 4), ("unit", 8), ("region", 8)])
def test_deleting_any_unit_leaves_all_others_unchanged(grid8: Grid, unit: str, unit_frames: int) -> None:
    encoder, clip = make_encoder(grid8, unit=unit, unit_frames=unit_frames), make_clip(grid8)
    everything = encoder.everything(clip)
    whole = local_outputs(encoder, clip, everything)
    for time in range(everything.shape[0]):
        for place in range(everything.shape[1]):
            visible = everything.copy()
            visible[time, place] = False
            kept = local_outputs(encoder, clip, visible)
            deleted = np.argwhere(encoder.per_token(clip, ~visible))
            assert set(whole) - set(kept) == {tuple(token) for token in deleted}
            assert len(deleted) > 0
            assert max(float((whole[token] - kept[token]).abs().max()) for token in kept) < 1e-12


def local_outputs(encoder: Hiera, clip: Clip, visible: np.ndarray) -> dict[tuple[int, int], Tensor]:
    packing = pack_clips([clip.grid], [visible], encoder.config.unit, encoder.config.unit_frames)
    with torch.no_grad():
        values = encoder.local_levels([clip], packing)
    return {(int(step), int(unit)): value for step, unit, value in zip(packing.step, packing.unit, values, strict=True)}


def test_no_deleted_or_background_patch_is_ever_embedded(grid8: Grid) -> None:
    encoder, clips = make_encoder(grid8), [make_clip(grid8, seed) for seed in range(2)]
    generator = np.random.default_rng(0)
    visible = [generator.random(encoder.everything(clip).shape) < 0.3 for clip in clips]
    seen: list[Tensor] = []
    encoder.patch_embed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, -2)))
    encoder(clips, visible)
    rows = torch.cat(seen)
    expected = []
    for clip, table in zip(clips, visible, strict=True):
        for time, place in np.argwhere(table):
            low, high = grid8.units.offsets[place : place + 2]
            expected.append(clip.voxels[4 * time : 4 * time + 4, low:high].flatten(0, 1))
    wanted = torch.cat(expected)
    assert rows.shape == wanted.shape
    assert rows.shape[0] < 0.5 * 2 * FRAMES * grid8.n_patches < 0.5 * 2 * FRAMES * 12**3
    torch.testing.assert_close(sorted_rows(rows), sorted_rows(wanted), rtol=0, atol=0)


def sorted_rows(rows: Tensor) -> Tensor:
    return rows[np.lexsort(rows.numpy().T)]


def test_hidden_voxels_never_reach_the_output(grid8: Grid) -> None:
    encoder, clip = make_encoder(grid8), make_clip(grid8)
    visible = np.random.default_rng(1).random(encoder.everything(clip).shape) < 0.4
    hidden_patch = ~np.repeat(visible, 4, axis=0)[:, grid8.patch_unit]
    changed = clip.voxels.clone()
    changed[torch.tensor(hidden_patch)] = float("nan")
    with torch.no_grad():
        before, after = encoder([clip], [visible]), encoder([Clip(changed, clip.seconds, grid8)], [visible])
    assert torch.equal(before.values, after.values)


def test_a_batch_equals_its_clips_one_by_one(grid8: Grid, full_grid: Grid) -> None:
    encoder = make_encoder(grid8)
    clips = [make_clip(grid8, 1, frames=8), make_clip(full_grid, 2, frames=16), make_clip(grid8, 3, frames=12)]
    generator = np.random.default_rng(2)
    visible = [generator.random(encoder.everything(clip).shape) < share for clip, share in zip(clips, (0.3, 0.6, 0.9), strict=True)]
    together = encoder(clips, visible)
    assert together.lengths == tuple(int(table.sum()) for table in visible)
    weights = torch.randn(together.values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (together.values * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    for clip, table, values, weight in zip(
        clips, visible, *(part.split(together.lengths) for part in (together.values, weights)), strict=True
    ):
        alone = encoder([clip], [table])
        torch.testing.assert_close(alone.values, values, rtol=0, atol=1e-11)
        (alone.values * weight).sum().backward()
    for parameter, gradient in zip(encoder.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-9)


def test_recomputing_gives_the_same_gradients(grid8: Grid) -> None:
    gradients = []
    for recompute in (False, True):
        encoder = make_encoder(grid8, recompute=recompute)
        encoder([make_clip(grid8)]).values.square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-12, atol=1e-12)


def test_tokens_know_their_time_and_place(grid8: Grid) -> None:
    clip = make_clip(grid8, seed=3)
    tokens = make_encoder(grid8)([clip])
    assert torch.equal(tokens.seconds, clip.seconds.double().view(-1, 4).mean(1)[tokens.step])
    assert torch.equal(tokens.mm, torch.tensor(grid8.units.mm)[tokens.unit])


def test_published_size_has_the_published_number_of_parameters() -> None:
    """22.4 M in arXiv 2512.21881."""
    encoder = Hiera(HieraConfig(pooling="max"), 64)
    blocks = sum(parameter.numel() for module in (encoder.blocks, encoder.patch_embed, encoder.norm) for parameter in module.parameters())
    assert round(blocks / 1e6, 1) == 22.4


def test_refuses_what_does_not_fit(grid8: Grid) -> None:
    encoder = make_encoder(grid8)
    with pytest.raises(ContractError, match="not a whole number of units"):
        encoder([make_clip(grid8, frames=10)])
    with pytest.raises(ContractError, match="at least one unit"):
        encoder([make_clip(grid8)], [np.zeros((4, grid8.n_units), dtype=bool)])
    with pytest.raises(ContractError, match="do not fit"):
        Clip(torch.zeros(4, 5, 8), torch.zeros(4), grid8)
    with pytest.raises(ContractError, match="heads"):
        HieraBlock(8, 8, 3, 2.0)
