"""Training states: read back to the bit, whole or not at all, the newest few kept."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimbrain.errors import InputError, StoreError
from slimbrain.train.checkpoint import load_state, save_state, saved_steps


class Small(nn.Module):
    """Learnt and frozen parameters, as HieraJEPA has them, and a buffer."""

    seen: Tensor

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.learnt = nn.Linear(3, width)
        self.frozen = nn.Linear(3, width).requires_grad_(False)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return (self.learnt(x) - self.frozen(x)).square().mean()


def make(seed: int = 0, width: int = 4) -> tuple[Small, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Small(width)
    groups = [{"params": [model.learnt.weight], "weight_decay": 0.1}, {"params": [model.learnt.bias], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=0.01)


def train(model: Small, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(5, 3, generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()


def test_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    through = make()
    train(*through, range(7))
    stopped = make()
    train(*stopped, range(4))
    save_state(tmp_path, 4, *stopped, keep=2)
    resumed = make(seed=1)
    load_state(tmp_path, 4, *resumed)
    train(*resumed, range(4, 7))
    for name, tensor in through[0].state_dict().items():
        assert torch.equal(tensor, resumed[0].state_dict()[name]), name
    for first, second in zip(through[1].param_groups, resumed[1].param_groups, strict=True):
        assert first["weight_decay"] == second["weight_decay"]
        for one, other in zip(first["params"], second["params"], strict=True):
            for key, value in through[1].state[one].items():
                assert torch.equal(value, resumed[1].state[other][key])


def test_saving_changes_nothing(tmp_path: Path) -> None:
    model, optimizer = make()
    train(model, optimizer, range(3))
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    save_state(tmp_path, 3, model, optimizer, keep=1)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    moments = before[1]["state"][0], optimizer.state_dict()["state"][0]
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept(keep: int, tmp_path: Path) -> None:
    model, optimizer = make()
    for step in (5, 10, 15, 100):
        save_state(tmp_path, step, model, optimizer, keep)
    assert saved_steps(tmp_path) == [5, 10, 15, 100][-keep:]
    assert len(list(tmp_path.iterdir())) == min(keep, 4)


def test_only_whole_states_are_listed(tmp_path: Path) -> None:
    assert saved_steps(tmp_path / "missing") == []
    for name in ("step-00000003", "step-00000012", ".tmp-step-00000020", "step-7", "notes"):
        (tmp_path / name).mkdir()
    assert saved_steps(tmp_path) == [3, 12]


def test_a_save_that_dies_leaves_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make()
    save_state(tmp_path, 1, model, optimizer, keep=1)

    def die(old: object, new: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", die)
        save_state(tmp_path, 2, model, optimizer, keep=1)
    assert saved_steps(tmp_path) == [1]
    load_state(tmp_path, 1, *make(seed=1))
    save_state(tmp_path, 2, model, optimizer, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    model, optimizer = make()
    save_state(tmp_path, 1, model, optimizer, keep=2)
    train(model, optimizer, range(2))
    save_state(tmp_path, 1, model, optimizer, keep=2)
    loaded, other = make(seed=1)
    load_state(tmp_path, 1, loaded, other)
    assert torch.equal(loaded.learnt.weight, model.learnt.weight) and saved_steps(tmp_path) == [1]


@pytest.mark.parametrize("damage", ["missing", "empty", "no metadata", "cut metadata", "cut data", "other model"])
def test_a_state_that_cannot_be_used_is_refused(damage: str, tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1)
    data = next(path for path in folder.iterdir() if path.name != ".metadata")
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif damage == "no metadata":
        (folder / ".metadata").unlink()
    elif damage == "cut metadata":
        (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:50])
    elif damage == "cut data":
        data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(InputError) as refusal:
        load_state(tmp_path, 1, *make(width=5 if damage == "other model" else 4))
    message = str(refusal.value)
    assert message.startswith(str(folder)) and "\n" not in message and message.endswith(".")


def test_saving_and_loading_warn_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_state(tmp_path, 1, *make(), keep=1)
        load_state(tmp_path, 1, *make())


def test_a_disk_without_room_is_one_sentence_and_costs_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make()
    save_state(tmp_path, 1, *state, keep=2)
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"step-00000002: cannot be written \(.*No space left on device.*--resume auto"):
        save_state(tmp_path, 2, *state, keep=2)
    monkeypatch.setattr(os, "fsync", real)
    assert saved_steps(tmp_path) == [1]
    load_state(tmp_path, 1, *make(seed=1))
