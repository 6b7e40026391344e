"""What changes from step to step: learning rate, weight decay, EMA momentum."""

from __future__ import annotations

import math

from slimbrain.config import JepaConfig, TrainConfig


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` at `progress` 0 to `end` at 1, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to `lr`, then a cosine to `final_lr` at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return _cosine(config.lr, config.final_lr, (step - config.warmup) / max(1, config.steps - 1 - config.warmup))


def weight_decay(step: int, config: TrainConfig) -> float:
    """A cosine from `weight_decay` to `final_weight_decay`, as in I-JEPA (arXiv 2301.08243); constant without the latter."""
    end = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    return _cosine(config.weight_decay, end, step / max(1, config.steps - 1))


def momentum(progress: float, config: JepaConfig) -> float:
    """EMA momentum: a cosine from `ema_start` to `ema_end`, as in I-JEPA."""
    return _cosine(config.ema_start, config.ema_end, progress)
