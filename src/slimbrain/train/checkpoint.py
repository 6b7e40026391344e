"""Training states in safetensors and JSON: written whole or not at all, sealed, the newest few kept, read back to the bit.

A state is a folder. Each process that holds a part of the weights writes one `part-*.safetensors`; `layout.json` says which rows of
which tensor are where, `loop.json` what else the loop must know, and the seal holds the SHA-256 of each. There is no pickle in it,
and nothing is parsed before the seal has been checked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from slimbrain.config import Config
from slimbrain.disk.atomic import TEMPORARY_PREFIX, write_atomic, write_json
from slimbrain.disk.seal import check_seal, write_seal
from slimbrain.errors import InputError, StoreError
from slimbrain.train.distributed import all_gather, barrier, broadcast, rank

STATE_PATTERN = re.compile(r"step-(\d{8})")

EXTRA_FILE = "loop.json"
_LAYOUT_FILE = "layout.json"

_WAY_OUT = "delete it to resume from an earlier one, or train into another folder"


class _Piece(NamedTuple):
    """Rows of a tensor that one file holds under the tensor's name."""

    file: str
    start: int
    rows: int


class _Stored(Config):
    """A tensor of the state; its pieces follow each other along the first axis."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[_Piece, ...]


class _StateLayout(Config):
    tensors: dict[str, _Stored]


def save_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, keep: int, extra: Mapping[str, Any] | None = None) -> Path:
    """Save model and optimizer after `step` steps, then drop all but the newest `keep` states; all processes write their part.

    The settings of the optimizer (learning rate, betas) are not saved: they follow from the preset and the step.

    Parameters
    ----------
    folder : Path
        RUN/state.
    extra : mapping
        What else the loop must know to resume, as JSON.

    Raises
    ------
    StoreError
        In every process, if any of them cannot write; nothing of the new state is left then.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{TEMPORARY_PREFIX}{final.name}"
    tensors = _tensors(*get_state_dict(model, optimizer))
    reason = broadcast(_start(folder, temporary) if rank() == 0 else "")
    if not reason:
        written = all_gather(_write_part(temporary, tensors))
        reason = next((failure for failure, _ in written if failure), "")
        layout = _layout(tensors, [rows for _, rows in written])
        if not reason:
            reason = broadcast(_finish(temporary, final, layout, extra or {}, keep) if rank() == 0 else "")
    if reason:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"{final}: cannot be written ({reason}); free space, then resume from the state before with --resume auto.")
    barrier()
    return final


def load_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put the state saved after `step` steps, by any number of processes, into model and optimizer; its `extra`.

    Raises
    ------
    InputError
        If it is damaged, or belongs to another model.
    """
    path = folder / f"step-{step:08d}"
    if refusal := broadcast(state_damage(path) if rank() == 0 else ""):
        raise InputError(refusal)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    try:
        layout = _StateLayout.model_validate(_read_json(path / _LAYOUT_FILE))
        extra = _read_json(path / EXTRA_FILE)
        tensors = _tensors(model_state, optimizer_state)
        _require_same(layout, tensors)
        _read(path, layout, tensors)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = "its layout is wrong" if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise InputError(f"{path}: is not a training state of this model ({reason}); {_WAY_OUT}.") from error
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
    return extra


def state_damage(path: Path) -> str:
    """What is wrong with the files of a state, in one sentence; empty if it is as it was written."""
    try:
        names = check_seal(path, complete=True)
        if missing := {_LAYOUT_FILE, EXTRA_FILE} - set(names):
            raise ValueError(f"{min(missing)} is missing")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"{path}: is damaged or no training state ({reason}); {_WAY_OUT}."
    return ""


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a model that may be spread over processes, in the first one's memory; empty in the others."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a whole state in `folder`, ascending."""
    if not folder.is_dir():
        return []
    matches = (STATE_PATTERN.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


# --- tensors, and the rows of them that a process holds


def _tensors(model_state: Mapping[str, Any], optimizer_state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor of a state under one name; they are the ones that the model computes with, or will be given."""
    named = {f"model.{name}": value for name, value in model_state.items()}
    for parameter, values in optimizer_state["state"].items():
        named |= {f"optimizer.{parameter}.{name}": value for name, value in values.items()}
    return {name: value.detach() for name, value in named.items() if isinstance(value, Tensor)}


def _own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows under FSDP, else all of it."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tuple(tensor.placements) != (Shard(0),):
        raise ValueError(f"tensors are placed as {tensor.placements}, not sharded along their first axis")
    return tensor.to_local()


def _rows(tensor: Tensor) -> int:
    return len(tensor) if tensor.ndim else 1


def _starts(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """First row that this process holds of each sharded tensor."""
    sizes = all_gather({name: _rows(_own(tensor)) for name, tensor in tensors.items() if isinstance(tensor, DTensor)})
    return {name: sum(before[name] for before in sizes[: rank()]) for name in sizes[0]}


# --- writing


def _start(folder: Path, temporary: Path) -> str:
    """Make the folder to write to, without what a killed process left; why not, if it cannot be."""
    with _reason() as reasons:
        for left in folder.glob(f"{TEMPORARY_PREFIX}step-*"):
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
    return "".join(reasons)


def _write_part(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """Write what this process has to save; why not, if it cannot, and how many rows of each tensor."""
    mine = {name: _own(tensor) for name, tensor in tensors.items() if rank() == 0 or isinstance(tensor, DTensor)}
    mine = _apart({name: tensor.contiguous().cpu() for name, tensor in mine.items() if _rows(tensor)})
    with _reason() as reasons:
        if mine:
            write_atomic(folder / _part_file(rank()), lambda temporary: save_file(mine, temporary))
    return "".join(reasons), {name: _rows(tensor) for name, tensor in mine.items()}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, tied ones copied: safetensors writes none that share memory."""
    storages: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return apart


def _part_file(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def _layout(tensors: Mapping[str, Tensor], written: list[dict[str, int]]) -> _StateLayout:
    """Where everything is, from how many rows each process wrote."""
    stored = {}
    for name, tensor in tensors.items():
        pieces, start = [], 0
        for number, rows in enumerate(written):
            if name in rows:
                pieces.append(_Piece(_part_file(number), start, rows[name]))
                start += rows[name]
        stored[name] = _Stored(dtype=str(tensor.dtype), shape=tuple(tensor.shape), pieces=tuple(pieces))
    return _StateLayout(tensors=stored)


def _finish(temporary: Path, final: Path, layout: _StateLayout, extra: Mapping[str, Any], keep: int) -> str:
    """Seal the state, give it its name and drop old ones; why not, if it cannot be."""
    with _reason() as reasons:
        write_json(temporary / _LAYOUT_FILE, layout.model_dump())
        write_json(temporary / EXTRA_FILE, dict(extra))
        write_seal(temporary, [path.name for path in temporary.iterdir()])
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in saved_steps(final.parent)[:-keep]:
            shutil.rmtree(final.parent / f"step-{old:08d}")
    return "".join(reasons)


@contextmanager
def _reason() -> Iterator[list[str]]:
    """Catch what keeps files from being written, in the system's words: the other processes have to be told."""
    reasons: list[str] = []
    try:
        yield reasons
    except OSError as error:
        reasons.append(error.strerror or str(error))
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        reasons.append(os.strerror(int(number.group(1))) if number else str(error))


# --- reading


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


def _require_same(layout: _StateLayout, tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless the state holds these tensors, all of them, whole."""
    if different := set(layout.tensors) ^ set(tensors):
        raise ValueError(f"{min(different)} is only in one of the two")
    for name, tensor in tensors.items():
        stored = layout.tensors[name]
        if (stored.shape, stored.dtype) != (tuple(tensor.shape), str(tensor.dtype)):
            raise ValueError(f"{name} is {stored.dtype} {stored.shape}, not {tensor.dtype} {tuple(tensor.shape)}")
        ends = [0, *(piece.start + piece.rows for piece in stored.pieces)]
        if [piece.start for piece in stored.pieces] != ends[:-1] or ends[-1] != _rows(tensor):
            raise ValueError(f"{name} is not whole")
    for file in _files(layout):
        if not re.fullmatch(r"part-\d{5}\.safetensors", file):
            raise ValueError(f"{file} is no part of a state")


def _files(layout: _StateLayout) -> list[str]:
    return sorted({piece.file for stored in layout.tensors.values() for piece in stored.pieces})


@torch.no_grad()
def _read(path: Path, layout: _StateLayout, tensors: Mapping[str, Tensor]) -> None:
    """Copy the rows that this process holds into its tensors."""
    starts = _starts(tensors)
    for file in _files(layout):
        with safe_open(path / file, framework="pt") as source:
            for name, tensor in tensors.items():
                for piece in layout.tensors[name].pieces:
                    if piece.file == file:
                        _copy(source, name, piece, _own(tensor), starts.get(name, 0))


def _copy(source: Any, name: str, piece: _Piece, own: Tensor, start: int) -> None:
    """Copy those rows of a piece that are among the rows from `start` on that `own` holds."""
    if own.ndim == 0:
        own.copy_(source.get_tensor(name))
        return
    rows = source.get_slice(name)
    if tuple(rows.get_shape()) != (piece.rows, *own.shape[1:]):
        raise ValueError(f"{name} has another shape in {piece.file}")
    first, last = max(start, piece.start), min(start + len(own), piece.start + piece.rows)
    if first < last:
        own[first - start : last - start].copy_(rows[first - piece.start : last - piece.start])
