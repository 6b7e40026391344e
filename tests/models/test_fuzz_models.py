"""Model folders whose files were damaged or crafted: the model that was written, or a refusal in one sentence, and no growing memory."""

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

from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.disk.seal import SEAL_FILE, write_seal
from slimbrain.errors import SlimbrainError
from slimbrain.governance.provenance import Provenance
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

MOST_GROWTH = 300 * 2**20
SEALED = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TemporalExtractor]:
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=8, depth=1, heads=2, groups=2, window_frames=2))
    made_from = Provenance(Contract("roi", "", "roi", 1.0), WindowConfig(frames=2, k=1), None, {"stage": "temporal", "seed": 0})
    return save_pretrained(model, tmp_path_factory.mktemp("fuzz") / "model", made_from), model


@pytest.fixture
def folder(written: tuple[Path, TemporalExtractor]) -> Iterator[Path]:
    files = {path: path.read_bytes() for path in written[0].iterdir()}
    yield written[0]
    restore(files)


@pytest.fixture(scope="module", autouse=True)
def no_growth(written: Any) -> Iterator[None]:
    before = psutil.Process().memory_info().rss
    yield
    assert psutil.Process().memory_info().rss - before < MOST_GROWTH


def loaded(folder: Path) -> TemporalExtractor | None:
    """The model; None if it is refused, as it must be: in one sentence of ours."""
    try:
        with little_memory():
            model = from_pretrained(folder)
    except SlimbrainError as error:
        message = str(error)
        assert message.endswith(".") and "\n" not in message, message
        return None
    assert isinstance(model, TemporalExtractor)
    return model


@pytest.mark.slow
@fuzzing(700)
@given(file=st.sampled_from([*SEALED, SEAL_FILE]), mutate=byte_edits(300))
def test_whatever_was_sealed_is_read_as_it_was_or_not_at_all(
    file: str, mutate: Mutate, folder: Path, written: tuple[Path, TemporalExtractor]
) -> None:
    path = folder / file
    before = path.read_bytes()
    try:
        path.write_bytes(mutate(before))
        model = loaded(folder)
        assert (model is not None) == (path.read_bytes() == before)
    finally:
        path.write_bytes(before)


@pytest.mark.slow
@fuzzing(1200)
@given(file=st.sampled_from(SEALED), edit=json_edits() | byte_edits(300), header=header_edits(), seal=st.booleans())
def test_a_crafted_folder_is_refused_or_gives_a_model(file: str, edit: Mutate, header: Mutate, seal: bool, folder: Path) -> None:
    """Sealed by whoever crafted it, or not at all, so that everything behind the seal is met."""
    files = {path: path.read_bytes() for path in folder.iterdir()}
    path = folder / file
    try:
        mutate = header if file == "model.safetensors" else edit
        path.write_bytes(mutate(path.read_bytes()))
        if seal:
            write_seal(folder, SEALED)
        else:
            (folder / SEAL_FILE).unlink()
        loaded(folder)
    finally:
        restore(files)
