"""What an evaluation gives, as a type: written as JSON, and read again by reports, model cards and whoever asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slimbrain import __version__
from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError
from slimbrain.store import Contract

_SCHEMA_VERSION = 1
"""Of the JSON."""

UNTRAINED = "untrained"
PROBE, ATTENTION, FINETUNE, IDENTIFY = "linear probe", "attention probe", "fine-tuning", "identification"
"""How a model is read."""

_MARKS = frozenset({"task", "rows", "best_baseline", "differences", "split"})
"""Keys by which a JSON object is taken for a result."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Estimate(_Frozen):
    """A metric of one predictor, or a difference of it, with a 95 % interval; None where it is not defined."""

    model: str
    method: str
    metric: str
    mean: float | None
    low: float | None = None
    high: float | None = None

    @property
    def predictor(self) -> tuple[str, str]:
        """Model and method, which together name a line of the table."""
        return self.model, self.method


class Row(Estimate):
    """A metric of one predictor and its p-value under permuted labels."""

    p: float | None = None


class Grouping(_Frozen):
    """Which participants stay on one side of every split: `by` which columns, and the `count` of groups, None if these are not known."""

    by: str
    count: int | None


class Scoring(_Frozen):
    """How often each subject was tested, and on which subjects settings were tuned and models fitted."""

    tests_per_seed: int
    seeds: int
    tuned_on: str
    fitted_on: str
    predictors: int = 0


class ModelWeights(_Frozen):
    """A trained model: its name in the table, the SHA-256 of its weights, and how its vectors were pooled."""

    name: str
    weights_sha256: str
    pooling: str = ""


class LabelledPoint(_Frozen):
    """One place of a curve over the number of labelled subjects: the primary metric of every predictor.

    Attributes
    ----------
    labelled : int
        Subjects drawn to learn from, anew for each seed.
    n_tested : int
        Subjects tested per draw.
    """

    labelled: int
    n_tested: int
    rows: tuple[Row, ...] = Field(min_length=1)
    best_baseline: Estimate
    differences: tuple[Estimate, ...] = Field(min_length=1)


class HeldOut(_Frozen):
    """One site, say, that was left out: the primary metric of every predictor there."""

    value: str
    n_subjects: int
    rows: tuple[Row, ...] = Field(min_length=1)


class Cannot(_Frozen):
    """A predictor that this evaluation cannot have, and why."""

    model: str
    method: str
    reason: str


class Result(_Frozen):
    """One task, evaluated: the file of `slimbrain evaluate --out`.

    Attributes
    ----------
    task : str
        As `slimbrain evaluate --task`.
    cohort : str
        Name of the store.
    n_subjects, n_sessions : int
        With a label.
    split : str
        How subjects were divided, in words.
    seeds : tuple[int, ...]
        Of the divisions; empty where none was drawn.
    rows : tuple[Row, ...]
        One per predictor and metric, our first model's first, its primary metric in front.
    best_baseline : Estimate
        The baseline with the best primary metric.
    differences : tuple[Estimate, ...]
        Each of ours minus the best baseline.
    published : Mapping[str, float]
        Values from the literature, by metric.
    seen_in_pretraining : int
        Subjects that a model was pretrained on.
    pretraining_unknown : tuple[str, ...]
        Models whose pretraining participants are not recorded.
    models : tuple[ModelWeights, ...]
        The weights of each model under test.
    groups : Grouping or None
        Which participants stay on one side of every split, such as families; None where each may be by themselves.
    classes : Mapping[str, int]
        Subjects of each class, or windows of each where a subject has several; empty for a regression, an identification and files of
        before they were counted.
    excluded : Mapping[str, int]
        Sessions left out, by reason.
    labelled : tuple[LabelledPoint, ...]
        By growing number of labelled subjects; `rows` are those of the largest. Empty where there is no curve.
    held_out : tuple[HeldOut, ...]
        What was left out in turn, such as sites; empty in other splits.
    tested_on : str
        Name of the store that was tested, where it is another than the one trained on.
    cannot : tuple[Cannot, ...]
        Predictors without rows.
    sources : Mapping[str, str]
        Where baselines are from, by model and method.
    test_scored : Scoring or None
        What was tuned, fitted and tested on; None where nobody recorded it.
    contract : Contract or None
        Of the store; None in a comparison that had none.
    commands : tuple[str, ...]
        Command lines that made it, in order: of the embeddings that were reused, and its own. Empty where there was none.
    version : str
        Of slimbrain.
    schema_version : int
        Of the file.

    Examples
    --------
    >>> row = Row(model="ours", method=PROBE, metric="auc", mean=0.7, low=0.6, high=0.8)
    >>> best = Estimate(model="tangent", method="logistic regression", metric="auc", mean=0.65)
    >>> gain = Estimate(model="ours", method=PROBE, metric="auc", mean=0.05, low=-0.02, high=0.12)
    >>> result = Result(
    ...     task="column:sex", cohort="store", n_subjects=40, n_sessions=40, split="5-fold", rows=(row,), best_baseline=best,
    ...     differences=(gain,), classes={"F": 20, "M": 20},
    ... )
    >>> result.chance["auc"], result.ours
    (0.5, frozenset({'ours'}))
    """

    task: str
    cohort: str
    n_subjects: int
    n_sessions: int
    split: str
    seeds: tuple[int, ...] = ()
    rows: tuple[Row, ...] = Field(min_length=1)
    best_baseline: Estimate
    differences: tuple[Estimate, ...] = Field(min_length=1)
    published: Mapping[str, float] = {}
    seen_in_pretraining: int = 0
    pretraining_unknown: tuple[str, ...] = ()
    models: tuple[ModelWeights, ...] = ()
    groups: Grouping | None = None
    classes: Mapping[str, int] = {}
    excluded: Mapping[str, int] = {}
    labelled: tuple[LabelledPoint, ...] = ()
    held_out: tuple[HeldOut, ...] = ()
    tested_on: str = ""
    cannot: tuple[Cannot, ...] = ()
    sources: Mapping[str, str] = {}
    test_scored: Scoring | None = None
    contract: Contract | None = None
    commands: tuple[str, ...] = ()
    version: str = __version__
    schema_version: int = _SCHEMA_VERSION

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the table, the primary one first."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    @property
    def chance(self) -> dict[str, float]:
        """What guessing scores, by metric; accuracy by always naming the largest class. Empty where classes were not counted."""
        if not self.classes:
            return {}
        largest, everybody = max(self.classes.values()), sum(self.classes.values())
        return {"auc": 0.5, "balanced_accuracy": 1 / len(self.classes), "accuracy": largest / everybody}

    @property
    def by_predictor(self) -> dict[tuple[str, str], dict[str, Row]]:
        """Rows by model and method, then by metric, in the order of the table."""
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.rows:
            found.setdefault(row.predictor, {})[row.metric] = row
        return found

    @property
    def ours(self) -> frozenset[str]:
        """Names of the models under test, which are what is compared with the best baseline, connectivity beside one of them included."""
        return frozenset(gap.model for gap in self.differences)

    def row_of(self, estimate: Estimate) -> Row | None:
        """The row about the same predictor and metric."""
        return self.by_predictor.get(estimate.predictor, {}).get(estimate.metric)

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON."""
        return self.model_dump(mode="json")


def write_result(path: str | Path, result: Result) -> Path:
    """Write a result as JSON, atomically."""
    return write_json(Path(path), result.to_dict())


def read_result(path: str | Path) -> Result:
    """Read what `write_result` wrote.

    Parameters
    ----------
    path : str or Path
        JSON of `slimbrain evaluate --out`.

    Returns
    -------
    Result
        Equal to the one that was written.

    Raises
    ------
    InputError
        If it is nothing of the kind, is damaged, or was written by a later slimbrain.

    Examples
    --------
    >>> from slimbrain.evaluate.result import read_result
    >>> result = read_result("sex.json")
    >>> [(row.model, row.mean) for row in result.rows if row.metric == "auc"]
    [('ours', 0.6), ('tangent', 0.7), ('majority', 0.5)]
    """
    return as_result(str(path), _read_json(Path(path)))


def read_results(path: str | Path) -> list[Result]:
    """Read a JSON list of results.

    Raises
    ------
    InputError
        As `read_result`, or if it is no list.
    """
    values = _read_json(Path(path))
    if not isinstance(values, list):
        raise InputError(f"{path}: is not a list of results; delete it and add them again.")
    return [as_result(str(path), value) for value in values]


def is_result(value: object) -> bool:
    """Whether parsed JSON looks like a result; it may still be damaged."""
    return isinstance(value, Mapping) and value.keys() >= _MARKS


def as_result(name: str, value: object) -> Result:
    """A result from parsed JSON.

    Parameters
    ----------
    name : str
        What to call it in a message, such as its path.

    Raises
    ------
    InputError
        As `read_result`.
    """
    lacking = sorted(_MARKS - value.keys()) if isinstance(value, Mapping) else ["everything"]
    if not isinstance(value, Mapping) or lacking:
        raise InputError(f"{name}: is no result of `slimbrain evaluate` (lacks {', '.join(lacking)}); give the JSON that it wrote.")
    version = value.get("schema_version")
    if type(version) is not int or version < _SCHEMA_VERSION:
        raise _damaged(name, f"its schema is {version!r}")
    if version > _SCHEMA_VERSION:
        raise InputError(f"{name}: has schema {version} and this slimbrain reads up to {_SCHEMA_VERSION}; update slimbrain to read it.")
    try:
        # Through JSON, in which a list is a tuple's only form, so that everything else can be strict.
        result = Result.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(name, f"{where}: {first['msg']}" if where else first["msg"]) from error
    if strays := [gap for gap in result.differences if result.row_of(gap) is None]:
        raise _damaged(name, f"no row has {strays[0].model}, {strays[0].method}, {strays[0].metric}")
    return result


def _damaged(name: str, reason: str) -> InputError:
    said = " ".join(reason.split()).rstrip(".")
    return InputError(f"{name}: is no whole result of `slimbrain evaluate` ({said}); evaluate again, or give the JSON that it wrote.")


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read as JSON ({reason}); give what `slimbrain evaluate --out` wrote.") from error
