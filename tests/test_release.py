"""What a release is: the two archives, what the package index shows of them, who is cited, and the workflows that a tag starts."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from test_project import PROJECT, ROOT, make_targets, repository_files
from trove_classifiers import classifiers as known_classifiers

from slimbrain.models.shipped import TEMPORAL, VOXEL

TABLE: dict[str, Any] = PROJECT["project"]
VERSION = TABLE["version"]
HOME = TABLE["urls"]["Source"]
INDEX_LIMIT = 100 * 2**20
"""Bytes of one file that the Python package index takes without being asked."""


def script(path: str) -> ModuleType:
    """A program of the repository that is no module of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the archives


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sources."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sources,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sources


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        return Parser().parsestr(opened.read(f"slimbrain-{VERSION}.dist-info/METADATA").decode("utf-8"))


def test_the_wheel_holds_the_package_and_nothing_else(archives: tuple[Path, Path]) -> None:
    """Weights, presets and the mark of a typed package among it; no tests, no results."""
    packed = set(zipfile.ZipFile(archives[0]).namelist())
    about = {name for name in packed if name.startswith(f"slimbrain-{VERSION}.dist-info/")}
    source = {path.relative_to(ROOT / "src").as_posix() for path in repository_files() if path.is_relative_to(ROOT / "src")}
    assert packed - about == source
    weights = {f"slimbrain/weights/{name}/model.safetensors" for name in (TEMPORAL, VOXEL)}
    assert {"slimbrain/py.typed", *weights, "brainmarks/models/slimbrain.py"} <= source
    licences = {Path(name).name for name in about if "/licenses/" in name}
    assert licences == set(TABLE["license-files"]) == {"LICENSE", "LICENSE-WEIGHTS"}


def test_the_sources_are_the_repository(archives: tuple[Path, Path]) -> None:
    """Its tests, results and benchmarks, so that they run from the archive; nothing that git ignores, nothing from beside the checkout."""
    with tarfile.open(archives[1]) as opened:
        members = opened.getmembers()
    assert all(member.isfile() for member in members)
    packed = {member.name.removeprefix(f"slimbrain-{VERSION}/") for member in members}
    assert packed - {"PKG-INFO"} == {path.relative_to(ROOT).as_posix() for path in repository_files()}
    assert {"results/abide.csv", "tests/test_release.py", "constraints.txt", ".github/workflows/release.yml"} <= packed


def test_the_index_takes_the_archives(archives: tuple[Path, Path]) -> None:
    assert max(path.stat().st_size for path in archives) < INDEX_LIMIT


def test_the_metadata_say_what_it_is(archives: tuple[Path, Path]) -> None:
    about = metadata(archives[0])
    # Two licences, since the weights are in the wheel: an SPDX expression, and (PEP 639) no classifier beside it.
    assert about["License-Expression"] == "Apache-2.0 AND CC-BY-NC-4.0"
    listed = about.get_all("Classifier") or []
    assert set(listed) <= known_classifiers and not [name for name in listed if name.startswith("License ::")]
    pythons = {name.rpartition(" ")[2] for name in listed if re.search(r"Python :: 3\.\d+$", name)}
    assert pythons and all(SpecifierSet(TABLE["requires-python"]).contains(version) for version in pythons)
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} == set(TABLE["urls"])


def test_the_readme_needs_no_file_beside_it(archives: tuple[Path, Path]) -> None:
    """On the index every link is an address; those into the repository name files that the sources hold, at the version's tag."""
    text = metadata(archives[0]).get_payload()
    assert isinstance(text, str) and text.startswith("# slimbrain") and "<!--" not in text
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    inside = [target.removeprefix(HOME) for target in targets if target.startswith(HOME)]
    places = [re.fullmatch(rf"/(blob|raw)/v{re.escape(VERSION)}/(.+)", target) for target in inside]
    assert len(inside) > 20 and all(place and (ROOT / place[2]).is_file() for place in places)
    # Pictures are fetched as they are; a page about a picture would show nothing.
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert pictures and all(f"{HOME}/raw/" in picture for picture in pictures)
    assert [place[2] for place in places if place and place[1] == "raw"] == ["docs/demo.png"]


# --- one address, one citation


def test_every_requirement_stands_once() -> None:
    for group in (TABLE["dependencies"], *TABLE["optional-dependencies"].values()):
        names = [Requirement(line).name.lower() for line in group]
        assert sorted(set(names)) == sorted(names)


def test_the_project_has_one_address() -> None:
    assert all(url.startswith(HOME) for url in TABLE["urls"].values())
    links = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    assert all(HOME in link["replacement"] for link in links if "https" in link["replacement"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == citation["url"] == HOME


def test_the_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == (TABLE["name"], VERSION)
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in TABLE["authors"]]
    assert citation["license"] in TABLE["license"].split(" AND ")
    assert set(citation["keywords"]) <= set(TABLE["keywords"])
    assert {"cff-version", "message"} <= citation.keys() and citation["type"] == "software"


# --- the oldest versions


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Compared with packaging's reading of the same lines."""
    lines = script("tests/oldest.py").oldest((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*TABLE["dependencies"], *(line for extra in ("arrow", "fast", "slurm") for line in TABLE["optional-dependencies"][extra])]
    bounds = {Requirement(line).name: {Version(part.version) for part in Requirement(line).specifier} for line in wanted}
    assert {Requirement(line).name: {Version(part.version) for part in Requirement(line).specifier} for line in lines} == bounds
    assert all("==" in line for line in lines) and len(lines) == len(wanted)


def test_a_requirement_without_a_bound_is_refused() -> None:
    text = '[project]\ndependencies = ["torch"]\noptional-dependencies = {arrow = [], fast = [], slurm = []}\n'
    with pytest.raises(ValueError, match="'torch' has no lower bound"):
        script("tests/oldest.py").oldest(text)


# --- is a tag ready?


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that are asked, as they will be on the day."""
    for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff"):
        text = (ROOT / name).read_text(encoding="utf-8").replace("example.org", "forge.invalid")
        text = re.sub(rf"^(## \[{re.escape(VERSION)}\]) - .*$", r"\1 - 2027-01-31", text, flags=re.MULTILINE)
        text = re.sub(r"^date-released: .*\n", "", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text + ("date-released: 2027-01-31\n" if name == "CITATION.cff" else ""), encoding="utf-8")
    return tmp_path


def test_a_tag_with_everything_is_ready(checkout: Path) -> None:
    assert script(".github/ready.py").missing(f"v{VERSION}", checkout) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", f'version = "{VERSION}"', 'version = "9.9.9"', "The tag is"),
        ("pyproject.toml", "forge.invalid", "example.org", "still point to example.org"),
        ("CHANGELOG.md", "2027-01-31", "unreleased", "write the day of the release"),
        ("CITATION.cff", "date-released: 2027-01-31", "", "date-released is missing"),
        ("CITATION.cff", "2027-01-31", "2027-02-01", "not the day in CHANGELOG.md"),
    ],
)
def test_what_is_missing_is_said(name: str, old: str, new: str, said: str, checkout: Path) -> None:
    text = (checkout / name).read_text(encoding="utf-8")
    assert old in text
    (checkout / name).write_text(text.replace(old, new), encoding="utf-8")
    assert any(said in line for line in script(".github/ready.py").missing(f"v{VERSION}", checkout))


# --- the workflows


def workflows() -> dict[str, dict[Any, Any]]:
    return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}


def jobs() -> dict[str, dict[str, Any]]:
    return {f"{file}: {name}": job for file, workflow in workflows().items() for name, job in workflow["jobs"].items()}


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return job.get("steps", [])


def test_every_command_of_a_workflow_exists() -> None:
    commands = [shlex.split(line) for job in jobs().values() for step in steps(job) for line in step.get("run", "").splitlines()]
    assert {"make", "python", "bash", "gh"} == {words[0] for words in commands}
    asked = {word for words in commands if words[0] == "make" for word in words[1:] if "=" not in word}
    assert asked <= make_targets() and {"lint", "test", "test-oldest", "test-newest", "docs", "dist"} <= asked
    assert [words for words in commands if words[0] in ("python", "bash") and not (ROOT / words[1]).is_file()] == []


def test_every_python_that_is_promised_is_tested() -> None:
    versions = {
        str(step["with"]["python-version"]) for job in jobs().values() for step in steps(job) if "python-version" in step.get("with", {})
    }
    fixed = {version for version in versions if "matrix" not in version}
    from_matrix = {version for job in jobs().values() for version in job.get("strategy", {}).get("matrix", {}).get("python", [])}
    promised = {name.rpartition(" ")[2] for name in TABLE["classifiers"] if re.search(r"Python :: 3\.\d+$", name)}
    assert from_matrix == promised and fixed <= promised
    matrix = jobs()["tests.yml: test"]["strategy"]["matrix"]
    assert len(matrix["system"]) == 3 and len(matrix["python"]) == 3
    assert {name.partition("-")[0] for name in matrix["system"]} == {"ubuntu", "macos"}


def test_publishing_is_trusted_and_waits_for_the_tests() -> None:
    """The index knows this workflow by its identity: one job may ask for that, it does nothing else, and no secret is read anywhere."""
    publish = jobs()["release.yml: publish"]
    assert publish["permissions"] == {"id-token": "write"} and set(publish["needs"]) == {"tests", "build"}
    assert [step["uses"].partition("@")[0] for step in steps(publish)] == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in workflows().values())
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml")]
    assert not [text for text in texts if re.search(r"secrets\.|password", text.replace("no password", ""))]


def test_jobs_end_and_actions_have_versions() -> None:
    assert [name for name, job in jobs().items() if "uses" not in job and not 0 < job["timeout-minutes"] <= 90] == []
    used = [step["uses"] for job in jobs().values() for step in steps(job) if "uses" in step]
    assert used and [name for name in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@(release/)?v\d+", name)] == []


# --- what people write


def test_issue_forms_are_whole() -> None:
    """Keys that a forge asks for; fields have labels and ids of their own."""
    forms = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert forms.pop("config") == {"blank_issues_enabled": False}
    assert forms.keys() == {"bug", "question", "feature"}
    for form in forms.values():
        assert form.keys() == {"name", "description", "labels", "body"}
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) and all(field["attributes"]["label"] for field in fields)
        assert any(field.get("validations", {}).get("required") for field in fields)


def test_environments_have_what_the_build_needs() -> None:
    """Those of the Makefile build without isolation, or run these tests."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert {Requirement(line).name for line in build} == {"hatchling", "hatch-fancy-pypi-readme"}
    installed = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "install" in line and "hatchling" in line]
    assert installed and all("hatch-fancy-pypi-readme" in line for line in installed)
