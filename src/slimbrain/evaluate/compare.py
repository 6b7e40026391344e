"""Ours beside every baseline: the same subjects, the same folds, one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from slimbrain import __version__
from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import CONNECTIVITY, majority, store_baselines
from slimbrain.evaluate.identify import identify, pair_sessions
from slimbrain.evaluate.leaks import require_no_duplicates, scoring_record
from slimbrain.evaluate.probe import ATTENTION, FINETUNE, IDENTIFY, PROBE, FeatureSet, Predictor, cross_validate
from slimbrain.evaluate.series import ChannelSeries
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

UNTRAINED = "untrained"
OUR_METHODS = frozenset({PROBE, ATTENTION, FINETUNE, IDENTIFY})
"""How trained models are read; a row that has another method is a baseline."""


_SHOWN_DIGITS = 12
"""Of a SHA-256, in the table; the result file has all of it."""

_Contender = TypeVar("_Contender", bound=Predictor)


@dataclass(frozen=True)
class _MethodScores:
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
    others: Sequence[Callable[[Sequence[str]], Predictor]] = (),
    models: Sequence[Mapping[str, str]] = (),
    listened: ChannelSeries | None = None,
) -> dict[str, Any]:
    """Score models on a task, next to all baselines the store allows.

    Parameters
    ----------
    embeddings : by model name, session key -> (D,) vector, for a linear probe or identification. The first is ours; one
        called `untrained` is a baseline.
    seen : frames of each session that our model saw, for the baselines that get no more than these.
    seen_in_pretraining : subjects of this cohort that the model was pretrained on, which the result states.
    pretraining_unknown : models of which nobody knows whom they were pretrained on, which it states too.
    others : further predictors, each made for the keys of the sessions that have a label; they stand after the probes.
    models : `name` in the table and `weights_sha256` of each trained model, which the result states.
    listened : the store's series, where they were read before.

    Returns
    -------
    The result file of DESIGN section 9, with `differences` (one for each of ours) and `excluded`: sessions left out, by reason.

    Raises
    ------
    InputError
        If there is no trained model, an embedding lacks a session that has a label, the labels cannot be used, or one recording stands
        there under two participants.
    """
    if not others:
        _require_trained(list(embeddings))
    target = read_target(task, store)
    listened = listened or ChannelSeries(store)
    require_no_duplicates(store, target, listened)
    if task.identification:
        result = _identified(store, task, target, embeddings, seen, n_resamples, listened)
    else:
        sets = [embedding_set(model, vectors, target.keys) for model, vectors in embeddings.items()]
        contenders: list[Predictor] = [*sets, *(make(target.keys) for make in others)]
        ours, untrained = _divided(contenders)
        baselines = store_baselines(store, target.keys, seen, exclude=task.hidden, known=target.known, listened=listened)
        result = compare(task, target, ours, [*untrained, *baselines], n_resamples)
    return {
        **result,
        "cohort": store.root.name,
        "seen_in_pretraining": seen_in_pretraining,
        "pretraining_unknown": list(pretraining_unknown),
        "models": [dict(model) for model in models],
        "contract": store.contract.to_dict(),
    }


def _identified(
    store: Store,
    task: Task,
    target: Target,
    embeddings: Mapping[str, Mapping[str, NDArray[Any]]],
    seen: Mapping[str, NDArray[np.int64]] | None,
    n_resamples: int,
    listened: ChannelSeries,
) -> dict[str, Any]:
    """Tell subjects by their sessions, next to all baselines."""
    pairing = pair_sessions(store, task.occasions, target.keys)
    ours, untrained = _divided([embedding_set(model, vectors, pairing.flat, IDENTIFY) for model, vectors in embeddings.items()])
    # Nothing varies in a constant: it shows what guessing scores.
    guess = FeatureSet("chance", "everybody alike", majority(len(pairing.flat)).data)
    known = [features for features in store_baselines(store, pairing.flat, seen, listened=listened) if features.model != "majority"]
    mine, theirs = (
        [_MethodScores(part.model, part.method, identify(part, pairing)) for part in side] for side in (ours, [*untrained, *known, guess])
    )
    excluded = dict(target.excluded)
    if pairing.left_out:
        excluded["no session of the other kind, or a third one"] = pairing.left_out
    counts = {"n_subjects": len(pairing.subjects), "n_sessions": len(pairing.flat), "split": pairing.describe(), "seeds": []}
    facts = {**counts, "excluded": excluded, "test_scored": scoring_record(target, task.policy)}
    return _result(task, mine, theirs, primary_metric(task, target), n_resamples, facts)


def compare(
    task: Task, target: Target, ours: Sequence[Predictor], baselines: Sequence[Predictor], n_resamples: int = N_RESAMPLES
) -> dict[str, Any]:
    """Cross-validate every predictor on the same folds and put the scores in one result.

    The best baseline is the one with the best mean of the task's primary metric over seeds; the difference is that of
    the first of `ours` minus it, with a paired bootstrap interval. Picking the best after scoring flatters the baselines, not us.
    """
    record = scoring_record(target, task.policy)
    threads = max((library["num_threads"] for library in threadpool_info()), default=1)
    # The matrices are so small that BLAS loses more by sharing one among threads than it gains; predictors share them instead.
    with threadpool_limits(1):
        entries = _entries([*ours, *baselines], target, task, threads)
    mine, theirs = entries[: len(ours)], _with_best_connectivity(entries[len(ours) :])
    facts = {
        "n_subjects": target.n_subjects,
        "n_sessions": len(target.keys),
        "split": task.policy.describe(),
        "seeds": list(task.policy.seeds),
        "excluded": dict(target.excluded),
        "groups": target.bound,
        "test_scored": record,
    }
    return _result(task, mine, theirs, primary_metric(task, target), n_resamples, facts)


def _result(
    task: Task, mine: Sequence[_MethodScores], theirs: Sequence[_MethodScores], metric: str, n_resamples: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    best = max(theirs, key=lambda entry: _goodness(entry.predictions, metric))
    interval = bootstrap(best.predictions, metric, n_resamples)
    gaps = [
        {"model": entry.model, "method": entry.method, "metric": metric, **_json(_gap(entry, best, metric, n_resamples))} for entry in mine
    ]
    return {
        "task": task.name,
        "cohort": "",
        **facts,
        "rows": [row for entry in [*mine, *theirs] for row in _rows(entry, metric, n_resamples)],
        "best_baseline": {"model": best.model, "method": best.method, "metric": metric, **_json(interval)},
        "difference": {name: value for name, value in gaps[0].items() if name not in ("model", "method")},
        "differences": gaps,
        "published": dict(task.published),
        "seen_in_pretraining": 0,
        "groups": facts.get("groups"),
        "pretraining_unknown": [],
        "models": [],
        "test_scored": {**facts["test_scored"], "predictors": len(mine) + len(theirs)},
        "contract": {},
        "version": __version__,
    }


def _gap(entry: _MethodScores, best: _MethodScores, metric: str, n_resamples: int) -> Interval:
    return bootstrap_difference(entry.predictions, best.predictions, metric, n_resamples)


def _divided(contenders: Sequence[_Contender]) -> tuple[list[_Contender], list[_Contender]]:
    """Trained models, and the untrained ones, which are baselines."""
    _require_trained([entry.model for entry in contenders])
    ours = [entry for entry in contenders if entry.model != UNTRAINED]
    return ours, [entry for entry in contenders if entry.model == UNTRAINED]


def _require_trained(models: Sequence[str]) -> None:
    if not models or models[0] == UNTRAINED:
        raise InputError("There is nothing to evaluate; give the embeddings of a trained model first.")


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
        f"95 % intervals over resampled {resampling_unit(result)}; p: labels dealt out at random.",
        "",
        "| model | method | " + " | ".join(metrics) + f" | p ({metrics[0]}) |",
        "|" + "---|" * (len(metrics) + 3),
    ]
    for (model, method), by_metric in cells.items():
        p = next(row["p"] for row in rows if (row["model"], row["method"], row["metric"]) == (model, method, metrics[0]))
        figures = " | ".join(by_metric[metric] for metric in metrics)
        lines.append(f"| {model} | {method} | {figures} | {'n/a' if p is None else f'{p:.3f}'} |")
    return "\n".join([*lines, "", *remarks(result)]) + "\n"


def resampling_unit(result: Mapping[str, Any]) -> str:
    """What the intervals of a result are over."""
    bound = result.get("groups")
    return "groups of subjects" if bound and bound["count"] is not None else "subjects"


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Sentences under the table, the verdict on each of ours first; the one on the first row is the one that counts."""
    best = result["best_baseline"]
    # Results from before there were several methods have the difference of the first row only.
    gaps = result.get("differences") or [{**result["rows"][0], **result["difference"]}]
    lines = [_verdict(gap, f"{best['model']} ({best['method']})", result["rows"], several=len(gaps) > 1) for gap in gaps]
    if result["published"]:
        lines.append("Published: " + ", ".join(f"{metric} {value:g}" for metric, value in result["published"].items()) + ".")
    if result["excluded"]:
        lines.append("Sessions left out: " + ", ".join(f"{count} ({reason})" for reason, count in result["excluded"].items()) + ".")
    if bound := result.get("groups"):
        lines.append(_togetherness(bound))
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
    if models := result.get("models"):
        weights = "; ".join(f"{model['name']} {model['weights_sha256'][:_SHOWN_DIGITS]}" for model in models)
        lines.append(f"Weights (SHA-256): {weights}.")
    return lines


def _togetherness(bound: Mapping[str, Any]) -> str:
    """Whether subjects who belong together were kept together."""
    if bound["count"] is None:
        return f"Which subjects are relatives is not known (no {bound['by']}): they may stand on two sides of a split, and figures profit."
    return f"Subjects who share {bound['by']} are on one side of every split: {bound['count']} groups."


def _verdict(gap: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, Any]], several: bool) -> str:
    """Whether one of ours beats the best baseline, in one sentence."""
    mine = f"{gap['model']}, {gap['method']}" if several else gap["model"]
    if gap["low"] is None:
        return f"{mine} and the best baseline, {name}, cannot be compared: {gap['metric']} is not defined for both."
    own = next(row for row in rows if all(row[part] == gap[part] for part in ("model", "method", "metric")))
    sign = -1 if gap["metric"] in LOWER_IS_BETTER else 1
    low, high = sorted((sign * gap["low"], sign * gap["high"]))
    beats = "beats" if low > 0 else "is beaten by" if high < 0 else "is not distinguishable from"
    return (
        f"{mine} ({gap['metric']} {_cell(own)}) {beats} the best baseline, {name}: "
        f"difference {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] (paired bootstrap)."
    )


def embedding_set(model: str, vectors: Mapping[str, NDArray[Any]], keys: Sequence[str], method: str = PROBE) -> FeatureSet:
    """Frozen vectors (D,) of the sessions `keys`, in that order."""
    missing = [key for key in keys if key not in vectors]
    if missing:
        raise InputError(f"{model}: {len(missing)} labelled sessions have no embedding, {missing[0]} among them; embed the whole store.")
    return FeatureSet(model, method, np.stack([np.asarray(vectors[key], dtype=np.float64) for key in keys]))


def _entries(predictors: Sequence[Predictor], target: Target, task: Task, threads: int = 1) -> list[_MethodScores]:
    """One each, in order; those that take long come first, since each shows its own progress and a terminal has one bar at a time.

    Linear models take turns on `threads` threads: most of their time goes into decompositions, which let other threads run.
    """
    linear = [predictor for predictor in predictors if isinstance(predictor, FeatureSet)]
    slow = [predictor for predictor in predictors if not isinstance(predictor, FeatureSet)]
    done = {id(predictor): _entry(predictor, target, task) for predictor in slow}
    pool = ThreadPoolExecutor(threads)
    running = [pool.submit(_entry, predictor, target, task) for predictor in linear]
    try:
        for predictor, future in track(list(zip(linear, running, strict=True)), f"evaluate {task.name}"):
            done[id(predictor)] = future.result()
    finally:
        # After an error, or Ctrl-C, the others are not waited for.
        pool.shutdown(cancel_futures=True)
    return [done[id(predictor)] for predictor in predictors]


def _entry(predictor: Predictor, target: Target, task: Task) -> _MethodScores:
    if target.kind == "identification":
        raise InputError(f"{task.name}: is identification, which no probe does; use --method identify.")
    predictions = cross_validate(predictor, target.labels, target.subjects, target.kind, task.policy, target.strata, target.groups)
    return _MethodScores(predictor.model, predictor.method, predictions)


def _with_best_connectivity(entries: Sequence[_MethodScores]) -> list[_MethodScores]:
    """Add, for each set of frames, the connectivity whose inner loss was least in each fold."""
    by_frames: dict[str, list[OutOfFold]] = {}
    for entry in entries:
        if entry.model == CONNECTIVITY:
            by_frames.setdefault(entry.method.rpartition(", ")[2], []).append(entry.predictions)
    best = [(f"best of {len(kinds)} chosen inside, {frames}", choose_inside(kinds)) for frames, kinds in by_frames.items()]
    return [*entries, *(_MethodScores(CONNECTIVITY, method, predictions) for method, predictions in best)]


def _goodness(predictions: OutOfFold, metric: str) -> float:
    value = float(np.mean(score(predictions, metric)))
    if math.isnan(value):
        return -math.inf
    return -value if metric in LOWER_IS_BETTER else value


def _rows(entry: _MethodScores, primary: str, n_resamples: int) -> list[dict[str, Any]]:
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
