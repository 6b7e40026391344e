"""The section on downstream tasks: ours beside every baseline, with intervals, and what the literature reports."""

from __future__ import annotations

from slimbrain.evaluate.result import Result, Row
from slimbrain.evaluate.table import chance_of, remarks, resampling_unit
from slimbrain.report.blocks import (
    MISSING,
    Block,
    Column,
    Figure,
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
from slimbrain.report.figures import forest
from slimbrain.report.inputs import Material

_TITLE = "Evaluation"

_METRIC_WORDS = {
    "auc": "AUC",
    "r2": "R²",
    "mae": "MAE",
    "mse": "MSE",
    "mse_z": "MSE (z)",
    "macro_f1": "macro F1",
    "top1": "top-1",
    "mrr": "MRR",
}


def build(material: Material) -> Section:
    """Verdict, table and forest plot of every task."""
    if not material.evaluations:
        return Section("evaluation", _TITLE, absent="No evaluation was given, so the page does not compare embeddings with baselines.")
    blocks: list[Block] = []
    for place, result in enumerate(material.evaluations):
        blocks += _task(result, place)
    return Section("evaluation", _TITLE, tuple(blocks))


def _task(result: Result, place: int) -> list[Block]:
    verdict, *others = remarks(result)
    cohort = f" ({result.cohort})" if result.cohort else ""
    setting = f"{count(result.n_subjects, 'subject')}, {count(result.n_sessions, 'session')}; {result.split}."
    return [
        Heading(f"{result.task}{cohort}"),
        VerdictBlock(verdict),
        _table(result),
        _forest(result, place),
        Prose(" ".join([setting, *others])),
    ]


def _table(result: Result) -> Table:
    metrics = result.metrics
    table = TableBuilder(
        f"{result.task}: mean over seeds and 95 % interval over resampled {resampling_unit(result)}; p for {_words(metrics[0])}, "
        "permuted labels",
        (Column("model"), *(Column(_words(metric), True) for metric in metrics), Column("p", True), Column("method"), Column("role")),
    )
    for predictor, rows in result.by_predictor.items():
        role, mark = _role(result, predictor)
        primary = rows.get(metrics[0])
        cells = [_interval(rows.get(metric)) for metric in metrics]
        table.add([predictor[0], *cells, number(primary.p if primary else None, 3), predictor[1], role], mark)
    if result.published:
        published = [number(result.published.get(metric), 3) for metric in metrics]
        table.add(["published", *published, MISSING, "from the literature, other data", "published"])
    return table.build()


def _role(result: Result, predictor: tuple[str, str]) -> tuple[str, Mark]:
    if predictor[0] in result.ours:
        return "ours", "ours"
    return ("best baseline", "best") if predictor == result.best_baseline.predictor else ("baseline", "")


def _interval(row: Row | None) -> str:
    if row is None or row.mean is None:
        return MISSING
    # Lines may break before the bracket, not within.
    return number(row.mean) + ("" if row.low is None else f" [{number(row.low)},\N{NO-BREAK SPACE}{number(row.high)}]")


def _forest(result: Result, place: int) -> Figure:
    metric = result.metrics[0]
    rows = [row for row in result.rows if row.metric == metric and row.mean is not None]
    listed = "; ".join(f"{row.model}, {row.method}: {_interval(row)}" for row in rows)
    alt = f"Forest plot of {_words(metric)} for {result.task}. {listed}."
    best = result.best_baseline.predictor
    chance = chance_of(result, metric)
    svg = forest(rows, result.ours, best, result.published.get(metric), chance, _words(metric), f"forest-{place}", alt)
    keys = "Blue square: ours; orange diamond: best baseline; grey: other baselines."
    keys += "" if chance is None else f" Dotted: chance, {chance:.3g}."
    caption = f"{_words(metric)} of every model with its 95 % interval. {keys}"
    return Figure(svg, caption, alt)


def _words(metric: str) -> str:
    return _METRIC_WORDS.get(metric, metric.replace("_", " "))
