"""Adaptive weights: the arithmetic by hand, the measurement against plain backward passes, and runs that go on to the draw."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_samples import make_store
from test_distributed import SCRIPT, finish, start
from train_samples import KILLED, assert_same_run, settings, small_preset

from slimbrain.config import AdaptiveConfig, Preset
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.train import Loop, TemporalStage, VoxelStage, pretrain, read_metrics
from slimbrain.train.adapt import Adapter, _adjusted, shares

CPU = torch.device("cpu")
ADAPTIVE = "sampling.mixture={by: site, adaptive: {every: 2, floor: 0.25, held_out: 0.3}}"


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six participants of two sites, of whom one each will be held out."""
    root = make_store(tmp_path_factory.mktemp("store"), grid8, subjects=6, frames=12).root
    (root / "participants.tsv").write_text("participant_id\tsite\n" + "".join(f"sub-{n:02d}\t{'AB'[n > 3]}\n" for n in range(1, 7)))
    return Store(root)


LATENTS = ("jepa.targets=latents", "jepa.predictor=joint", "jepa.hide=places_and_times")


def stage_of(name: str, store: Store, preset: Preset) -> TemporalStage | VoxelStage:
    return TemporalStage(store, preset, 3) if name == "temporal" else VoxelStage(store, preset, 3, None)


# --- arithmetic


def test_one_adjustment_by_hand() -> None:
    losses, alignments = [1.0, 2.0, 3.0], [0.5, 0.2, 0.2]
    # Losses: 1/2, 1 and 3/2 of their mean; cosines: 0.2 above their mean, 0.1 below it.
    both = _adjusted([0.0, 0.0, -1.0], losses, alignments, AdaptiveConfig(rate=2.0))
    plain = [2 * (-0.5 + 0.2), 2 * (0.0 - 0.1), -1 + 2 * (0.5 - 0.1)]
    assert both == pytest.approx([value - max(plain) for value in plain], abs=1e-6)
    assert _adjusted([0.0] * 3, losses, alignments, AdaptiveConfig(signal="loss")) == pytest.approx([-1.0, -0.5, 0.0])
    assert _adjusted([0.0] * 3, losses, alignments, AdaptiveConfig(signal="alignment")) == pytest.approx([0.0, -0.3, -0.3])


@given(st.lists(st.floats(-800, 0), min_size=1, max_size=8), st.floats(0.001, 1))
def test_no_share_falls_under_the_floor(logs: list[float], floor: float) -> None:
    logs[0], floor = 0.0, floor / len(logs)
    found = shares(logs, floor)
    assert math.fsum(found) == pytest.approx(1) and min(found) >= floor * (1 - 1e-9)
    above = [share - floor for share in found]
    # What lies above the floor keeps the weights' proportions.
    for log, rest in zip(logs, above, strict=True):
        assert rest == pytest.approx(math.exp(log) * above[0], abs=1e-9)


# --- measurement


@pytest.mark.parametrize("name", ["temporal", "voxel"])
def test_losses_and_cosines_are_those_of_plain_backward_passes(name: str, store: Store) -> None:
    stage = stage_of(name, store, small_preset(ADAPTIVE, "jepa.visible_weight=0"))
    config = stage.draws.sampling.mixture.adaptive  # type: ignore[union-attr]
    assert config is not None
    found = Adapter(stage, config, nullcontext).measure(5)
    chosen = {id(parameter) for parameter in stage.probed}
    gradients, errors = [], []
    for site in "AB":
        stage.model.zero_grad()
        loss, _ = stage.loss([stage.draws[stage.draws.pick_held_out(site, 5)]])
        loss.backward()
        own = [p for p in stage.model.parameters() if id(p) in chosen]
        assert 0 < len(own) < len(list(stage.model.parameters()))
        gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in own]).double())
        errors.append(float(loss.detach()))
    mean = sum(gradients) / 2
    cosines = [float(torch.nn.functional.cosine_similarity(gradient, mean, dim=0)) for gradient in gradients]
    assert found[0] == pytest.approx(errors, rel=1e-5) and found[1] == pytest.approx(cosines, abs=1e-4)
    assert abs(cosines[0] - cosines[1]) > 1e-6 or name == "temporal"


def test_the_held_out_loss_of_stage_2_is_prediction_error_alone(store: Store) -> None:
    stage = stage_of("voxel", store, small_preset(ADAPTIVE))
    batch = [stage.draws[stage.draws.pick_held_out("A", 0)]]
    whole, parts = stage.loss(batch)
    found = float(stage.held_out_loss(batch).detach())
    assert found == pytest.approx(float(sum(parts.values())) / len(parts), rel=1e-6) and found < 0.99 * float(whole.detach())


def test_measuring_leaves_no_trace(store: Store) -> None:
    """Neither gradients, nor what the position baseline is about to remember, nor the tokens that health is read from."""
    stage = stage_of("voxel", store, small_preset(ADAPTIVE, *LATENTS))
    assert isinstance(stage, VoxelStage) and stage.model.baseline is not None
    adapter = Adapter(stage, stage.draws.sampling.mixture.adaptive, nullcontext)  # type: ignore[union-attr, arg-type]
    adapter.begin()
    stage.loss([stage.draws[0]])
    before = {name: value.clone() for name, value in [*stage.model.named_parameters(), *stage.model.named_buffers()]}
    last = stage._last
    assert float(before["baseline.new_gram"].abs().sum()) > 0
    adapter.measure(0)
    after = dict([*stage.model.named_parameters(), *stage.model.named_buffers()])
    assert all(torch.equal(value, after[name]) for name, value in before.items()) and stage._last is last
    assert all(parameter.grad is None for parameter in stage.model.parameters())


# --- runs


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of seven steps that nobody stopped, and what it drew."""
    folder = tmp_path_factory.mktemp("whole")

    def run(stage: str) -> Path:
        if not (folder / stage / "model").exists():
            pretrain(stage, store, small_preset(ADAPTIVE, save_every=2), folder / stage, seed=3, device="cpu")
        return folder / stage

    return run


def test_held_out_sessions_are_never_trained_on_and_weights_are_kept(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    original = Loop._step

    def watched(self: Loop, step: int, batches: Any) -> Any:
        def watch() -> Any:
            for batch in batches:
                trained.extend(sample.draw for sample in batch)
                yield batch

        return original(self, step, watch())

    monkeypatch.setattr(Loop, "_step", watched)
    preset = small_preset(ADAPTIVE, steps=14)
    pretrain("temporal", store, preset, tmp_path, seed=3, device="cpu")
    assert trained == list(range(14 * 4))
    lines = read_metrics(tmp_path)
    assert lines[0]["weight_A"] == lines[2]["weight_A"] == 0.5 and "held_out_A" not in lines[0] and lines[1]["held_out_A"] > 0
    intervals = json.loads((tmp_path / "state" / "step-00000014" / "loop.json").read_text())["mixture"]["intervals"]
    # Eight draws an interval, a quarter of them for each at the least.
    assert len(intervals) == 7 + 2 and all(sum(quotas) == 8 and min(quotas) >= 1 for quotas in intervals)
    (first, second) = json.loads((tmp_path / "model" / "config.json").read_text())["training"]["mixture"]
    assert (first["draws"], second["draws"]) == tuple(map(sum, zip(*intervals[:7], strict=True)))
    assert (first["sessions"], first["held_out_sessions"], first["by"]) == (2, 1, "site")


def test_an_interrupted_run_goes_on_to_the_draw(
    store: Store, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the beginning of an interval; a worker reads ahead afterwards."""
    original = Loop._step

    def interrupt(self: Loop, step: int, batches: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step, batches)

    run, preset = tmp_path / "run", small_preset(ADAPTIVE, save_every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_step", interrupt)
        pretrain("voxel", store, preset, run, seed=3, device="cpu")
    pretrain("voxel", store, preset, run, seed=3, resume=True, device="cpu", workers=1)
    assert_same_run(whole("voxel"), run)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_draw(store: Store, whole: Callable[[str], Path], tmp_path: Path) -> None:
    """SIGKILL in the sixth step; the newest state was saved after the fourth."""
    overrides = [*settings(save_every=2), ADAPTIVE]
    command = [sys.executable, "-c", KILLED, str(store.root), str(tmp_path / "run"), "temporal", "in a step", *overrides]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    pretrain("temporal", store, small_preset(ADAPTIVE, save_every=2), tmp_path / "run", seed=3, resume=True, device="cpu")
    assert_same_run(whole("temporal"), tmp_path / "run")


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(store: Store, whole: Callable[[str], Path], tmp_path: Path) -> None:
    """Each measures one of the components; the weights that follow, and so all draws, are those of one process."""
    overrides = [*settings(save_every=2), ADAPTIVE]
    finish(start(2, ["-c", SCRIPT, str(store.root), str(tmp_path), "never", "SIGKILL", "0", *overrides]))
    names = ("loss", "weight_A", "held_out_A", "held_out_B", "alignment_A", "alignment_B")
    logged = [[{name: line[name] for name in names if name in line} for line in read_metrics(run)] for run in (tmp_path, whole("voxel"))]
    assert len(logged[0]) == 7 and all(line == pytest.approx(other, rel=1e-3) for line, other in zip(*logged, strict=True))
    mixtures = [json.loads((run / "state" / "step-00000007" / "loop.json").read_text())["mixture"] for run in (tmp_path, whole("voxel"))]
    assert mixtures[0]["intervals"] == mixtures[1]["intervals"] and len(mixtures[0]["intervals"]) == 5


# --- refusals


@pytest.mark.parametrize(
    ("adaptive", "more", "words"),
    [
        ("{floor: 0.6}", (), "floor 0.6 times 2 components is more than 1"),
        ("{every: 1, floor: 0.01}", (), "of the 4 draws in an interval is less than one draw; raise it, or adaptive.every to 25"),
        ("{every: 9, floor: 0.1}", ("train_temporal.parallel=fsdp2",), "set it to ddp"),
    ],
)
def test_what_cannot_be_kept_is_refused(adaptive: str, more: tuple[str, ...], words: str, store: Store, tmp_path: Path) -> None:
    preset = small_preset(f"sampling.mixture={{by: site, adaptive: {adaptive}}}", *more)
    with pytest.raises(InputError, match=words):
        Loop(stage_of("temporal", store, preset), preset.train_temporal, tmp_path, CPU)


def test_workers_that_would_read_beyond_the_known_weights_are_refused(store: Store, tmp_path: Path) -> None:
    preset = small_preset("sampling.mixture={by: site, adaptive: {every: 1, floor: 0.5}}", accumulate=1, steps=20)
    with pytest.raises(InputError, match=r"raise adaptive\.every, or use fewer --workers"):
        pretrain("temporal", store, preset, tmp_path, device="cpu", workers=2)
