"""The temporal extractor: any channels, any TR, no order among channels, no leak, and it learns what can be learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slimbrain.config import TemporalConfig
from slimbrain.errors import InputError
from slimbrain.models.temporal import _HIDING, TemporalExtractor, _spread_anchors, cut_windows, hide, standardise, temporal_loss

TINY = TemporalConfig(width=32, depth=2, heads=4, groups=6, window_frames=4)


def places(channels: int, seed: int = 0) -> Tensor:
    """Random places (C, 3) in a brain-sized box, in mm."""
    return (torch.rand(channels, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * torch.tensor([130.0, 170.0, 140.0])


def stirred(config: TemporalConfig = TINY, seed: int = 0) -> TemporalExtractor:
    """A float64 model all of whose parameters matter: at the start some are zero, which would hide a leak."""
    torch.manual_seed(seed)
    model = TemporalExtractor(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def session(frames: int = 26, channels: int = 17, batch: int = 2) -> Tensor:
    return standardise(torch.randn(batch, frames, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"multiple of 2 \* temporal.heads"):
        TemporalExtractor(TemporalConfig(width=36, heads=4))


def test_default_size_is_light() -> None:
    assert sum(parameter.numel() for parameter in TemporalExtractor(TemporalConfig()).parameters()) <= 8_000_000


@pytest.mark.parametrize("channels", [1, 25, 122, 685])
@pytest.mark.parametrize("tr", [0.72, 2.0])
def test_one_set_of_weights_reads_any_channels_and_tr(channels: int, tr: float) -> None:
    model = stirred()
    with torch.no_grad():
        output = model(session(26, channels), places(channels), tr)
    assert output.tokens.shape == (2, 6, 6, 32)
    assert output.reconstruction.shape == (2, 6, 4, channels)
    assert output.reconstruction.isfinite().all()


def test_every_session_of_a_batch_has_its_own_tr() -> None:
    model, series = stirred(), session()
    both = model(series, places(17), torch.tensor([0.72, 2.0], dtype=torch.float64)).reconstruction
    for index, tr in enumerate((0.72, 2.0)):
        alone = model(series[index : index + 1], places(17), tr).reconstruction[0]
        torch.testing.assert_close(both[index], alone, rtol=0, atol=1e-10)
    assert not torch.allclose(both[0], model(series, places(17), 2.0).reconstruction[0], atol=1e-3)


def test_shuffling_channels_with_their_places_changes_nothing() -> None:
    model, series, mm = stirred(), session(), places(17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(3))
    seen = torch.rand(2, 6, 17, generator=torch.Generator().manual_seed(4)) < 0.7
    straight = model(series, mm, 0.72, channel_visible=seen)
    shuffled = model(series[..., order], mm[order], 0.72, channel_visible=seen[..., order])
    torch.testing.assert_close(shuffled.tokens, straight.tokens, rtol=0, atol=1e-10)
    torch.testing.assert_close(shuffled.reconstruction, straight.reconstruction[..., order], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.embed(series[..., order], mm[order], 0.72)[0], model.embed(series, mm, 0.72)[0], rtol=0, atol=1e-10)
    assert not torch.allclose(model(series, mm[order], 0.72).tokens, model(series, mm, 0.72).tokens, atol=1e-3)


def test_two_channels_at_one_place_count_as_their_mean() -> None:
    model, mm = stirred(), places(9)
    series = session(channels=9)
    doubled = torch.cat((series + 0.5, series - 0.5), -1)
    torch.testing.assert_close(model(doubled, torch.cat((mm, mm)), 0.72).tokens, model(series, mm, 0.72).tokens, rtol=0, atol=1e-10)


def test_hidden_windows_do_not_leak() -> None:
    model, series, mm = stirred(), session(), places(17)
    visible = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    noise = torch.randn(2, 6, 4, 17, dtype=torch.float64) * 10
    changed = series.clone()
    changed[:, :24] += (noise * ~visible[:, :, None, None]).flatten(1, 2)
    assert torch.equal(model(changed, mm, 0.72, visible).reconstruction, model(series, mm, 0.72, visible).reconstruction)
    changed = series.clone()
    changed[0, 0] += 1
    plain, moved = (model(x, mm, 0.72, visible).reconstruction[0, 1] for x in (series, changed))
    assert not torch.allclose(moved, plain, atol=1e-6), "what is visible must reach what is hidden"


def test_hidden_channels_do_not_leak() -> None:
    model, series, mm = stirred(), session(), places(17)
    groups = model.nearest_group(mm)
    seen = (torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(5)) < 0.5)[:, :, groups]
    assert seen.any()
    assert not seen.all()
    changed = series.clone()
    changed[:, :24] += (10 * torch.randn(2, 6, 4, 17, dtype=torch.float64) * ~seen[:, :, None]).flatten(1, 2)
    plain, moved = (model(x, mm, 0.72, channel_visible=seen) for x in (series, changed))
    assert torch.equal(moved.reconstruction, plain.reconstruction)
    assert torch.equal(moved.tokens, plain.tokens)


def test_hiding_all_channels_is_hiding_the_window() -> None:
    model, series, mm = stirred(), session(), places(17)
    visible = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    by_window = model(series, mm, 0.72, visible)
    by_channel = model(series, mm, 0.72, channel_visible=visible[..., None].expand(-1, -1, 17))
    torch.testing.assert_close(by_window.reconstruction, by_channel.reconstruction, rtol=0, atol=1e-10)


def test_one_session_is_broadcast_over_many_masks() -> None:
    model, series, mm = stirred(), session(batch=1), places(17)
    masks = torch.rand(5, 6, generator=torch.Generator().manual_seed(6)) < 0.5
    together = model(series, mm, 0.72, masks).reconstruction
    for mask, rebuilt in zip(masks, together, strict=True):
        torch.testing.assert_close(model(series, mm, 0.72, mask[None]).reconstruction[0], rebuilt, rtol=0, atol=1e-10)


def test_bfloat16_autocast_keeps_time() -> None:
    """An hour into a scan, bfloat16 cannot tell neighbouring windows apart; the model must."""
    model, series, mm = stirred().float(), session(6000, 3, batch=1).float(), places(3)
    with torch.no_grad():
        exact = model(series, mm, 0.72).reconstruction[:, -40:]
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(series, mm, 0.72).reconstruction[:, -40:].float()
    assert (rough - exact).square().mean() < 0.05 * exact.var()


def saved_bytes(model: TemporalExtractor, frames: int) -> int:
    """Storage held for the backward pass (DESIGN section 7)."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(session(frames, 7, batch=1).float(), places(7), 0.72)
    assert output.reconstruction.requires_grad
    return sum(held.values())


def test_memory_is_linear_in_frames() -> None:
    """Kernels that hold attention weights would need 4 times as much for twice the frames, in the long run."""
    model = stirred().float()
    assert saved_bytes(model, 8000) < 2.1 * saved_bytes(model, 4000)


def test_embedding_ignores_units() -> None:
    model, series, mm = stirred(), session(), places(17)
    whole, windows = model.embed(series, mm, 0.72)
    assert whole.shape == (2, 64)
    assert windows.shape == (2, 6, 32)
    torch.testing.assert_close(model.embed(3 * series + 7, mm, 0.72)[0], whole, rtol=0, atol=1e-8)


def test_wrong_shapes_are_refused() -> None:
    model = stirred()
    with pytest.raises(InputError, match="one MNI place"):
        model(session(), places(16), 0.72)
    with pytest.raises(InputError, match="shorter than one window"):
        model(session(3), places(17), 0.72)


def test_standardise_matches_numpy_and_zeroes_dead_channels() -> None:
    series = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 0.4 + 5
    series[:, 1] = 2.5
    expected = (series.numpy() - series.numpy().mean(0)) / np.maximum(series.numpy().std(0), 1e-12)
    np.testing.assert_allclose(standardise(series).numpy()[:, [0, 2]], expected[:, [0, 2]], atol=1e-12)
    assert standardise(series)[:, 1].eq(0).all()


def test_windows_start_at_frame_zero_and_drop_the_tail() -> None:
    windows = cut_windows(torch.arange(11.0)[None, :, None], 4)
    assert windows.squeeze().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_anchors_fill_the_brain_evenly_and_stay() -> None:
    anchors = _spread_anchors(32)
    assert np.array_equal(anchors, _spread_anchors(32))
    assert (((anchors - [0, -17, 4]) / [68, 87, 70]) ** 2).sum(1).max() < 1
    distance = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1) + 1e3 * np.eye(32)
    # 32 equal balls of the ellipsoid's volume: centres 48 mm apart if they were packed without gaps as a cubic lattice.
    spacing = (4 / 3 * math.pi * 68 * 87 * 70 / 32) ** (1 / 3)
    assert distance.min() > 0.5 * spacing
    assert _spread_anchors(1).shape == (1, 3)


def test_hiding_mixes_all_the_ways_that_the_scores_ask_for() -> None:
    generator, groups = torch.Generator().manual_seed(0), torch.arange(12) % 4
    draws = torch.stack([hide(10, groups, 4, generator) for _ in range(2000)])
    assert draws.any((1, 2)).all()
    whole = (draws.all(2) | ~draws.any(2)).all(1)
    hidden = draws.all(2).sum(1)[whole]
    assert (~whole).float().mean().item() == pytest.approx(_HIDING["tokens"], abs=0.03)
    assert (hidden == 9).sum().item() / 2000 > _HIDING["only_one"] - 0.04
    assert (hidden == 10).sum().item() / 2000 > _HIDING["nothing"] - 0.02
    tokens = draws[~whole]
    for group in range(4):
        members = tokens[:, :, groups == group]
        assert (members.all(2) | ~members.any(2)).all()


def test_leaving_out_hides_windows_that_keep_both_neighbours() -> None:
    generator, groups = torch.Generator().manual_seed(0), torch.zeros(3, dtype=torch.long)
    draws = [hide(10, groups, 1, generator).all(1).nonzero()[:, 0] for _ in range(2000)]
    apart = [windows for windows in draws if 0 < len(windows) <= 4 and (len(windows) == 1 or windows.diff().min() >= 3)]
    assert len(apart) / 2000 > _HIDING["leave_one_out"] - 0.04
    assert {len(windows) for windows in apart} == {1, 2, 3, 4}
    assert {int(windows) for windows in apart if len(windows) == 1} == set(range(10))


def test_hiding_works_with_a_single_window() -> None:
    generator = torch.Generator().manual_seed(0)
    assert all(hide(1, torch.zeros(3, dtype=torch.long), 1, generator).all() for _ in range(50))


def planted_waves(sessions: int, frames: int, mm: Tensor, tr: float) -> Tensor:
    """Slow waves of random phase and frequency along fixed spatial maps: a neighbour tells what a window holds."""
    generator = torch.Generator().manual_seed(11)
    times = tr * torch.arange(frames)
    maps = torch.stack([torch.exp(-((mm - centre) ** 2).sum(1) / 2 / 45**2) for centre in places(3, seed=9)])
    hertz = 0.02 + 0.03 * torch.rand(sessions, 3, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(sessions, 3, 1, generator=generator)
    waves = torch.sin(2 * math.pi * hertz * times + phase)
    return waves.transpose(1, 2) @ maps + 0.02 * torch.randn(sessions, frames, len(mm), generator=generator)


def test_learns_a_predictable_signal_within_a_hundred_steps() -> None:
    torch.manual_seed(0)
    mm = places(20)
    series = planted_waves(12, 64, mm, 1.0)
    model = TemporalExtractor(TINY)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(90):
        index = torch.arange(4) + 4 * (step % 2)
        loss, metrics = temporal_loss(model, series[index], mm, 1.0, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert metrics["std"] > 0.1
    unseen = standardise(series[8:])
    target = cut_windows(unseen, 4)
    hidden = 7
    others = torch.ones(4, 16, dtype=torch.bool)
    others[:, hidden] = False
    with torch.no_grad():
        from_others = (model(unseen, mm, 1.0, others).reconstruction - target).abs()[:, hidden].mean()
        from_nothing = (model(unseen, mm, 1.0, torch.zeros_like(others)).reconstruction - target).abs()[:, hidden].mean()
    assert from_others < 0.7 * from_nothing


def test_several_masks_are_the_session_several_times() -> None:
    model, series, mm = stirred(), session(), places(17)
    ours, _ = temporal_loss(model, series, mm, 0.72, torch.Generator().manual_seed(5), masks=3)
    copies = torch.cat([series[:1]] * 3 + [series[1:]] * 3)
    theirs, _ = temporal_loss(model, copies, mm, 0.72, torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_loss_counts_hidden_samples_of_live_channels_alone() -> None:
    """A model whose output is fixed to zero has the mean |target| over what was hidden as its loss."""
    model, mm = TemporalExtractor(TINY).double(), places(17)
    series = session()
    series[:, :, 3] = 1.5
    loss, metrics = temporal_loss(model, series, mm, 0.72, torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(2)
    hidden = torch.stack([hide(6, model.nearest_group(mm), 6, draw) for _ in range(2)])
    hidden[:, :, 3] = False
    target = cut_windows(standardise(series), 4).numpy().transpose(0, 1, 3, 2)
    expected = np.mean([np.abs(target[b][hidden[b].numpy()]).mean() for b in range(2)])
    with torch.no_grad():
        assert model(series, mm, 0.72).reconstruction.abs().max() == 0
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)
    assert metrics["l1"] == pytest.approx(expected, rel=1e-9)
