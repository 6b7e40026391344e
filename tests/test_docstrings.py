"""Every name of docs/api.md documents its parameters and has an example; examples run in a folder with small stores, models and results."""

from __future__ import annotations

import doctest
import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from encoder_samples import write_models
from figure_samples import result, windows
from matplotlib import pyplot
from store_samples import make_store, write_run

from slimbrain import plotting
from slimbrain.evaluate.result import write_result
from slimbrain.explain import MapRequest, Output, explain_store
from slimbrain.grid import Grid
from slimbrain.saliency import write_window_table
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def named(directive: str) -> set[str]:
    """What the page draws by a directive of autodoc."""
    return set(re.findall(rf"{directive}:: (slimbrain[\w.]+)$", PAGE, flags=re.MULTILINE))


CLASSES = sorted({*named("autoclass"), "slimbrain.errors.SlimbrainError"})
FUNCTIONS = sorted({*named("autofunction"), *(f"slimbrain.plotting.{name}" for name in plotting.__all__)})
NOT_RUN = {
    "slimbrain.push_to_hub": "uploads to the hub",
    "slimbrain.datasets.fetch_abide_parcels": "downloads",
    "slimbrain.datasets.fetch_development_fmri": "downloads",
    "slimbrain.models.published.load_published": "needs the authors' checkpoint, which does not come with the package",
}
"""Names whose example is only shown, and why; all others run."""


def methods_of(name: str) -> list[str]:
    """Methods that a user calls: those that the page draws of a class, or all that are public and its own where it draws all."""
    drawn = re.search(rf"autoclass:: {re.escape(name)}\n   :members:(.*)$", PAGE, flags=re.MULTILINE)
    if drawn is None:
        return []
    own = vars(found(name))
    chosen = [word.strip() for word in drawn[1].split(",") if word.strip()] or [word for word in own if not word.startswith("_")]
    made = (inspect.isfunction, inspect.ismethod)
    return [f"{name}.{word}" for word in chosen if any(is_made(getattr(found(name), word, None)) for is_made in made)]


def found(name: str) -> Any:
    """What a name of the package, of a class in it or of a method means."""
    module, _, attribute = name.rpartition(".")
    holder = import_module(module) if module == module.lower() else found(module)
    return getattr(holder, attribute)


METHODS = sorted(method for name in CLASSES for method in methods_of(name))
REFUSES_NOTHING = {"slimbrain.Grid.coarse", "slimbrain.HieraJEPA.update_target", "slimbrain.store.SessionInfo.n_windows"}
"""Methods that take something and have no error to speak of."""

_SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples", "Notes", "Warns", "See Also", "References")


@pytest.fixture(scope="module")
def folder(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read.

    `store` of three participants and `visits` of four people with two sessions each, `runs/STAGE/model`, `maps` of surprise, a result, a
    window table, and a simulated `fmriprep`.
    """
    place = tmp_path_factory.mktemp("examples")
    store = make_store(place / "store", grid8, frames=24)
    visits = Store.create(place / "visits", grid8, store.contract.tr)
    for number in range(4):
        for run in (1, 2):
            write_run(visits, 24, f"{number + 3:02d}", run, seed=10 * number + run)
    write_models(place, grid8)
    for stage in ("temporal", "voxel"):
        (place / "runs" / stage).mkdir(parents=True)
        (place / stage).rename(place / "runs" / stage / "model")
    logged = [{"step": 0, "loss": 1.0}, {"step": 10, "loss": 0.8}]
    (place / "runs" / "voxel" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    write_result(place / "sex.json", result())
    write_window_table(place / "windows.tsv", windows())
    explain_store(store, place / "runs" / "voxel" / "model", MapRequest("surprise", k=1), Output(pictures="none"), place / "maps", "cpu")
    simulate_cohort(place / "fmriprep", CohortSpec(subjects=1, sessions=1, frames=32, events_per_session=0, spikes_per_session=0))
    return place


def examples_of(name: str) -> tuple[list[doctest.DocTest], list[doctest.Example]]:
    known = {"Store": found("slimbrain.Store")}
    module = import_module(found(name).__module__)
    tests = doctest.DocTestFinder(recurse=False).find(found(name), name, module, {**vars(module), **known})
    return tests, [example for test in tests for example in test.examples]


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_every_name_has_an_example_that_runs_or_a_reason_why_not(name: str) -> None:
    _, examples = examples_of(name)
    assert examples, f"{name} has no example"
    skipped = [doctest.SKIP in example.options for example in examples]
    assert any(skipped) == (name in NOT_RUN), f"{name}: NOT_RUN has to say why its example is skipped"


@pytest.mark.parametrize("name", sorted({*CLASSES, *FUNCTIONS} - NOT_RUN.keys()))
def test_the_example_in_a_docstring_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    tests, _ = examples_of(name)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for test in tests:
        runner.run(test, out=said.append)
    pyplot.close("all")
    assert runner.failures == 0, "".join(said)


def parameters(name: str) -> list[inspect.Parameter]:
    """Of a function, or of what makes an object of a class; warnings and errors take a sentence, which needs no words."""
    if inspect.isclass(found(name)) and issubclass(found(name), Exception):
        return []
    return [parameter for parameter in inspect.signature(found(name)).parameters.values() if parameter.name != "self"]


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS, *METHODS])
def test_every_parameter_is_documented(name: str) -> None:
    text = inspect.getdoc(found(name)) or ""
    for parameter in parameters(name):
        entry = r"\*\*{}$" if parameter.kind is parameter.VAR_KEYWORD else r"(\w+, )*{}(, \w+)* : "
        assert re.search(f"^{entry.format(parameter.name)}", text, flags=re.MULTILINE), f"{name}: {parameter.name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_returns_and_raises_is_documented(name: str) -> None:
    text = inspect.getdoc(found(name)) or ""
    assert re.search(r"^Returns\n-------\n", text, flags=re.MULTILINE)
    # One that takes nothing can refuse nothing.
    assert not parameters(name) or re.search(r"^Raises\n------\n", text, flags=re.MULTILINE)


def sections_of(name: str) -> set[str]:
    return set(re.findall(r"^(\w+)\n-+\n", inspect.getdoc(found(name)) or "", flags=re.MULTILINE))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_returns_and_raises_is_documented(name: str) -> None:
    needed = set() if inspect.signature(found(name)).return_annotation in (None, "None") else {"Returns"}
    needed |= {"Raises"} if parameters(name) and name not in REFUSES_NOTHING else set()
    assert sections_of(name) & {"Returns", "Raises"} >= needed


def test_exceptions_to_the_above_are_needed() -> None:
    assert len(METHODS) > 30 and set(METHODS) >= REFUSES_NOTHING
    assert not any("Raises" in sections_of(name) for name in REFUSES_NOTHING)


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS, *METHODS])
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
