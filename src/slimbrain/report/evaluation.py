"""The section on downstream tasks: ours beside every baseline, with intervals, and what the literature reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slimbrain.evaluate.result import Result, Row
from slimbrain.evaluate.stats import better_sign, metric_meanings, metric_words
from slimbrain.evaluate.table import chance_of, remarks, resampling_unit
from slimbrain.evaluate.tasks import label_name
from slimbrain.report.blocks import (
    MISSING,
    Block,
    Column,
    Figure,
    Fold,
    Heading,
    Mark,
    Prose,
    Section,
    Table,
    TableBuilder,
    VerdictBlock,
    count,
    number,
)
from slimbrain.report.forest import forest
from slimbrain.report.inputs import Material
from slimbrain.report.label_curve import label_curve

_TITLE = "Evaluation"

_FOLDED = 4
"""Fewer further baselines are not worth a fold."""


def build(material: Material) -> Section:
    """Table and forest plot of every task, and the verdict of all but the first, whose verdict is the summary's."""
    if not material.evaluations:
        return Section("evaluation", _TITLE, absent="no result was given; slimbrain evaluate writes one, --evaluation adds it.")
    blocks: list[Block] = []
    for place, result in enumerate(material.evaluations):
        blocks += _task(result, place)
    return Section("evaluation", _TITLE, tuple(blocks))


def _task(result: Result, place: int) -> list[Block]:
    said, n_verdicts = remarks(result), len(result.differences)
    verdict, others, notes = said[0], said[1:n_verdicts], said[n_verdicts:]
    named = f"{result.cohort} to {result.tested_on}" if result.tested_on else result.cohort
    cohort = f" ({named})" if named else ""
    setting = f"{count(result.n_subjects, 'subject')}, {count(result.n_sessions, 'session')}; {result.split}."
    shown, further = _leading(result)
    meanings = metric_meanings(result.metrics)
    return [
        Heading(f"{label_name(result.task)}{cohort}"),
        *([VerdictBlock(verdict)] if place else []),
        _table(result, shown),
        *([Fold(f"{len(further)} further baselines", (_scores(result, further).build(),))] if further else []),
        _forest(result, shown, place),
        *_curve(result, place),
        *_held_out(result),
        *([Prose(" ".join(others))] if others else []),
        Prose(" ".join([setting, *notes])),
        *([Prose(meanings)] if meanings else []),
    ]


def _leading(result: Result) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Predictors to show, in order: ours, and the best of each kind of baseline; and all others, if they are many."""
    metric = result.metrics[0]

    def score(predictor: tuple[str, str]) -> float:
        row = result.by_predictor[predictor].get(metric)
        return -math.inf if row is None or row.mean is None else better_sign(metric) * row.mean

    predictors = list(result.by_predictor)
    best: dict[str, tuple[str, str]] = {result.best_baseline.model: result.best_baseline.predictor}
    for predictor in sorted(predictors, key=score, reverse=True):
        best.setdefault(predictor[0], predictor)
    further = [one for one in predictors if one[0] not in result.ours and one != best[one[0]]]
    return ([one for one in predictors if one not in further], further) if len(further) >= _FOLDED else (predictors, [])


def _table(result: Result, predictors: Sequence[tuple[str, str]]) -> Table:
    """Scores, what cannot be compared, and the literature's."""
    table, metrics = _scores(result, predictors), result.metrics
    for one in result.cannot:
        table.add([one.model, *(MISSING for _ in metrics), MISSING, "cannot", one.method])
    if result.published:
        published = [number(result.published.get(metric), 3) for metric in metrics]
        table.add(["published", *published, MISSING, "published", "from the literature, other data"])
    return table.build()


def _scores(result: Result, predictors: Sequence[tuple[str, str]]) -> TableBuilder:
    """A row of all metrics for each predictor."""
    metrics = result.metrics
    table = TableBuilder(
        f"{label_name(result.task)}: mean over seeds and 95 % interval over resampled {resampling_unit(result)}; "
        f"p for {metric_words(metrics[0])}, permuted labels",
        # Scores next to names: a phone shows two columns.
        (Column("model"), *(Column(metric_words(metric), True) for metric in metrics), Column("p", True), Column("role"), Column("method")),
    )
    for predictor in predictors:
        rows = result.by_predictor[predictor]
        role, mark = _role(result, predictor)
        primary = rows.get(metrics[0])
        cells = [_interval(rows.get(metric)) for metric in metrics]
        table.add([predictor[0], *cells, number(primary.p if primary else None, 3), role, predictor[1]], mark)
    return table


def _curve(result: Result, place: int) -> list[Block]:
    """The curve over the number of labelled participants, and the numbers that it is drawn from."""
    if not result.labelled:
        return []
    metric = metric_words(result.metrics[0])
    table = TableBuilder(
        f"{label_name(result.task)}: {metric} by number of labelled participants, mean over {len(result.seeds)} draws of them "
        "and 95 % interval",
        (Column("model"), Column("method"), *(Column(f"{point.labelled} labelled", True) for point in result.labelled)),
    )
    found = [{row.predictor: row for row in point.rows} for point in result.labelled]
    for predictor in result.by_predictor:
        mark = _role(result, predictor)[1]
        table.add([*predictor, *(_interval(rows.get(predictor)) for rows in found)], mark)
    sizes = ", ".join(str(point.labelled) for point in result.labelled)
    alt = f"Curves of {metric} for {label_name(result.task)} over {sizes} labelled participants, one per row of the table below."
    caption = (
        f"{metric} over the number of labelled participants; all others are tested. Thick blue: ours; orange: the baseline that is best "
        "with most labels; bars: 95 % intervals; dotted: chance. Intervals of all rows are in the table."
    )
    return [Figure(label_curve(result, metric, f"curve-{place}", alt), caption, alt), table.build()]


def _held_out(result: Result) -> list[Block]:
    """What was left out in turn: ours, and the best baseline, on each."""
    if not result.held_out:
        return []
    shown = [*dict.fromkeys(gap.predictor for gap in result.differences), result.best_baseline.predictor]
    table = TableBuilder(
        f"{label_name(result.task)}: {metric_words(result.metrics[0])} of each part that was left out, mean and 95 % interval",
        (Column("left out"), Column("subjects", True), *(Column(": ".join(predictor), True) for predictor in shown)),
    )
    for part in result.held_out:
        rows = {row.predictor: row for row in part.rows}
        table.add([part.value, str(part.n_subjects), *(_interval(rows.get(predictor)) for predictor in shown)])
    return [table.build()]


def _role(result: Result, predictor: tuple[str, str]) -> tuple[str, Mark]:
    if predictor[0] in result.ours:
        return "ours", "ours"
    return ("best baseline", "best") if predictor == result.best_baseline.predictor else ("baseline", "")


def _interval(row: Row | None) -> str:
    if row is None or row.mean is None:
        return MISSING
    # Lines may break before the bracket, not within.
    return number(row.mean) + ("" if row.low is None else f" [{number(row.low)},\N{NO-BREAK SPACE}{number(row.high)}]")


def _forest(result: Result, predictors: Sequence[tuple[str, str]], place: int) -> Figure:
    metric = result.metrics[0]
    rows = [row for row in result.rows if row.metric == metric and row.mean is not None and row.predictor in predictors]
    listed = "; ".join(f"{row.model}, {row.method}: {_interval(row)}" for row in rows)
    alt = f"Forest plot of {metric_words(metric)} for {label_name(result.task)}. {listed}."
    best = result.best_baseline.predictor
    chance = chance_of(result, metric)
    svg = forest(rows, result.ours, best, result.published.get(metric), chance, metric_words(metric), f"forest-{place}", alt)
    keys = "Blue square: ours; orange diamond: best baseline; grey: other baselines."
    keys += "" if chance is None else f" Dotted: chance, {chance:.3g}."
    caption = f"{metric_words(metric)} of the models in the table above, with 95 % intervals. {keys}"
    return Figure(svg, caption, alt)
