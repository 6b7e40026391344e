"""Training states: read back to the bit, whole or not at all, the newest few kept."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimbrain.disk.seal import write_seal
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


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    model, optimizer = make()
    model.frozen.weight = model.learnt.weight
    save_state(tmp_path, 1, model, optimizer, keep=1)
    loaded, other = make(seed=1)
    loaded.frozen.weight = loaded.learnt.weight
    load_state(tmp_path, 1, loaded, other)
    assert torch.equal(loaded.frozen.weight, model.learnt.weight)


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


def refused(folder: Path, width: int = 4) -> str:
    """The sentence that a state is refused with; nothing of it may have come into the model."""
    model, optimizer = make(seed=1, width=width)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as refusal:
        load_state(folder.parent, 1, model, optimizer)
    message = str(refusal.value)
    assert message.startswith(str(folder)) and "\n" not in message and message.endswith(".")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    return message


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_is_safetensors_and_json(tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1)
    assert files_of(folder) == ["layout.json", "loop.json", "part-00000.safetensors", "seal.json"]


@pytest.mark.parametrize("damage", ["missing", "empty", "other model"])
def test_a_state_that_cannot_be_used_is_refused(damage: str, tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1)
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "empty":
        for path in folder.iterdir():
            path.unlink()
    refused(folder, width=5 if damage == "other model" else 4)


@pytest.mark.parametrize("name", ["layout.json", "loop.json", "part-00000.safetensors", "seal.json"])
def test_every_flipped_bit_cut_and_missing_file_is_found(name: str, tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1, extra={"tally": {"loss": 1.5}, "seen": [1, 2, 3]})
    path, rng = folder / name, random.Random(name)
    whole = path.read_bytes()
    for bit in rng.sample(range(8 * len(whole)), 40):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert name in refused(folder) or name == "seal.json"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(folder)
    path.unlink()
    assert f"({name} is missing)" in refused(folder)


def test_a_file_too_many_is_refused(tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1)
    (folder / "notes.txt").write_text("mine")
    assert "notes.txt does not belong to it" in refused(folder)


class Crafted:
    """A pickle of it creates a file where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_crafted_pickle_is_never_read(tmp_path: Path) -> None:
    """Where torch's own checkpoints keep one, and in place of each file, sealed and not."""
    marker = tmp_path / "was run"
    poison = pickle.dumps(Crafted(marker))
    for name in (".metadata", "layout.json", "loop.json", "part-00000.safetensors", "seal.json"):
        folder = save_state(tmp_path / "state", 1, *make(), keep=1)
        (folder / name).write_bytes(poison)
        refused(folder)
        if name not in (".metadata", "seal.json"):
            write_seal(folder, [other for other in files_of(folder) if other != "seal.json"])
            refused(folder)
    assert not marker.exists()
    pickle.loads(poison)
    assert marker.exists()


AUDITED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import load_state, make, save_state, train

found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
state = make()
train(*state, range(2))
save_state(Path(sys.argv[1]), 2, *state, keep=1)
load_state(Path(sys.argv[1]), 2, *make(seed=1))
print("unpickled", found)
"""


def test_saving_and_loading_unpickle_nothing(tmp_path: Path) -> None:
    """Python reports every class that any unpickler looks up."""
    command = [sys.executable, "-c", AUDITED, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "unpickled []\n"


def _set(layout: dict[str, Any], **changes: object) -> None:
    layout["tensors"]["model.learnt.weight"].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layout: layout.pop("tensors"), "its layout is wrong"),
        (lambda layout: layout["tensors"].pop("model.learnt.weight"), "model.learnt.weight is only in one of the two"),
        (lambda layout: _set(layout, shape=[4, 10**9]), "model.learnt.weight is torch.float32"),
        (lambda layout: _set(layout, dtype="torch.float64"), "model.learnt.weight is torch.float64"),
        (lambda layout: _set(layout, pieces=[]), "model.learnt.weight is not whole"),
        (lambda layout: _set(layout, pieces=[["part-00000.safetensors", 0, 3]]), "model.learnt.weight is not whole"),
        (lambda layout: _set(layout, pieces=[["part-00000.safetensors", 1, 3]]), "model.learnt.weight is not whole"),
        (lambda layout: _set(layout, pieces=[["../part-00000.safetensors", 0, 4]]), "is no part of a state"),
        (lambda layout: _set(layout, pieces=[["part-00000.safetensors", 0, 10**30], ["x", 10**30, 4]]), "not whole"),
    ],
)
def test_a_layout_that_lies_is_refused_even_when_sealed(change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    folder = save_state(tmp_path, 1, *make(), keep=1)
    layout = json.loads((folder / "layout.json").read_text())
    change(layout)
    (folder / "layout.json").write_text(json.dumps(layout))
    write_seal(folder, [name for name in files_of(folder) if name != "seal.json"])
    assert said in refused(folder)


def test_saving_and_loading_warn_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_state(tmp_path, 1, *make(), keep=1)
        load_state(tmp_path, 1, *make())


@pytest.mark.parametrize("room", range(4))
def test_a_disk_without_room_is_one_sentence_and_costs_no_state(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for so many of the four files of a state."""
    state = make()
    save_state(tmp_path, 1, *state, keep=2)
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"step-00000002: cannot be written \(No space left on device\); .*--resume auto"):
        save_state(tmp_path, 2, *state, keep=2)
    assert files_of(tmp_path) == ["step-00000001"]
    monkeypatch.setattr(os, "fsync", real)
    load_state(tmp_path, 1, *make(seed=1))


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import make, save_state
from slimbrain.errors import StoreError

state = make(width=4096)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_state(Path(sys.argv[1]), 1, *state, keep=1)
except StoreError as error:
    print(error)
"""


def test_what_the_system_refuses_to_write_is_said_in_its_words(tmp_path: Path) -> None:
    """A limit on the size of files, which the library that writes tensors meets, and not Python."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said == f"{tmp_path / 'step-00000001'}: cannot be written (File too large); free space, then resume from the state before " + (
        "with --resume auto.\n"
    )
    assert files_of(tmp_path) == []


def test_what_a_killed_save_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-00000007").mkdir()
    save_state(tmp_path, 1, *make(), keep=1)
    assert files_of(tmp_path) == ["step-00000001"]
