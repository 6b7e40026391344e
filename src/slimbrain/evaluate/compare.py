"""Ours beside every baseline: the same subjects, the same folds, one result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import WHOLE_RUN, majority, store_baselines
from slimbrain.evaluate.connectivity import CONNECTIVITY
from slimbrain.evaluate.held_out import tested_folds
from slimbrain.evaluate.identify import identify, pair_sessions
from slimbrain.evaluate.leaks import Screened, scoring_record
from slimbrain.evaluate.probes import FeatureSet, Predictor, Together, cross_validate
from slimbrain.evaluate.result import UNTRAINED, Estimate, HeldOut, LabelledPoint, ModelWeights, Result, Row
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.stats import (
    LOWER_IS_BETTER,
    N_RESAMPLES,
    Interval,
    OutOfFold,
    bootstrap,
    bootstrap_difference,
    choose_inside,
    permutation_p,
    permuted_truth,
    score,
)
from slimbrain.evaluate.tasks import Target, Task, primary_metric
from slimbrain.evaluate.window_store import WindowStore
from slimbrain.progress import track
from slimbrain.store import Store


@dataclass(frozen=True)
class _MethodScores:
    """One predictor after cross-validation."""

    model: str
    method: str
    predictions: OutOfFold


def evaluate(
    store: Store,
    task: Task,
    screened: Screened,
    predictors: Sequence[Predictor],
    used: Mapping[str, NDArray[np.int64]] | None = None,
    models: Sequence[ModelWeights] = (),
    series: ChannelSeries | None = None,
    n_resamples: int = N_RESAMPLES,
    labelled: Sequence[SplitPolicy] = (),
    more: Sequence[Predictor] = (),
    further: bool = False,
    baselines: Sequence[FeatureSet] | None = None,
) -> Result:
    """Score models on a task, next to all baselines the store allows.

    Parameters
    ----------
    screened : Screened
        From `leaks.screen`: the labels, and who of these subjects is known to the models.
    predictors : Sequence[Predictor]
        One entry for each of the target's sessions; the first is ours, those of the model `untrained` are baselines.
    used : Mapping[str, ndarray of int64] or None
        Frames of each session that our model used, for the baselines that get no more than these.
    models : Sequence[ModelWeights], default ()
        The trained models, which the result names.
    series : ChannelSeries or None
        The store's series, where they were read before.
    labelled : Sequence[SplitPolicy], default ()
        The places of a curve over the number of labelled subjects; the task's own split if empty.
    more : Sequence[Predictor], default ()
        Further baselines.
    further : bool, default False
        As for `store_baselines`.
    baselines : Sequence[FeatureSet] or None
        Those of `store_baselines` for the target's sessions, where they were made before; several tasks may share them.

    Raises
    ------
    InputError
        If there is no trained model, or the labels cannot be used.
    """
    ours, untrained = divided(predictors)
    series, target = series or ChannelSeries(store), screened.target
    if task.identification:
        result = _identified(store, task, target, ours, untrained, used, n_resamples, series)
    else:
        whole = f"{store.frames} frames" if isinstance(store, WindowStore) else WHOLE_RUN
        if baselines is None:
            baselines = store_baselines(store, target.keys, used, task.hidden, target.known, series, whole, further)
        ours = [*ours, *_with_connectivity(ours, baselines, whole)]
        theirs = [*untrained, *more, *baselines]
        if labelled:
            result = _label_curve(task, target, ours, theirs, labelled, n_resamples)
        else:
            result = compare(task, target, ours, theirs, n_resamples)
    known = {
        "cohort": store.root.name,
        "seen_in_pretraining": screened.in_training,
        "pretraining_unknown": screened.unknown,
        "models": tuple(models),
        "contract": store.contract,
    }
    return result.model_copy(update=known)


def _with_connectivity(ours: Sequence[Predictor], baselines: Sequence[FeatureSet], whole: str) -> list[Together]:
    """Our first model and connectivity in one linear model, which is what a user would do; none if it is not read by a linear probe."""
    first = ours[0]
    method = f"tangent towards the population, {whole}"
    if not isinstance(first, FeatureSet):
        return []
    tangents = [features for features in baselines if (features.model, features.method) == (CONNECTIVITY, method)]
    return [Together(f"{CONNECTIVITY} + {first.model}", f"{method}, and {first.method}", (tangent, first)) for tangent in tangents]


def _identified(
    store: Store,
    task: Task,
    target: Target,
    ours: Sequence[Predictor],
    untrained: Sequence[Predictor],
    used: Mapping[str, NDArray[np.int64]] | None,
    n_resamples: int,
    series: ChannelSeries,
) -> Result:
    """Tell subjects by their sessions, next to all baselines."""
    pairing = pair_sessions(store, task.occasions, target.keys)
    rows = [target.keys.index(key) for key in pairing.flat]
    mine, others = ([_vectors_of(predictor, task).take(rows) for predictor in side] for side in (ours, untrained))
    # Nothing varies in a constant: it shows what guessing scores.
    guess = FeatureSet("chance", "everybody alike", majority(len(rows)).data)
    known = [features for features in store_baselines(store, pairing.flat, used, series=series) if features.model != "majority"]
    scored = [
        [_MethodScores(features.model, features.method, identify(features, pairing)) for features in side]
        for side in (mine, [*others, *known, guess])
    ]
    excluded = dict(target.excluded)
    if pairing.left_out:
        excluded["no session of the other kind, or a third one"] = pairing.left_out
    facts = {"n_subjects": len(pairing.subjects), "n_sessions": len(rows), "split": pairing.describe(), "seeds": (), "excluded": excluded}
    return _result(task, target, scored[0], scored[1], n_resamples, facts)


def _vectors_of(predictor: Predictor, task: Task) -> FeatureSet:
    if not isinstance(predictor, FeatureSet):
        raise InputError(f"{task.name}: is identification, which {predictor.method} does not do; use --method identify.")
    return predictor


def _label_curve(
    task: Task,
    target: Target,
    ours: Sequence[Predictor],
    baselines: Sequence[Predictor],
    policies: Sequence[SplitPolicy],
    n_resamples: int,
) -> Result:
    """Compare at each number of labelled subjects; the table, with all metrics, is that of the last."""
    for policy in policies:
        # Too many are refused before anything is fitted.
        scoring_record(target, policy)
    results = [
        compare(replace(task, policy=policy), target, ours, baselines, n_resamples, everything=policy == policies[-1])
        for policy in policies
    ]
    metric = primary_metric(task, target)
    points = tuple(
        LabelledPoint(
            labelled=policy.labelled,
            n_tested=target.n_subjects - policy.labelled,
            rows=tuple(row for row in result.rows if row.metric == metric),
            best_baseline=result.best_baseline,
            differences=result.differences,
        )
        for policy, result in zip(policies, results, strict=True)
    )
    return results[-1].model_copy(update={"labelled": points})


def compare(
    task: Task,
    target: Target,
    ours: Sequence[Predictor],
    baselines: Sequence[Predictor],
    n_resamples: int = N_RESAMPLES,
    everything: bool = True,
) -> Result:
    """Cross-validate every predictor on the same folds and put the scores in one result.

    The best baseline is the one with the best mean of the task's primary metric over seeds; differences are those of each of `ours`
    minus it, with a paired bootstrap interval. Picking the best after scoring flatters the baselines, not us.

    Parameters
    ----------
    everything : bool, default True
        Report all metrics, or else the primary one alone.
    """
    if target.kind == "identification":
        raise InputError(f"{task.name}: is identification, which no probe does; use --method identify.")
    # Before anything is fitted: a leaking split is refused.
    scoring_record(target, task.policy)
    threads = max((library["num_threads"] for library in threadpool_info()), default=1)
    # The matrices are so small that BLAS loses more by sharing one among threads than it gains; predictors share them instead.
    with threadpool_limits(1), _torch_threads(1):
        entries = _entries([*ours, *baselines], target, task, threads)
    mine, theirs = entries[: len(ours)], _with_best_connectivity(entries[len(ours) :])
    facts: dict[str, Any] = {
        "n_subjects": target.n_subjects,
        "n_sessions": len(target.keys),
        "split": task.policy.describe(),
        "seeds": task.policy.seeds,
        "excluded": target.excluded,
        "groups": target.bound,
        "sources": {f"{each.model}, {each.method}": each.source for each in baselines if isinstance(each, FeatureSet) and each.source},
    }
    if task.policy.kind == "leave-out":
        facts["held_out"] = _by_block([*mine, *theirs], target, primary_metric(task, target), n_resamples)
    return _result(task, target, mine, theirs, n_resamples, facts, everything)


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads in each of the threads that start meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(
    task: Task,
    target: Target,
    mine: Sequence[_MethodScores],
    theirs: Sequence[_MethodScores],
    n_resamples: int,
    facts: Mapping[str, Any],
    everything: bool = True,
) -> Result:
    metric = primary_metric(task, target)
    best = max(theirs, key=lambda entry: _goodness(entry.predictions, metric))
    gaps = (bootstrap_difference(entry.predictions, best.predictions, metric, n_resamples) for entry in mine)
    record = scoring_record(target, task.policy)
    return Result(
        task=task.name,
        cohort="",
        **facts,
        rows=tuple(row for entry in [*mine, *theirs] for row in _rows(entry, metric, n_resamples, everything)),
        best_baseline=_estimate(best, metric, bootstrap(best.predictions, metric, n_resamples)),
        differences=tuple(_estimate(entry, metric, gap) for entry, gap in zip(mine, gaps, strict=True)),
        published=dict(task.published),
        classes=target.classes,
        test_scored=record.model_copy(update={"predictors": len(mine) + len(theirs)}),
    )


def _by_block(entries: Sequence[_MethodScores], target: Target, metric: str, n_resamples: int) -> tuple[HeldOut, ...]:
    """The primary metric of every predictor for each site, say, that was left out."""
    assert target.blocks is not None
    names = np.unique(target.blocks).tolist()
    parts = [tested_folds(entry.predictions, names) for entry in entries]
    return tuple(
        HeldOut(
            value=name,
            n_subjects=len(np.unique(target.subjects[target.blocks == name])),
            rows=tuple(
                row
                for entry, part in zip(entries, parts, strict=True)
                for row in _rows(replace(entry, predictions=part[name]), metric, n_resamples, everything=False)
            ),
        )
        for name in names
    )


def divided(predictors: Sequence[Predictor]) -> tuple[list[Predictor], list[Predictor]]:
    """Trained models, and the untrained ones, which are baselines."""
    if not predictors or predictors[0].model == UNTRAINED:
        raise InputError("There is nothing to evaluate; give the embeddings of a trained model first.")
    ours = [predictor for predictor in predictors if predictor.model != UNTRAINED]
    return ours, [predictor for predictor in predictors if predictor.model == UNTRAINED]


def _entries(predictors: Sequence[Predictor], target: Target, task: Task, threads: int = 1) -> list[_MethodScores]:
    """One each, in order; those that take long come first, since each shows its own progress and a terminal has one bar at a time.

    Linear models take turns on `threads` threads: most of their time goes into decompositions, which let other threads run.
    """
    linear = [predictor for predictor in predictors if isinstance(predictor, FeatureSet | Together)]
    slow = [predictor for predictor in predictors if not isinstance(predictor, FeatureSet | Together)]
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
    assert target.kind != "identification"
    about = (target.strata, target.groups, target.blocks, target.runs)
    predictions = cross_validate(predictor, target.labels, target.subjects, target.kind, task.policy, *about)
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


def _rows(entry: _MethodScores, primary: str, n_resamples: int, everything: bool = True) -> list[Row]:
    """One row per metric, the primary one first, or alone."""
    metrics = sorted(entry.predictions.metrics, key=lambda name: name != primary) if everything else [primary]
    rows, permuted = [], permuted_truth(entry.predictions, n_resamples)
    for metric in metrics:
        estimate = _estimate(entry, metric, bootstrap(entry.predictions, metric, n_resamples))
        p = permutation_p(entry.predictions, metric, permuted=permuted)
        rows.append(Row(**estimate.model_dump(), p=_number(p)))
    return rows


def _estimate(entry: _MethodScores, metric: str, interval: Interval) -> Estimate:
    mean, low, high = map(_number, (interval.mean, interval.low, interval.high))
    return Estimate(model=entry.model, method=entry.method, metric=metric, mean=mean, low=low, high=high)


def _number(value: float) -> float | None:
    """JSON has no NaN: None where a metric is not defined."""
    return value if math.isfinite(value) else None
