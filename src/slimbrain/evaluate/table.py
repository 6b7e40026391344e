"""A result as people read it: a table in markdown, and sentences that say what it shows."""

from __future__ import annotations

import math

from slimbrain.evaluate.result import Estimate, Grouping, LabelledPoint, Result, Scoring
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, better_sign, metric_words

_SHOWN_DIGITS = 12
"""Of a SHA-256, in the table; the result file has all of it."""


_GUESSED = {"auc": 0.5, "r2": 0.0, "mse_z": 1.0}
"""What guessing scores whatever the classes are: a coin, or the mean of the training participants."""

_UNLIKELY = 0.05
"""Largest p at which permuted labels are said not to reach a score; intervals of few subjects are too narrow to say it."""

_BELOW_CHANCE = (
    "A score below chance is what cross-validation of few participants gives where there is no signal: those who are held out shift what "
    "the others teach away from themselves. Read it as no score, not as a reversed one."
)

_ONE_VALUE = "too few subjects for an interval"
_NO_INTERVALS = (
    "An interval of one value, such as {}, is not certainty: every resample of these subjects gives the same, and so few cannot give an "
    "interval."
)


def to_markdown(result: Result) -> str:
    """A heading, a table with the primary metric first, and the sentences of `remarks`."""
    metrics = result.metrics
    cohort = f"{result.cohort} to {result.tested_on}" if result.tested_on else result.cohort
    lines = [
        f"## {result.task} ({cohort})" if cohort else f"## {result.task}",
        "",
        f"{result.n_subjects} subjects, {result.n_sessions} sessions; {result.split}; "
        f"95 % intervals over resampled {resampling_unit(result)}; p: permuted labels.",
        "",
        "| model | method | " + " | ".join(map(metric_words, metrics)) + f" | p ({metric_words(metrics[0])}) |",
        "|" + "---|" * (len(metrics) + 3),
    ]
    for (model, method), rows in result.by_predictor.items():
        primary = rows.get(metrics[0])
        figures = " | ".join(_cell(rows.get(metric)) for metric in metrics)
        p = "n/a" if primary is None or primary.p is None else f"{primary.p:.3f}"
        lines.append(f"| {model} | {method} | {figures} | {p} |")
    for row in result.cannot:
        lines.append(f"| {row.model} | {row.method} | cannot" + " |" * (len(metrics) + 1))
    return "\n".join([*lines, "", *remarks(result), *_curve_table(result), *_held_out_table(result)]) + "\n"


def _curve_table(result: Result) -> list[str]:
    """The primary metric of every predictor over the number of labelled subjects, and how ours compares at each."""
    if not result.labelled:
        return []
    points = result.labelled
    found = [{row.predictor: row for row in point.rows} for point in points]
    lines = [
        "",
        f"### {metric_words(result.metrics[0])} by number of labelled subjects",
        "",
        "| model | method | " + " | ".join(f"{point.labelled} labelled" for point in points) + " |",
        "|" + "---|" * (len(points) + 2),
    ]
    for model, method in result.by_predictor:
        cells = " | ".join(_cell(rows.get((model, method))) for rows in found)
        lines.append(f"| {model} | {method} | {cells} |")
    verdicts = [f"{point.labelled} labelled: {_verdict(gap, result, point)}" for point in points for gap in point.differences]
    return [*lines, "", *verdicts]


def _held_out_table(result: Result) -> list[str]:
    """The primary metric of ours and of the best baseline for each site, say, that was left out."""
    if not result.held_out:
        return []
    shown = [*dict.fromkeys(gap.predictor for gap in result.differences), result.best_baseline.predictor]
    lines = [
        "",
        f"### {metric_words(result.metrics[0])} of each part left out",
        "",
        "| left out | subjects | " + " | ".join(f"{model} ({method})" for model, method in shown) + " |",
        "|" + "---|" * (len(shown) + 2),
    ]
    for part in result.held_out:
        rows = {row.predictor: row for row in part.rows}
        lines.append(f"| {part.value} | {part.n_subjects} | {' | '.join(_cell(rows.get(who)) for who in shown)} |")
    return lines


def resampling_unit(result: Result) -> str:
    """What the intervals of a result are over."""
    who = "groups of subjects" if result.groups and result.groups.count is not None else "subjects"
    return f"{who} and draws" if result.labelled else who


def _cell(estimate: Estimate | None) -> str:
    """`0.812 [0.761, 0.861]`, or n/a."""
    if estimate is None or estimate.mean is None:
        return "n/a"
    bounds = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.mean:.3f}{bounds}"


def _is_one_value(estimate: Estimate | None) -> bool:
    """Whether all resamples gave the same."""
    if estimate is None or estimate.mean is None or estimate.low is None or estimate.high is None:
        return False
    return math.isclose(estimate.low, estimate.high, abs_tol=1e-9)


def _is_constant(row: Estimate | None, chance: float | None) -> bool:
    """Whether a score is chance in all resamples, as that of a constant prediction is, however many subjects there are."""
    return row is not None and row.low is not None and _is_one_value(row) and chance is not None and math.isclose(row.low, chance)


def _of_one_value(result: Result) -> str:
    """The first interval of the tables that is one value for want of subjects, as they show it; empty if there is none."""
    parts = [result.rows, *(point.rows for point in result.labelled), *(part.rows for part in result.held_out)]
    found = (row for rows in parts for row in rows if _is_one_value(row) and not _is_constant(row, chance_of(result, row.metric)))
    return next((_cell(row).split(" ", 1)[1] for row in found), "")


def remarks(result: Result) -> list[str]:
    """Sentences under the table: first how each of ours compares with the best baseline, the first row's in front."""
    lines = [_verdict(gap, result) for gap in result.differences]
    if any(_is_below_chance(result.row_of(gap), result) for gap in result.differences):
        lines.append(_BELOW_CHANCE)
    if example := _of_one_value(result):
        lines.append(_NO_INTERVALS.format(example))
    if result.classes:
        who = "subjects" if sum(result.classes.values()) <= result.n_subjects else "windows"
        lines.append(f"Classes, in {who}: " + ", ".join(f"{name} {count}" for name, count in result.classes.items()) + ".")
    if chance := {metric: value for metric, value in result.chance.items() if metric in result.metrics}:
        lines.append("Chance: " + ", ".join(f"{metric_words(metric)} {value:.3f}" for metric, value in chance.items()) + ".")
    if result.published:
        lines.append("Published: " + ", ".join(f"{metric_words(metric)} {value:g}" for metric, value in result.published.items()) + ".")
    if result.excluded:
        lines.append("Sessions left out: " + ", ".join(f"{count} ({reason})" for reason, count in result.excluded.items()) + ".")
    for one in result.cannot:
        lines.append(f"{one.model} ({one.method}) cannot be compared: {one.reason.rstrip('.')}.")
    if result.groups:
        lines.append(_togetherness(result.groups))
    if result.seen_in_pretraining:
        lines.append(f"A model was pretrained on {result.seen_in_pretraining} of these subjects (--allow-overlap): scores are optimistic.")
    if result.pretraining_unknown:
        models = ", ".join(result.pretraining_unknown)
        lines.append(f"Which participants {models} was pretrained on is not recorded, so overlap with these subjects could not be checked.")
    if result.test_scored:
        lines.append(_tested(result.test_scored))
    if result.models:
        weights = "; ".join(f"{model.name} {model.weights_sha256[:_SHOWN_DIGITS]}" for model in result.models)
        lines.append(f"Weights (SHA-256): {weights}.")
    return lines


def _tested(record: Scoring) -> str:
    times = "once" if record.tests_per_seed == 1 else f"{record.tests_per_seed} times"
    return (
        f"Test: each subject is tested {times} per seed ({record.seeds}) and predictor ({record.predictors}); "
        f"tuned on {record.tuned_on}, fitted on {record.fitted_on}."
    )


def chance_of(result: Result, metric: str) -> float | None:
    """What guessing scores; None where that is not known."""
    return result.chance.get(metric, _GUESSED.get(metric))


def is_at_chance(low: float | None, high: float | None, chance: float | None) -> bool:
    """Whether the interval of a score holds what guessing scores."""
    return low is not None and high is not None and chance is not None and low <= chance <= high


def _is_below_chance(row: Estimate | None, result: Result) -> bool:
    """Whether a score that classifies lies under what guessing gives."""
    if row is None or row.mean is None or row.metric not in CLASSIFICATION_METRICS:
        return False
    chance = chance_of(result, row.metric)
    return chance is not None and row.mean < chance


def _togetherness(bound: Grouping) -> str:
    """Whether subjects who belong together were kept together."""
    if bound.count is None:
        return f"Which subjects are relatives is not known (no {bound.by}): they may be on two sides of a split, which inflates scores."
    return f"Subjects who share {bound.by} are on one side of every split: {bound.count} groups."


def _signed(value: float) -> str:
    """With its sign, but for a zero that is negative by rounding."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _verdict(gap: Estimate, result: Result, point: LabelledPoint | None = None) -> str:
    """Whether one of ours beats the best baseline, in one sentence; at one place of a curve, if one is given."""
    baseline = (point or result).best_baseline
    best = f"{baseline.model} ({baseline.method})"
    several = sum(other.model == gap.model for other in result.differences) > 1
    mine = f"{gap.model}, {gap.method}" if several else gap.model
    if gap.mean is None or gap.low is None or gap.high is None:
        return f"{mine} and the best baseline, {best}, cannot be compared: {metric_words(gap.metric)} is not defined for both."
    row = result.row_of(gap) if point is None else next((row for row in point.rows if row.predictor == gap.predictor), None)
    sign = better_sign(gap.metric)
    low, high = sorted((sign * gap.low, sign * gap.high))
    beats = "beats" if low > 0 else "is beaten by" if high < 0 else "is not distinguishable from"
    chance = chance_of(result, gap.metric)
    note = f"; {_ONE_VALUE}" if (_is_one_value(gap) or _is_one_value(row)) and not _is_constant(row, chance) else ""
    score, difference = (
        f"{mine} ({metric_words(gap.metric)} {_cell(row)})",
        f"{_signed(gap.mean)} [{_signed(gap.low)}, {_signed(gap.high)}] (paired bootstrap{note})",
    )
    p = None if row is None else row.p
    if row is not None and is_at_chance(row.low, row.high, chance):
        unsure = f"{score} is at chance ({chance:.3g}), as far as {result.n_subjects} subjects can tell"
    elif p is not None and p > _UNLIKELY:
        unsure = f"{score} cannot be told from chance (p {p:.3f}, permuted labels)"
    else:
        return f"{score} {beats} the best baseline, {best}: difference {difference}."
    if low <= 0 <= high:
        return f"{unsure}; difference from the best baseline, {best}: {difference}."
    return f"{unsure}, and {beats} the best baseline, {best}: difference {difference}."
