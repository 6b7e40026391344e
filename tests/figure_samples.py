"""What figures are made of: a result with two metrics, and the windows of one session."""

from __future__ import annotations

from slimbrain.evaluate.result import PROBE, Estimate, Result, Row
from slimbrain.saliency import WindowRow


def result() -> Result:
    rows = tuple(
        Row(model=model, method=method, metric=metric, mean=mean, low=mean - 0.1, high=mean + 0.05)
        for metric, shift in (("auc", 0.0), ("accuracy", 0.1))
        for model, method, mean in (("ours", PROBE, 0.6 + shift), ("tangent", "logistic", 0.7 + shift), ("majority", "majority", 0.5))
    )
    best, gain = (
        Estimate(model=model, method=method, metric="auc", mean=0.1) for model, method in (("tangent", "logistic"), ("ours", PROBE))
    )
    return Result(
        task="column:sex",
        cohort="x",
        n_subjects=40,
        n_sessions=40,
        split="5-fold",
        rows=rows,
        best_baseline=best,
        differences=(gain,),
        classes={"F": 10, "M": 30},
    )


def windows() -> list[WindowRow]:
    scores = (0.5, -1.0, 2.0, 0.0)
    return [
        WindowRow("sub-01", i, 5.76 * i, 5.76, 0.1, 0.2, score, rank, 0.0, 0.0)
        for i, (score, rank) in enumerate(zip(scores, (2, 4, 1, 3), strict=True))
    ]
