"""Results of `slimbrain evaluate` in the card of the model that they are about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimbrain.disk.atomic import write_json
from slimbrain.embed.features import Model
from slimbrain.errors import InputError
from slimbrain.evaluate.compare import to_markdown
from slimbrain.models.card import Measured
from slimbrain.models.hub import EVALUATIONS_FILE, from_pretrained, write_card
from slimbrain.store.terms import UNKNOWN


def add_evaluation(folder: str | Path, result: str | Path | Mapping[str, Any]) -> Path:
    """Record an evaluation in a model folder and write its card again; it takes the place of an earlier one of the same task and cohort.

    Parameters
    ----------
    folder : model folder that the evaluation had as its first `--model`.
    result : JSON file of `slimbrain evaluate`, or what is in it.

    Returns
    -------
    The card.

    Raises
    ------
    InputError
        If one of the two is not what it should be, or the result is of other weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a model folder; give RUN/model of a pretraining run.")
    model = from_pretrained(folder)
    name = "the result" if isinstance(result, Mapping) else str(result)
    new = result if isinstance(result, Mapping) else _read(Path(result))
    added = _measured(name, new)
    _require_same_weights(folder, model, name, new)
    known = _read(folder / EVALUATIONS_FILE) if (folder / EVALUATIONS_FILE).exists() else []
    if not isinstance(known, list):
        raise InputError(f"{folder / EVALUATIONS_FILE}: is not a list of results; delete it and add them again.")
    measured = [_measured(str(folder / EVALUATIONS_FILE), result) for result in known]
    others = [number for number, one in enumerate(measured) if (one.task, one.cohort) != (added.task, added.cohort)]
    write_json(folder / EVALUATIONS_FILE, [*(known[number] for number in others), dict(new)])
    return write_card(folder, model, [*(measured[number] for number in others), added])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); give what `slimbrain evaluate --out` wrote.") from error


def _require_same_weights(folder: Path, model: Model, name: str, result: Mapping[str, Any]) -> None:
    """Results of before they named their weights are taken as they are."""
    first: Mapping[str, Any] = next(iter(result.get("models") or []), {})
    found = model.provenance.weights_sha256 if model.provenance else ""
    if first.get("weights_sha256", found) != found:
        raise InputError(f"{name}: is about other weights than those of {folder}; give the folder that was the first --model.")


def _measured(name: str, result: Mapping[str, Any]) -> Measured:
    try:
        # The model that was evaluated comes first; baselines and others follow.
        mine = [row for row in result["rows"] if (row["model"], row["method"]) == (result["rows"][0]["model"], result["rows"][0]["method"])]
        metrics = {str(row["metric"]): float(row["mean"]) for row in mine if row["mean"] is not None}
        return Measured(to_markdown(result), str(result["task"]), str(result["cohort"]) or UNKNOWN, metrics)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{name}: is no result of `slimbrain evaluate` ({reason}); give the JSON that it wrote.") from error
