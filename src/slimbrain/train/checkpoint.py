"""Training states: written whole or not at all, the newest few kept, read back to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError, StoreError
from slimbrain.train.distributed import rank, wait, world_size

STATE_PATTERN = re.compile(r"step-(\d{8})")


EXTRA_FILE = "loop.json"


def save_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, keep: int, extra: Mapping[str, Any] | None = None) -> Path:
    """Save model and optimiser after `step` steps, then drop all but the newest `keep` states; all processes write their part.

    Parameters
    ----------
    folder : RUN/state.
    extra : what else the loop must know to go on, as JSON.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-{final.name}"
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
    wait()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    try:
        with _quietly_alone():
            save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=temporary, no_dist=world_size() == 1)
    except CheckpointException as error:
        reason = next((str(failure[0]) for failure in error.failures.values()), str(error))
        raise StoreError(
            f"{final}: cannot be written ({reason}); free space, then go on from the state before with --resume auto."
        ) from error
    wait()
    if rank() == 0:
        write_json(temporary / EXTRA_FILE, dict(extra or {}))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in saved_steps(folder)[:-keep]:
            shutil.rmtree(folder / f"step-{old:08d}")
    wait()
    return final


def load_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put the state saved after `step` steps, by any number of processes, into model and optimiser; its `extra`.

    Raises
    ------
    InputError
        If it cannot be read, or belongs to another model.
    """
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    path = folder / f"step-{step:08d}"
    try:
        with _quietly_alone():
            load(state, checkpoint_id=path, no_dist=world_size() == 1)
        extra: dict[str, Any] = json.loads((path / EXTRA_FILE).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise InputError(
            f"{path}: is not a training state of this model ({type(error).__name__}); delete it, or train into another folder."
        ) from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return extra


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


@contextmanager
def _quietly_alone() -> Iterator[None]:
    """Torch warns at every save that there is no process group; a process that is alone needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
