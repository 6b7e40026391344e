"""The section on downstream tasks: ours beside every baseline, with intervals, and what the literature reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimbrain.evaluate.compare import OUR_METHODS, UNTRAINED, remarks, resampling_unit
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

_Result = Mapping[str, Any]


def build(material: Material) -> Section:
    """Verdict, table and forest plot of every task."""
    if not material.evaluations:
        return Section("evaluation", _TITLE, absent="No evaluation was given, so the page does not compare embeddings with baselines.")
    blocks: list[Block] = []
    for place, result in enumerate(material.evaluations):
        blocks += _task(result, place)
    return Section("evaluation", _TITLE, tuple(blocks))


def _task(result: _Result, place: int) -> list[Block]:
    verdict, *others = remarks(result)
    cohort = f" ({result['cohort']})" if result["cohort"] else ""
    setting = f"{count(result['n_subjects'], 'subject')}, {count(result['n_sessions'], 'session')}; {result['split']}."
    return [
        Heading(f"{result['task']}{cohort}"),
        VerdictBlock(verdict),
        _table(result),
        _forest(result, place),
        Prose(" ".join([setting, *others])),
    ]


def _table(result: _Result) -> Table:
    rows: Sequence[_Result] = result["rows"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table = TableBuilder(
        f"{result['task']}: mean over seeds and 95 % interval over resampled {resampling_unit(result)}; "
        f"p for {_words(metrics[0])}, permuted labels",
        (Column("model"), Column("method"), Column("role"), *(Column(_words(metric), True) for metric in metrics), Column("p", True)),
    )
    by_model: dict[tuple[str, str], dict[str, _Result]] = {}
    for row in rows:
        by_model.setdefault((row["model"], row["method"]), {})[row["metric"]] = row
    ours = ours_in(result)
    for (model, method), by_metric in by_model.items():
        role, mark = _role(result, model, method, ours)
        cells = [_interval(by_metric.get(metric)) for metric in metrics]
        table.add([model, method, role, *cells, number(by_metric.get(metrics[0], {}).get("p"), 3)], mark)
    if result["published"]:
        published = [number(result["published"].get(metric), 3) for metric in metrics]
        table.add(["published", "from the literature, other data", "published", *published, MISSING])
    return table.build()


def ours_in(result: _Result) -> frozenset[str]:
    """Names of the models under test: that of the first row, as the result is defined, and of other trained embeddings."""
    probed = {row["model"] for row in result["rows"] if row["method"] in OUR_METHODS and row["model"] != UNTRAINED}
    return frozenset({result["rows"][0]["model"], *probed})


def _role(result: _Result, model: str, method: str, ours: frozenset[str]) -> tuple[str, Mark]:
    if model in ours:
        return "ours", "ours"
    best = result["best_baseline"]
    return ("best baseline", "best") if (model, method) == (best["model"], best["method"]) else ("baseline", "")


def _interval(row: _Result | None) -> str:
    if row is None or row["mean"] is None:
        return MISSING
    # Lines may break before the bracket, not within.
    return number(row["mean"]) + ("" if row["low"] is None else f" [{number(row['low'])},\N{NO-BREAK SPACE}{number(row['high'])}]")


def _forest(result: _Result, place: int) -> Figure:
    metric = result["rows"][0]["metric"]
    rows = [row for row in result["rows"] if row["metric"] == metric and row["mean"] is not None]
    best = (result["best_baseline"]["model"], result["best_baseline"]["method"])
    listed = "; ".join(f"{row['model']}, {row['method']}: {_interval(row)}" for row in rows)
    alt = f"Forest plot of {_words(metric)} for {result['task']}. {listed}."
    svg = forest(rows, ours_in(result), best, result["published"].get(metric), _words(metric), f"forest-{place}", alt)
    keys = "Blue square: ours; orange diamond: best baseline; grey: other baselines."
    caption = f"{_words(metric)} of every model with its 95 % interval. {keys}"
    return Figure(svg, caption, alt)


def _words(metric: str) -> str:
    return _METRIC_WORDS.get(metric, metric.replace("_", " "))
