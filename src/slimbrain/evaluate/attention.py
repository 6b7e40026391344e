"""An attention probe on frozen unit tokens: one learnt query decides which places and moments count, a linear layer reads them.

The query starts at zero, so training starts from the mean over tokens. It stops by held-out subjects of the training set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.errors import InputError
from slimbrain.evaluate.probes import Fitted, summed_loss
from slimbrain.evaluate.result import ATTENTION
from slimbrain.evaluate.splits import INNER_SPLITS, PredictionProblem, Split, inner_splits
from slimbrain.evaluate.stats import Floats, Ints

EPOCHS, _PATIENCE, _BATCH = 60, 10, 16
_LEARNING_RATE, _WEIGHT_DECAY = 1e-2, 0.01
_UNSTOPPED_EPOCHS = 10
"""Epochs where the training subjects are too few to hold some out."""

_SMALLEST_SPREAD = 1e-6
"""A feature whose deviation is below this is constant but for rounding, and must not be blown up to noise."""


class _AttentionReader(nn.Module):
    """Softmax attention of one query over a session's tokens, then a linear layer.

    Parameters
    ----------
    mean, spread : Tensor
        (D,) of all training tokens, which come in standardised.
    pooled_spread : Tensor
        (D,) deviation of the standardised session means over the training sessions: tokens of one session differ more
        than sessions do, and without it a step would move the linear layer by next to nothing.
    outputs : int
        K.
    """

    mean: Tensor
    spread: Tensor
    pooled_spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, pooled_spread: Tensor, outputs: int) -> None:
        super().__init__()
        width = len(mean)
        for name, value in (("mean", mean), ("spread", spread), ("pooled_spread", pooled_spread)):
            self.register_buffer(name, value)
        self.query = nn.Parameter(torch.zeros(width))
        self.read = nn.Linear(width, outputs)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, K) logits or values from (B, L, D) tokens, of which those that are `real` (B, L) count."""
        x = (tokens.float() - self.mean) / self.spread
        weight = (x @ self.query).masked_fill(~real, -math.inf).softmax(dim=1)
        pooled = (weight[:, None] @ x)[:, 0] / self.pooled_spread
        return self.read(pooled / math.sqrt(x.shape[-1]))


@dataclass(frozen=True, eq=False)
class AttentionProbe:
    """One row of the table: the tokens of N sessions, all windows of a session together.

    Attributes
    ----------
    model : str
        Name for the table.
    tokens : Sequence[Tensor]
        For each session (L, D); L may differ.
    """

    model: str
    tokens: Sequence[Tensor]
    method: str = ATTENTION

    def __post_init__(self) -> None:
        if not all(bool(torch.isfinite(values).all()) for values in self.tokens):
            raise InputError(f"{self.model} ({self.method}): tokens hold NaN or infinity; drop those sessions or embed them again.")

    def __len__(self) -> int:
        return len(self.tokens)

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Train a reader for each inner split and average what they say of the test rows.

        Without validation rows in the split there are three inner ones, so that every training subject teaches two of three readers.
        """
        said, losses, counts = [], 0.0, 0
        for fold, (fit, held) in enumerate(inner_splits(problem, split, seed) or [(split.train, split.train[:0])]):
            reader, loss = self._train(problem, fit, held, INNER_SPLITS * seed + fold)
            centre, scale = problem.scaling(fit)
            said.append(self._predict(reader, problem, split.test) * scale + centre)
            losses, counts = losses + loss, counts + len(held)
        return Fitted(np.mean(said, axis=0), problem.scaling(split.train)[1], losses / counts if counts else math.inf)

    def _train(self, problem: PredictionProblem, fit: Ints, held: Ints, seed: int) -> tuple[_AttentionReader, float]:
        """The reader at the epoch that was best on the held-out rows, and its summed loss there."""
        reader, order = self._reader(problem, fit), np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(reader.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        centre, scale = problem.scaling(fit)
        y = (problem.target - centre) / scale
        best, best_loss, best_epoch = deepcopy(reader.state_dict()), self._loss(reader, problem, held, y), 0
        for epoch in range(1, 1 + (EPOCHS if len(held) else _UNSTOPPED_EPOCHS)):
            rows = order.permutation(fit)
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                optimizer.zero_grad(set_to_none=True)
                task_loss(reader(*self._padded(batch)), torch.from_numpy(y[batch]), problem).backward()
                optimizer.step()
            loss = self._loss(reader, problem, held, y)
            if loss < best_loss or not len(held):
                best, best_loss, best_epoch = deepcopy(reader.state_dict()), loss, epoch
            if epoch - best_epoch >= _PATIENCE:
                break
        reader.load_state_dict(best)
        return reader, best_loss

    def _reader(self, problem: PredictionProblem, rows: Ints) -> _AttentionReader:
        """A fresh reader that knows the training tokens' mean and spread, and starts at the prior."""
        totals = [(values.double().sum(0), values.double().square().sum(0)) for values in (self.tokens[row] for row in rows)]
        count = sum(len(self.tokens[row]) for row in rows)
        first, second = (torch.stack(parts).sum(0) / count for parts in zip(*totals, strict=True))
        spread = usable_spread((second - first.square()).clamp_min(0).sqrt())
        means = torch.stack([(self.tokens[row].double().mean(0) - first) / spread for row in rows])
        reader = _AttentionReader(first.float(), spread.float(), usable_spread(means.std(0, unbiased=False)).float(), problem.n_outputs)
        start_at_prior(reader.read, problem, rows)
        return reader

    @torch.no_grad()
    def _loss(self, reader: _AttentionReader, problem: PredictionProblem, rows: Ints, y: Floats) -> float:
        return summed_loss(self._predict(reader, problem, rows), y[rows], problem.kind)

    @torch.no_grad()
    def _predict(self, reader: _AttentionReader, problem: PredictionProblem, rows: Ints) -> Floats:
        """(rows, K) probabilities, or standardised values."""
        parts = [reader(*self._padded(rows[start : start + _BATCH])) for start in range(0, len(rows), _BATCH)]
        return as_scores(torch.cat(parts) if parts else torch.zeros(0, problem.n_outputs), problem.classes)

    def _padded(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """(B, L, D) tokens and which are real (B, L)."""
        members = [self.tokens[row] for row in rows]
        lengths = torch.tensor([len(values) for values in members])
        return nn.utils.rnn.pad_sequence(members, batch_first=True), torch.arange(int(lengths.max())) < lengths[:, None]


def usable_spread(spread: Tensor) -> Tensor:
    """The deviations to divide by: 1 for features that are constant but for rounding."""
    return torch.where(spread < _SMALLEST_SPREAD, 1.0, spread)


def start_at_prior(layer: nn.Linear, problem: PredictionProblem, rows: Ints) -> None:
    """Let a last layer say what is known without looking: the training rows' share of each class, or their mean."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    if problem.classes:
        counts = np.bincount(problem.target[rows].astype(np.int64), minlength=problem.n_outputs)
        # A class that is missing from the inner split is unlikely, not impossible.
        share = (counts + 1) / (counts.sum() + len(counts))
        with torch.no_grad():
            layer.bias.copy_(torch.from_numpy(np.log(share)))


def task_loss(said: Tensor, y: Tensor, problem: PredictionProblem) -> Tensor:
    """Mean cross-entropy of logits (B, K), or squared error of values (B, 1), against y (B,)."""
    if problem.kind == "regression":
        return functional.mse_loss(said[:, 0], y.to(said.dtype))
    return functional.cross_entropy(said, y.long())


def as_scores(said: Tensor, classes: Sequence[str]) -> Floats:
    """(rows, K) probabilities of logits where there are classes, or values as they are."""
    said = said.double().cpu()
    scores: Floats = (said.softmax(dim=1) if classes else said).numpy()
    return scores
