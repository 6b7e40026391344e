"""Ours beside every baseline: the same subjects, the same folds, one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from slimbrain import __version__
from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import CONNECTIVITY, store_baselines
from slimbrain.evaluate.leaks import require_no_duplicates, scoring_record
from slimbrain.evaluate.probe import FeatureSet, cross_validate
from slimbrain.evaluate.stats import (
    LOWER_IS_BETTER,
    N_RESAMPLES,
    Interval,
    OutOfFold,
    bootstrap,
    bootstrap_difference,
    choose_inside,
    permutation_p,
    score,
)
from slimbrain.evaluate.tasks import Target, Task, primary_metric, read_target
from slimbrain.progress import track
from slimbrain.store import Store

PROBE = "linear probe"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Entry:
    """One predictor after cross-validation."""

    model: str
    method: str
    predictions: OutOfFold


def evaluate(
    store: Store,
    task: Task,
    embeddings: Mapping[str, Mapping[str, NDArray[Any]]],
    seen: Mapping[str, NDArray[np.int64]] | None = None,
    seen_in_pretraining: int = 0,
    n_resamples: int = N_RESAMPLES,
    pretraining_unknown: Sequence[str] = (),
) -> dict[str, Any]:
    """Score frozen embeddings on a task, next to all baselines the store allows.

    Parameters
    ----------
    embeddings : by model name, session key -> (D,) vector. The first is ours; one called `untrained` counts as a baseline.
    seen : frames of each session that our model saw, for the baselines that get no more than these.
    seen_in_pretraining : subjects of this cohort that the model was pretrained on, which the result states.
    pretraining_unknown : models of which nobody knows whom they were pretrained on, which it states too.

    Returns
    -------
    The result file of DESIGN section 9, and `excluded`: sessions left out, by reason.

    Raises
    ------
    InputError
        If no embedding is given, one lacks a session that has a label, the labels cannot be used, or one recording stands there under
        two participants.
    """
    if not embeddings or next(iter(embeddings)) == UNTRAINED:
        raise InputError("There is nothing to evaluate; give the embeddings of a trained model first.")
    target = read_target(task, store)
    require_no_duplicates(store, target)
    sets = [_embedding_set(model, vectors, target.keys) for model, vectors in embeddings.items()]
    baselines = store_baselines(store, target.keys, seen, exclude=task.hidden, known=target.known)
    ours = [features for features in sets if features.model != UNTRAINED]
    untrained = [features for features in sets if features.model == UNTRAINED]
    result = compare(task, target, ours, [*untrained, *baselines], n_resamples)
    return {
        **result,
        "cohort": store.root.name,
        "seen_in_pretraining": seen_in_pretraining,
        "pretraining_unknown": list(pretraining_unknown),
        "contract": store.contract.to_dict(),
    }


def compare(
    task: Task, target: Target, ours: Sequence[FeatureSet], baselines: Sequence[FeatureSet], n_resamples: int = N_RESAMPLES
) -> dict[str, Any]:
    """Cross-validate every feature set on the same folds and put the scores in one result.

    The best baseline is the one with the best mean of the task's primary metric over seeds; the difference is that of
    the first of `ours` minus it, with a paired bootstrap interval. Picking the best after scoring flatters the baselines, not us.
    """
    record = scoring_record(target, task.policy)
    # The matrices are so small that BLAS loses more by sharing one among threads than it gains.
    with threadpool_limits(1):
        entries = [_entry(features, target, task) for features in track([*ours, *baselines], f"evaluate {task.name}")]
    mine, theirs = entries[: len(ours)], _with_best_connectivity(entries[len(ours) :])
    metric = primary_metric(task, target)
    best = max(theirs, key=lambda entry: _goodness(entry.predictions, metric))
    interval = bootstrap(best.predictions, metric, n_resamples)
    gap = bootstrap_difference(mine[0].predictions, best.predictions, metric, n_resamples)
    return {
        "task": task.name,
        "cohort": "",
        "n_subjects": target.n_subjects,
        "n_sessions": len(target.keys),
        "split": task.policy.describe(),
        "seeds": list(task.policy.seeds),
        "rows": [row for entry in [*mine, *theirs] for row in _rows(entry, metric, n_resamples)],
        "best_baseline": {"model": best.model, "method": best.method, "metric": metric, **_json(interval)},
        "difference": {"metric": metric, **_json(gap)},
        "published": dict(task.published),
        "seen_in_pretraining": 0,
        "pretraining_unknown": [],
        "test_scored": {**record, "predictors": len(mine) + len(theirs)},
        "contract": {},
        "version": __version__,
        "excluded": dict(target.excluded),
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """The result as a heading, a table of the primary metric first, and one line that says whether ours beats the best baseline."""
    rows = result["rows"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["method"]), {})[row["metric"]] = _cell(row)
    lines = [
        f"## {result['task']} ({result['cohort']})" if result["cohort"] else f"## {result['task']}",
        "",
        f"{result['n_subjects']} subjects, {result['n_sessions']} sessions; {result['split']}; "
        "95 % intervals over resampled subjects; p: labels dealt out at random.",
        "",
        "| model | method | " + " | ".join(metrics) + f" | p ({metrics[0]}) |",
        "|" + "---|" * (len(metrics) + 3),
    ]
    for (model, method), by_metric in cells.items():
        p = next(row["p"] for row in rows if (row["model"], row["method"], row["metric"]) == (model, method, metrics[0]))
        figures = " | ".join(by_metric[metric] for metric in metrics)
        lines.append(f"| {model} | {method} | {figures} | {'n/a' if p is None else f'{p:.3f}'} |")
    return "\n".join([*lines, "", *remarks(result)]) + "\n"


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Sentences under the table, the verdict first."""
    best, gap = result["best_baseline"], result["difference"]
    name, mine = f"{best['model']} ({best['method']})", result["rows"][0]["model"]
    if gap["low"] is None:
        verdict = f"{mine} and the best baseline, {name}, cannot be compared: {gap['metric']} is not defined for both."
    else:
        sign = -1 if gap["metric"] in LOWER_IS_BETTER else 1
        low, high = sorted((sign * gap["low"], sign * gap["high"]))
        beats = "beats" if low > 0 else "is beaten by" if high < 0 else "is not distinguishable from"
        verdict = (
            f"{mine} ({gap['metric']} {_cell(result['rows'][0])}) {beats} the best baseline, {name}: "
            f"difference {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] (paired bootstrap)."
        )
    lines = [verdict]
    if result["published"]:
        lines.append("Published: " + ", ".join(f"{metric} {value:g}" for metric, value in result["published"].items()) + ".")
    if result["excluded"]:
        lines.append("Sessions left out: " + ", ".join(f"{count} ({reason})" for reason, count in result["excluded"].items()) + ".")
    if result["seen_in_pretraining"]:
        seen = f"{result['seen_in_pretraining']} of these subjects were seen in pretraining"
        lines.append(f"{seen} (--allow-seen): the model's figures are optimistic.")
    if unknown := result.get("pretraining_unknown"):
        lines.append(f"Whom {', '.join(unknown)} was pretrained on is not known, so that no leak from there could be looked for.")
    if record := result.get("test_scored"):
        times = "once" if record["times_a_seed"] == 1 else f"{record['times_a_seed']} times"
        lines.append(
            f"Test: every subject {times} a seed ({record['seeds']}) and predictor ({record['predictors']}); "
            f"tuned on {record['tuned_on']}, fitted on {record['fitted_on']}."
        )
    return lines


def _embedding_set(model: str, vectors: Mapping[str, NDArray[Any]], keys: Sequence[str]) -> FeatureSet:
    missing = [key for key in keys if key not in vectors]
    if missing:
        raise InputError(f"{model}: {len(missing)} labelled sessions have no embedding, {missing[0]} among them; embed the whole store.")
    return FeatureSet(model, PROBE, np.stack([np.asarray(vectors[key], dtype=np.float64) for key in keys]))


def _entry(features: FeatureSet, target: Target, task: Task) -> Entry:
    if target.kind == "identification":
        raise InputError(f"{task.name}: is identification, which no linear model does; choose another task.")
    predictions = cross_validate(features, target.labels, target.subjects, target.kind, task.policy, target.strata)
    return Entry(features.model, features.method, predictions)


def _with_best_connectivity(entries: Sequence[Entry]) -> list[Entry]:
    """Add, for each set of frames, the connectivity whose inner loss was least in each fold."""
    by_frames: dict[str, list[OutOfFold]] = {}
    for entry in entries:
        if entry.model == CONNECTIVITY:
            by_frames.setdefault(entry.method.rpartition(", ")[2], []).append(entry.predictions)
    best = [(f"best of {len(kinds)} chosen inside, {frames}", choose_inside(kinds)) for frames, kinds in by_frames.items()]
    return [*entries, *(Entry(CONNECTIVITY, method, predictions) for method, predictions in best)]


def _goodness(predictions: OutOfFold, metric: str) -> float:
    value = float(np.mean(score(predictions, metric)))
    if math.isnan(value):
        return -math.inf
    return -value if metric in LOWER_IS_BETTER else value


def _rows(entry: Entry, primary: str, n_resamples: int) -> list[dict[str, Any]]:
    """One row a metric, the primary one first."""
    metrics = sorted(entry.predictions.metrics, key=lambda name: name != primary)
    rows = []
    for metric in metrics:
        interval = bootstrap(entry.predictions, metric, n_resamples)
        p = permutation_p(entry.predictions, metric, n_resamples)
        rows.append({"model": entry.model, "method": entry.method, "metric": metric, **_json(interval), "p": _number(p)})
    return rows


def _json(interval: Interval) -> dict[str, float | None]:
    return {"mean": _number(interval.mean), "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float) -> float | None:
    """JSON has no NaN: null where a metric is not defined."""
    return value if math.isfinite(value) else None


def _cell(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "n/a"
    bounds = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['mean']:.3f}{bounds}"
