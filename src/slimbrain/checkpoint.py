"""Training states: written whole or not at all, the newest few kept, read back to the bit."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from slimbrain.errors import InputError

STATE_PATTERN = re.compile(r"step-(\d{8})")


def save_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, keep: int) -> Path:
    """Save model and optimiser after `step` steps, then drop all but the newest `keep` states.

    Parameters
    ----------
    folder : RUN/state.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    with _one_process():
        save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=temporary, no_dist=True)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in saved_steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}")
    return final


def load_state(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Put the state saved after `step` steps into model and optimiser.

    Raises
    ------
    InputError
        If it cannot be read, or belongs to another model.
    """
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    path = folder / f"step-{step:08d}"
    try:
        with _one_process():
            load(state, checkpoint_id=path, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise InputError(
            f"{path}: is not a training state of this model ({type(error).__name__}); delete it, or train into another folder."
        ) from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a whole state in `folder`, ascending."""
    if not folder.is_dir():
        return []
    matches = (STATE_PATTERN.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


@contextmanager
def _one_process() -> Iterator[None]:
    """Torch warns at every save that there is no process group; here that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
