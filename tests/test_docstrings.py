"""The examples in the docstrings of public classes and of some functions run, in a folder with a small store, models and results."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from encoder_samples import write_models
from figure_samples import result, windows
from matplotlib import pyplot
from store_samples import make_store

from slimbrain import plotting
from slimbrain.evaluate.result import write_result
from slimbrain.grid import Grid
from slimbrain.saliency import write_window_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
CLASSES = sorted(
    {
        *re.findall(r"autoclass:: (slimbrain\.[\w.]+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE),
        "slimbrain.errors.SlimbrainError",
    }
)
FUNCTIONS = ["slimbrain.save_pretrained", *(f"slimbrain.plotting.{name}" for name in plotting.__all__)]
UPLOAD = "slimbrain.push_to_hub"
"""Its example would need the network."""

_SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples", "Notes", "Warns", "See Also", "References")


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@pytest.fixture(scope="module")
def folder(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: `store` with three participants, `runs/voxel/model`, a result and a window table."""
    place = tmp_path_factory.mktemp("examples")
    make_store(place / "store", grid8, frames=24)
    write_models(place, grid8)
    (place / "runs" / "voxel").mkdir(parents=True)
    (place / "voxel").rename(place / "runs" / "voxel" / "model")
    write_result(place / "sex.json", result())
    write_window_table(place / "windows.tsv", windows())
    return place


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_the_example_in_a_docstring_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    pyplot.close("all")
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", [*FUNCTIONS, UPLOAD])
def test_every_parameter_and_what_is_returned_and_raised_is_documented(name: str) -> None:
    text = inspect.getdoc(found(name)) or ""
    for parameter in inspect.signature(found(name)).parameters.values():
        entry = r"\*\*{}$" if parameter.kind is parameter.VAR_KEYWORD else "{} : "
        assert re.search(f"^{entry.format(parameter.name)}", text, flags=re.MULTILINE), f"{name}: {parameter.name}"
    assert re.search(r"^Returns\n-------\n", text, flags=re.MULTILINE) and re.search(r"^Raises\n------\n", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS, UPLOAD])
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
