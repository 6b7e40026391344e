"""The project's own promises: pins, versions, layers' light modules, what is shipped, what the documents say."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LIGHT_MODULES = (
    "slimbrain",
    *(f"slimbrain.{name}" for name in ("cli", "cli.options", "cli.models", "config", "grid", "errors", "disk.atomic", "progress")),
)
HEAVY_PACKAGES = (
    *("torch", "nilearn", "nibabel", "sklearn", "scipy", "pandas", "matplotlib"),
    *("tensorboard", "safetensors", "huggingface_hub"),
)


# --- pins and versions


def pins() -> dict[str, str]:
    """Canonical package name -> version, as constraints.txt has them."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): pin for name, pin in pairs}


def direct_requirements() -> dict[str, Requirement]:
    """Everything that pyproject.toml asks for by name: to build, to run, to develop."""
    table = PROJECT["project"]
    listed = [*PROJECT["build-system"]["requires"], *table["dependencies"]]
    for extra in table["optional-dependencies"].values():
        listed += extra
    requirements = [Requirement(line) for line in listed]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def for_other_environments() -> set[str]:
    """What only the extras `brainmarks` and `release` ask for, which have environments of their own."""
    table = PROJECT["project"]
    extras = {**table["optional-dependencies"], "": table["dependencies"]}
    names = {extra: {canonicalize_name(Requirement(line).name) for line in lines} for extra, lines in extras.items()}
    apart = names.pop("brainmarks") | names.pop("release")
    return apart.difference(*names.values())


def test_pins_are_exactly_the_direct_dependencies() -> None:
    assert pins().keys() == direct_requirements().keys()


def test_pins_lie_in_the_ranges_of_pyproject() -> None:
    outside = [str(requirement) for name, requirement in direct_requirements().items() if not requirement.specifier.contains(pins()[name])]
    assert outside == []


def test_the_environment_holds_what_is_pinned() -> None:
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("not run from the project's .venv: other versions are the user's choice")
    here = pins().keys() - for_other_environments()
    installed = {name: Version(installed_version(name)).public for name in here}
    assert installed == {name: Version(pins()[name]).public for name in here}


def test_one_version_everywhere() -> None:
    import slimbrain

    ours = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert (slimbrain.__version__, str(citation["version"]), released[0]) == (ours, ours, ours)


# --- what is in the repository, and what is shipped


def repository_files() -> list[Path]:
    """Files that are in git or would be added by `git add .`; skips where this is no git checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


# Split so that this file does not match itself.
MACHINE_PATH = re.compile(rb"(?<![\w.})*~-])/(?:wo" rb"rk|tm" rb"p|ro" rb"ot|ho" rb"me|Use" rb"rs|op" rb"t)/\w[^\s\"'`)]*")


def test_machine_path_pattern_knows_one_when_it_sees_one() -> None:
    for folder in ("work", "tmp", "root", "home", "Users", "opt"):
        assert MACHINE_PATH.search(f"see '/{folder}/someone/x'".encode())
    for harmless in (b"tests/tmp/x", b"https://example.org/home/page", b"../work/x", b"{out}/tmp/x"):
        assert not MACHINE_PATH.search(harmless)


def test_no_file_names_a_place_on_some_machine() -> None:
    found = [f"{path.relative_to(ROOT)}: {hit.decode()}" for path in repository_files() for hit in MACHINE_PATH.findall(path.read_bytes())]
    assert found == []


def test_the_plugin_leaves_the_suites_namespace_open() -> None:
    """One `__init__.py` would hide the suite's own modules, or ours, by the order of the path."""
    assert list((ROOT / "src" / "brainmarks").rglob("__init__.py")) == []


def test_light_modules_load_nothing_heavy() -> None:
    """`slimbrain --help` answers in half a second only if none of these is imported with it."""
    code = "import importlib, json, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code, *LIGHT_MODULES], check=True, capture_output=True, text=True).stdout
    assert [name for name in HEAVY_PACKAGES if name in json.loads(out)] == []


# --- what the documents say


def code_lines(markdown: str) -> list[str]:
    """Shell lines of a document: fenced shell blocks (only after a prompt where it is a console's log), indented code, inline code."""
    lines, fence = [], None
    for line in markdown.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fence = line.strip().strip("`") if fence is None else None
        elif fence is None:
            lines += [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        elif fence in ("", "sh", "bash", "shell") or (fence == "console" and line.startswith("$ ")):
            lines.append(line.strip())
    return [line.removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]


def documented_calls(program: str) -> list[tuple[str, list[str]]]:
    """(document, words after `program`) of every call of it that the README, CONTRIBUTING or docs/ show."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [
        (document.name, shlex.split(line, comments=True)[1:])
        for document in documents
        for line in code_lines(document.read_text(encoding="utf-8"))
        if line.startswith(f"{program} ")
    ]


@cache
def command_line() -> Any:
    """The whole command line, which takes a while to be put together."""
    import typer

    from slimbrain.cli import app

    return typer.main.get_command(app)


def unknown_word(words: list[str]) -> str | None:
    """The first subcommand or option among `words` that the command line does not have."""
    from slimbrain.cli.launch import LAUNCHABLE

    command = command_line()
    if words[:1] == ["launch"] and (start := next((place for place, word in enumerate(words) if word in LAUNCHABLE), None)):
        # The cluster's options, then a whole command.
        return unknown_word(words[:start]) or unknown_word(words[start:])
    options = {"--help"}
    for word in (word.strip("[]") for word in words):
        if word.startswith("-"):
            options |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            if word.strip(".") and word.split("=")[0] not in options:
                return word
        elif subcommands := getattr(command, "commands", None):
            missing = [name for name in word.split("|") if name not in subcommands]
            if missing:
                return missing[0]
            command = subcommands[word.split("|")[0]]
    return None


def test_code_lines_finds_calls_and_leaves_prose_alone() -> None:
    page = (
        "slimbrain is prose, `slimbrain a` a call.\n\n    slimbrain b --x \\\n      1\n\n"
        "```sh\n.venv/bin/slimbrain c\n```\n```console\n$ slimbrain d\nslimbrain: output\n```\n```python\nslimbrain = 1\n```\n"
    )
    assert [" ".join(line.split()) for line in code_lines(page)] == ["slimbrain a", "slimbrain b --x 1", "slimbrain c", "slimbrain d"]


def test_a_wrong_command_or_option_is_noticed() -> None:
    assert unknown_word(["no-such-command"]) == "no-such-command"
    assert unknown_word(["prep", "IN", "OUT", "participant", "--no-such-option", "1"]) == "--no-such-option"


def test_documented_commands_exist() -> None:
    calls = documented_calls("slimbrain")
    assert {"demo", "prep"} <= {words[0] for _, words in calls}
    wrong = [f"{document}: slimbrain {shlex.join(words)}: {word}" for document, words in calls if (word := unknown_word(words))]
    assert wrong == []


def test_the_api_page_has_every_public_name() -> None:
    import slimbrain

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"(?:class|function|module):: slimbrain\.(\w+)$", page, flags=re.MULTILINE))
    assert documented - {"errors"} == set(slimbrain.__all__) - {"__version__"}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines()
    assert sorted(page.stem for page in (ROOT / "docs").glob("*.md") if page.stem not in ("index", *index)) == []


def make_targets() -> set[str]:
    """Of the Makefile; several may share a rule."""
    names = re.findall(r"^([\w.-]+(?: [\w.-]+)*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {target for line in names for target in line.split()}


def test_documented_make_targets_exist() -> None:
    targets = make_targets()
    calls = documented_calls("make")
    named = {(document, word) for document, words in calls for word in words if "=" not in word and not word.startswith("-")}
    assert {("README.md", "demo"), ("README.md", "test")} <= named
    assert sorted(item for item in named if item[1] not in targets) == []


# --- the field's words

_COUNTED = (
    "seconds?|ms|MiB|GiB|GB|MB|bytes?|lines?|rows?|frames?|windows?|sessions?|tokens?|clips?|draws|FLOPs?|GFLOPs?|steps?|numbers?|values?|"
    "vectors?|files?|micro-batch(?:es)?|volumes?|voxels?|patches|times|once|one|cases?|panels?|processes|channels|weights?|features|excerpts|"
    "metrics?|scores?|units|entries|points|pieces|characters|inches|hours|minutes|curves?|fields?|mm"
)
_PER = (
    "seconds?|frame|step|session|window|row|line|token|clip|sample|seed|subject|participant|person|process|device|server|request|side|head|"
    "shard|label|key|place|tick|run|voxel|patch|cell|unit|channel|fold|class|cohort|group|epoch|pass|node|machine|GPU|image|map|task|model|"
    "file|event|region|section|case|name|metric|entry|measure|quantity|stage|series|store|value|column|part|parcel|interval|component|"
    "micro-batch|job|dimension|site|kind|command|page|word|curve"
)
_GAP = r"(?: |[ \t]*\n[ \t]*(?:# )?)"
"""A blank, or the end of a line of prose or of a comment."""

DIALECT = {
    "RATE per RATE": rf"(?<!which )(?<!many )(?<!and a )\b(?:{_COUNTED}){_GAP}an?{_GAP}(?:{_PER})\b(?!'s)(?! part)",
    "CPU": r"\bprocessors?\b",
    "resumes": r"\bgo(?:es|ing)? on (?:with the run|where|from there|from step)\b|\bcommand goes on\b|--resume auto`? goes on\b",
    "and exit": r"\b(?:version|benchmarks) and leave\b",
    "permuted labels": r"\blabels (?:are )?dealt out\b|\bdealt out at random\b",
    "once per seed": r"\bonce a seed\b",
    "trained on": r"\bwhom? a model\b|\bwhom? the model has seen\b|\bhas seen it is not\b",
    "level of the Hiera": r"\bstages? [34]\b|\b[Ss]tages 1(?: and |-)2\b",
    "decorrelates": r"\bdimensions apart\b",
    "shrunk towards": r"\bdr(?:aw|awn|awing|ew) (?:\w+ ){0,4}towards\b",
    "names of before": r"\bgradients_later\b|\bmodels[./]lean\b|\blean\.py\b|\bbury\b|\bstone\b|\btold_cohort\b"
    r"|(?-i:\b(?:Listened|NOBODY)\b)",
}
"""What to write -> a pattern of what not to."""


def not_the_fields(text: str) -> list[str]:
    """Lines and phrases of a text that the field would write otherwise, with what it would write."""
    hits = [(hit.start(), hit[0], better) for better, pattern in DIALECT.items() for hit in re.finditer(pattern, text, flags=re.IGNORECASE)]
    return [f"line {text.count(chr(10), 0, start) + 1}: {' '.join(words.split())!r}: {better}" for start, words, better in sorted(hits)]


def test_the_patterns_know_a_phrase_when_they_see_one() -> None:
    for wrong in (
        "seconds a frame",
        "one file\n    a session",
        "# one line\n# a row",
        "on a processor",
        "goes on where it stopped",
        "Seconds a frame",
        "stages 3 and 4",
    ):
        assert len(not_the_fields(wrong)) == 1, wrong
    for right in (
        "seconds per frame",
        "draws a cohort's next one",
        "which draws a step sees",
        "after levels 3 and 4, stage 2",
        "it goes on for ever",
    ):
        assert not_the_fields(right) == [], right


def test_sources_and_documents_are_written_in_the_fields_words() -> None:
    kinds = (".py", ".md", ".jinja", ".js", ".yaml")
    files = [
        path
        for path in repository_files()
        if path.suffix in kinds
        and path.relative_to(ROOT).parts[0] in ("src", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
    ]
    assert len(files) > 200
    found = [f"{path.relative_to(ROOT)}: {hit}" for path in files for hit in not_the_fields(path.read_text(encoding="utf-8"))]
    assert found == []


# --- the map of the rooms


@cache
def rooms() -> Any:
    """docs/rooms.py, which is a script and no module of the package."""
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rooms"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """Three rooms: `top` imports `low` (inside a function) and, for types alone, itself; `low` imports `top`, which is forbidden."""
    source = tmp_path / "src" / "slimbrain"
    (source / "top").mkdir(parents=True)
    (source / "__init__.py").write_text('"""All."""\nfrom slimbrain.low import a\n')
    (source / "top" / "__init__.py").write_text('"""The top;\nand more. Not this."""\n')
    (source / "top" / "one.py").write_text("from slimbrain.top import x\nA, (B, _C) = 1, (2, 3)\ndef f():\n    from slimbrain import low\n")
    (source / "low.py").write_text(
        "if TYPE_CHECKING:\n    import slimbrain.other\nimport slimbrain.top.one\nclass K: ...\n_private: int = 1\n"
    )
    (source / "other.py").write_text('"""Alone."""\nname: int\n')
    layers = {"layers": ["top", "other", "low"]}
    (tmp_path / "pyproject.toml").write_text(f"[tool.importlinter]\ncontracts = [{{layers = {json.dumps(layers['layers'])}}}]\n")
    return tmp_path


def test_rooms_are_counted_as_by_hand(small_house: Path) -> None:
    house = rooms().read_house(small_house)
    assert [(room.name, sorted(room.imports), room.names, room.files) for room in house.rooms] == [
        ("top", ["low"], 3, 2),
        ("other", [], 1, 1),
        ("low", ["top"], 1, 1),
    ]
    assert house.rooms[0].owns == "The top"
    assert house.totals == {
        "rooms": 3,
        "arrows between rooms": 2,
        "arrows that run back up": 1,
        "public names": 5,
        "files": 4,
        "lines": 2 + 4 + 2 + 5,
    }


def test_the_map_of_the_rooms_is_that_of_the_code() -> None:
    """Word for word; numbers may have moved by a tenth since `make docs` wrote them, or every commit would touch the page."""
    number = re.compile(r"(?<![\w.])\d[\d,]*")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    house = rooms().read_house()
    expected = rooms().with_table(page, rooms().table(house))
    assert number.sub("N", page) == number.sub("N", expected), "run: python docs/rooms.py"
    counted = [[int(found.replace(",", "")) for found in number.findall(text)] for text in (page, expected)]
    far = [(said, now) for said, now in zip(*counted, strict=True) if abs(said - now) > max(5, 0.1 * now)]
    assert far == [], "run: python docs/rooms.py"
    assert all(room.owns for room in house.rooms) and house.totals["arrows that run back up"] == 0
