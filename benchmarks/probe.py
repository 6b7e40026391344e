"""How long a tuned linear probe takes, beside scikit-learn's logistic regression refitted at every penalty, and how exact both are.

python benchmarks/probe.py [--quick]

One fold's work: a path of six penalties on as many training sessions as a fold of the demo has, and on a larger cohort's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
from case import Case
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from slimbrain.evaluate.linear import coordinates, logistic_path
from slimbrain.evaluate.probes import STRENGTHS

SIZES = {"38_sessions": (38, 7626), "400_sessions": (400, 7626)}
QUICK_SIZES = {"38_sessions": (38, 2000)}
HELD = 20

Floats = NDArray[np.float64]


def samples(sessions: int, width: int) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Standardised training rows, their classes, and held-out rows; a tenth of the features knows the class."""
    rng = np.random.default_rng(0)
    y = np.arange(sessions + HELD) % 2
    x = rng.normal(size=(sessions + HELD, width))
    x[:, : width // 10] += 0.3 * y[:, None]
    x = (x - x[:sessions].mean(0)) / x[:sessions].std(0)
    return x[:sessions], y[:sessions], x[sessions:]


def refitted(x: Floats, y: NDArray[np.int64], held: Floats, tolerance: float = 1e-4) -> Floats:
    """(S, M, K) probabilities by one scikit-learn model a penalty, in the same coordinates."""
    return np.stack([LogisticRegression(C=C, tol=tolerance, max_iter=50_000).fit(x, y).predict_proba(held) for C in STRENGTHS])


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller size, with fewer features")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    for name, (sessions, width) in (QUICK_SIZES if quick else SIZES).items():
        x, y, held = samples(sessions, width)
        with threadpool_limits(1):
            train, (test,) = coordinates(x, [held])
            exact = refitted(train, y, test, tolerance=1e-12)
            ways: dict[str, Callable[[], Floats]] = {
                "ours": partial(logistic_path, train, y, test, STRENGTHS),
                "theirs": partial(refitted, train, y, test),
            }
            errors = {who: float(np.abs(fit() - exact).max()) for who, fit in ways.items()}
            seconds = {who: median(timed(fit) for _ in range(3 if quick else 7)) for who, fit in ways.items()}
        detail = {"quick": quick, "sessions": sessions, "features": width, "penalties": len(STRENGTHS), "statistic": "median"}
        detail |= {"largest_error_of_a_probability": errors["ours"], "against_largest_error": errors["theirs"]}
        Case(f"probe/path_seconds_{name}", seconds["ours"], "s", "scikit-learn refitted", seconds["theirs"], detail).print()


if __name__ == "__main__":
    main()
