"""Several processes train as one does: the same gradients, the same resumption, the same files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_samples import assert_same_run, comparable, settings

from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import Loop, VoxelStage
from slimbrain.train.checkpoint import saved_steps
from slimbrain.train.distributed import all_reduce_named, broadcast, rank, world_size

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(training_store: Store) -> Store:
    return training_store


def start(processes: int, command: list[str]) -> list[subprocess.Popen[str]]:
    """Start a command as `torchrun` does, so many times."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    environments = [{**common, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(processes)]
    return [subprocess.Popen([sys.executable, *command], env=each, stderr=subprocess.PIPE, text=True) for each in environments]


def finish(started: list[subprocess.Popen[str]], codes: tuple[int, ...] = (0,)) -> list[str]:
    """What each process said, once all have ended with one of `codes`."""
    said = [process.communicate(timeout=300)[1] for process in started]
    assert {process.returncode for process in started} <= set(codes), "\n".join(said)
    return said


GRADIENTS = """
import sys, torch
from pathlib import Path
from slimbrain.config import load_preset
from slimbrain.train.distributed import process_group, rank
from slimbrain.store import Store
from slimbrain.train import Loop, TemporalStage, VoxelStage
from slimbrain.train.stop import StopSignals

root, out, name, *overrides = sys.argv[1:]
preset, store = load_preset("tiny", overrides), Store(root)
stage = TemporalStage(store, preset, 3) if name == "temporal" else VoxelStage(store, preset, 3, None)
stage.model.double()
if name == "temporal":  # it takes series as they are stored
    single = type(stage.draws)
    def double(self, draw):
        series = single.__getitem__(self, draw)
        return type(series)(series.values.double(), series.mm.double(), series.tr, series.draw, series.key)
    stage.draws.__class__ = type("Double", (single,), {"__getitem__": double})
config = preset.train_temporal if name == "temporal" else preset.train_voxel
def compute():
    loop = Loop(stage, config, Path(out), torch.device("cpu"))
    batches = loop._batches(0)
    for step in range(3):
        loop._timed_step(step, batches, StopSignals(60, str))
    whole = lambda grad: grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    gradients = {name: whole(p.grad) for name, p in stage.model.named_parameters() if p.grad is not None}
    if rank() == 0:
        torch.save(gradients, out)

with process_group(torch.device("cpu")):
    compute()
"""


@pytest.fixture(scope="module")
def gradients(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, str], dict[str, torch.Tensor]]:
    """Gradients of the third step of four micro-batches, in float64; those of one process are computed in this one."""
    folder = tmp_path_factory.mktemp("gradients")

    def compute(stage: str, processes: int, parallel: str) -> dict[str, torch.Tensor]:
        out = folder / f"{stage}{processes}{parallel}.pt"
        if not out.exists():
            words = [str(store.root), str(out), stage, *settings(accumulate=4, clip=1e9, parallel=parallel)]
            if processes == 1:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", ["-c", *words])
                    exec(compile(GRADIENTS, "GRADIENTS", "exec"), {})
            else:
                finish(start(processes, ["-c", GRADIENTS, *words]))
        return torch.load(out, weights_only=True)

    return compute


@pytest.mark.parametrize(
    ("stage", "parallel"),
    [("voxel", "ddp"), pytest.param("temporal", "ddp", marks=pytest.mark.slow), pytest.param("voxel", "fsdp2", marks=pytest.mark.slow)],
)
def test_two_processes_give_the_gradients_of_one(stage: str, parallel: str, gradients: Callable[..., dict[str, torch.Tensor]]) -> None:
    alone, together = gradients(stage, 1, "ddp"), gradients(stage, 2, parallel)
    assert alone.keys() == together.keys() and len(alone) > 20
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, gradient in alone.items():
        assert gradient.dtype == torch.float64
        assert float((gradient - together[name]).abs().max()) < 1e-10 * largest, name


def test_accumulation_gives_the_gradients_of_one_batch(store: Store) -> None:
    """For the published objective: the regularisers are statistics of a micro-batch."""
    published = [f"jepa.{setting}" for setting in ("remove_position=false", "variance_weight=0", "covariance_weight=0")]
    found = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        preset = load_preset("tiny", [*settings(accumulate=accumulate, clip=1e9), *published, f"train_voxel.batch={batch}"])
        stage = VoxelStage(store, preset, 3, None)
        stage.model.double()
        loop = Loop(stage, preset.train_voxel, Path("unused"), CPU)
        loop._step(0, loop._batches(0))
        found.append(torch.cat([p.grad.flatten() for p in stage.model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-10 * float(found[0].abs().max()))


SCRIPT = """
import os, signal, sys
from pathlib import Path
from slimbrain.config import load_preset
from slimbrain.store import Store
from slimbrain.train import Loop, pretrain

root, run, stop, number, workers, *overrides = sys.argv[1:]
step = Loop._step

def disturbed(self, at, batches):
    first = os.environ["RANK"] == "0"
    if at == 4 and (stop == "kill" or (stop == "terminate" and first)):
        if workers == "0":
            os.kill(os.getpid(), getattr(signal, number))
        else:
            os.killpg(os.getpid(), getattr(signal, number))
    return step(self, at, batches)

if workers != "0":
    os.setpgid(0, 0)
Loop._step = disturbed
pretrain("voxel", Store(root), load_preset("tiny", overrides), Path(run), seed=3, resume=True, device="cpu", workers=int(workers))
"""


def train(
    store: Store, run: Path, processes: int, stop: str = "never", number: str = "SIGKILL", workers: int = 0, parallel: str = "ddp"
) -> list[str]:
    """A run of seven steps; in the fifth all processes are killed, or one gets a signal, if so wished."""
    overrides = settings(parallel=parallel)
    codes = (-signal.SIGKILL,) if stop == "kill" else (0,)
    command = ["-c", SCRIPT, str(store.root), str(run), stop, number, str(workers), *overrides]
    return finish(start(processes, command), codes)


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Runs of two processes that nobody stopped."""
    runs = {kind: tmp_path_factory.mktemp("whole") / kind for kind in ("ddp", "fsdp2")}
    for kind, run in runs.items():
        train(store, run, 2, parallel=kind)
    return runs


@pytest.fixture(scope="module")
def killed(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str, Path], None]:
    """Puts into a folder what a run leaves whose processes were all killed in the fifth step."""
    folder = tmp_path_factory.mktemp("killed")

    def copy(processes: int, parallel: str, run: Path) -> None:
        original = folder / f"{processes}{parallel}"
        if not original.exists():
            train(store, original, processes, stop="kill", parallel=parallel)
        shutil.copytree(original, run)

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_killed_processes_go_on_to_the_bit(
    parallel: str, store: Store, killed: Callable[[int, str, Path], None], whole: Mapping[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed(2, parallel, run)
    assert saved_steps(run / "state") == [3]
    assert "continues after step 3 of 7\n" in train(store, run, 2, parallel=parallel)[0]
    assert_same_run(whole[parallel], run)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "number", "workers"), [(1, "SIGUSR1", 0), (1, "SIGTERM", 1), (2, "SIGTERM", 0)])
def test_a_signal_ends_the_step_saves_and_goes_on_to_the_bit(
    processes: int, number: str, workers: int, store: Store, whole: Mapping[str, Path], trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """With workers, the whole group of processes gets the signal, as from a scheduler."""
    run = tmp_path / "run"
    said = train(store, run, processes, stop="terminate", number=number, workers=workers)
    assert "stopped by a signal after step 5 of 7; --resume auto resumes from step 5" in said[0]
    assert saved_steps(run / "state") == [3, 5] and not (run / "model").exists()
    train(store, run, processes, workers=workers)
    assert_same_run(whole["ddp"] if processes == 2 else trained("voxel"), run)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "parallel"), [(2, 1, "ddp"), (1, 2, "ddp"), (2, 1, "fsdp2")])
def test_another_number_of_processes_sees_the_same_samples(
    before: int,
    after: int,
    parallel: str,
    store: Store,
    killed: Callable[[int, str, Path], None],
    whole: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    killed(before, parallel, run)
    said = train(store, run, after, parallel=parallel)[0]
    assert f"continues after step 3 of 7, in {after} processes (was {before}); the order of samples is the same" in said
    # Sums are added up in another order, so the last digits differ, and of the health numbers those of another clip.
    for line, other in zip(comparable(run), comparable(whole["ddp"]), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    weights, others = (load_file(path / "model" / "model.safetensors") for path in (run, whole["ddp"]))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)
    # Seven steps of two micro-batches of one sample: no step that the kill cost is counted, none is left out.
    times, other = (json.loads((path / "model" / "config.json").read_text())["training"]["times_seen"] for path in (run, whole["ddp"]))
    assert times == other and sum(times.values()) == 7 * 2


@pytest.mark.slow
def test_torchrun_trains_from_the_command_line(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "slimbrain"]
    changed = [part for override in settings(steps=2, parallel="fsdp2") for part in ("--set", override)]
    arguments = ["pretrain", "voxel", str(store.root), "--preset", "tiny", "--out", str(run), "--device", "cpu", *changed]
    done = subprocess.run(
        [*torchrun, *arguments], check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the model is in") == 1
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    assert (run / "model" / "config.json").exists()


ONE_FAILS = """
import errno, os, sys
from pathlib import Path
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from slimbrain.errors import SlimbrainError
from slimbrain.train import checkpoint
from slimbrain.train.distributed import process_group, rank

folder = Path(sys.argv[1])
write = checkpoint.write_atomic

def full(path, fill):
    if rank() == 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write(path, fill)

def attempt(work):
    try:
        work()
    except SlimbrainError as error:
        print(f"{rank()}: {error}", file=sys.stderr)

def run():
    torch.manual_seed(0)
    model = nn.Linear(3, 5)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save_state(folder, 1, model, optimizer, 3)
    before = model.weight.full_tensor().clone()
    with torch.no_grad():
        model.weight.mul_(2)
    checkpoint.load_state(folder, 1, model, optimizer)
    assert torch.equal(model.weight.full_tensor(), before)
    checkpoint.write_atomic = full
    attempt(lambda: checkpoint.save_state(folder, 2, model, optimizer, 3))
    if rank() == 0:
        part = folder / "step-00000001" / "part-00001.safetensors"
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    attempt(lambda: checkpoint.load_state(folder, 1, model, optimizer))

with process_group(torch.device("cpu")):
    run()
"""


def test_what_one_process_cannot_write_or_read_is_said_by_all(tmp_path: Path) -> None:
    """Five rows over two processes: the shards are of different length."""
    said = finish(start(2, ["-c", ONE_FAILS, str(tmp_path)]))
    for number, text in enumerate(said):
        assert f"{number}: {tmp_path / 'step-00000002'}: cannot be written (No space left on device); free space" in text
        assert f"{number}: {tmp_path / 'step-00000001'}: is damaged or no training state (part-00001.safetensors was cut short" in text
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


# --- refusals, and a process that is alone


@pytest.mark.slow
def test_micro_batches_that_cannot_be_shared_are_refused(store: Store, tmp_path: Path) -> None:
    overrides = settings(accumulate=3)
    command = ["-c", SCRIPT, str(store.root), str(tmp_path / "run"), "never", "", "0", *overrides]
    for said in finish(start(2, command), (1,)):
        assert "3 micro-batches per step cannot be split over 2 processes; set" in said


@pytest.mark.slow
def test_stage_1_is_not_sharded(store: Store, tmp_path: Path) -> None:
    command = ["-c", GRADIENTS, str(store.root), str(tmp_path / "none"), "temporal", *settings(parallel="fsdp2")]
    for said in finish(start(2, command), (1,)):
        assert "set train_temporal.parallel=ddp" in said


def test_a_process_alone_needs_no_group() -> None:
    assert (rank(), world_size(), broadcast("mine")) == (0, 1, "mine")
    assert all_reduce_named({"a": 1.5, "b": 2.0}, CPU) == {"a": 1.5, "b": 2.0}
