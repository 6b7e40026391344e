"""What a stage's loss is, whichever way it is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from train_samples import MODEL

from slimbrain.config import load_preset
from slimbrain.data.draws import Series
from slimbrain.models.temporal import temporal_loss
from slimbrain.store import Store
from slimbrain.train.stages import TemporalStage


@pytest.fixture
def stage(training_store: Store) -> TemporalStage:
    stage = TemporalStage(training_store, load_preset("tiny", list(MODEL)), 0)
    with torch.no_grad():
        for parameter in stage.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return stage


def alike(stage: TemporalStage, count: int) -> list[Series]:
    """Sessions of one length and parcellation."""
    first = stage.draws[0]
    generator = torch.Generator().manual_seed(0)
    return [replace(first, values=torch.randn(first.values.shape, generator=generator)) for _ in range(count)]


def test_sessions_one_by_one_give_loss_and_gradient_of_the_batch(stage: TemporalStage) -> None:
    batch = alike(stage, 3)
    ours, _ = stage.loss(batch)
    generator = torch.Generator().manual_seed(int(stage.draws.generator(batch[0].draw).integers(2**63)))
    together, _ = temporal_loss(stage.model, torch.stack([one.values for one in batch]), batch[0].mm, batch[0].tr, generator)
    torch.testing.assert_close(ours, together, rtol=1e-5, atol=0)
    parameters = list(stage.model.parameters())
    for one, all_ in zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, together)), strict=True):
        torch.testing.assert_close(one, all_, rtol=1e-4, atol=1e-6)


def test_parcellations_of_as_many_parcels_keep_their_own_places(stage: TemporalStage) -> None:
    one, other = alike(stage, 2)
    moved = replace(other, mm=other.mm + 40, draw=other.draw + 1)
    mixed, _ = stage.loss([one, moved])
    apart = [stage.loss([series])[0] for series in (one, moved)]
    torch.testing.assert_close(mixed, sum(apart) / 2, rtol=1e-5, atol=0)
    as_the_first, _ = stage.loss([one, replace(other, draw=moved.draw)])
    assert not torch.allclose(mixed, as_the_first, rtol=1e-4)
