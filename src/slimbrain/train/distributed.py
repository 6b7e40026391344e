"""Several processes that train one model: who they are, what they tell each other, how the model is spread over them.

Every function also serves a process that is alone, so that training has one path. Processes are started by `torchrun`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from slimbrain.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

_Value = TypeVar("_Value")
_Parallel = Literal["ddp", "fsdp2"]


def rank() -> int:
    """Number of this process, from 0; the first one writes logs and models."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, for as long as the block lasts; nothing if this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # What still refers to the group when the program ends lets gloo abort it, in one of ten runs; models do, in cycles.
        gc.collect()
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: `torchrun` starts one for each CUDA device of a machine."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def add_up(values: Tensor) -> Tensor:
    """Replace `values`, in place, by their sum over all processes."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def add_up_named(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Sums over all processes of numbers that all of them have under the same names."""
    sums = add_up(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, sums.tolist(), strict=True))


def from_first(value: _Value) -> _Value:
    """What the first process has, on all of them."""
    box: list[Any] = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def gather(value: _Value) -> list[_Value]:
    """What each process has, by rank, on all of them."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def wait() -> None:
    """Return once all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def parallelize(step: nn.Module, kind: _Parallel, shards: Sequence[nn.Module]) -> nn.Module:
    """Let the processes share the gradients of `step`, a module whose forward pass gives the loss.

    Parameters
    ----------
    kind : `ddp` keeps the whole model in each process; `fsdp2` shards each weight.
    shards : modules that `fsdp2` gathers one after the other; what is in none of them is gathered once per step.

    Returns
    -------
    The module to call; gradients are averaged over processes in the backward pass.
    """
    if world_size() == 1:
        return step
    if kind == "ddp":
        # Buffers are kept equal by whoever changes them; sending the first process's would lose what the others have seen.
        return nn.parallel.DistributedDataParallel(step, broadcast_buffers=False, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import fully_shard

    if not shards:
        raise InputError("parallel: fsdp2 shards stage 2 only, stage 1 is small; set train_temporal.parallel=ddp.")
    for module in (*shards, step):
        fully_shard(module)
    return step


@contextmanager
def defer_grad_sync(step: nn.Module, later: bool) -> Iterator[None]:
    """Keep the gradients of this backward pass to oneself if `later`: a following one will share them all."""
    if isinstance(step, nn.parallel.DistributedDataParallel):
        step.require_backward_grad_sync = not later
    elif world_size() > 1:
        cast("FSDPModule", step).set_requires_gradient_sync(not later)
    yield
