"""Fine-tuning of the voxel encoder: all its weights learn from the labels, early layers least, beside a linear head.

Hyper-parameters are the published ones (arXiv 2512.21881); layer-wise decay as in BEiT (arXiv 2106.08254). The head reads the pooled
tokens that a frozen probe reads, standardised by what the encoder said of the training sessions before it was tuned.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from slimbrain.config import Config, TrainConfig
from slimbrain.data.clip import Clip, read_clip
from slimbrain.disk.atomic import write_atomic
from slimbrain.embed.pooling import pool_tokens
from slimbrain.errors import InputError
from slimbrain.evaluate.attention import as_scores, start_at_prior, task_loss, usable_spread
from slimbrain.evaluate.probes import Fitted, summed_loss
from slimbrain.evaluate.result import FINETUNE
from slimbrain.evaluate.splits import PredictionProblem, Split, inner_splits
from slimbrain.evaluate.stats import Floats, Ints
from slimbrain.governance.provenance import Person, people_in, remember_beside
from slimbrain.models.hiera import Hiera
from slimbrain.store import Store
from slimbrain.train import learning_rate


class FinetuneConfig(Config):
    """The published settings; epochs, batch and patience, which the paper's text does not give, are ours."""

    epochs: int = Field(30, ge=1)
    batch: int = Field(8, ge=1, description="sessions per step")
    patience: int = Field(8, ge=1, description="epochs without a better held-out loss that end it")
    lr: float = Field(1e-4, gt=0)
    head_lr: float = Field(5e-4, gt=0)
    final_lr: float = Field(1e-6, gt=0)
    warmup_epochs: int = Field(2, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(1.0, gt=0)


@dataclass(frozen=True)
class Views:
    """Which windows of a session the encoder sees.

    Attributes
    ----------
    scored : tuple[int, ...]
        Windows that the session is scored on, together, as one clip.
    drawn_from : tuple[int, ...]
        Windows that training draws as many of, anew in each epoch.
    """

    scored: tuple[int, ...]
    drawn_from: tuple[int, ...]


class TunedEncoder(nn.Module):
    """Encoder, pooling and a linear head.

    Parameters
    ----------
    encoder : Hiera
        Copied, so that every fold starts from the same weights.
    outputs : int
        K.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, encoder: Hiera, outputs: int) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(True)
        self.register_buffer("centre", torch.empty(0))
        self.register_buffer("spread", torch.empty(0))
        self.outputs = outputs
        self.head = nn.Linear(1, outputs)

    def begin(self, pooled: Tensor) -> None:
        """Take the standardisation from the (N, D) pooled tokens of the training sessions."""
        self.centre, self.spread = pooled.mean(0), usable_spread(pooled.std(0, unbiased=False))
        self.head = nn.Linear(pooled.shape[1], self.outputs, device=pooled.device)

    def pooled(self, clips: Sequence[Clip]) -> Tensor:
        """(B, D) of B sessions."""
        return pool_tokens(self.encoder(clips))

    def forward(self, clips: Sequence[Clip]) -> Tensor:
        """(B, K) logits or values."""
        return self.head((self.pooled(clips) - self.centre) / self.spread)


@dataclass(frozen=True, eq=False)
class FineTuning:
    """One row of the table: N sessions of a store and the encoder to tune on them, afresh in every fold.

    Attributes
    ----------
    model : str
        Name for the table.
    encoder : Hiera
        Where tuning starts.
    keys : Sequence[str]
        N session keys.
    views : Mapping[str, Views]
        Windows of each session, by key.
    frames : int
        Frames per window.
    folder : Path or None
        Where finished folds are kept, from which an evaluation that was stopped resumes, beside
        hashes of everybody in them; nowhere if None.
    """

    model: str
    encoder: Hiera
    store: Store
    keys: Sequence[str]
    views: Mapping[str, Views]
    frames: int
    config: FinetuneConfig
    device: torch.device
    folder: Path | None = None
    method: str = FINETUNE

    def __len__(self) -> int:
        return len(self.keys)

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Tune until the held-out subjects (one of three inner parts where the split has none) are predicted no better."""
        path = self.folder / f"{self._fingerprint(problem, split, seed)}.npz" if self.folder else None
        if path and path.exists():
            with np.load(path) as kept:
                return Fitted(kept["scores"], float(kept["scale"]), float(kept["loss"]))
        fit, held = self._parts(problem, split, seed)
        tuned, loss = self.tune(problem, fit, held, seed)
        centre, scale = problem.scaling(fit)
        scores = self._predict(tuned, problem, split.test) * scale + centre
        fitted = Fitted(scores, problem.scaling(split.train)[1], loss / len(held) if len(held) else math.inf)
        if path:
            # Before the fold itself, so that a withdrawal finds it.
            remember_beside(path.parent, self._people)
            arrays: dict[str, Any] = {"scores": fitted.scores, "scale": fitted.scale, "loss": fitted.loss}
            write_atomic(path, lambda temporary: np.savez(temporary, **arrays))
        return fitted

    @cached_property
    def _people(self) -> list[Person]:
        return people_in(self.store, [self.store.session(key) for key in self.keys])

    def tune_on_all(self, problem: PredictionProblem, seed: int) -> tuple[TunedEncoder, tuple[float, float]]:
        """The encoder tuned as in a fold whose training subjects are all, and the scaling of the target that it learnt."""
        fit, held = self._parts(problem, self._everybody(), seed)
        return self.tune(problem, fit, held, seed)[0], problem.scaling(fit)

    def fingerprint_of_all(self, problem: PredictionProblem, seed: int) -> str:
        """Of everything that decides what `tune_on_all` gives."""
        return self._fingerprint(problem, self._everybody(), seed)

    def _everybody(self) -> Split:
        rows = np.arange(len(self.keys))
        return Split(rows, rows[:0], rows[:0])

    def _parts(self, problem: PredictionProblem, split: Split, seed: int) -> tuple[Ints, Ints]:
        """Rows to fit and rows to stop by; none of the latter where the training subjects are too few to be divided."""
        inner = inner_splits(problem, split, seed)
        return inner[0] if inner else (split.train, split.train[:0])

    def tune(self, problem: PredictionProblem, fit: Ints, held: Ints, seed: int) -> tuple[TunedEncoder, float]:
        """The encoder at the epoch that was best on the held-out rows (the last, where there are none), and its summed loss there."""
        torch.manual_seed(seed)
        tuned = self._begin(problem, fit)
        centre, scale = problem.scaling(fit)
        y = (problem.target - centre) / scale
        steps = math.ceil(len(fit) / self.config.batch)
        optimizer, order = torch.optim.AdamW(_parameter_groups(tuned, self.config), betas=self.config.betas), np.random.default_rng(seed)
        best, best_loss, best_epoch = deepcopy(tuned.state_dict()), self._loss(tuned, problem, held, y), 0
        for epoch in range(self.config.epochs):
            rows = order.permutation(fit)
            for step in range(steps):
                batch = rows[step * self.config.batch : (step + 1) * self.config.batch]
                clips = [self._clip(row, self._draw(row, (seed, epoch, int(row)))) for row in batch]
                _set_rates(optimizer, self.config, epoch * steps + step, steps)
                optimizer.zero_grad(set_to_none=True)
                wanted = torch.from_numpy(y[batch]).to(self.device)
                task_loss(tuned(clips), wanted, problem).backward()
                nn.utils.clip_grad_norm_(tuned.parameters(), self.config.clip)
                optimizer.step()
            loss = self._loss(tuned, problem, held, y)
            if loss < best_loss or not len(held):
                best, best_loss, best_epoch = deepcopy(tuned.state_dict()), loss, epoch + 1
            if epoch + 1 - best_epoch >= self.config.patience:
                break
        tuned.load_state_dict(best)
        return tuned, best_loss

    @torch.no_grad()
    def _begin(self, problem: PredictionProblem, fit: Ints) -> TunedEncoder:
        tuned = TunedEncoder(self.encoder, problem.n_outputs).to(self.device)
        tuned.begin(torch.cat([tuned.pooled([self._scored(row)]) for row in fit]))
        start_at_prior(tuned.head, problem, fit)
        return tuned

    def _loss(self, tuned: TunedEncoder, problem: PredictionProblem, rows: Ints, y: Floats) -> float:
        return summed_loss(self._predict(tuned, problem, rows), y[rows], problem.kind)

    @torch.no_grad()
    def _predict(self, tuned: TunedEncoder, problem: PredictionProblem, rows: Ints) -> Floats:
        """(rows, K) probabilities, or standardised values, each from all scored windows of the session together."""
        said = [tuned([self._scored(row)]) for row in rows]
        return as_scores(torch.cat(said) if said else torch.zeros(0, problem.n_outputs), problem.classes)

    def _scored(self, row: int) -> Clip:
        return self._clip(row, self.views[self.keys[row]].scored)

    def _draw(self, row: int, seed: tuple[int, int, int]) -> Ints:
        views = self.views[self.keys[row]]
        return np.sort(np.random.default_rng(seed).permutation(np.array(views.drawn_from))[: len(views.scored)])

    def _clip(self, row: int, windows: Sequence[int] | Ints) -> Clip:
        return read_clip(self.store, self.store.session(self.keys[row]), windows, self.frames)

    def _fingerprint(self, problem: PredictionProblem, split: Split, seed: int) -> str:
        """Of everything that decides what a fold gives, but for the voxels, whose sessions are named."""
        digest = hashlib.sha256()
        for name, value in self.encoder.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        views = [(key, self.views[key].scored, self.views[key].drawn_from) for key in self.keys]
        rows = [part.tolist() for part in (split.train, split.valid, split.test)]
        facts = [views, rows, seed, problem.classes, problem.target.tolist(), list(map(str, problem.subjects))]
        facts += [] if problem.groups is None else [list(map(str, problem.groups))]
        settings = [self.config.model_dump(), self.frames, str(self.store.root.resolve()), self.store.contract.to_dict()]
        digest.update(json.dumps([facts, settings]).encode())
        return digest.hexdigest()[:24]


def _parameter_groups(tuned: TunedEncoder, config: FinetuneConfig) -> list[dict[str, Any]]:
    """One group for each layer, with and without weight decay: `peak` is the layer's learning rate after warm-up.

    The head learns at `head_lr`, the last norm at `lr`, block i of n at `lr * layer_decay ** (n - i)` counted from 0, patch
    embedding and positions one step below the first block. Vectors (biases, norms) do not decay.
    """
    n_blocks = len(tuned.encoder.blocks)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in tuned.named_parameters():
        peak = config.head_lr if name.startswith("head.") else config.lr * config.layer_decay ** (n_blocks + 1 - _layer(name, n_blocks))
        groups.setdefault((peak, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "peak": peak, "lr": peak, "weight_decay": config.weight_decay if decays else 0.0}
        for (peak, decays), members in groups.items()
    ]


def _layer(name: str, n_blocks: int) -> int:
    """0 for what comes before the first block, i + 1 for block i, and one more for the last norm."""
    part, _, rest = name.removeprefix("encoder.").partition(".")
    if part == "blocks":
        return int(rest.split(".")[0]) + 1
    return n_blocks + 1 if part == "norm" else 0


def _set_rates(optimizer: torch.optim.Optimizer, config: FinetuneConfig, step: int, steps_per_epoch: int) -> None:
    """Warm-up, then a cosine from each group's peak; all groups end in the same proportion, the encoder's last layer at `final_lr`."""
    schedule = TrainConfig(
        steps=config.epochs * steps_per_epoch, warmup=config.warmup_epochs * steps_per_epoch, lr=config.lr, final_lr=config.final_lr
    )
    share = learning_rate(step, schedule) / config.lr
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def require_encoder(model: object, source: object) -> Hiera:
    """The encoder of a stage 2 model.

    Raises
    ------
    InputError
        If the model is one of stage 1.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Hiera):
        raise InputError(f"{source}: is a model of stage 1, and fine-tuning is for stage 2; give RUN/model of `slimbrain pretrain voxel`.")
    return encoder
