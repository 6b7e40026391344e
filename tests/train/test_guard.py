"""A run that collapses is stopped with a sentence and keeps its last good state."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import TR_S, entities, make_store
from train_samples import settings

from slimbrain.config import load_preset
from slimbrain.errors import CollapseError
from slimbrain.grid import Grid
from slimbrain.models import jepa as jepa_module
from slimbrain.store import Store
from slimbrain.store.write import write_session
from slimbrain.train import VoxelStage, read_metrics
from slimbrain.train.checkpoint import saved_steps
from slimbrain.train.guard import CollapseGuard
from slimbrain.train.loop import Loop

LATENTS = ("jepa.targets=latents", "jepa.predictor=joint", "jepa.hide=places_and_times", "voxel.pooling=max", "voxel.signal_std=null")
PUBLISHED = (*LATENTS, "jepa.remove_position=false", "jepa.skill_floor=null", "jepa.rank_floor=2")
LINE = {"step": 50, "effective_rank": 12.0, "std": 0.9, "content_std": 0.5}


@pytest.mark.parametrize("name", ["effective_rank", "std", "content_std"])
def test_any_number_under_its_floor_is_a_bad_line(name: str) -> None:
    guard = CollapseGuard({"effective_rank": 2, "std": 0.1, "content_std": 0.1}, patience=2, warmup=20)
    bad = {**LINE, name: 0.05}
    for line, bad_lines in ((LINE, 0), ({**bad, "step": 19}, 0), (bad, 1), (LINE, 0), (bad, 1), (bad, 2)):
        guard.update(line)
        assert (guard.bad_lines, guard.healthy, guard.collapsed) == (bad_lines, bad_lines == 0, bad_lines == 2)
    assert guard.symptoms(bad) == [f"{name.replace('_', ' ')} 0.05 under {2 if name == 'effective_rank' else 0.1:g}"]


def test_a_number_may_take_longer_than_the_warm_up_to_reach_its_floor() -> None:
    guard = CollapseGuard({"std": 0.1, "skill": 0.02}, patience=2, warmup=20, after={"skill": 100})
    for step, skill, bad_lines in ((50, 0.0, 0), (99, 0.0, 0), (100, 0.0, 1), (110, 0.3, 0), (120, 0.01, 1), (130, -0.2, 2)):
        guard.update({**LINE, "step": step, "skill": skill})
        assert guard.bad_lines == bad_lines
    assert guard.symptoms({**LINE, "step": 130, "skill": -0.2}) == ["skill -0.2 under 0.02"]
    assert guard.symptoms({**LINE, "step": 99, "skill": -0.2}) == []


def test_a_run_without_skill_is_stopped(grid8: Grid, tmp_path: Path) -> None:
    """The voxels of the store are noise, of which nothing can be predicted; its loss falls and its tokens are healthy."""
    changes = settings(steps=300, lr=0.001, accumulate=1, save_every=5, log_every=5, keep=9, warmup=5, collapse_patience=2)
    preset = load_preset("tiny", [*changes, "jepa.skill_after=12"])
    stage = VoxelStage(noise_store(tmp_path / "store", grid8), preset, 0, None)
    with pytest.raises(
        CollapseError, match=r"nothing was learnt by step 20 \(skill .* under 0.02\); the last good state is state/step-"
    ) as stop:
        Loop(stage, preset.train_voxel, tmp_path / "run", torch.device("cpu")).fit()
    assert "jepa.skill_floor=null" in str(stop.value)
    assert saved_steps(tmp_path / "run" / "state")[-1] == 15


def noise_store(root: Path, grid: Grid) -> Store:
    store, shape = Store.create(root, grid, TR_S), grid.voxel_mask.shape
    for number in range(3):
        voxels = np.random.default_rng(number).normal(size=(48, *shape)) * grid.voxel_mask
        write_session(store, entities(f"{number:02d}"), voxels, np.ones(shape), np.ones(shape), TR_S)
    return store


def test_nothing_is_watched_without_floors() -> None:
    guard = CollapseGuard({}, patience=1, warmup=0)
    guard.update({**LINE, "effective_rank": 0.0})
    assert guard.healthy


def test_a_run_driven_into_collapse_is_stopped(grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the stop-gradient, and with one encoder for both parts, saying the same of everything is the quickest way down."""
    changes = settings(steps=300, lr=0.01, accumulate=1, save_every=5, log_every=5, keep=9, warmup=5, collapse_patience=3)
    preset = load_preset("tiny", [*changes, *PUBLISHED, "jepa.std_floor=0.2"])
    stage = VoxelStage(make_store(tmp_path / "store", grid8, frames=12), preset, 0, None)
    stage.model.target = stage.model.context
    monkeypatch.setattr(jepa_module.torch, "no_grad", nullcontext)
    with pytest.raises(
        CollapseError, match=r"the encoder collapsed by step \d+ \(.* under .*\); the last good state is state/step-"
    ) as stop:
        Loop(stage, preset.train_voxel, tmp_path / "run", torch.device("cpu")).fit()
    lines = read_metrics(tmp_path / "run")
    low = [line["step"] for line in lines if min(line["std"], line["content_std"]) < 0.2 or line["effective_rank"] < 2]
    assert low[-3:] == [line["step"] for line in lines[-3:]] and f"by step {low[-1]}" in str(stop.value)
    assert saved_steps(tmp_path / "run" / "state")[-1] <= low[-3], "a state of a collapsing encoder was saved"
