"""Weights that follow training: more draws for components that are predicted badly, and for those whose gradients help the others.

At the end of every interval two things are measured on each component's held-out sessions: their loss, as in group distributionally
robust optimisation (Sagawa et al. 2020, arXiv 1911.08731; DoReMi, arXiv 2305.10429), and how well does the gradient of that loss point
along the mean of all components' gradients, as in DoGE (arXiv 2310.15393). Both move the weights multiplicatively; a floor keeps every
component alive. Differences from these papers: no reference model and no proxy model, one clip per component and interval, gradients of
a part of the network and by their cosine, so that no component counts more because its gradients are long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from slimbrain.config import AdaptiveConfig
from slimbrain.data.samplers import apportion, limited, weight_at
from slimbrain.errors import InputError
from slimbrain.train.distributed import all_reduce, rank, world_size
from slimbrain.train.stages import Stage

_KNOWN_AHEAD = 2
"""Intervals whose weights are fixed in advance: workers prefetch, so a measurement changes the weights of the interval after the next,
for any number of workers."""

_DIGITS = 6
"""Decimals of logarithms of weights: several processes add up gradients in another order than one."""


def _adjusted(logs: Sequence[float], losses: Sequence[float], alignments: Sequence[float], config: AdaptiveConfig) -> list[float]:
    """Logarithms of weights after one adjustment.

    log w += rate * (loss / mean loss - 1 + alignment - mean alignment), or one of the two parts; then shifted so that the largest is 0.

    Parameters
    ----------
    losses : sequence of float
        Held-out loss of each component.
    alignments : sequence of float
        Cosine of each component's gradient with the mean gradient.
    """
    mean_loss, mean_alignment = math.fsum(losses) / len(losses), math.fsum(alignments) / len(alignments)
    moved = []
    for log, loss, alignment in zip(logs, losses, alignments, strict=True):
        excess = loss / mean_loss - 1 if config.signal != "alignment" and mean_loss > 0 else 0.0
        help_given = alignment - mean_alignment if config.signal != "loss" else 0.0
        moved.append(log + config.rate * (excess + help_given))
    return [round(value - max(moved), _DIGITS) for value in moved]


def shares(logs: Sequence[float], floor: float) -> list[float]:
    """Weights from their logarithms: sum 1, none under the floor."""
    plain = [math.exp(log) for log in logs]
    return [floor + (1 - floor * len(logs)) * value / math.fsum(plain) for value in plain]


class Adapter:
    """Sets the weights of a stage's mixture, interval by interval.

    Parameters
    ----------
    stage : Stage
        What is trained; its draws hold sessions out.
    config : AdaptiveConfig
        Intervals, floor, rate.
    precision : callable
        Makes the context that forward passes run in.

    Raises
    ------
    InputError
        If the floor cannot be kept.
    """

    def __init__(self, stage: Stage, config: AdaptiveConfig, precision: Callable[[], AbstractContextManager[object]]) -> None:
        self.stage, self.config, self.precision = stage, config, precision
        self.mixture, self.names = stage.draws.mixture, stage.draws.mixture.cohorts
        self.draws = config.every * stage.draws.pace.per_step
        if config.floor * len(self.names) > 1:
            raise InputError(f"mixture: adaptive.floor {config.floor:g} times {len(self.names)} components is more than 1; lower it.")
        if config.floor * self.draws < 1:
            raise InputError(
                f"mixture: adaptive.floor {config.floor:g} of the {self.draws} draws in an interval is less than one draw; "
                f"raise it, or adaptive.every to {math.ceil(1 / config.floor / stage.draws.pace.per_step)}."
            )
        self.intervals: list[tuple[int, ...]] = []
        self.owed = [0.0] * len(self.names)
        self.logs: list[float] = []
        self.measured: dict[str, float] = {}

    def begin(self) -> None:
        """Weights as declared, for the intervals before anything is measured."""
        given = self.stage.draws.weights or dict.fromkeys(self.names, 1.0)
        largest = max(weight_at(given[name], 0) for name in self.names)
        self.logs = [round(math.log(weight_at(given[name], 0) / largest), _DIGITS) for name in self.names]
        for _ in range(_KNOWN_AHEAD):
            self._extend()

    def after_step(self, step: int) -> None:
        """At the end of an interval, measure and decide the weights of the interval after the next."""
        if (step + 1) % self.config.every:
            return
        losses, alignments = self.measure((step + 1) // self.config.every - 1)
        self.logs = _adjusted(self.logs, losses, alignments, self.config)
        self._extend()
        for name, loss, alignment in zip(self.names, losses, alignments, strict=True):
            self.measured |= {f"held_out_{name}": loss, f"alignment_{name}": alignment}

    def state(self) -> dict[str, Any]:
        """Everything that decides the draws to come, as JSON."""
        return {"intervals": self.intervals, "owed": self.owed, "logs": self.logs, "measured": self.measured}

    def load(self, state: dict[str, Any]) -> None:
        """Resume from what `state` gave."""
        self.owed, self.logs, self.measured = list(state["owed"]), list(state["logs"]), dict(state["measured"])
        for quotas in state["intervals"]:
            self.intervals.append(tuple(quotas))
            self.mixture.extend(self.draws, tuple(quotas))

    def _extend(self) -> None:
        sizes = [len(numbers) for numbers in self.mixture.members]
        wanted = limited(shares(self.logs, self.config.floor), sizes, self.mixture.cap)
        quotas = apportion(wanted, self.draws, self.owed)
        total = math.fsum(wanted)
        self.owed = [debt + share / total * self.draws - quota for debt, share, quota in zip(self.owed, wanted, quotas, strict=True)]
        self.intervals.append(quotas)
        self.mixture.extend(self.draws, quotas)

    def measure(self, interval: int) -> tuple[list[float], list[float]]:
        """Held-out loss of each component, and the cosine of its gradient with the mean of all.

        The components are split over the processes, which exchange one gradient and three numbers per component.

        Parameters
        ----------
        interval : int
            Decides which held-out session, windows and masks.
        """
        device = next(self.stage.model.parameters()).device
        mine = range(rank(), len(self.names), world_size())
        found = torch.zeros(len(self.names), 3, dtype=torch.float64, device=device)
        gradients: dict[int, Tensor] = {}
        for component in mine:
            pick = self.stage.draws.pick_held_out(self.names[component], interval)
            with self.stage.without_trace(), self.precision():
                loss = self.stage.held_out_loss([self.stage.draws[pick]])
            gradients[component] = _flat(torch.autograd.grad(loss, self.stage.probed, allow_unused=True), self.stage.probed)
            found[component, 0] = loss.detach()
        size = sum(parameter.numel() for parameter in self.stage.probed)
        mean = all_reduce(sum(gradients.values(), torch.zeros(size, device=device))) / len(self.names)
        for component, gradient in gradients.items():
            found[component, 1], found[component, 2] = gradient @ mean, gradient.norm()
        losses, inner, norms = all_reduce(found).T.tolist()
        length = float(mean.norm())
        # A gradient that overflowed in half precision, or vanished, is no evidence.
        cosines = [dot / (norm * length) if 0 < norm * length < math.inf else 0.0 for dot, norm in zip(inner, norms, strict=True)]
        return losses, cosines


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """(Q,) float32; zeros where a parameter had no part."""
    parts = [
        torch.zeros_like(parameter) if gradient is None else gradient for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    return torch.cat([part.detach().float().flatten() for part in parts])
