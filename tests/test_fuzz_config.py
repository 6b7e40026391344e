"""Presets, `--set` and mixtures made of odd pieces: a preset within its bounds, or a refusal in one sentence."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import JSON_VALUES, SCALARS, byte_edits, fuzzing

from slimbrain.config import PRESETS, Preset, load_mixture, load_preset
from slimbrain.errors import InputError

FOLDER = resources.files("slimbrain") / "configs"
TEXTS = [(FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in PRESETS]
MOST_GROWTH = 200 * 2**20
SECTIONS = [name for name, field in Preset.model_fields.items() if hasattr(field.annotation, "model_fields")]
SETTINGS = [f"{section}.{name}" for section in SECTIONS for name in Preset.model_fields[section].annotation.model_fields]  # type: ignore[union-attr]
ODD_TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "1e309",
        ".inf",
        "-.inf",
        ".nan",
        "[" * 200,
        "{a: " * 200,
        "2020-13-45",
        "0x" + "f" * 400,
        "9" * 5000,
        "!!int ''",
        "*a",
        "&a [*a]",
        "1:2:3",
        "~",
    ]
)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def outcome(name: str | Path, overrides: list[str]) -> None:
    """A preset whose numbers are finite and below what any bound allows, or one sentence."""
    try:
        preset = load_preset(name, overrides)
    except InputError as error:
        message = str(error)
        assert message.endswith(".") and "\n" not in message and len(message) < 1000, message
    else:
        assert all(math.isfinite(number) and abs(number) <= 1e12 for number in numbers(preset.model_dump()))


@pytest.fixture(scope="module", autouse=True)
def no_growth() -> Any:
    """Thousands of refusals must leave nothing behind."""
    before = psutil.Process().memory_info().rss
    yield
    assert psutil.Process().memory_info().rss - before < MOST_GROWTH


@pytest.mark.slow
@fuzzing(2500)
@given(
    st.lists(
        st.tuples(st.sampled_from(SETTINGS) | st.text(max_size=20), SCALARS.map(str) | JSON_VALUES.map(repr) | ODD_TEXT),
        min_size=1,
        max_size=3,
    )
)
def test_overrides(changes: list[tuple[str, str]]) -> None:
    outcome("tiny", [f"{name}={value}" for name, value in changes])


@pytest.mark.slow
@fuzzing(1500)
@given(st.sampled_from(TEXTS), byte_edits(400))
def test_files_of_presets(tmp_path: Path, text: str, mutate: Any) -> None:
    path = tmp_path / "preset.yaml"
    path.write_bytes(mutate(text.encode()))
    outcome(path, [])


@pytest.mark.slow
@fuzzing(1000)
@given(st.sampled_from(TEXTS), st.floats(0, 1), st.floats(0, 1), JSON_VALUES)
def test_values_of_presets(tmp_path: Path, text: str, where: float, within: float, value: Any) -> None:
    tree = yaml.safe_load(text)
    section = list(tree)[int(where * (len(tree) - 1))]
    holder, name = tree, section
    if isinstance(tree[section], dict) and within > 0.1:
        holder, name = tree[section], list(tree[section])[int(within * (len(tree[section]) - 1))]
    holder[name] = value
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump(tree))
    outcome(path, [])


MIXTURE = """
components:
  a: {filter: "site == 'x' and age > 3", weight: 2}
  b: {filter: "site == 'y'", weight: {0: 1, 100: 3}}
overlap: first
adaptive: null
most_repeats: 4
"""


@pytest.mark.slow
@fuzzing(1000)
@given(byte_edits(200))
def test_mixtures(tmp_path: Path, mutate: Any) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_bytes(mutate(MIXTURE.encode()))
    try:
        load_mixture(path)
    except InputError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 1000, str(error)
