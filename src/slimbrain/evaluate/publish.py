"""Results of `slimbrain evaluate` in the card of the model that they are about."""

from __future__ import annotations

from pathlib import Path

from slimbrain.disk.atomic import write_json
from slimbrain.embed.features import Model
from slimbrain.errors import InputError
from slimbrain.evaluate.result import Result, read_result, read_results
from slimbrain.evaluate.table import to_markdown
from slimbrain.models.card import Measured
from slimbrain.models.hub import EVALUATIONS_FILE, from_pretrained, write_card
from slimbrain.store.terms import UNKNOWN


def add_evaluation(folder: str | Path, result: str | Path | Result) -> Path:
    """Record an evaluation in a model folder and write its card again; it replaces an earlier one of the same task and cohort.

    Parameters
    ----------
    folder : str or Path
        Model folder that the evaluation had as its first `--model`.
    result : str or Path or Result
        JSON file of `slimbrain evaluate`, or what was read from it.

    Returns
    -------
    Path
        The card, README.md of the folder.

    Raises
    ------
    InputError
        If one of the two is not what it should be, or the result is of other weights.

    Examples
    --------
    >>> import slimbrain
    >>> card = slimbrain.add_evaluation("runs/temporal/model", "sex.json")
    >>> "column:sex" in card.read_text(encoding="utf-8")
    True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a model folder; give RUN/model of a pretraining run.")
    model = from_pretrained(folder)
    name, new = ("the result", result) if isinstance(result, Result) else (str(result), read_result(result))
    _require_same_weights(folder, model, name, new)
    path = folder / EVALUATIONS_FILE
    known = read_results(path) if path.exists() else []
    kept = [one for one in known if (one.task, one.cohort) != (new.task, new.cohort)]
    write_json(path, [one.to_dict() for one in (*kept, new)])
    return write_card(folder, model, [_measured(one) for one in (*kept, new)])


def _require_same_weights(folder: Path, model: Model, name: str, result: Result) -> None:
    """A result that names no weights is taken as it is."""
    found = model.provenance.weights_sha256 if model.provenance else ""
    if result.models and result.models[0].weights_sha256 != found:
        raise InputError(f"{name}: is about other weights than those of {folder}; give the folder that was the first --model.")


def _measured(result: Result) -> Measured:
    # The model that was evaluated comes first; baselines and others follow.
    mine = result.by_predictor[result.rows[0].predictor].values()
    metrics = {row.metric: row.mean for row in mine if row.mean is not None}
    return Measured(to_markdown(result), result.task, result.cohort or UNKNOWN, metrics)
