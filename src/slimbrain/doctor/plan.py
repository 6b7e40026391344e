"""What a training step of stage 2 costs: parameters, FLOPs, bytes kept for backward and the peak, without running it.

The step runs on fake tensors, which have shapes and no memory, while every storage that is made and dropped is tracked. The
prediction therefore follows the code, with recomputation, autocast and in-place operations.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from slimbrain.config import Preset
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, typical_mask
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.packing import DEVICE_BLOCK_TOKENS
from slimbrain.models.size import jepa_parameters, require_memory
from slimbrain.progress import track

_MIB, _GIB = 2**20, 2**30
_PARTS = ("target", "context", "predictor")
_DEVICES_GIB = (16, 24, 40, 80)

_CPU_FIXED_MIB, _CPU_SLACK = 90.0, 1.07
"""Resident memory beyond the tracked peak: buffers of the matrix library, and what malloc holds between blocks of many sizes.

Fitted to the float32 settings of benchmarks/plan.py; half precision on a CPU takes more, see docs/plan.md.
"""

_CUDA_RESERVE_GIB, _CUDA_SLACK = 1.0, 1.1
"""CUDA's context and cuBLAS's workspace, and what the caching allocator rounds up. Not measured: no device was available."""


@dataclass(frozen=True)
class StepCost:
    """What one step takes.

    Attributes
    ----------
    batch, frames, precision, device, recompute : int, int, str, str, bool
        What it was planned for.
    context_share : float
        Share of the brain's tokens that the planned mask shows.
    parameters : dict of str to int
        Weights of context encoder, target encoder and predictor.
    gflops : dict of str to float
        GFLOPs of each part's forward pass, and of `backward` with its recomputation.
    global_attention_share : float
        Share of the encoders' forward FLOPs in attention among all tokens of a clip.
    saved_mib : float
        Bytes held between forward and backward pass, parameters left out.
    mib : dict of str to float
        `weights`, `target` (the running mean), `gradients`, `optimizer`, `inputs` (voxels), and `passes`, the rest of the peak.
    peak_mib : float
        Most bytes alive at a time.
    """

    batch: int
    frames: int
    precision: str
    device: str
    recompute: bool
    context_share: float
    parameters: dict[str, int]
    gflops: dict[str, float]
    global_attention_share: float
    saved_mib: float
    mib: dict[str, float]
    peak_mib: float

    @property
    def expected_mib(self) -> float:
        """Expected measurement: resident memory of the process once everything is imported, or memory of the device."""
        if self.device == "cpu":
            return self.peak_mib * _CPU_SLACK + _CPU_FIXED_MIB
        return self.peak_mib * _CUDA_SLACK + _CUDA_RESERVE_GIB * 1024


def plan_step(
    preset: Preset,
    grid: Grid,
    batch: int,
    frames: int,
    precision: str = "float32",
    device: str = "cpu",
) -> StepCost:
    """Plan one training step of stage 2: forward, backward, AdamW, running mean. Tensors have shapes and no memory.

    Parameters
    ----------
    preset : Preset
        The network and what it predicts.
    grid : Grid
        The brain mask decides how many patches there are.
    batch : int
        Clips per micro-batch.
    frames : int
        Frames of a clip; `window.frames * window.k` in training.
    precision : str
        `float32`, `bfloat16` or `float16`.
    device : str
        `cpu`, or `cuda`, whose larger blocks hold more at a time. Neither needs to be there.

    Returns
    -------
    StepCost
        Weights per part, GFLOPs, and MiB at the peak.

    Raises
    ------
    InputError
        If the frames are not a whole number of the encoder's time units, there is no such precision or device, or the weights alone
        do not fit this machine's memory.

    Examples
    --------
    >>> from slimbrain import Grid
    >>> from slimbrain.config import load_preset
    >>> from slimbrain.doctor.plan import plan_step
    >>> cost = plan_step(load_preset("tiny"), Grid.mni152("8mm"), batch=1, frames=8)
    >>> sum(cost.parameters.values()), cost.peak_mib < cost.expected_mib < 1024
    (540416, True)
    """
    _check_choices(frames, preset.voxel.unit_frames, precision, device)
    weights = 4 * jepa_parameters(preset.voxel, preset.jepa)
    require_memory("plan: to hold the weights of this network", weights, "lower voxel.embed, voxel.depths or voxel.learned_positions")
    clip = _clip(grid, frames)
    mask, share = typical_mask(grid, preset, frames)
    with torch.random.fork_rng(devices=[]):
        model = HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch)
    make_fake(model, FakeTensorMode(allow_non_fake_inputs=True))
    if device == "cuda":
        for encoder in (model.context, model.target):
            encoder.block_tokens = DEVICE_BLOCK_TOKENS
    ledger = _StorageTracker()
    ledger.know("target", [*model.target.parameters(), *model.buffers()])
    ledger.know("weights", [p for p in model.parameters() if p.requires_grad])
    ledger.know("inputs", [clip.voxels], times=batch)
    saved, peak = _follow_step(model, [clip] * batch, [mask] * batch, precision, ledger)
    mib = {name: size / _MIB for name, size in ledger.known.items()}
    return StepCost(
        batch=batch,
        frames=frames,
        precision=precision,
        device=device,
        recompute=preset.voxel.recompute,
        context_share=share,
        parameters={name: sum(p.numel() for p in getattr(model, name).parameters()) for name in _PARTS},
        gflops={part: flops / 1e9 for part, flops in ledger.flops.items()},
        global_attention_share=ledger.global_attention / (ledger.flops["target"] + ledger.flops["context"]),
        saved_mib=saved / _MIB,
        mib={**mib, "passes": peak / _MIB - sum(mib.values())},
        peak_mib=peak / _MIB,
    )


def _follow_step(model: HieraJEPA, clips: list[Clip], masks: list[JepaMask], precision: str, ledger: _StorageTracker) -> tuple[int, int]:
    """Take one step of fake tensors under the tracker; bytes held for the backward pass, and most bytes alive."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    autocast = nullcontext() if precision == "float32" else torch.autocast("cpu", getattr(torch, precision))
    with ledger, _parts(model, ledger):
        with autocast, saved_tensors_hooks(ledger.save, lambda tensor: tensor):
            loss = model(clips, masks).loss
        saved = ledger.saved()
        ledger.part = "backward"
        loss.backward()
        ledger.know("gradients", [p.grad for p in model.parameters() if p.grad is not None])
        passes = ledger.peak
        optimizer.step()
        ledger.know("optimizer", [value for value in tree_leaves(list(optimizer.state.values())) if isinstance(value, Tensor)])
        model.update_target(0.996)
    # The optimiser's states are there in every step but the first.
    return saved, max(passes + ledger.known["optimizer"], ledger.peak)


def plan_and_fit(preset: Preset, grid: Grid, batch: int, frames: int, precision: str, device: str) -> tuple[StepCost, dict[int, int]]:
    """The plan, and on CUDA the largest micro-batch that fits devices of `_DEVICES_GIB`."""
    counts = sorted({batch, 1, 2} if device == "cuda" else {batch})
    plans = {count: plan_step(preset, grid, count, frames, precision, device) for count in track(counts, "plan")}
    fits = {gib: _largest_batch(plans[1], plans[2], gib) for gib in _DEVICES_GIB} if device == "cuda" else {}
    return plans[batch], fits


def describe(plan: StepCost, fits: Mapping[int, int], as_json: bool) -> dict[str, Any]:
    """The plan as named numbers, or as lines for people."""
    if as_json:
        return {**asdict(plan), "expected_mib": plan.expected_mib, "largest_batch": {f"{gib} GiB": count for gib, count in fits.items()}}
    flops = ", ".join(f"{name} {value:,.1f}" for name, value in plan.gflops.items())
    kinds = ", ".join(f"{name} {value:,.0f}" for name, value in plan.mib.items())
    unmeasured = "; not measured on a device" if plan.device == "cuda" else ""
    uncounted = "; half precision on a CPU takes more than is counted here" if plan.device == "cpu" and plan.precision != "float32" else ""
    lines = {
        "planned": f"{plan.batch} x {plan.frames} frames, {plan.precision}, {plan.device}, {'' if plan.recompute else 'no '}recomputation",
        "context": f"{plan.context_share:.1%} of the brain's tokens",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in plan.parameters.items()),
        "GFLOPs per step": f"{sum(plan.gflops.values()):,.0f} ({flops})",
        "global attention": f"{plan.global_attention_share:.1%} of the encoders' FLOPs",
        "saved for backward": f"{plan.saved_mib:,.0f} MiB",
        "peak": f"{plan.peak_mib:,.0f} MiB ({kinds})",
        "expect to see": f"{plan.expected_mib:,.0f} MiB{unmeasured}{uncounted}",
    }
    return {**lines, **{f"{gib} GiB device": f"micro-batch of {count}" if count else "does not fit" for gib, count in fits.items()}}


def _check_choices(frames: int, unit_frames: int, precision: str, device: str) -> None:
    """Refuse what cannot be planned.

    Raises
    ------
    InputError
        If the frames are not a whole number of the encoder's time units, or there is no such precision or device.
    """
    if frames < 1 or frames % unit_frames:
        raise InputError(
            f"--frames {frames}: must be a multiple of voxel.unit_frames, {unit_frames}; choose {unit_frames * 10}, for example."
        )
    for option, value, choices in (("--precision", precision, ("float32", "bfloat16", "float16")), ("--device", device, ("cpu", "cuda"))):
        if value not in choices:
            raise InputError(f"{option} {value}: choose {', '.join(choices)}.")


def _largest_batch(one: StepCost, two: StepCost, gib: float) -> int:
    """Clips per micro-batch that fit a device, from plans of one and of two: memory is fixed plus linear in clips; 0 if none fits."""
    each = two.expected_mib - one.expected_mib
    return max(0, math.floor((gib * 1024 - one.expected_mib) / each) + 1)


# --- tracking storages


class _StorageTracker(TorchDispatchMode):
    """Counts FLOPs and follows every storage from when it is made to when it is dropped.

    Attributes
    ----------
    now, peak : bytes alive, and the most there were.
    known : bytes of storages that were given a name.
    flops : of each part of the step.
    global_attention : FLOPs of the encoders' attention while `in_global`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[str, int] = {}
        self.part, self.in_global = "", False
        self.flops: dict[str, int] = dict.fromkeys((*_PARTS, "backward"), 0)
        self.global_attention = 0
        self._alive: dict[int, int] = {}
        self._saved: set[int] = set()
        self._weights: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        self._count(func, args, kwargs or {}, out)
        return out

    def know(self, name: str, tensors: list[Tensor], times: int = 1) -> None:
        """Give a name to storages; new ones count as alive from now on."""
        for tensor in tensors:
            self._note(tensor)
        self.known[name] = times * sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())
        if name in ("weights", "target"):
            self._weights |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def save(self, tensor: Tensor) -> Tensor:
        """Hook for tensors that autograd keeps."""
        if (key := tensor.untyped_storage()._cdata) not in self._weights:
            self._saved.add(key)
        return tensor.detach()  # the tensor itself may be an output of its own node: a cycle, which is never freed

    def saved(self) -> int:
        """Bytes that autograd holds now."""
        return sum(self._alive[key] for key in self._saved if key in self._alive)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)
        self._saved.discard(key)

    def _count(self, func: Any, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        packet = func._overloadpacket
        formula = _CPU_ATTENTION.get(packet) or flop_registry.get(packet)
        if formula is None or not self.part:
            return
        flops = formula(*args, **kwargs, out_val=out)
        self.flops[self.part] += flops
        if self.in_global and self.part in ("target", "context") and "attention" in str(packet):
            self.global_attention += flops


def _attention_flops(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Two products of a query and a key length: torch's table of formulas lacks the fused kernel of the CPU."""
    batch, heads, queries, width = q.shape
    return 2 * batch * heads * queries * k.shape[-2] * (width + v.shape[-1])


def _attention_backward_flops(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Five products, the scores being computed again."""
    return _attention_flops(q, k, v) * 5 // 2


_CPU_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


@contextmanager
def _parts(model: HieraJEPA, ledger: _StorageTracker) -> Iterator[None]:
    """Tell the tracker which part is being computed, and whether its attention is global."""

    def enter(name: str) -> None:
        ledger.part = name

    def in_global(value: bool) -> None:
        ledger.in_global = value

    handles = []
    for name in _PARTS:
        part = getattr(model, name)
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        handles.append(part.register_forward_hook(lambda *_: enter("")))
    for block in model.target.blocks[model.target.first_global :]:
        handles.append(block.register_forward_pre_hook(lambda *_: in_global(True)))
        handles.append(block.register_forward_hook(lambda *_: in_global(False)))
    yield
    for handle in handles:
        handle.remove()


def make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by fakes; index tables, which shapes depend on, stay real."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()), parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)


def _clip(grid: Grid, frames: int) -> Clip:
    voxels = torch.zeros(frames, grid.n_patches, grid.voxels_per_patch, dtype=torch.float16)
    return Clip(voxels, torch.arange(frames, dtype=torch.float64), grid)
