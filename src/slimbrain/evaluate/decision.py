"""Which class a probability names: cutoffs tuned on held-out training subjects, for each metric that counts named classes.

With weak penalties and more features than subjects, probabilities are overconfident: a rare class is hardly ever named, although it ranks
well (tangent of ABIDE, 17 % women: AUC 0.82, balanced accuracy 0.53 where probabilities were divided by the classes' shares). So
the cutoff is moved until the metric is best, as scikit-learn's `TunedThresholdClassifierCV` does for two classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimbrain.evaluate.stats import Floats, Ints

_Said = NDArray[np.intp]

NAMING_METRICS = ("balanced_accuracy", "accuracy", "macro_f1")
"""Metrics of the class that is named; AUC looks at the order alone."""

_PLATEAU = 0.5
"""Standard errors by which a cutoff may score below the best and still count as equally good. The median of such cutoffs beats the very
best one, which noise picks: balanced accuracy 0.568 against 0.556 on other subjects (600 to learn from, 17 % of one class)."""
_MOST_THRESHOLDS = 512
"""Between quantiles of the predictions, where these are more: far closer together than sampling error."""
_ROUNDS = 2
"""Passes over the classes, where there are more than two."""
_SMALLEST = np.finfo(np.float64).tiny


def tuned_cutoffs(said: Floats, truth: Floats) -> dict[str, Floats]:
    """(K,) what probabilities are divided by, before the largest is taken, for each of `NAMING_METRICS`; they add up to 1.

    Parameters
    ----------
    said : ndarray of float64
        (N, K) probabilities of subjects whom the model did not learn from.
    truth : ndarray of float64
        (N,) class numbers.
    """
    y = truth.astype(np.int64)
    logits = np.log(np.maximum(said, _SMALLEST))
    start = {metric: np.zeros(said.shape[1]) for metric in NAMING_METRICS}
    return {metric: _as_shares(_raised(logits, y, metric, offset)) for metric, offset in start.items()}


def untuned_cutoffs(counts: Ints) -> dict[str, Floats]:
    """The same where nobody was held out: the classes' shares, and none for accuracy, which are best where probabilities are calibrated.

    Parameters
    ----------
    counts : ndarray of int64
        (K,) training sessions of each class.
    """
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    return {metric: np.full(len(counts), 1 / len(counts)) if metric == "accuracy" else shares for metric in NAMING_METRICS}


def _raised(logits: Floats, y: Ints, metric: str, offset: Floats) -> Floats:
    """(K,) logarithms of cutoffs, those of one class after another moved to where the metric is best."""
    n_classes = logits.shape[1]
    for label in range(1, n_classes) if n_classes == 2 else [*range(n_classes)] * _ROUNDS:
        relative = logits - offset
        others = relative.copy()
        others[:, label] = -np.inf
        # A row is named `label` where its lead over the best of the others is above the threshold.
        rival, lead = others.argmax(axis=1), logits[:, label] - others.max(axis=1)
        distinct = np.unique(lead)
        if len(distinct) > _MOST_THRESHOLDS:
            distinct = distinct[np.linspace(0, len(distinct) - 1, _MOST_THRESHOLDS).astype(np.int64)]
        thresholds = np.concatenate([[distinct[0] - 1], (distinct[1:] + distinct[:-1]) / 2, [distinct[-1] + 1]])
        values = _values(np.where(lead > thresholds[:, None], label, rival), y, n_classes)[metric]
        offset[label] = np.median(thresholds[values >= values.max() - _PLATEAU * _standard_error(values.max(), y)])
    return offset


def _values(said: _Said, y: Ints, n_classes: int) -> Mapping[str, Floats]:
    """(R,) each metric of R namings (R, N)."""
    present = np.unique(y)
    hits = np.stack([(said[:, y == label] == label).sum(axis=1) for label in range(n_classes)])
    names = np.stack([(said == label).sum(axis=1) for label in range(n_classes)])
    counts = np.bincount(y, minlength=n_classes)[:, None]
    f1 = 2 * hits / np.maximum(counts + names, 1)
    return {
        "balanced_accuracy": (hits[present] / counts[present]).mean(axis=0),
        "accuracy": hits.sum(axis=0) / len(y),
        "macro_f1": f1.sum(axis=0) / np.count_nonzero(counts + names, axis=0),
    }


def _standard_error(value: float, y: Ints) -> float:
    """Of a mean recall."""
    counts = np.bincount(y)
    counts = counts[counts > 0]
    return float(np.sqrt(value * (1 - value) * (1 / counts).sum()) / len(counts))


def _as_shares(offset: Floats) -> Floats:
    """(K,) cutoffs of logarithms, which may be large."""
    shares = np.exp(offset - offset.max())
    return np.asarray(np.maximum(shares, _SMALLEST) / shares.sum())
