"""Presets: every file parses, `paper` is the published system, and whatever is wrong is refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from slimbrain.config import PRESETS, Preset, load_mixture, load_preset
from slimbrain.errors import InputError

FOLDER = resources.files("slimbrain") / "configs"


def refusal_of(name: str | Path, *overrides: str) -> str:
    with pytest.raises(InputError) as refusal:
        load_preset(name, list(overrides))
    message = str(refusal.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def test_every_file_is_a_preset_and_every_preset_a_file() -> None:
    assert sorted(PRESETS) == sorted(path.name.removesuffix(".yaml") for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_what_their_files_say(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    for section, fields in yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")).items():
        if isinstance(fields, dict):
            for field, value in fields.items():
                held = getattr(getattr(preset, section), field)
                assert (list(held) if isinstance(held, tuple) else held) == value, f"{section}.{field}"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_their_models(name: str) -> None:
    """On the meta device, so that the large ones cost nothing."""
    import torch

    from slimbrain.models.jepa import HieraJEPA

    preset = load_preset(name)
    assert preset.temporal.width % (2 * preset.temporal.heads) == 0
    with torch.device("meta"):
        model = HieraJEPA(preset.voxel, preset.jepa, 64)
    assert model.context.width == preset.voxel.embed * 8


def test_cohorts_are_set_from_the_command_line() -> None:
    sampling = load_preset("tiny", ["sampling.by=cohort", "sampling.weights={a: 2, 1: 0.5}", "sampling.windows=uniform"]).sampling
    assert (sampling.by, sampling.weights, sampling.windows) == ("cohort", {"a": 2.0, "1": 0.5}, "uniform")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampling.weights={a: 1}", "weights need `by`"),
        ("sampling={by: site, weights: {a: -1}}", ": must be at least 0, not -1"),
        ("sampling={by: site, weights: {a: .inf}}", "finite"),
        ("sampling={by: site, weights: {no: 1}}", "quotes"),
        ("sampling.windows=best", "uniform"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(override: str, words: str) -> None:
    assert words in refusal_of("tiny", override)


def test_paper_is_the_published_system() -> None:
    paper = load_preset("paper")
    assert (paper.window.frames, paper.window.k, paper.window.pool) == (5, 8, 1)
    voxel = paper.voxel
    assert (voxel.embed, voxel.depths, voxel.heads, voxel.mlp_ratio) == (64, (2, 3, 16, 3), (1, 2, 4, 8), 4)
    assert (voxel.unit, voxel.unit_frames) == ("region", 8)
    for train in (paper.train_voxel, paper.train_temporal):
        assert train.betas == (0.9, 0.99) and train.weight_decay == 0.05 and train.clip == 1 and train.final_lr == 1e-6


def test_paper_has_the_published_number_of_parameters() -> None:
    """22.4 million without position embeddings, which are learnt there and Fourier features here."""
    import torch

    from slimbrain.models.hiera import Hiera

    with torch.device("meta"):
        encoder = Hiera(load_preset("paper").voxel, 64)
    total = sum(parameter.numel() for name, parameter in encoder.named_parameters() if "embed.project" not in name)
    assert total == pytest.approx(22.4e6, rel=0.05)


def test_base_is_the_design() -> None:
    base, paper = load_preset("base"), load_preset("paper")
    assert (base.window.frames, base.window.k, base.window.pool, base.voxel.unit, base.voxel.unit_frames) == (8, 5, 1, "unit", 4)
    as_published = {"unit": "region", "unit_frames": 8, "pooling": "max", "signal_std": None}
    assert base.voxel.model_copy(update=as_published) == paper.voxel
    assert base.train_voxel.steps * base.train_voxel.batch == 40 * 4129, "40 epochs of the published cohort"


# --- overrides


def test_overrides_change_one_value_and_nothing_else() -> None:
    preset = load_preset(
        "tiny", ["train_voxel.steps=7", "train_voxel.lr=3e-4", "voxel.depths=[1, 2, 3, 4]", "voxel.recompute=true", "voxel.unit=region"]
    )
    assert (preset.train_voxel.steps, preset.train_voxel.lr, preset.voxel.depths) == (7, 3e-4, (1, 2, 3, 4))
    assert preset.voxel.recompute is True and preset.voxel.unit == "region"
    tiny = load_preset("tiny")
    assert preset.train_temporal == tiny.train_temporal and preset.window == tiny.window
    assert preset.train_voxel.model_copy(update={"steps": tiny.train_voxel.steps, "lr": tiny.train_voxel.lr}) == tiny.train_voxel


def test_the_last_override_wins_and_sections_may_be_new() -> None:
    assert load_preset("tiny", ["window.k=2", "window.k=3"]).window.k == 3
    assert load_preset("tiny", ["saliency.novelty_weight=0.5"]).saliency.novelty_weight == 0.5


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nwindow: {frames: 6, k: 4}\ntemporal: {window_frames: 6}\n")
    assert load_preset(path).window.k == load_preset(str(path)).window.k == 4
    assert load_preset(path, ["window.k=2"]).window.k == 2


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_preset("tiny").window.k = 3  # type: ignore[misc]


# --- refusals


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("train_voxel.stepz=3", "train_voxel.stepz"),
        ("trian_voxel.steps=3", "trian_voxel"),
        ("train_voxel.steps=many", "train_voxel.steps"),
        ("train_voxel.steps=0", "train_voxel.steps"),
        ("train_voxel.lr=-1", "train_voxel.lr"),
        ("train_voxel.lr=.nan", "train_voxel.lr"),
        ("train_voxel.betas=[0.9, 1.5]", "train_voxel.betas"),
        ("train_voxel.precision=float8", "train_voxel.precision"),
        ("voxel.unit_frames=5", "voxel.unit_frames"),
        ("voxel.embed=0", "voxel.embed"),
        ("voxel.depths=[0, 1, 1, 1]", "voxel.depths"),
        ("voxel.depths=[1, 1]", "voxel.depths"),
        ("jepa.context_fraction=1", "jepa.context_fraction"),
        ("jepa.ema_start=1.5", "jepa.ema_start"),
        ("window.frames=1", "window.frames"),
        ("window.frames=[", "--set window.frames=["),
        ("window.frames", "section.field=value"),
        ("=3", "section.field=value"),
        ("name.x=3", "name is a value"),
        ("window.k.x=3", "k is a value"),
    ],
)
def test_what_is_wrong_is_named(override: str, names: str) -> None:
    assert names in refusal_of("tiny", override)


def test_windows_and_units_must_agree() -> None:
    assert re.search(r"temporal.window_frames is 8, window.frames is 6", refusal_of("tiny", "window.frames=6"))
    assert "multiple of voxel.unit_frames (4)" in refusal_of("tiny", "window.frames=5", "temporal.window_frames=5", "window.k=3")


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n- 2", b"5", b"\x00", b"\xff\xfe\xfa", b"window: {frames: 8}", b"name: x\nwindow: 3"])
def test_a_file_that_is_no_preset_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert str(path) in refusal_of(path)


@pytest.mark.parametrize("name", ["huge", "../tiny", ""])
def test_an_unknown_preset_names_those_there_are(name: str) -> None:
    assert all(preset in refusal_of(name) for preset in PRESETS)


def test_numbers_of_yaml_and_of_numpy_are_alike() -> None:
    """YAML reads 1e-3, without a dot, as text; a learning rate may still be written so."""
    assert load_preset("tiny", ["train_voxel.lr=1e-3"]).train_voxel.lr == np.float64("1e-3")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train_voxel.step=3", "there is no setting train_voxel.step; the nearest is train_voxel.steps."),
        ("train_voxl.steps=3", "there is no setting train_voxl; the nearest is train_voxel."),
        ("window.xyz=3", "there is no setting window.xyz; choose one of frames, k, pool."),
    ],
)
def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(override: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"tiny: {hint}")):
        load_preset("tiny", [override])


# --- bounds, and text that breaks its reader

OUT_OF_BOUNDS = (
    *("voxel.norm_eps=1e308", "voxel.norm_eps=0", "voxel.norm_eps=1e-300", "voxel.depths=[10000000,1,1,1]", "temporal.depth=100000"),
    *("train_temporal.batch=1000000000", "voxel.learned_positions=[100000,10]", "voxel.learned_positions=[24,1000000000]"),
    *("train_voxel.lr=1e309", "train_voxel.lr=.inf", "train_voxel.lr=.nan", "train_voxel.lr=-.inf", "train_voxel.steps=.inf"),
    *("train_voxel.steps=1e309", "voxel.embed=1000000000", "jepa.variance_weight=1e300", "saliency.novelty_weight=.nan"),
    *("saliency.dvars_weight=1e309", "window.frames=1000000000", "temporal.mlp_ratio=1e9", "temporal.groups=10000000"),
    *("sampling={by: a, weights: {a: .inf}}", "sampling={by: a, weights: {a: {0: 1e400}}}", "train_voxel.betas=[.nan, 0.9]"),
)


@pytest.mark.parametrize("override", OUT_OF_BOUNDS)
def test_numbers_out_of_all_bounds_are_refused(override: str) -> None:
    setting = re.split(r"[=:]", override)[0]
    assert setting in refusal_of("tiny", override)


def holds_number(annotation: object) -> bool:
    """Whether a setting may be one number."""
    if get_origin(annotation) in (tuple, dict, Literal):
        return False
    return annotation in (int, float) or any(map(holds_number, get_args(annotation)))


def numeric_settings(kind: type[BaseModel], place: str = "") -> Iterator[str]:
    """Dotted names of all settings that hold one number."""
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from numeric_settings(annotation, f"{place}{name}.")
        elif holds_number(annotation):
            yield f"{place}{name}"


@pytest.mark.parametrize("name", list(numeric_settings(Preset)))
def test_every_number_has_an_upper_bound(name: str) -> None:
    refusal_of("tiny", f"{name}=1.0e+300")
    refusal_of("tiny", f"{name}={10**30}")


def test_the_numeric_settings_are_found() -> None:
    names = set(numeric_settings(Preset))
    assert {"voxel.norm_eps", "train_temporal.batch", "saliency.per_run", "window.k", "train_voxel.final_weight_decay"} <= names
    assert len(names) > 50


UNREADABLE = {
    "brackets": "[" * 3000,
    "braces": "{a: " * 3000,
    "a date": "name: 2020-13-45",
    "a long number": f"name: {'9' * 5000}",
    "an empty number": "name: !!int ''",
    "no number": "name: !!float x",
    "python": "name: !!python/object/apply:os.mkdir [made]",
    "a list as a name": "? [a]\n: 1",
    "half a string": "name: 'x",
    "a merge": "<<: 3",
    "a control character": "name: \x01",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_text_that_breaks_its_reader_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "preset.yaml"
    path.write_text(UNREADABLE[kind])
    message = refusal_of(path)
    assert str(path) in message and len(message) < 500
    with pytest.raises(InputError):
        load_mixture(path)
    refusal_of("tiny", f"name={UNREADABLE[kind].removeprefix('name: ')}")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["[]", "[1, 2]", "3", "text", "true", "2020-01-01", "{1: 2}", "{a b: 3}", '{"a\\nb": 3}', "{voxel: 3}"])
def test_a_preset_that_is_no_preset_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    assert str(path) in refusal_of(path)
