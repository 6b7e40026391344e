"""Several processes that train one model: their ranks, what they exchange, how the model is sharded over them.

Every function also works in a single process, so that training has one path. Processes are started by `torchrun`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
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
        # Objects that still refer to the group at exit make gloo abort in one of ten runs; models do, in reference cycles.
        gc.collect()
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: `torchrun` starts one for each CUDA device of a machine."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def all_reduce(values: Tensor) -> Tensor:
    """Sum `values` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_named(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Sums over all processes of numbers that all of them have under the same names."""
    sums = all_reduce(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, sums.tolist(), strict=True))


def broadcast(value: _Value) -> _Value:
    """What the first process has, on all of them."""
    box: list[Any] = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def all_gather(value: _Value) -> list[_Value]:
    """What each process has, by rank, on all of them."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def barrier() -> None:
    """Return once all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def parallelize(step: nn.Module, kind: _Parallel, shards: Sequence[nn.Module]) -> nn.Module:
    """Average the gradients of `step` over the processes, a module whose forward pass gives the loss.

    Parameters
    ----------
    kind : Parallel
        `ddp` keeps the whole model in each process; `fsdp2` shards every weight.
    shards : sequence of nn.Module
        Modules that `fsdp2` gathers one after the other; what is in none of them is gathered once per step.

    Returns
    -------
    The module to call; gradients are averaged over processes in the backward pass.
    """
    if world_size() == 1:
        return step
    if kind == "ddp":
        ddp = nn.parallel.DistributedDataParallel
        # Before torch 2.14 the setting had another name.
        broadcast = "forward_sync_buffers" if "forward_sync_buffers" in signature(ddp).parameters else "broadcast_buffers"
        # Buffers are kept equal by whoever changes them; broadcasting the first process's would lose the others' statistics.
        settings: dict[str, Any] = {broadcast: False}
        return ddp(step, gradient_as_bucket_view=True, **settings)
    from torch.distributed.fsdp import fully_shard

    if not shards:
        raise InputError("parallel: fsdp2 shards stage 2 only, stage 1 is small; set train_temporal.parallel=ddp.")
    for module in (*shards, step):
        fully_shard(module)
    return step


@contextmanager
def defer_grad_sync(step: nn.Module, later: bool) -> Iterator[None]:
    """Do not exchange the gradients of this backward pass if `later`: a following one will exchange them all."""
    if isinstance(step, nn.parallel.DistributedDataParallel):
        step.require_backward_grad_sync = not later
    elif world_size() > 1:
        cast("FSDPModule", step).set_requires_gradient_sync(not later)
    yield
