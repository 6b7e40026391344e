"""The objective: what is predicted from what, and that it learns without collapsing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import TARGET_KINDS, JepaMask, draw_mask, sample_jepa_mask
from slimbrain.grid import Grid
from slimbrain.models.health import standard_deviations, token_health
from slimbrain.models.hiera import Tokens
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.signals import signal_series, token_signals

ENCODER = HieraConfig(embed=8, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), mlp_ratio=2, recompute=False)
PUBLISHED_ENCODER = ENCODER.model_copy(update={"pooling": "max", "signal_std": None})
JEPA = JepaConfig(predictor_width=32, predictor_depth=2, predictor_heads=4, ema_start=0.99, hide="places_and_times")
LATENTS = {"targets": "latents", "predictor": "joint"}
SPREAD = {**LATENTS, "variance_weight": 1.0, "covariance_weight": 0.04}


def make_model(grid: Grid, encoder: HieraConfig = ENCODER, **settings: object) -> HieraJEPA:
    torch.manual_seed(0)
    return HieraJEPA(encoder, JEPA.model_copy(update=settings), grid.voxels_per_patch)


def make_clip(grid: Grid, seed: int, frames: int = 24) -> Clip:
    """A few smooth networks with random time courses: something that can be predicted."""
    generator = np.random.default_rng(seed)
    places = np.random.default_rng(99).normal(size=(4, 3)) * 50
    weights = np.exp(-((grid.patches.mm[:, None] - places) ** 2).sum(-1) / 2 / 40**2)
    courses = np.cumsum(generator.normal(size=(frames, 4)), axis=0)
    series = (courses - courses.mean(0)) / courses.std(0) @ weights.T
    voxels = series[..., None] + 0.3 * generator.normal(size=(*series.shape, grid.voxels_per_patch))
    return Clip(torch.tensor(voxels * grid.voxel_mask, dtype=torch.float32), torch.arange(frames) * 0.72, grid)


def make_mask(grid: Grid, seed: int) -> JepaMask:
    return sample_jepa_mask(grid.units.mm, 3, 2, 0.3, np.random.default_rng(seed))


def test_loss_is_smooth_l1_on_normalised_targets_averaged_over_kinds(grid8: Grid) -> None:
    model = make_model(grid8, **LATENTS, remove_position=False).double()
    clips, masks = [make_clip(grid8, seed) for seed in range(2)], [make_mask(grid8, seed) for seed in range(2)]
    output = model(clips, masks)
    with torch.no_grad():
        target = model.target(clips)
        context = model.context(clips, [mask.context for mask in masks])
        seen = torch.cat(
            [
                torch.tensor(mask.context)[step, unit]
                for mask, step, unit in zip(masks, target.step.split(target.lengths), target.unit.split(target.lengths), strict=True)
            ]
        )
        predicted = torch.zeros_like(target.values)
        predicted[~seen] = model.predictor(context, target, ~seen)
    parts = []
    for kind in TARGET_KINDS:
        errors = []
        for token in range(len(target.values)):
            if masks[int(target.clip[token])].targets(kind)[target.step[token], target.unit[token]]:
                value = target.values[token]
                wanted = (value - value.mean()) / torch.sqrt(value.var(correction=0) + 1e-5)
                errors.append(functional.smooth_l1_loss(predicted[token].float(), wanted.float()))
        parts.append(torch.stack(errors).mean())
        assert math.isclose(output.by_kind[kind], float(parts[-1]), rel_tol=1e-4)
    assert math.isclose(float(output.loss.detach()), float(torch.stack(parts).mean()), rel_tol=1e-4)


@pytest.mark.parametrize("view_fraction", [1.0, 0.6])
def test_signal_loss_is_the_squared_error_of_existing_cells_and_of_visible_units_own(grid8: Grid, view_fraction: float) -> None:
    model = make_model(grid8, visible="cells", visible_weight=0.5, view_fraction=view_fraction).double()
    clips = [make_clip(grid8, seed) for seed in range(2)]
    masks = [draw_mask(grid8.units.mm, 3, 2, model.jepa, np.random.default_rng(seed)) for seed in range(2)]
    output = model(clips, masks)
    values, exists = (part.numpy() for part in token_signals(clips, 4))
    kinds = [sum(rank * mask.targets(kind) for rank, kind in enumerate(TARGET_KINDS, 1)) - ~mask.viewed for mask in masks]
    kind = np.concatenate([table.ravel() for table in kinds])
    with torch.no_grad():
        found = model.predict(clips, masks)
        decoded = model.decoder(model.context(clips, [mask.context for mask in masks]).values).numpy()
    predicted = np.zeros_like(values)
    predicted[kind > 0], predicted[kind == 0] = found.predicted.numpy(), decoded
    error = np.array([np.square(a - b)[there].mean() for a, b, there in zip(predicted, values, exists, strict=True)])
    clip, parts = np.arange(2).repeat(len(kind) // 2), []
    for own in range(2):
        parts.append(np.mean([error[(clip == own) & (kind == which)].mean() for which in (1, 2, 3)]))
    expected = np.mean(parts) + 0.5 * error[kind == 0].mean()
    assert (kind == -1).any() == (view_fraction < 1)
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("view_fraction", [1.0, 0.6])
def test_visible_units_own_signals_are_of_patches(grid8: Grid, view_fraction: float) -> None:
    """What is decoded, and how it counts; what is predicted of hidden units stays what it is with cells."""
    model = make_model(grid8, view_fraction=view_fraction)
    clips = [make_clip(grid8, seed) for seed in range(2)]
    masks = [draw_mask(grid8.units.mm, 3, 2, model.jepa, np.random.default_rng(seed)) for seed in range(2)]
    values, exists = (part.numpy() for part in token_signals(clips, 4, "patches"))
    visible = np.concatenate([mask.context.ravel() for mask in masks])
    with torch.no_grad():
        found = model.predict(clips, masks)
        decoded = model.decoder(model.context(clips, [mask.context for mask in masks]).values).numpy()
        series, own = model.decode(clips[0]), model.decoder(model.encoder([clips[0]]).values)
    error = [np.square(a - b)[there].mean() for a, b, there in zip(decoded, values[visible], exists[visible], strict=True)]
    assert float(found.own) == pytest.approx(np.mean(error), rel=1e-4)
    assert found.predicted.shape[1] == found.wanted.shape[1] == 16
    torch.testing.assert_close(series, signal_series(own, grid8, "patches"))


def test_a_view_leaves_the_rest_of_the_clip_alone(grid8: Grid) -> None:
    """Voxels out of view reach neither what is predicted nor, where targets are tokens, what is wanted."""
    for settings in ({}, LATENTS):
        model, clip = make_model(grid8, **settings, remove_position=False, view_fraction=0.5), make_clip(grid8, 0)
        mask = draw_mask(grid8.units.mm, 3, 2, model.jepa, np.random.default_rng(0))
        other = clip.voxels.clone()
        other[torch.tensor(~np.repeat(mask.viewed, 4, axis=0)[:, grid8.patch_unit])] += 5
        with torch.no_grad():
            first, second = (model.predict([Clip(voxels, clip.seconds, grid8)], [mask]) for voxels in (clip.voxels, other))
        assert len(first.predicted) == int(sum(mask.targets(kind).sum() for kind in TARGET_KINDS))
        assert torch.equal(first.predicted, second.predicted) and torch.equal(first.wanted, second.wanted)


def test_learns_signals_of_hidden_places_that_others_share(grid8: Grid) -> None:
    """Four sources made the data: seeing a third of the places tells most of the rest, in clips that were not trained on."""
    model = make_model(grid8, hide="places")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def batch(seeds: range) -> tuple[list[Clip], list[JepaMask]]:
        return [make_clip(grid8, seed) for seed in seeds], [sample_jepa_mask(grid8.units.mm, 1, 6, 0.3, rng(seed)) for seed in seeds]

    for step in range(80):
        optimizer.zero_grad()
        model(*batch(range(2 * step, 2 * step + 2))).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.predict(*batch(range(1000, 1004)))
    assert 1 - float(found.errors().sum() / found.errors(torch.zeros(16)).sum()) > 0.3


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_predictions_do_not_depend_on_hidden_voxels(grid8: Grid) -> None:
    model, clip, mask = make_model(grid8), make_clip(grid8, 0), make_mask(grid8, 0)
    hidden = ~np.repeat(mask.context, 4, axis=0)[:, grid8.patch_unit]
    other = clip.voxels.clone()
    other[torch.tensor(hidden)] += 5
    predictions = []
    with torch.no_grad():
        where = model.context.layout([clip])
        kind = ~torch.tensor(mask.context)[where.step, where.unit]
        for voxels in (clip.voxels, other):
            predictions.append(model.predictor(model.context([Clip(voxels, clip.seconds, grid8)], [mask.context]), where, kind))
    assert torch.equal(*predictions)
    assert predictions[0].shape == (int(kind.sum()), 16)


def test_each_clip_counts_alike_however_long(grid8: Grid) -> None:
    """For the published objective; the regularisers are statistics of the batch."""
    model = make_model(grid8, **LATENTS, remove_position=False)
    frames = (8, 24)
    clips = [make_clip(grid8, seed, frames=length) for seed, length in enumerate(frames)]
    masks = [sample_jepa_mask(grid8.units.mm, 1, length // 4, 0.3, np.random.default_rng(length)) for length in frames]
    alone = [float(model([clip], [mask]).loss.detach()) for clip, mask in zip(clips, masks, strict=True)]
    assert float(model(clips, masks).loss.detach()) == pytest.approx(np.mean(alone), rel=1e-5)


def test_predictions_do_not_mix_clips(grid8: Grid) -> None:
    model, masks = make_model(grid8), [make_mask(grid8, seed) for seed in range(2)]
    clips = [make_clip(grid8, seed) for seed in range(3)]
    model([clips[0], clips[1]], masks).loss.backward()
    with torch.no_grad():
        first = [model.predictor(*predictor_inputs(model, [clips[0], other], masks))[: hidden_tokens(masks[0])] for other in clips[1:]]
    torch.testing.assert_close(*first, rtol=0, atol=1e-6)


def predictor_inputs(model: HieraJEPA, clips: list[Clip], masks: list[JepaMask]) -> tuple[Tokens, Tokens, torch.Tensor]:
    everything = model.target(clips)
    hidden = torch.cat([~torch.tensor(mask.context).flatten() for mask in masks])
    return model.context(clips, [mask.context for mask in masks]), everything, hidden


def hidden_tokens(mask: JepaMask) -> int:
    return int((~mask.context).sum())


def test_target_gets_no_gradient_and_follows(grid8: Grid) -> None:
    model = make_model(grid8)
    model([make_clip(grid8, 0)], [make_mask(grid8, 0)]).loss.backward()
    assert all(parameter.grad is None for parameter in model.target.parameters())
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.predictor.parameters())
    for parameter in model.context.parameters():
        parameter.data += 1
    before = [parameter.clone() for parameter in model.target.parameters()]
    model.update_target(0.9)
    for old, new, fast in zip(before, model.target.parameters(), model.context.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * fast)


def test_one_window_has_only_cross_location_targets(grid8: Grid) -> None:
    mask = sample_jepa_mask(grid8.units.mm, 1, 2, 0.3, np.random.default_rng(0))
    output = make_model(grid8)([make_clip(grid8, 0, frames=8)], [mask])
    assert set(output.by_kind) == {"cross_location"}


def train(model: HieraJEPA, grid: Grid, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        output = model(
            [make_clip(grid, 2 * step + number) for number in range(2)], [make_mask(grid, 2 * step + number) for number in range(2)]
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.update_target(0.99)
        losses.append(float(output.loss.detach()))
    return losses


@pytest.mark.slow
def test_learns_without_collapse_where_the_published_objective_collapses(grid8: Grid) -> None:
    """With VICReg's terms the loss falls and moments stay apart; without them the loss falls because all tokens become alike."""
    health = []
    plain = {**LATENTS, "remove_position": False}
    for settings in (SPREAD, plain):
        model = make_model(grid8, PUBLISHED_ENCODER, **settings)
        losses = train(model, grid8, steps=60)
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
        health.append(token_health(model.target([make_clip(grid8, seed) for seed in range(1000, 1004)])))
    ours, published = health
    assert ours["content_std"] > 0.4 > 0.2 > published["content_std"]
    assert ours["effective_rank"] > 3  # four sources made the data


def test_effective_rank_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))[0]
    signs = torch.tensor(
        [[1.0, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]], dtype=torch.float64
    ).T
    assert standard_deviations(signs @ basis[:3])["effective_rank"] == pytest.approx(3, abs=1e-6)
    assert standard_deviations(signs[:, :1] @ basis[:1])["effective_rank"] == pytest.approx(1, abs=1e-6)
    shares = np.array([16, 4, 1]) / 21
    assert standard_deviations(signs * torch.tensor([4.0, 2, 1]))["effective_rank"] == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), abs=1e-6
    )
    assert standard_deviations(torch.ones(5, 4))["std"] == 0


def test_content_is_what_places_do_not_explain() -> None:
    unit = torch.arange(6).repeat(50)
    place, content = torch.randn(6, 8)[unit], torch.randn(300, 8)
    blank = torch.zeros(300, dtype=torch.long)
    tokens = [Tokens(values, blank, blank, unit, blank.double(), torch.zeros(300, 3), (300,), (1,)) for values in (place, place + content)]
    assert token_health(tokens[0])["content_std"] < 1e-6 < token_health(tokens[0])["std"]
    assert token_health(tokens[1])["content_std"] == pytest.approx(1, abs=0.1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_gives_the_loss_and_gradients_of_the_cpu(grid8: Grid) -> None:
    clips, masks = [make_clip(grid8, seed) for seed in range(2)], [make_mask(grid8, seed) for seed in range(2)]
    gradients = []
    for device in ("cpu", "cuda"):
        model = make_model(grid8).double().to(device)
        model(clips, masks).loss.backward()
        gradients.append(torch.cat([parameter.grad.cpu().flatten() for parameter in model.parameters() if parameter.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
