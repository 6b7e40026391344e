"""The series of short windows themselves as features, without connectivity: in a linear model, and in a small perceptron.

Where states differ in what is active, not in what goes together, a perceptron on raw parcel series is a stronger baseline than
connectivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimbrain.evaluate.probes import FeatureSet, Fitted, ranking_loss
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import PredictionProblem, Split, inner_splits
from slimbrain.evaluate.stats import Floats, Ints

RAW = "raw series"
_MOST_VALUES = 4096
"""Values per sample: longer windows are averaged over neighbouring frames first, which the memory of thousands of samples asks for."""
_HIDDEN, _DROPOUT = 128, 0.3
_EPOCHS, _PATIENCE, _BATCH, _LR, _WEIGHT_DECAY = 100, 10, 64, 1e-3, 1e-2


def raw_series(series: ChannelSeries, keys: Sequence[str]) -> list[FeatureSet | RawPerceptron]:
    """The flattened windows of equal length, for a linear model and for a perceptron with one hidden layer."""
    data = np.stack([_shortened(series.channels(key)).ravel() for key in keys])
    return [FeatureSet(RAW, "linear model", data), RawPerceptron(data.astype(np.float32))]


def _shortened(window: Floats) -> Floats:
    """(T', C) means over neighbouring frames, so that a sample has at most `_MOST_VALUES` values."""
    frames, channels = window.shape
    step = max(1, -(-frames * channels // _MOST_VALUES))
    starts = np.arange(0, frames, step)
    means: Floats = np.add.reduceat(window, starts, axis=0) / np.diff([*starts, frames])[:, None]
    return means


@dataclass(frozen=True, eq=False)
class RawPerceptron:
    """A perceptron on raw windows, stopped early on held-out training subjects; the mean of three such, one per inner part.

    Attributes
    ----------
    data : ndarray of float32
        (N, D) one flattened window per sample.
    """

    data: NDArray[np.float32]
    model: str = RAW
    method: str = "perceptron"

    def __len__(self) -> int:
        return len(self.data)

    def fit_predict(self, problem: PredictionProblem, split: Split, seed: int) -> Fitted:
        """Train on the training rows and predict the test rows."""
        centre, scale = problem.scaling(split.train)
        mean, std = self.data[split.train].mean(axis=0), self.data[split.train].std(axis=0)
        x = torch.from_numpy((self.data - mean) / np.where(std > 0, std, 1))
        y = (problem.target - centre) / scale
        parts = inner_splits(problem, split, seed) or [(split.train, split.train)]
        said, losses = [], []
        for place, (rows, held) in enumerate(parts):
            network = _train(x, y, problem, rows, held, seed * len(parts) + place)
            said.append(_predict(network, x[split.test], problem))
            losses.append(ranking_loss(_predict(network, x[held], problem), y[held], problem.kind))
        return Fitted(np.mean(said, axis=0) * scale + centre, scale, float(np.mean(losses)))


def _train(x: Tensor, y: Floats, problem: PredictionProblem, rows: Ints, held: Ints, seed: int) -> nn.Module:
    """The network at the epoch with the least loss on the held-out rows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(x.shape[1], _HIDDEN), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(_HIDDEN, problem.n_outputs))
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
        truth = torch.from_numpy(y.astype(np.int64 if problem.classes else np.float32))
        best: tuple[float, dict[str, Tensor]] = float("inf"), {}
        waited = 0
        for _ in range(_EPOCHS):
            network.train()
            for batch in torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)].split(_BATCH):
                optimizer.zero_grad()
                _loss(network(x[batch]), truth[batch]).backward()
                optimizer.step()
            network.eval()
            with torch.inference_mode():
                loss = float(_loss(network(x[held]), truth[torch.from_numpy(held)]))
            waited = 0 if loss < best[0] else waited + 1
            if not waited:
                best = loss, {name: value.clone() for name, value in network.state_dict().items()}
            elif waited > _PATIENCE:
                break
    network.load_state_dict(best[1])
    return network


def _loss(outputs: Tensor, truth: Tensor) -> Tensor:
    if truth.is_floating_point():
        return nn.functional.mse_loss(outputs[:, 0], truth)
    return nn.functional.cross_entropy(outputs, truth)


@torch.inference_mode()
def _predict(network: nn.Module, x: Tensor, problem: PredictionProblem) -> Floats:
    """(M, K) probabilities, or (M, 1) values in units of the training targets' deviation."""
    outputs = network.eval()(x)
    said: Floats = (outputs.softmax(1) if problem.classes else outputs).double().numpy()
    return said
