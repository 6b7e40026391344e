"""The loop of both stages: the same steps for one process or many, resumable to the bit, stopped by signals and by collapse."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader

from slimbrain.config import Config, TrainConfig
from slimbrain.data.draws import ClipDraws
from slimbrain.errors import CollapseError, InputError
from slimbrain.models.skill import skill
from slimbrain.progress import track
from slimbrain.train.adapt import Adapter
from slimbrain.train.checkpoint import EXTRA_FILE, load_state, save_state, saved_steps
from slimbrain.train.distributed import all_reduce_named, broadcast, defer_grad_sync, parallelize, rank, world_size
from slimbrain.train.guard import CollapseGuard
from slimbrain.train.log import Log, Tally, read_metrics
from slimbrain.train.schedule import learning_rate, weight_decay
from slimbrain.train.session_counts import SessionCounts
from slimbrain.train.stages import Stage
from slimbrain.train.stop import StopSignals, ignore_stop_signals

STATE_FOLDER = "state"

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Loop:
    """Training of one stage into one run folder, by one process or several.

    Parameters
    ----------
    stage : Stage
        Model, draws and loss.
    config : TrainConfig
        Steps, optimiser, bookkeeping.
    run : Path
        Folder of the run.
    device : torch.device
        Device of this process.
    workers : int
        Processes that load data.

    Raises
    ------
    InputError
        If the micro-batches of a step cannot be split evenly.
    """

    def __init__(self, stage: Stage, config: TrainConfig, run: Path, device: torch.device, workers: int = 0) -> None:
        if config.accumulate % world_size():
            raise InputError(
                f"{run}: {config.accumulate} micro-batches per step cannot be split over {world_size()} processes; "
                "set train_temporal.accumulate or train_voxel.accumulate to a multiple, and batch down by as much."
            )
        self.stage, self.config, self.run, self.device, self.workers = stage, config, run, device, workers
        stage.model.to(device)
        self.model = parallelize(_LossModule(stage), config.parallel, stage.shards)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(stage.model, config.weight_decay), lr=config.lr, betas=config.betas, fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.session_counts = SessionCounts(self._keys, [0] * len(self._keys))
        self.adapter = _adapter(stage, config, self._precision)
        self.tally, self.guard = Tally(), CollapseGuard(stage.floors, config.collapse_patience, config.warmup, after=stage.floors_after)

    def fit(self) -> dict[str, float] | None:
        """Train from the newest state to the end, or until SIGTERM or SIGUSR1 came to any of the processes.

        Returns
        -------
        The last logged numbers; None if stopped by a signal.

        Raises
        ------
        CollapseError
            If the guard saw a collapse.
        InputError
            If the loss is no longer a number.
        """
        done = self._restore()
        last: dict[str, Any] = next(reversed(read_metrics(self.run)), {})
        batches = self._batches(done)
        self.stage.model.train()
        with StopSignals(self.config.stop_grace_s, self._given_up_message) as signals, Log(self.run, done, writes=rank() == 0) as log:
            steps = range(done, self.config.steps)
            shorter = f"fewer steps (--set train_{self.stage.name}.steps=N) or a smaller --preset; stopped, it resumes with --resume auto"
            for step in track(steps, f"pretrain {self.run.name}", shorter=shorter) if rank() == 0 else steps:
                ema, stop = self._timed_step(step, batches, signals)
                ends = step + 1 == self.config.steps
                if step % self.config.log_every == 0 or ends:
                    last = self._line(step, ema)
                    log.write(last)
                    self._guard(last)
                if ends or (self.guard.healthy and (stop or (step + 1) % self.config.save_every == 0)):
                    self._save(step + 1)
                if stop and not ends:
                    if rank() == 0:
                        print(self._stopped_message(step), file=sys.stderr)
                    return None
        return last

    # --- one step

    def _timed_step(self, step: int, batches: Iterator[Sequence[Any]], signals: StopSignals) -> tuple[float | None, bool]:
        """One optimiser step; the EMA momentum, and whether any process received a signal to stop."""
        started = time.perf_counter()
        sums = self._step(step, batches)
        ema = self.stage.after_step(step / self.config.steps)
        if self.adapter is not None:
            self.adapter.after_step(step)
        sums = all_reduce_named({**sums, "stop": float(signals.came)}, self.device)
        stop = sums.pop("stop") > 0
        if stop:
            signals.step_ended()
        if not math.isfinite(sums["loss"]):
            raise InputError(
                f"{self.run}: the loss is {sums['loss']} at step {step}; "
                f"lower the learning rate (--set train_{self.stage.name}.lr=...), the last good state is kept."
            )
        self.tally.add({**sums, "seconds": time.perf_counter() - started, "steps": 1.0})
        return ema, stop

    def _step(self, step: int, batches: Iterator[Sequence[Any]]) -> dict[str, float]:
        """This process's share of a step; sums over its micro-batches, with their counts."""
        matrices, vectors = self.optimizer.param_groups
        matrices["lr"] = vectors["lr"] = learning_rate(step, self.config)
        matrices["weight_decay"] = weight_decay(step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        sums = {f"{name}{of}": 0.0 for name in ("loss", *self.stage.parts) for of in ("", " count")}
        share, keys = self.config.accumulate // world_size(), []
        for micro in range(share):
            batch = next(batches)
            keys += [sample.key for sample in batch]
            with defer_grad_sync(self.model, micro + 1 < share):
                with self._precision():
                    loss, parts = self.model(batch)
                self.scaler.scale(loss / share).backward()
            for name, value in {"loss": loss.detach(), **parts}.items():
                sums[name] += float(value)
                sums[f"{name} count"] += 1
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.stage.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.session_counts.add(keys)
        return sums

    def _precision(self) -> AbstractContextManager[object]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self.config.precision])

    def _batches(self, done: int) -> Iterator[Sequence[Any]]:
        """Process r of W computes micro-batches r, r + W, ... of each step: which draws a step sees does not depend on W."""
        size, micros = self.config.batch, range(done * self.config.accumulate, self.config.steps * self.config.accumulate)
        draws = self.stage.draws
        # Made lazily, since adaptive weights are not known from the start; workers receive the session.
        mine = ([draws.pick(draw) for draw in range(micro * size, (micro + 1) * size)] for micro in micros[rank() :: world_size()])
        init = ignore_stop_signals if self.workers else None
        return iter(DataLoader(draws, batch_sampler=mine, collate_fn=list, num_workers=self.workers, worker_init_fn=init))

    # --- bookkeeping

    @property
    def _keys(self) -> list[str]:
        return [info.key for info in self.stage.draws.sessions]

    def _line(self, step: int, ema: float | None) -> dict[str, Any]:
        """Means since the last line and values at this step; health and memory are the first process's, on all."""
        seconds, steps = self.tally.sums["seconds"], self.tally.sums["steps"]
        windows = steps * self.config.batch * self.config.accumulate * self._windows()
        line = {
            "step": step,
            **self.tally.means(),
            **self._skill(),
            **self.stage.probe(step),
            "lr": learning_rate(step, self.config),
            "weight_decay": weight_decay(step, self.config),
            "ema": ema,
            **self.stage.health(),
            **self._mixture(step),
            "windows_per_second": windows / seconds,
            "peak_mib": _peak_mib(self.device),
        }
        return broadcast(line)

    @torch.no_grad()
    def _skill(self) -> dict[str, float]:
        """Skill on the stage's scored draws, by every process: where weights are spread, none of them can do it alone."""
        if not self.stage.scored:
            return {}
        with self.stage.without_trace(), self._precision():
            return skill([self.model([self.stage.draws[pick]], predicts=True) for pick in self.stage.scored])

    def _mixture(self, step: int) -> dict[str, float]:
        """Current weights of the mixture, where they change, and the measurements that they follow."""
        draws = self.stage.draws
        if not draws.mixture.changes:
            return {}
        weights = {f"weight_{name}": share for name, share in draws.mixture.shares_at(step * draws.pace.per_step).items()}
        return weights | (self.adapter.measured if self.adapter else {})

    def _windows(self) -> float:
        """Windows that one sample holds: k clips for stage 2, the mean session for stage 1."""
        draws = self.stage.draws
        if isinstance(draws, ClipDraws):
            return draws.window.k
        frames = self.stage.model.config.window_frames  # type: ignore[union-attr]
        return sum(info.n_windows(frames) for info in draws.sessions) / len(draws.sessions)

    def _guard(self, line: dict[str, Any]) -> None:
        self.guard.update(line)
        if not self.guard.collapsed:
            return
        symptoms = ", ".join(self.guard.symptoms(line))
        if set(self.guard.low(line)) == {"skill"}:
            raise CollapseError(
                f"{self.run}: nothing was learnt by step {line['step']} ({symptoms}); {self._last_good()}, "
                "raise the learning rate or jepa.skill_after, or allow it with jepa.skill_floor=null."
            )
        raise CollapseError(
            f"{self.run}: the encoder collapsed by step {line['step']} ({symptoms}); {self._last_good()}, "
            "raise jepa.variance_weight or lower the learning rate, or allow it with jepa.rank_floor=0 and jepa.std_floor=0."
        )

    def _last_good(self) -> str:
        steps = saved_steps(self.run / STATE_FOLDER)
        return f"the last good state is {STATE_FOLDER}/step-{steps[-1]:08d}" if steps else "no good state was saved before"

    def _stopped_message(self, step: int) -> str:
        return f"{self.run}: stopped by a signal after step {step + 1} of {self.config.steps}; {self._way_on()}"

    def _given_up_message(self) -> str:
        """What is said where a step does not end in time; the step's own work alone is lost with it, if the one before was saved."""
        grace = f"{self.config.stop_grace_s:g} s (train_{self.stage.name}.stop_grace_s)"
        return f"{self.run}: stopped by SIGTERM in a step that did not end within {grace}; {self._way_on()}"

    def _way_on(self) -> str:
        saved = saved_steps(self.run / STATE_FOLDER)
        return f"--resume auto resumes from step {saved[-1]}" if saved else "no state was saved yet, so --resume auto starts from step 0"

    def _save(self, done: int) -> None:
        state = _LoopState(
            processes=world_size(),
            tally=self.tally.sums,
            bad_lines=self.guard.bad_lines,
            session_counts=self.session_counts.counts(self.device),
            scaler=self.scaler.state_dict(),
            mixture=self.adapter.state() if self.adapter else None,
        )
        save_state(self.run / STATE_FOLDER, done, self.stage.model, self.optimizer, self.config.keep, state.model_dump())

    def _restore(self) -> int:
        steps = broadcast(saved_steps(self.run / STATE_FOLDER))
        if not steps:
            if self.adapter:
                self.adapter.begin()
            return 0
        extra = load_state(self.run / STATE_FOLDER, steps[-1], self.stage.model, self.optimizer)
        try:
            before = self._take_up(_LoopState.model_validate(extra))
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            path = self.run / STATE_FOLDER / f"step-{steps[-1]:08d}" / EXTRA_FILE
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: is not what training writes ({reason}); delete {path.parent.name}.") from error
        now = world_size()
        change = "" if before == now else f", in {now} processes (was {before}); the order of samples is the same"
        if rank() == 0:
            print(f"{self.run}: continues after step {steps[-1]} of {self.config.steps}{change}", file=sys.stderr)
        return int(steps[-1])

    def _take_up(self, state: _LoopState) -> int:
        """Continue from a saved state; how many processes saved it."""
        if len(state.session_counts) != len(self._keys):
            raise ValueError(f"it counts {len(state.session_counts)} sessions, the run has {len(self._keys)}")
        self.tally, self.guard.bad_lines = Tally(state.tally), state.bad_lines
        self.session_counts = SessionCounts(self._keys, state.session_counts)
        self.scaler.load_state_dict(state.scaler)
        if self.adapter:
            self.adapter.load(state.mixture or {})
        return state.processes


class _LoopState(Config):
    """State of the loop beside model and optimizer."""

    processes: Annotated[int, Field(ge=1)]
    tally: dict[str, float]
    bad_lines: Annotated[int, Field(ge=0)]
    session_counts: list[Annotated[int, Field(ge=0)]]
    scaler: dict[str, Any]
    mixture: dict[str, Any] | None


class _LossModule(nn.Module):
    """A stage as a module whose forward pass is its loss, as DDP and FSDP need it, or its predictions."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.model, self.stage = stage.model, stage

    def forward(self, batch: Sequence[Any], predicts: bool = False) -> Any:
        """Loss and its parts; or, with `predicts`, the stage's `Prediction`."""
        return self.stage.predict(batch) if predicts else self.stage.loss(batch)


def _adapter(stage: Stage, config: TrainConfig, precision: Callable[[], AbstractContextManager[object]]) -> Adapter | None:
    mixture = stage.draws.sampling.mixture
    if mixture is None or mixture.adaptive is None:
        return None
    if config.parallel == "fsdp2":
        raise InputError("mixture: adaptive weights need whole gradients, which parallel: fsdp2 has not; set it to ddp.")
    return Adapter(stage, mixture.adaptive, precision)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and single vectors do not, as is usual for transformers."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = [p for p in learnt if p.ndim > 1], [p for p in learnt if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _peak_mib(device: torch.device) -> float:
    """Most memory that this process held: of the device, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory before the fork
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
