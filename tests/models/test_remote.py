"""The hub as a stranger meets it: a server of its own, a cache of its own, and then no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, Hub, Repo, serve
from hub_process import call, processes

from slimbrain.config import TemporalConfig, WindowConfig
from slimbrain.governance.provenance import Provenance
from slimbrain.models.hub import _MODEL_FILES, EVALUATIONS_FILE, save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

Run = Callable[..., str]
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the discard port."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4))
    provenance = Provenance(Contract("roi", "", "roi", 1.0), WindowConfig(frames=4, k=3), None, {"stage": "temporal"})
    return save_pretrained(model, tmp_path / "model", provenance)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes() as pool:
        yield pool


@pytest.fixture
def run(pool: ProcessPoolExecutor) -> Run:
    """Run a function of slimbrain with a hub and a cache of its own."""

    def run(name: str, *arguments: object, endpoint: str, home: Path, environment: Mapping[str, str] = {}, **options: object) -> str:
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return pool.submit(call, name, arguments, options, {**settings, **environment}).result()

    return run


def test_a_model_goes_to_the_hub_and_comes_back_then_without_a_network(folder: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (folder / "notes.txt").write_text("not to be uploaded")
    said = run("push_to_hub", folder, "lab/model", private=True, endpoint=hub.url, home=home, environment={"HF_TOKEN": TOKEN})
    assert said.startswith(f"{hub.url}/lab/model/commit/")
    repo = hub.repos["lab/model"]
    assert repo.private
    assert repo.files == {path.name: path.read_bytes() for path in folder.iterdir() if path.name in _MODEL_FILES}
    # A stranger does not see it, and is told what to do.
    assert "hf auth login" in run("from_pretrained", "lab/model", endpoint=hub.url, home=tmp_path / "other")
    # With a token it comes, and stays in the cache for when there is no network, or none is wanted.
    assert run("from_pretrained", "lab/model", endpoint=hub.url, home=home, environment={"HF_TOKEN": TOKEN}) == "TemporalExtractor"
    assert run("from_pretrained", "lab/model", revision=repo.commit, endpoint=NOWHERE, home=home) == "TemporalExtractor"
    assert run("from_pretrained", "lab/model", endpoint=NOWHERE, home=home) == "TemporalExtractor"
    assert run("from_pretrained", "lab/model", endpoint=hub.url, home=home, environment={"HF_HUB_OFFLINE": "1"}) == "TemporalExtractor"


def test_what_the_cache_lacks_is_one_sentence_without_a_network(hub: Hub, run: Run, tmp_path: Path) -> None:
    for endpoint, offline in ((NOWHERE, "0"), (hub.url, "1")):
        said = run("from_pretrained", "lab/model", endpoint=endpoint, home=tmp_path, environment={"HF_HUB_OFFLINE": offline})
        assert said.startswith("InputError: lab/model: the hub cannot be reached") and said.endswith("or a hub id such as lab/model.")
    assert hub.asked == []


def test_a_revision_that_is_not_there_is_named(folder: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.repos["lab/model"] = Repo(False, {path.name: path.read_bytes() for path in folder.iterdir()}, {"main", "v1"})
    assert run("from_pretrained", "lab/model", revision="v1", endpoint=hub.url, home=tmp_path) == "TemporalExtractor"
    assert "has no such revision" in run("from_pretrained", "lab/model", revision="v2", endpoint=hub.url, home=tmp_path)


def test_a_pickle_on_the_hub_is_neither_downloaded_nor_opened(folder: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    config = (folder / "config.json").read_bytes()
    hub.repos["lab/pickled"] = Repo(False, {"config.json": config, "pytorch_model.bin": b"\x80\x04would run"})
    said = run("from_pretrained", "lab/pickled", endpoint=hub.url, home=tmp_path)
    assert "lab/pickled/pytorch_model.bin: is a pickle" in said and said.endswith("ask its authors for model.safetensors.")
    assert not any(path.endswith("pytorch_model.bin") for path in hub.asked)


def test_what_is_public_is_not_taken_for_private(folder: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.repos["lab/model"] = Repo(False)
    said = run("push_to_hub", folder, "lab/model", private=True, endpoint=hub.url, home=tmp_path, environment={"HF_TOKEN": TOKEN})
    assert "lab/model: is public on the hub" in said and hub.repos["lab/model"].files == {}
    # Said so, it is uploaded, to a branch, and an evaluation of the weights that were there goes.
    hub.repos["lab/model"].files[EVALUATIONS_FILE] = b"[]"
    assert "/commit/" in run(
        "push_to_hub",
        folder,
        "lab/model",
        private=False,
        revision="trial",
        endpoint=hub.url,
        home=tmp_path,
        environment={"HF_TOKEN": TOKEN},
    )
    assert "trial" in hub.repos["lab/model"].branches and "POST /api/models/lab/model/commit/trial" in hub.asked
    assert EVALUATIONS_FILE not in hub.repos["lab/model"].files and "config.json" in hub.repos["lab/model"].files


def test_a_push_that_cannot_be_is_one_sentence(folder: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    assert "InputError: lab/model: the hub" in run(
        "push_to_hub", folder, "lab/model", private=True, endpoint=hub.url, home=tmp_path, environment={"HF_TOKEN": "hf_no"}
    )
    said = run("push_to_hub", folder, "lab/model", private=True, endpoint=NOWHERE, home=tmp_path, environment={"HF_TOKEN": TOKEN})
    assert "cannot be reached" in said and "nothing was uploaded" in said
    (folder / "model.safetensors").write_bytes(b"half")
    assert "was cut short, damaged or exchanged" in run(
        "push_to_hub", folder, "lab/model", private=True, endpoint=hub.url, home=tmp_path, environment={"HF_TOKEN": TOKEN}
    )
    assert hub.repos == {}
