"""From vectors to a result, as `evaluate_models` goes from models to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from slimbrain.evaluate.compare import evaluate
from slimbrain.evaluate.leaks import screen
from slimbrain.evaluate.probes import embedding_set
from slimbrain.evaluate.result import IDENTIFY, PROBE, Result
from slimbrain.evaluate.tasks import Task
from slimbrain.store import Store

Vectors = Mapping[str, np.ndarray]


def evaluate_vectors(
    store: Store,
    task: Task,
    embeddings: Mapping[str, Vectors],
    used: Mapping[str, np.ndarray] | None = None,
    n_resamples: int = 20,
    **known: Any,
) -> Result:
    """Screen, then compare; `known` are fields of `Screened`."""
    screened = replace(screen(store, task, {}), **known)
    method = IDENTIFY if task.identification else PROBE
    sets = [embedding_set(name, vectors, screened.target.keys, method) for name, vectors in embeddings.items()]
    return evaluate(store, task, screened, sets, used, n_resamples=n_resamples)
