"""The loop: resumed to the bit however it was stopped, logged as designed, exported, and learning."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from store_samples import TR_S, make_store, write_run
from train_samples import KILLED, STAGES, STEPS, assert_same_run, comparable, settings, small_preset

from slimbrain.config import Preset, TrainConfig
from slimbrain.data.draws import ClipDraws
from slimbrain.errors import InputError, StoreError
from slimbrain.governance.provenance import Person, people_in
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session, write_session
from slimbrain.train import Loop, TemporalStage, VoxelStage, learning_rate, pick_device, pretrain, read_metrics
from slimbrain.train import loop as loop_module
from slimbrain.train.checkpoint import load_state, saved_steps


@pytest.fixture
def store(training_store: Store) -> Store:
    return training_store


# --- resuming


@pytest.mark.parametrize(("stage", "stop"), [("temporal", 2), ("temporal", 5), ("voxel", 2)])
def test_an_interrupted_run_goes_on_to_the_bit(stage: str, stop: int, store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    """Stopped before the first state was saved (step 2), and between two states (step 5)."""
    original = Loop._step

    def interrupt(self: Loop, step: int, batches: Any) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        return original(self, step, batches)

    run = tmp_path / stage
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_step", interrupt)
        pretrain(stage, store, small_preset(), run, seed=3, device="cpu")
    assert [line["step"] for line in read_metrics(run)] == list(range(stop))
    assert not (run / "model").exists()
    # The generator that this process uses for anything else must not matter.
    torch.manual_seed(12345)
    last = pretrain(stage, store, small_preset(), run, seed=3, resume=True, device="cpu")
    assert last == read_metrics(run)[-1]
    assert_same_run(trained(stage), run)


@pytest.mark.parametrize("stage", STAGES)
def test_a_mixture_goes_on_in_the_middle_of_an_epoch(stage: str, grid8: Grid, tmp_path: Path) -> None:
    """Five sessions of two cohorts; step 3 is in the middle of an epoch of either, and other workers read after the stop."""
    root = make_store(tmp_path / "store", grid8, subjects=5, frames=12).root
    (root / "participants.tsv").write_text("participant_id\tsite\n" + "".join(f"sub-{n:02d}\t{'AB'[n > 2]}\n" for n in range(1, 6)))
    store = Store(root)
    preset = small_preset("sampling.by=site", "sampling.weights={A: 1, B: 3}", "sampling.windows=uniform", save_every=1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(stage, store, preset, whole, seed=3, device="cpu")
    original = Loop._step

    def interrupt(self: Loop, step: int, batches: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return original(self, step, batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_step", interrupt)
        pretrain(stage, store, preset, parts, seed=3, device="cpu")
    pretrain(stage, store, preset, parts, seed=3, resume=True, device="cpu", workers=1)
    assert_same_run(whole, parts)
    # Another cohort for one session is another training set.
    (root / "participants.tsv").write_text((root / "participants.tsv").read_text().replace("sub-02\tA", "sub-02\tB"))
    with pytest.raises(InputError, match="training_set"):
        pretrain(stage, Store(root), preset, parts, seed=3, resume=True, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "where"), [("temporal", "in a save"), ("voxel", "in a step")])
def test_a_killed_run_goes_on_to_the_bit(stage: str, where: str, store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    run = tmp_path / stage
    command = [sys.executable, "-c", KILLED, str(store.root), str(run), stage, where, *settings()]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert saved_steps(run / "state") == [3]
    with open(run / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 6, "loss": 0.')
    pretrain(stage, store, small_preset(), run, seed=3, resume=True, device="cpu")
    assert_same_run(trained(stage), run)
    assert not [path.name for path in (run / "state").iterdir() if path.name.startswith(".")]


def test_reading_ahead_in_other_processes_changes_nothing(store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    pretrain("temporal", store, small_preset(), tmp_path / "run", seed=3, device="cpu", workers=2)
    assert_same_run(trained("temporal"), tmp_path / "run")


def test_another_seed_is_another_run(store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    pretrain("temporal", store, small_preset(), tmp_path / "run", seed=4, device="cpu")
    assert comparable(trained("temporal"))[0]["loss"] != comparable(tmp_path / "run")[0]["loss"]


def test_a_finished_run_is_left_as_it_is(store: Store, trained: Callable[[str], Path]) -> None:
    run = trained("temporal")
    before = (run / "metrics.jsonl").read_bytes(), (run / "model" / "model.safetensors").read_bytes()
    last = pretrain("temporal", store, small_preset(), run, seed=3, resume=True, device="cpu")
    assert ((run / "metrics.jsonl").read_bytes(), (run / "model" / "model.safetensors").read_bytes()) == before
    assert last["step"] == STEPS - 1


def test_a_run_is_not_overwritten_or_continued_with_other_settings(
    store: Store, trained: Callable[[str], Path], tmp_path: Path, grid8: Grid
) -> None:
    run = trained("voxel")
    others = make_store(tmp_path / "other", grid8, frames=16)
    ranked = {info.key: [2, 1, 0] for info in store.sessions}
    attempts: list[tuple[dict[str, Any], str]] = [
        ({"resume": False}, "holds a run already; add --resume auto"),
        ({"seed": 4}, "another seed"),
        ({"preset": small_preset(lr=0.5)}, "another preset"),
        ({"stage_name": "temporal"}, "another stage"),
        ({"store": store.select({"sub-01", "sub-02"})}, "another sessions"),
        ({"store": others}, "another training_set"),
        ({"ranked": ranked}, "another training_set"),
    ]
    for change, message in attempts:
        arguments: dict[str, Any] = {
            "stage_name": "voxel",
            "store": store,
            "preset": small_preset(),
            "run": run,
            "seed": 3,
            "resume": True,
            "device": "cpu",
        }
        with pytest.raises(InputError, match=message) as refusal:
            pretrain(**{**arguments, **change})
        assert str(run) in str(refusal.value) and "\n" not in str(refusal.value)


def test_ranked_windows_are_those_trained_on(store: Store, tmp_path: Path) -> None:
    ranked = {info.key: [2, 0, 1] for info in store.sessions}
    stage = VoxelStage(store, small_preset("window.pool=1"), 0, ranked)
    assert isinstance(stage.draws, ClipDraws)
    for number in range(5):
        np.testing.assert_allclose(stage.draws[number].clip.seconds.numpy(), np.r_[0:4, 8:12] * TR_S)


# --- what a run leaves


def test_states_are_kept_and_steps_logged_as_asked(store: Store, trained: Callable[[str], Path], tmp_path: Path) -> None:
    assert [saved_steps(run / "state") for run in map(trained, STAGES)] == [[6, 7], [6, 7]]
    pretrain("temporal", store, small_preset(log_every=4, save_every=2, keep=3), tmp_path / "run", seed=3, device="cpu")
    assert saved_steps(tmp_path / "run" / "state") == [4, 6, 7]
    every = comparable(trained("temporal"))
    for line, steps in zip(comparable(tmp_path / "run"), ([0], [1, 2, 3, 4], [5, 6]), strict=True):
        mean = np.mean([every[step]["loss"] for step in steps])
        assert line == {**every[steps[-1]], "loss": pytest.approx(mean, rel=1e-12)}


@pytest.mark.parametrize("stage", STAGES)
def test_every_line_holds_the_numbers_of_the_design(stage: str, trained: Callable[[str], Path]) -> None:
    lines = read_metrics(trained(stage))
    assert [line["step"] for line in lines] == list(range(STEPS))
    for line in lines:
        assert {"step", "loss", "lr", "ema", "std", "effective_rank", "windows_per_second", "peak_mib"} <= line.keys()
        assert all(math.isfinite(value) for value in line.values() if value is not None)
        assert line["std"] > 0 and line["effective_rank"] > 1 and line["windows_per_second"] > 0 and line["peak_mib"] > 10
    assert (lines[0]["ema"] is None) == (stage == "temporal")


def test_tensorboard_holds_the_same_numbers(trained: Callable[[str], Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained("voxel")
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("loss", "ema", "effective_rank"):
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert scalars == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in read_metrics(run)]


def test_run_json_says_how_it_was_made(trained: Callable[[str], Path], store: Store) -> None:
    run = json.loads((trained("voxel") / "run.json").read_text())
    assert (run["stage"], run["seed"], run["commands"]) == ("voxel", 3, ["slimbrain pretrain voxel"])
    assert run["versions"]["torch"] == torch.__version__ and run["store"] == store.contract.to_dict()
    assert Preset.model_validate(run["preset"]) == small_preset()


@pytest.mark.parametrize("stage", STAGES)
def test_the_exported_model_is_the_last_state(stage: str, store: Store, trained: Callable[[str], Path]) -> None:
    run = trained(stage)
    exported = from_pretrained(run / "model", store.contract)
    made = TemporalStage(store, small_preset(), 0) if stage == "temporal" else VoxelStage(store, small_preset(), 0, None)
    loop = Loop(made, small_preset().train_voxel, run, torch.device("cpu"))
    load_state(run / "state", STEPS, loop.stage.model, loop.optimizer)
    sample = loop.stage.draws[0]
    with torch.no_grad():
        if isinstance(exported, TemporalExtractor):
            assert torch.equal(*(model.embed(sample.values[None], sample.mm, sample.tr)[0] for model in (exported, made.model.eval())))
        else:
            assert isinstance(made.model, HieraJEPA)
            assert torch.equal(*(model.encoder([sample.clip]).values for model in (exported, made.model.eval())))
    provenance = exported.provenance
    assert provenance is not None and provenance.window == small_preset().window and provenance.grid == store.grid
    assert provenance.training["steps"] == STEPS and provenance.training["sessions"] == 3
    assert provenance.trained_on([Person("sub-01"), Person("sub-03"), Person("sub-99")]) == ["sub-01", "sub-03"]
    renamed = [replace(person, label=f"sub-new{person.label[4:]}", cohort="another") for person in people_in(store)]
    assert provenance.trained_on(renamed) == [person.label for person in renamed]


def test_names_of_participants_are_not_in_the_model(trained: Callable[[str], Path]) -> None:
    for path in (trained("voxel") / "model").glob("*.[jm]*"):
        assert b"sub-0" not in path.read_bytes()


def test_series_without_voxels_train_stage_1_and_not_stage_2(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", None, 1.0)
    generator = np.random.default_rng(0)
    channels = Channels(tuple("abcde"), generator.normal(size=(5, 3)) * 40)
    for subject, frames in (("01", 20), ("02", 24)):
        write_roi_session(store, {"sub": subject}, generator.normal(size=(frames, 5)), channels, 1.0)
    pretrain("temporal", store, small_preset(steps=2), tmp_path / "run", device="cpu")
    model = from_pretrained(tmp_path / "run" / "model", store.contract)
    assert model.provenance is not None and model.provenance.grid is None
    with pytest.raises(StoreError, match="without voxels"):
        pretrain("voxel", store, small_preset(), tmp_path / "other", device="cpu")


# --- learning


# A target that stands still and knows its place: with one that follows, the loss may rise while the encoder learns.
STILL_TARGET = tuple(f"jepa.{setting}" for setting in ("ema_start=1", "remove_position=false", "variance_weight=0", "covariance_weight=0"))


@pytest.mark.parametrize(("stage", "steps", "falls_to"), [("temporal", 80, 0.9), ("voxel", 150, 0.7)])
def test_the_loss_falls(stage: str, steps: int, falls_to: float, store: Store, tmp_path: Path) -> None:
    preset = small_preset(*STILL_TARGET, steps=steps, save_every=steps, accumulate=1, lr=0.005)
    pretrain(stage, store, preset, tmp_path / "run", device="cpu")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert np.mean(losses[-steps // 4 :]) < falls_to * np.mean(losses[: steps // 4])
    skills = [line["skill"] for line in read_metrics(tmp_path / "run") if "skill" in line]
    assert len(skills) == (steps if stage == "voxel" else 0)
    assert not skills or np.mean(skills[-10:]) > max(0.1, skills[0] + 0.1)


def test_a_loss_that_is_no_number_stops_the_run(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", grid8, TR_S)
    write_run(store, frames=12)
    shape = grid8.voxel_mask.shape
    write_session(store, {"sub": "02", "task": "rest", "space": "MNI"}, np.full((12, *shape), np.nan), np.ones(shape), np.ones(shape), TR_S)
    with pytest.raises(InputError, match="the loss is nan at step 0") as refusal:
        pretrain("voxel", store, small_preset(), tmp_path / "run", device="cpu")
    assert "\n" not in str(refusal.value) and not (tmp_path / "run" / "model").exists()


# --- schedules


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = TrainConfig(steps=101, warmup=20, lr=1e-3, final_lr=1e-5)
    rates = [learning_rate(step, config) for step in range(101)]
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20 * 1e-3)
    assert rates[20] == 1e-3 and rates[100] == pytest.approx(1e-5)
    assert rates[60] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[40] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.sqrt(0.5)) / 2)
    assert np.all(np.diff(rates[20:]) < 0)
    for edge in (
        TrainConfig(steps=1, warmup=0),
        TrainConfig(steps=3, warmup=3),
        TrainConfig(steps=3, warmup=50),
        TrainConfig(steps=2, warmup=1),
    ):
        assert all(0 < learning_rate(step, edge) <= edge.lr for step in range(edge.steps))


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimiser_uses_the_rate_that_is_logged(stage: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[set[float]] = []
    step = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *arguments: Any) -> Any:
        used.append({float(group["lr"]) for group in self.param_groups})
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    pretrain(stage, store, small_preset(steps=4, accumulate=1, save_every=4), tmp_path / "run", device="cpu")
    # Saving a state lets the optimiser step once more, at rate 0, where it has no moments yet; these stand at the end.
    assert used[:4] == [{line["lr"]} for line in read_metrics(tmp_path / "run")]


def test_weight_decay_follows_a_cosine_and_spares_vectors(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[list[float]] = []
    step = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *arguments: Any) -> Any:
        used.append([float(group["weight_decay"]) for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    preset = small_preset(steps=5, accumulate=1, save_every=5, weight_decay=0.04, final_weight_decay=0.4)
    pretrain("voxel", store, preset, tmp_path / "run", device="cpu")
    wanted = [0.4 - 0.36 * (1 + math.cos(math.pi * share / 4)) / 2 for share in range(5)]
    np.testing.assert_allclose(used[:5], [[value, 0.0] for value in wanted])
    np.testing.assert_allclose([line["weight_decay"] for line in read_metrics(tmp_path / "run")], wanted)


def test_momentum_rises_along_a_cosine(trained: Callable[[str], Path]) -> None:
    momenta = [line["ema"] for line in read_metrics(trained("voxel"))]
    start = small_preset().jepa.ema_start
    np.testing.assert_allclose(
        momenta, [start + (1 - start) * math.sin(math.pi * step / STEPS / 2) ** 2 for step in range(STEPS)], rtol=1e-12
    )


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_the_target_follows_the_context(momentum: float, store: Store) -> None:
    stage = VoxelStage(store, small_preset(f"jepa.ema_start={momentum}", f"jepa.ema_end={momentum}"), 0, None)
    model = stage.model
    with torch.no_grad():
        for parameter in model.context.parameters():
            parameter.normal_()
    before = [parameter.clone() for parameter in model.target.parameters()]
    assert stage.after_step(0.3) == pytest.approx(momentum)
    for slow, old, fast in zip(model.target.parameters(), before, model.context.parameters(), strict=True):
        torch.testing.assert_close(slow, momentum * old + (1 - momentum) * fast)
        assert not slow.requires_grad


def test_only_matrices_decay_and_the_target_is_not_optimised(store: Store) -> None:
    loop = Loop(VoxelStage(store, small_preset(), 0, None), TrainConfig(weight_decay=0.3), Path("unused"), torch.device("cpu"))
    model = loop.stage.model
    assert isinstance(model, HieraJEPA)
    decay = {id(parameter): group["weight_decay"] for group in loop.optimizer.param_groups for parameter in group["params"]}
    named = [(name, parameter) for name, parameter in model.named_parameters() if not name.startswith("target.")]
    assert len(decay) == len(named)
    for name, parameter in named:
        assert decay[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0), name


def test_an_unknown_device_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="--device abacus"):
        pick_device("abacus")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", ["temporal", "voxel"])
def test_half_precision_trains_float32_weights(
    precision: str, stage: str, store: Store, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    preset = small_preset(steps=2, precision=precision)
    pretrain(stage, store, preset, tmp_path / "run", seed=3, device="cpu")
    # Eight bits of mantissa: the loss is that of float32 to a few per cent, and not to the bit. (Stage 1 starts from zeros.)
    low, full = (read_metrics(run)[1]["loss"] for run in (tmp_path / "run", trained(stage)))
    assert low == pytest.approx(full, rel=0.05) and low != full
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    # The position baseline sums over many steps, and does so in float64.
    assert {tensor.dtype for name, tensor in weights.items() if not name.startswith("baseline.")} == {torch.float32}


def test_metrics_are_written_as_they_come(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is watched, or killed, has its last line on disk."""
    seen: list[int] = []
    save = loop_module.save_state

    def look_and_save(*arguments: Any) -> Path:
        seen.append(len(read_metrics(tmp_path / "run")))
        return save(*arguments)

    monkeypatch.setattr(loop_module, "save_state", look_and_save)
    pretrain("temporal", store, small_preset(), tmp_path / "run", device="cpu")
    assert seen == [3, 6, 7]
