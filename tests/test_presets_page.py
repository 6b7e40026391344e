"""docs/presets.md has every setting, with the values that the code has, and says of each where it comes from."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from slimbrain.config import PRESETS, Preset, load_preset

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "presets.md").read_text(encoding="utf-8")
SECTIONS = [name for name in Preset.model_fields if name != "name"]
ROW = re.compile(r"^\| `(\w+\.\w+)` \|(.*)\|$", flags=re.MULTILINE)


def rows() -> dict[str, list[str]]:
    """Default, values of presets that have another, and the reason, by setting."""
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in ROW.findall(PAGE)}


def in_words(value: object) -> str:
    """A value as the page writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ("-" if all(isinstance(part, int) for part in value) else ", ").join(map(in_words, value))
    return str(value)


def values(preset: Preset) -> dict[str, str]:
    sections: dict[str, BaseModel] = {name: getattr(preset, name) for name in SECTIONS}
    return {
        f"{name}.{field}": in_words(getattr(section, field)) for name, section in sections.items() for field in type(section).model_fields
    }


def test_every_setting_has_a_row_and_no_row_is_left_over() -> None:
    assert list(rows()) == list(values(Preset(name="default")))


def test_the_values_are_those_of_the_code() -> None:
    default = values(Preset(name="default"))
    presets = {preset: values(load_preset(preset)) for preset in PRESETS}
    others = {
        name: ", ".join(f"`{preset}` {told[name]}" for preset, told in presets.items() if told[name] != value)
        for name, value in default.items()
    }
    assert {name: cells[:-1] for name, cells in rows().items()} == {name: [default[name], others[name]] for name in default}


def test_every_reason_says_where_the_value_comes_from() -> None:
    bare = [name for name, cells in rows().items() if len(cells[-1]) < 10]
    assert bare == []
    # Measured values lead to a page that exists and has numbers.
    unlinked = [
        name for name, cells in rows().items() if "measured" in cells[-1] and "not measured" not in cells[-1] and ".md)" not in cells[-1]
    ]
    assert unlinked == []
    for page in set(re.findall(r"\((\w+\.md)\)", PAGE)):
        assert (DOCS / page).exists(), page


def test_reasons_by_reference_have_something_to_refer_to() -> None:
    for name, cells in rows().items():
        if matched := re.match(r"as `(\w+\.\w+)`", cells[-1]):
            assert matched.group(1) in rows() and matched.group(1) != name


def test_the_example_of_a_file_is_accepted(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(block, encoding="utf-8")
    given = yaml.safe_load(block)
    assert load_preset(path).train_voxel.steps == given["train_voxel"]["steps"]
