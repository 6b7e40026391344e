"""How large a network or a training step is at least, in closed form: asked before anything is built.

Only the terms that grow without bound are counted, so that a size is never overstated; `slimbrain plan` follows a whole step.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from slimbrain.config import HieraConfig, JepaConfig, Preset, TemporalConfig
from slimbrain.errors import InputError

_GIB = 2**30
_FLOAT_BYTES = 4
_ADAM_COPIES = 4
"""Of every trained weight: itself, its gradient and two moments."""

_KEPT_PER_BLOCK = 10
"""Tensors as large as its input that a block of stage 1 keeps for the backward pass, at least: two norms' outputs, two qkv, two hidden."""


def temporal_parameters(config: TemporalConfig) -> int:
    """Weights of stage 1: two attentions and a perceptron per block."""
    width = config.width
    return config.depth * (8 * width**2 + 2 * width * int(width * config.mlp_ratio))


def _encoder_parameters(config: HieraConfig) -> int:
    """Weights of one encoder of stage 2: attention and perceptron per block, and learned positions."""
    widths = [config.embed * 2**level for level in range(len(config.depths))]
    blocks = sum(
        depth * (4 * width**2 + 2 * width * int(width * config.mlp_ratio)) for depth, width in zip(config.depths, widths, strict=True)
    )
    side, frames = config.learned_positions or (0, 0)
    # The first block of a level maps the narrower width of the level before.
    narrower = sum(3 * width * width // 2 for width in widths[1:])
    return blocks - narrower + (side**3 + frames) * config.embed


def _predictor_parameters(config: JepaConfig) -> int:
    """Weights of stage 2's predictor."""
    return config.predictor_depth * 12 * config.predictor_width**2


def jepa_parameters(config: HieraConfig, jepa: JepaConfig) -> int:
    """Weights of stage 2: context encoder, target encoder and predictor."""
    return 2 * _encoder_parameters(config) + _predictor_parameters(jepa)


def temporal_step_bytes(preset: Preset, frames: int, channels: int) -> int:
    """Memory of a training step of stage 1 on sessions of so many frames and channels."""
    config = preset.temporal
    if preset.augment.frames is not None:
        frames = min(frames, preset.augment.frames[1])
    tokens = frames // config.window_frames * config.groups * config.width
    each = _FLOAT_BYTES * (frames * channels + config.depth * _KEPT_PER_BLOCK * tokens)
    return _ADAM_COPIES * _FLOAT_BYTES * temporal_parameters(config) + preset.train_temporal.batch * preset.augment.masks * each


def voxel_step_bytes(preset: Preset, patches: int, voxels_per_patch: int, shards: int = 1) -> int:
    """Memory of a training step of stage 2 on a grid of so many patches.

    Parameters
    ----------
    preset : Preset
        Whose networks and micro-batch are counted.
    patches, voxels_per_patch : int
        Of the grid.
    shards : int
        Processes that the weights are spread over.
    """
    frames = preset.window.frames * preset.window.k
    encoder = _encoder_parameters(preset.voxel)
    weights = _ADAM_COPIES * (encoder + _predictor_parameters(preset.jepa)) + encoder
    voxels = 2 * frames * patches * voxels_per_patch
    context = preset.jepa.context_fraction * frames * patches * preset.voxel.embed / preset.voxel.patch_frames
    return _FLOAT_BYTES * weights // shards + preset.train_voxel.batch * (voxels + int(_FLOAT_BYTES * context))


def memory_bytes() -> tuple[int, int]:
    """All memory that this process may use, and what of it is free; a container's limit counts."""
    memory = psutil.virtual_memory()
    total = memory.total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        total = min(total, int(text))
    return total, min(memory.available, total)


def require_memory(what: str, needed: int, advice: str, device: torch.device | None = None) -> None:
    """Refuse work that cannot fit, before any of it is allocated.

    Parameters
    ----------
    what : str
        Subject of the sentence that refuses.
    needed : int
        Bytes, at least.
    advice : str
        What to change.
    device : torch.device
        Where it would run; this machine's memory counts if it is not CUDA.

    Raises
    ------
    InputError
        If all the memory there is would not be enough.
    """
    cuda = device is not None and device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if cuda else memory_bytes()[0]
    if needed > total:
        where = "the device" if cuda else "this machine"
        raise InputError(f"{what} takes at least {needed / _GIB:,.1f} GiB, {where} has {total / _GIB:,.1f} GiB; {advice}.")
