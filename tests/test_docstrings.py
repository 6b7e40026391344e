"""The examples in the docstrings of public classes run, in a folder with a small store and models; every such class has one."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from encoder_samples import write_models
from store_samples import make_store

from slimbrain.grid import Grid

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
CLASSES = sorted(
    {
        *re.findall(r"autoclass:: (slimbrain\.[\w.]+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE),
        "slimbrain.errors.SlimbrainError",
    }
)
_SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples", "Notes", "Warns", "See Also", "References")


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@pytest.fixture(scope="module")
def folder(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: `store` with three participants, and `runs/voxel/model`."""
    place = tmp_path_factory.mktemp("examples")
    make_store(place / "store", grid8, frames=24)
    write_models(place, grid8)
    (place / "runs" / "voxel").mkdir(parents=True)
    (place / "voxel").rename(place / "runs" / "voxel" / "model")
    return place


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_of_a_public_class_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    known = {"Store": found("slimbrain.Store")}
    module = import_module(found(name).__module__)
    tests = doctest.DocTestFinder(recurse=False).find(found(name), name, module, {**vars(module), **known})
    examples = [example for test in tests for example in test.examples]
    assert len(examples) >= 1, f"{name} has no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", CLASSES)
def test_a_docstring_is_as_the_renderer_expects_it(name: str) -> None:
    """A first line that is a sentence, sections underlined to their length, entries of parameters and attributes as `name : type`."""
    lines = (found(name).__doc__ or "").expandtabs().splitlines()
    assert lines and lines[0].endswith("."), name
    indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    body = [lines[0], *(line[indent:] for line in lines[1:])]
    section = ""
    for line, following in zip(body, [*body[1:], ""], strict=True):
        if following and set(following) == {"-"}:
            assert line in _SECTIONS and len(following) == len(line), f"{name}: {line}"
            section = line
        elif section in ("Parameters", "Attributes") and line and not line.startswith((" ", "-")):
            assert re.fullmatch(r"\*{0,2}\w+(, \w+)*( : \S.*)?", line) and (" : " in line or line.startswith("**")), f"{name}: {line}"


def test_a_wrong_example_is_noticed() -> None:
    parser = doctest.DocTestParser()
    wrong = parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    runner = doctest.DocTestRunner()
    runner.run(wrong, out=lambda text: None)
    assert runner.failures == 1
