"""Training states and logs that were damaged or crafted: what was saved, or a refusal in one sentence, and no growing memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import Mutate, byte_edits, fuzzing, header_edits, json_edits, little_memory, restore
from torch import nn

from slimbrain.disk.seal import SEAL_FILE, write_seal
from slimbrain.errors import SlimbrainError
from slimbrain.train import read_metrics
from slimbrain.train.checkpoint import load_state, save_state

MOST_GROWTH = 300 * 2**20
EXTRA = {"processes": 1, "tally": {"loss": 1.5}, "bad_lines": 0, "session_counts": [1, 2], "scaler": {}, "mixture": None}
FILES = ("layout.json", "loop.json", "part-00000.safetensors")


def make() -> tuple[nn.Module, torch.optim.AdamW]:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    return model, torch.optim.AdamW(model.parameters())


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, bytes]]:
    folder = save_state(tmp_path_factory.mktemp("fuzz"), 1, *make(), keep=1, extra=EXTRA)
    return folder, {path: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module", autouse=True)
def no_growth(state: Any) -> Iterator[None]:
    before = psutil.Process().memory_info().rss
    yield
    assert psutil.Process().memory_info().rss - before < MOST_GROWTH


def loads(folder: Path) -> bool:
    """Whether a state is loaded; it must else be refused in one sentence of ours."""
    try:
        with little_memory():
            load_state(folder.parent, 1, *make())
    except SlimbrainError as error:
        message = str(error)
        assert message.endswith(".") and "\n" not in message, message
        return False
    return True


@pytest.mark.slow
@fuzzing(1000)
@given(file=st.sampled_from([*FILES, SEAL_FILE]), mutate=byte_edits(300))
def test_whatever_was_sealed_is_read_as_it_was_or_not_at_all(file: str, mutate: Mutate, state: tuple[Path, dict[Path, bytes]]) -> None:
    folder, files = state
    path = folder / file
    try:
        path.write_bytes(mutate(files[path]))
        assert loads(folder) == (path.read_bytes() == files[path])
    finally:
        restore(files)


@pytest.mark.slow
@fuzzing(1500)
@given(file=st.sampled_from(FILES), edit=json_edits() | byte_edits(300), header=header_edits() | byte_edits(300))
def test_a_crafted_state_is_refused_or_loaded(file: str, edit: Mutate, header: Mutate, state: tuple[Path, dict[Path, bytes]]) -> None:
    """Sealed by whoever crafted it, so that everything behind the seal is met."""
    folder, files = state
    path = folder / file
    try:
        path.write_bytes((header if path.suffix == ".safetensors" else edit)(files[path]))
        write_seal(folder, FILES)
        loads(folder)
    finally:
        restore(files)


LINES = b'{"step": 0, "loss": 1.5, "ema": null}\n{"step": 10, "loss": 1.25, "ema": 0.5}\n{"step": 20, "loss": 1.0, "ema": 0.5}\n'


@pytest.mark.slow
@fuzzing(1000)
@given(mutate=byte_edits(100))
def test_logs(tmp_path: Path, mutate: Mutate) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(mutate(LINES))
    try:
        assert all(isinstance(line["step"], int) for line in read_metrics(tmp_path))
    except SlimbrainError as error:
        assert str(error).endswith(".") and "\n" not in str(error), str(error)
