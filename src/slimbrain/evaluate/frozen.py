"""From checkpoints and a store to a finished comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimbrain.evaluate.compare import UNTRAINED, evaluate
from slimbrain.evaluate.features import embed_store, untrained
from slimbrain.evaluate.tasks import get_task
from slimbrain.models.hub import from_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store


def evaluate_frozen(
    store: Store, task: str, models: Sequence[str | Path], windows: str | Path | None = None, k: int | None = None
) -> dict[str, Any]:
    """Embed a store with each model and with the first one untrained, then compare on a task.

    Parameters
    ----------
    task : as `slimbrain evaluate --task`.
    models : model folders or hub ids; the first is the one compared with the best baseline.
    windows, k : as for `embed_store`.

    Returns
    -------
    The result file of DESIGN section 9.
    """
    loaded = [from_pretrained(source, store.contract) for source in models]
    embeddings = [embed_store(store, model, windows, k, f"embed with {source}") for model, source in zip(loaded, models, strict=True)]
    stages = ["slimbrain temporal" if isinstance(model, TemporalExtractor) else "slimbrain voxel" for model in loaded]
    names = [stage if stages.count(stage) == 1 else f"{stage} {source}" for stage, source in zip(stages, models, strict=True)]
    fresh = embed_store(store, untrained(loaded[0]), windows, k, "embed with untrained weights")
    vectors = {name: found.by_session() for name, found in zip(names, embeddings, strict=True)} | {UNTRAINED: fresh.by_session()}
    subjects = {info.subject for info in store.sessions}
    seen = max((model.provenance.seen(subjects) for model in loaded if model.provenance), default=0)
    return evaluate(store, get_task(task), vectors, embeddings[0].seen, seen)
