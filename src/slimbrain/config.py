"""What a run is made of: typed, closed models; presets as YAML; single values changed with `--set a.b=c`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimbrain.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_QUOTED = 200
"""Characters of a file that a message quotes at most."""

_UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""What YAML's reader raises: its own errors, and those of the dates, numbers and nested lists that it makes."""

PRESETS = ("tiny", "small", "base", "paper")

Count = Annotated[int, Field(ge=1, le=10**9)]
_Depth = Annotated[int, Field(ge=1, le=1000)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Width = Annotated[int, Field(ge=1, le=65_536)]
_Frames = Annotated[int, Field(ge=2, le=100_000)]
_MlpRatio = Annotated[float, Field(ge=0.125, le=64)]
_Rate = Annotated[float, Field(ge=0, le=10)]
"""Bounds leave room for any network that has been trained; a product of settings that fits no memory is found by `models.size`."""

Share = Annotated[float, Field(ge=0, lt=1)]

_BOUNDS = {
    "greater_than_equal": "must be at least {ge:.15g}",
    "greater_than": "must be more than {gt:.15g}",
    "less_than_equal": "must be at most {le:.15g}",
    "less_than": "must be less than {lt:.15g}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "model_type": "must hold names and values",
    "missing": "is missing",
}
"""What a value must be, by pydantic's name of the error; other errors keep pydantic's words."""

RUN_FILE = "run.json"
"""Of a run's folder: the preset that it was started with, its store and its command; who has one is a pretraining run."""


class Config(BaseModel):
    """A value: unknown names and numbers that are not finite are refused, fields cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ALL_WINDOWS = 10_000
"""More than a session has."""


class WindowConfig(Config):
    """How a session is cut: windows of `frames` frames from frame 0 without overlap, `k` of them kept for stage 2."""

    frames: _Frames = 8
    k: int = Field(5, ge=1, le=ALL_WINDOWS)
    pool: int = Field(1, ge=1, le=10_000, description="stage 2 draws its k windows from the pool * k best; 1 is the published choice")


Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Schedule = Annotated[dict[Annotated[int, Field(ge=0)], Weight], Field(min_length=1)]
"""A weight by step: straight lines between the steps named, level before the first and after the last."""


class CohortConfig(Config):
    """Cohorts by the values of one column."""

    by: str | None = Field(None, description="column of sessions.tsv or participants.tsv that names cohorts")
    weights: dict[str, Weight | Schedule] | None = Field(
        None, description="draws by cohort, relative to each other; alike if not given, 0 leaves a cohort out"
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        """YAML reads a cohort called 1 or no as a number or a truth value; tables hold text."""
        if isinstance(values, dict) and isinstance(weights := values.get("weights"), dict):
            if odd := [name for name in weights if not isinstance(name, (str, int)) or isinstance(name, bool)]:
                raise ValueError(f"weights: put the name {odd[0]} in quotes")
            return {**values, "weights": {str(name): weight for name, weight in weights.items()}}
        return values

    @model_validator(mode="after")
    def _weights_of_something(self) -> Self:
        if self.weights is not None and self.by is None:
            raise ValueError("weights need `by`, the column that names cohorts")
        return self


class ComponentConfig(Config):
    """Part of a mixture: the sessions that pass a filter, and how often they are drawn."""

    filter: str = Field(description="comparisons of columns with numbers and texts, joined by and, or, not (docs/mixtures.md)")
    weight: Weight | Schedule | Literal["sessions"] = Field(description="relative to the others; `sessions`: as many as it has")


class AdaptiveConfig(Config):
    """Weights that follow each component's held-out loss and the inner products of the components' gradients (docs/mixtures.md)."""

    every: Count = Field(100, description="steps per interval; at its end weights are adjusted, for the interval after the next")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of each component's participants that is never trained on, at least one")
    floor: float = Field(0.02, gt=0, lt=1, description="least share of draws of any component")
    rate: float = Field(1.0, gt=0, le=1000, description="how far one adjustment goes")
    signal: Literal["both", "loss", "alignment"] = "both"


class MixtureConfig(CohortConfig):
    """What `--mixture` reads: named parts of a store, and how often each is drawn."""

    components: dict[str, ComponentConfig] | None = None
    table: str | None = Field(None, description="TSV with a column `session`, whose other columns filters and `by` may name")
    overlap: Literal["refuse", "first"] = Field("refuse", description="a session of two components: refuse, or take the first of them")
    rest: Literal["leave_out", "refuse"] = Field("leave_out", description="sessions of no component")
    most_repeats: Count | None = Field(None, description="how often one session may be drawn in an epoch, as many draws as sessions")
    adaptive: AdaptiveConfig | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.components is None) == (self.by is None):
            raise ValueError("give either `components` or `by`")
        if self.components is not None and not self.components:
            raise ValueError("components: there are none")
        weights = [part.weight for part in (self.components or {}).values()] + list((self.weights or {}).values())
        if self.adaptive and any(isinstance(weight, dict) for weight in weights):
            raise ValueError("adaptive: weights cannot follow both steps and losses; give each component one number")
        return self


class SamplingConfig(CohortConfig):
    """What training draws: sessions by cohort, and, for stage 2, windows of a session."""

    windows: Literal["auto", "saliency", "uniform", "random"] = Field(
        "auto", description="the best of a window table, evenly spread, or any; auto: saliency with a table, random without"
    )
    held_out: float = Field(
        0.05, ge=0, lt=1, description="stage 2: share of participants that only measure skill; at least one of 8 or more, none of fewer"
    )
    mixture: MixtureConfig | None = Field(None, description="what `--mixture` gives, in place of `by` and `weights`")

    @model_validator(mode="after")
    def _one_mixture(self) -> Self:
        if self.mixture is not None and self.by is not None:
            raise ValueError("give either `by` or `mixture`")
        return self


class AugmentConfig(Config):
    """How stage 1 sees a session in training: whole and as stored by default, or changed at random (`data.augment`)."""

    frames: tuple[_Frames, _Frames] | None = Field(
        None, description="frames of the shortest and the longest excerpt, drawn evenly in octaves; whole sessions if not given"
    )
    drop: Share = Field(0.0, description="largest share of channels left out of a session, drawn evenly from 0")
    merge: float = Field(0.0, ge=0, le=1, description="how often neighbouring channels are averaged into a coarser parcellation")
    fewest: Count = Field(20, description="channels that dropping and merging leave, where there are as many")
    jitter_mm: float = Field(0.0, ge=0, le=1000, description="standard deviation of what is added to each coordinate, in mm")
    masks: int = Field(
        1, ge=1, le=1024, description="ways of hiding per session and step; of a short one several cost little more than one"
    )

    @model_validator(mode="after")
    def _shortest_first(self) -> Self:
        if self.frames is not None and self.frames[0] > self.frames[1]:
            raise ValueError(f"frames: the shortest excerpt, {self.frames[0]}, comes before the longest, {self.frames[1]}")
        return self


class TemporalConfig(Config):
    """Stage 1, the temporal extractor: a 2D transformer over (channel groups x windows)."""

    width: _Width = Field(192, ge=8)
    depth: _Depth = 6
    heads: _Heads = 6
    groups: int = Field(32, ge=1, le=1024, description="channel groups, anchored at fixed places in MNI space")
    mlp_ratio: _MlpRatio = 4.0
    window_frames: _Frames = Field(8, description="frames per window, as in `window.frames`")


class SaliencyConfig(Config):
    """How windows are scored, and in which order they are taken.

    Score = z(informativeness) + novelty_weight * z(novelty) + explained_weight * z(explained) - dvars_weight * z(dvars), the first two
    as in DESIGN section 7. Novelty alone prefers motion spikes, which nothing rebuilds, and with it the chosen windows held fewer planted
    events than random ones; energy that the rest rebuilds somewhere is high in events and not in spikes. docs/saliency.md has the numbers;
    the preset `paper` has the weights 1, 0, 0 and takes windows by score alone.
    """

    novelty_weight: float = Field(0.0, ge=-1000, le=1000)
    explained_weight: float = Field(2.0, ge=-1000, le=1000)
    dvars_weight: float = Field(2.0, ge=-1000, le=1000)
    method: Literal["exact", "fast"] = Field("exact", description="2 N + 1 masked reconstructions, or as many for any number of windows")
    order: Literal["score", "apart", "diverse"] = Field("apart", description="windows by score alone, apart in time, or unlike each other")
    min_distance_s: float = Field(11.0, ge=0, le=1e6, description="least time between onsets with order apart; a response takes 12 s")
    diversity: float = Field(1.0, ge=0, le=1000, description="weight of likeness to a window taken before, in SDs of the score")
    per_run: Count | None = Field(None, description="most windows of a run; all may be taken if not given")
    per_session: Count | None = Field(None, description="most windows of all runs of a scanning session")


class HieraConfig(Config):
    """Stage 2, the 4D hierarchical encoder; defaults are the published ones but for the 16-voxel unit, pooling and the input's scale."""

    embed: int = Field(64, ge=1, le=8192)
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = (2, 3, 16, 3)
    heads: tuple[_Heads, _Heads, _Heads, _Heads] = (1, 2, 4, 8)
    mlp_ratio: _MlpRatio = 4.0
    unit: Literal["unit", "region"] = Field("unit", description="attention window of levels 1-2: 16 or 32 voxels per side")
    unit_frames: Literal[4, 8] = 4
    patch_frames: Literal[1, 2] = Field(1, description="frames per patch; 2 halves the tokens, needs unit_frames 8 (docs/performance.md)")
    recompute: bool = Field(True, description="recompute levels 1-2, and other hidden layers, in the backward pass instead of keeping them")
    layout: Literal["auto", "blocks", "ragged"] = Field(
        "auto", description="levels 1-2 in blocks of equal segments, or all at once with a variable-length kernel; auto by device"
    )
    compile: bool = Field(False, description="torch.compile every block in training; needs a C++ compiler, and minutes at the start")
    learned_positions: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=10**6)]] | None = Field(
        None, description="patches per side and frames of learned position tables, as published; Fourier features of mm and s if not given"
    )
    pooling: Literal["max", "mean", "merge"] = Field(
        "merge", description="what joins tokens at both transitions: their maximum, as published, their mean, or a learnt map of all"
    )
    signal_std: float | None = Field(
        0.5, gt=0, le=1e6, description="std that voxels give a token at the start; if null, weights of 0.02, under those of positions"
    )
    norm_eps: float = Field(1e-5, ge=1e-12, le=1e-2, description="added to the variance in every layer norm")

    @model_validator(mode="after")
    def _pools_whole_tokens(self) -> HieraConfig:
        if self.unit_frames % (4 * self.patch_frames):
            raise ValueError(f"unit_frames is {self.unit_frames}: with patch_frames {self.patch_frames} it must be {4 * self.patch_frames}")
        return self


SignalDetail = Literal["cells", "patches"]


class JepaConfig(Config):
    """How stage 2 learns: what is visible, what is predicted, how fast the target follows.

    The defaults predict signals of hidden places, which cannot collapse (docs/stage2.md). The published objective (the preset `paper`: the
    target encoder's tokens, position kept in them, joint attention) collapsed on the simulated cohort in 140 steps (docs/collapse.md).
    """

    targets: Literal["signals", "latents"] = Field(
        "signals", description="mean signals of a unit's cells in halves of a step; or tokens of the EMA encoder, as published"
    )
    predictor: Literal["factorised", "joint"] = Field(
        "factorised", description="attention over places within a step, then steps within a place; or over all tokens, as published"
    )
    hide: Literal["places", "places_and_times"] = Field(
        "places", description="what is hidden from the context; of rest, a linear model predicts 60 % across places and 1 to 9 % over time"
    )
    visible_weight: float = Field(1.0, ge=0, le=1e6, description="weight of visible tokens' own signals, decoded from them; signals only")
    visible: SignalDetail = Field("patches", description="what these are means of; a connectome reads parcels of patches")
    view_fraction: float = Field(1.0, gt=0, le=1, description="share of the mask units that a step deals with at all, drawn at random")
    predictor_width: _Width = 192
    predictor_depth: _Depth = 3
    predictor_heads: _Heads = 8
    context_fraction: float = Field(0.3, gt=0, lt=1, description="share of the units in view that are visible to the context")
    ema_start: float = Field(0.996, ge=0, le=1)
    ema_end: float = Field(1.0, ge=0, le=1)
    remove_position: bool = Field(True, description="take out of latent targets what place and time alone predict")
    variance_weight: float = Field(0.0, ge=0, le=1e6, description="weight of a hinge that keeps each dimension's std above 1")
    covariance_weight: float = Field(0.0, ge=0, le=1e6, description="weight of what decorrelates dimensions")
    skill_floor: float | None = Field(
        0.02, ge=-1e6, le=1, description="skill under which a run counts as learning nothing; null: not watched"
    )
    skill_after: int = Field(500, ge=0, le=10**9, description="steps that a run has to reach the floor of its skill")
    rank_floor: float = Field(1.5, ge=0, le=1e6, description="effective rank of the tokens under which a run counts as collapsing")
    std_floor: float = Field(0.1, ge=0, le=1e6, description="the same for `std` and `content_std`; a healthy run's lie near 1")


class TrainConfig(Config):
    """The loop: steps, optimiser (AdamW, linear warm-up, cosine) and bookkeeping."""

    steps: Count = 1000
    batch: int = Field(1, ge=1, le=65_536, description="sessions per micro-batch")
    accumulate: int = Field(1, ge=1, le=65_536, description="micro-batches per step, over all processes together")
    lr: _Rate = Field(1e-4, gt=0)
    final_lr: _Rate = 1e-6
    warmup: int = Field(40, ge=0, le=10**9, description="steps of linear warm-up")
    weight_decay: _Rate = 0.05
    final_weight_decay: _Rate | None = Field(None, description="where a cosine takes it by the last step; constant if not given")
    betas: tuple[Share, Share] = (0.9, 0.99)
    clip: float = Field(1.0, gt=0, le=1e12, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    parallel: Literal["ddp", "fsdp2"] = Field("ddp", description="of several processes, each holds all weights, or a part of each")
    log_every: Count = 10
    save_every: Count = 200
    keep: Count = Field(2, description="training states kept")
    stop_grace_s: float = Field(
        20.0, gt=0, le=86_400, description="seconds that a step may go on after SIGTERM; less than the sender waits before it kills"
    )
    collapse_patience: Count = Field(5, description="logged lines in a row under a floor that stop the run")


class VoxelTrainConfig(TrainConfig):
    """The loop of stage 2, which may watch a probe."""

    probe: str | None = Field(None, description="column of participants.tsv that a probe of held-out participants tells; none if not given")
    probe_every: Count = Field(200, description="steps between probes, each at the next logged line")


class Preset(Config):
    """Everything both stages need, under one name.

    Attributes
    ----------
    name : str
        What runs and models call it.
    window : WindowConfig
        Frames per window, and how many windows stage 2 sees.
    sampling : SamplingConfig
        Which sessions and windows training draws, and who is held out.
    augment : AugmentConfig
        How stage 1 sees a session in training.
    temporal : TemporalConfig
        The network of stage 1.
    saliency : SaliencyConfig
        How windows are scored and ordered.
    voxel : HieraConfig
        The encoder of stage 2.
    jepa : JepaConfig
        What stage 2 predicts, and from what.
    train_temporal, train_voxel : TrainConfig, VoxelTrainConfig
        The loop of each stage.

    Examples
    --------
    >>> preset = load_preset("tiny", ["window.k=3"])
    >>> preset.window.frames, preset.window.k
    (8, 3)
    """

    name: str = Field(max_length=200)
    window: WindowConfig = WindowConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    temporal: TemporalConfig = TemporalConfig()
    saliency: SaliencyConfig = SaliencyConfig()
    voxel: HieraConfig = HieraConfig()
    jepa: JepaConfig = JepaConfig()
    train_temporal: TrainConfig = TrainConfig()
    train_voxel: VoxelTrainConfig = VoxelTrainConfig()

    @model_validator(mode="after")
    def _agree(self) -> Preset:
        if self.temporal.window_frames != self.window.frames:
            raise ValueError(
                f"temporal.window_frames is {self.temporal.window_frames}, window.frames is {self.window.frames}: they must be equal"
            )
        if (self.window.frames * self.window.k) % self.voxel.unit_frames:
            raise ValueError(f"window.frames * window.k must be a multiple of voxel.unit_frames ({self.voxel.unit_frames})")
        return self


def load_preset(name: str | Path, overrides: list[str] | None = None) -> Preset:
    """Read a preset by name or a YAML file by path, then change single settings of it.

    Parameters
    ----------
    name : str or Path
        One of `PRESETS`, or a YAML file with a `name` and the settings that differ from the defaults.
    overrides : list of str or None
        `section.field=value`, as `slimbrain pretrain --set`; the value is read as YAML. Of two for one setting the later holds.

    Returns
    -------
    Preset
        Checked; settings that nothing names have their defaults.

    Raises
    ------
    InputError
        If there is no such preset or file, or a name or value in it is not accepted.

    Examples
    --------
    >>> from slimbrain.config import load_preset
    >>> preset = load_preset("tiny", ["window.k=3", "train_temporal.steps=500"])
    >>> preset.window.k, preset.train_temporal.steps
    (3, 500)
    """
    values = _parse(_preset_text(name), str(name)) or {}
    if not isinstance(values, dict):
        raise InputError(f"{name}: does not hold names and values; write `name:` and the settings to change (docs/presets.md).")
    for override in overrides or []:
        _apply_override(values, override)
    return checked(Preset, values, str(name))


Model = TypeVar("Model", bound=Config)


def checked(kind: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """The values as a model of that kind; `source` names them in errors.

    Raises
    ------
    InputError
        If a name or a value is not accepted.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found, loc = _deepest(error, values)
        place = _one_line(".".join(map(str, loc))) or "preset"
        if found["type"] == "extra_forbidden":
            raise InputError(f"{source}: there is no setting {place}; {_nearest(kind, loc)}.") from error
        raise InputError(f"{source}: {place}: {_reason(found)}; see the page on presets for what is accepted.") from error


def checked_options(kind: type[Model], values: Mapping[str, Any], command: str) -> Model:
    """What was typed after a command, as a model of that kind, whose fields have the names of the options; None counts as not given.

    Raises
    ------
    InputError
        If a value is not accepted.
    """
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        # A unit, which a field's name may end with, is no part of the option's.
        option = str(error.errors()[0]["loc"][0]).removesuffix("_s").replace("_", "-")
        raise InputError(f"--{option}: {refusal(error)}; see `{command} --help`.") from error


def refusal(error: ValidationError) -> str:
    """Why the first value that pydantic refused was refused, and the value where it is short: `must be at least 8, not 7`."""
    return _reason(error.errors()[0])


def _reason(found: ErrorDetails) -> str:
    said, value = found["msg"], found["input"]
    known = _BOUNDS.get(found["type"])
    reason = known.format_map(found.get("ctx", {})) if known else said.removeprefix("Value error, ").replace("Input should be", "must be")
    shown = said.startswith("Input should be") and (value is None or isinstance(value, (str, int, float)))
    # An option's number may be the text that was typed.
    quoted = value if "_than" in found["type"] else repr(value)
    return _one_line(f"{reason}, not {quoted}" if shown else reason)


def _deepest(error: ValidationError, values: Mapping[str, Any]) -> tuple[ErrorDetails, tuple[int | str, ...]]:
    """The first thing that pydantic refused, and where it is in the values.

    What may be a number or a table is refused as both: the table's error, inside it, says more.
    """
    found = [(one, _place(one, values)) for one in error.errors()]
    first = found[0][1]
    return max((one for one in found if one[1][: len(first)] == first), key=lambda one: len(one[1]))


def _place(found: ErrorDetails, values: Any) -> tuple[int | str, ...]:
    """Where in the values, without pydantic's names of the types that one of them may have."""
    place: list[int | str] = []
    for part in found["loc"]:
        inside = dict(enumerate(values)) if isinstance(values, list | tuple) else values if isinstance(values, Mapping) else {}
        # YAML may have read a name as a number.
        by_name = {str(name): value for name, value in inside.items()}
        if str(part) in by_name:
            values = by_name[str(part)]
        elif found["type"] != "missing":
            continue
        place.append(part)
    return tuple(place)


def _one_line(text: str) -> str:
    """What a message may quote of a text that somebody else wrote."""
    return shorten(text, _QUOTED, placeholder=" ...")


def _nearest(kind: type[Config], place: tuple[int | str, ...]) -> str:
    """Which setting a name that does not exist was most likely meant to be."""
    *sections, name = map(str, place)
    for section in sections:
        inner = kind.model_fields[section].annotation
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            return "leave it out"
        kind = inner
    known = list(kind.model_fields)
    close = get_close_matches(name, known, n=1)
    return f"the nearest is {'.'.join([*sections, close[0]])}" if close else f"choose one of {', '.join(known)}"


def load_mixture(path: Path) -> MixtureConfig:
    """Read a mixture.yaml; a `table` in it is looked for beside it.

    Raises
    ------
    InputError
        If there is no such file, or a name or value in it is not accepted.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; name a mixture.yaml (docs/mixtures.md).")
    values = _parse(_yaml_text(path), str(path))
    if not isinstance(values, dict):
        raise InputError(f"{path}: does not hold names and values; write `components:` or `by:` (docs/mixtures.md).")
    config = checked(MixtureConfig, values, str(path))
    return config if config.table is None else config.model_copy(update={"table": str(path.parent / config.table)})


def with_mixture(preset: Preset, mixture: MixtureConfig) -> Preset:
    """The preset with a mixture in its `sampling`.

    Raises
    ------
    InputError
        If the preset or `--set` mixes cohorts already.
    """
    values = {**preset.sampling.model_dump(exclude_unset=True), "mixture": mixture.model_dump()}
    return preset.model_copy(update={"sampling": checked(SamplingConfig, values, "--mixture")})


def _preset_text(name: str | Path) -> str:
    if str(name) in PRESETS:
        return (resources.files("slimbrain") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{name} is neither a preset ({', '.join(PRESETS)}) nor a YAML file; name one of these.")
    return _yaml_text(path)


def _yaml_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); name a YAML file.") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise InputError(f"--set {_one_line(override)}: expected section.field=value, for example train_voxel.steps=500.")
    *sections, field = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {_one_line(override)}: {_one_line(section)} is a value, not a section.")
    values[field] = _parse(text, f"--set {_one_line(override)}")


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except _UNREADABLE as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _one_line(str(error))
        raise InputError(f"{source}: is not YAML that can be read ({reason}); correct it there.") from error
