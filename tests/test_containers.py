"""The recipes of containers, read as their builders read them: no engine runs where the tests do."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD", "LABEL"}
SECTIONS = {"files", "post", "environment", "test", "runscript", "labels"}


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined."""
    text = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def definition() -> dict[str, str]:
    """Sections of the Apptainer recipe by name; the header is ''."""
    text = (ROOT / "containers" / "slimbrain.def").read_text(encoding="utf-8")
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def arguments(name: str) -> list[str]:
    return [text for instruction, text in dockerfile() if instruction == name]


def scripts() -> dict[str, str]:
    return {"Dockerfile": "\n".join(arguments("RUN")), "post": definition()["post"], "runscript": definition()["runscript"]}


def test_every_instruction_and_section_is_known() -> None:
    assert {instruction for instruction, _ in dockerfile()} <= INSTRUCTIONS
    assert definition().keys() - {""} == SECTIONS
    assert dockerfile()[0][0] == "FROM"


def test_the_base_is_one_version_of_a_python_that_the_package_takes() -> None:
    (base,) = arguments("FROM")
    assert f"From: {base}\n" in definition()[""] and "Bootstrap: docker\n" in definition()[""]
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", base)
    assert version is not None and (int(version[1]), int(version[2])) >= (3, 11)


@pytest.mark.parametrize("name", ["Dockerfile", "post"])
def test_every_installation_is_pinned_and_leaves_no_cache(name: str) -> None:
    script = scripts()[name]
    installs = re.findall(r"pip install [^&\n]*", script)
    assert len(installs) == 2 and all("-c constraints.txt" in install for install in installs)
    assert "PIP_NO_CACHE_DIR=1" in (" ".join(arguments("ENV")) if name == "Dockerfile" else script)
    extras = {extra for install in installs for extra in (re.findall(r"\.\[([^\]]*)\]", install) or [""])[0].split(",") if extra}
    assert extras and extras <= PROJECT["optional-dependencies"].keys()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = {word for text in arguments("COPY") for word in text.split()[:-1]}
    assert copied == {line.split()[0] for line in definition()["files"].strip().splitlines()}
    assert all((ROOT / name).exists() for name in copied)
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert kept == copied
    # What hatchling needs to build the wheel beside the sources.
    assert {"README.md", *PROJECT["license-files"]} <= copied


def test_the_image_does_not_run_as_root() -> None:
    instructions = [instruction for instruction, _ in dockerfile()]
    assert arguments("USER") == ["slimbrain"] and "useradd" in arguments("RUN")[-1]
    assert instructions.index("USER") > max(place for place, name in enumerate(instructions) if name == "RUN")
    assert arguments("ENTRYPOINT") == ['["slimbrain"]'] and 'exec slimbrain "$@"' in definition()["runscript"]


def test_the_version_is_the_packages() -> None:
    assert f"org.opencontainers.image.version {PROJECT['version']}\n" in definition()["labels"]


@pytest.mark.parametrize("name", ["Dockerfile", "post", "runscript"])
def test_the_scripts_are_sound_shell(name: str) -> None:
    script = scripts()[name]
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("sh -n passed; no shellcheck here: apt-get install shellcheck checks more")
    found = subprocess.run(["shellcheck", "--shell=sh", "-"], input=script, text=True, check=False, capture_output=True)
    assert found.returncode == 0, found.stdout
