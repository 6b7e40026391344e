"""From checkpoints and a store to a finished comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimbrain.evaluate.compare import UNTRAINED, evaluate
from slimbrain.evaluate.features import embed_store, untrained
from slimbrain.evaluate.leaks import screen
from slimbrain.evaluate.tasks import get_task
from slimbrain.models.hub import from_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store


def evaluate_frozen(
    store: Store,
    task: str,
    models: Sequence[str | Path],
    windows: str | Path | None = None,
    k: int | None = None,
    phenotypes: Sequence[str | Path] = (),
    allow_seen: bool = False,
) -> dict[str, Any]:
    """Embed a store with each model and with the first one untrained, then compare on a task.

    Parameters
    ----------
    task : as `slimbrain evaluate --task`.
    models : model folders or hub ids; the first is the one compared with the best baseline.
    windows, k : as for `embed_store`.
    phenotypes : the benchmark's phenotype files.
    allow_seen : evaluate on participants that a model was pretrained on, too; the result counts them.

    Returns
    -------
    The result file of DESIGN section 9.
    """
    chosen = get_task(task, phenotypes=phenotypes)
    loaded = [from_pretrained(source, store.contract) for source in models]
    provenances = {str(source): model.provenance for source, model in zip(models, loaded, strict=True)}
    seen, unknown = screen(store, chosen, provenances, allow_seen)
    embeddings = [embed_store(store, model, windows, k, f"embed with {source}") for model, source in zip(loaded, models, strict=True)]
    stages = ["slimbrain temporal" if isinstance(model, TemporalExtractor) else "slimbrain voxel" for model in loaded]
    names = [stage if stages.count(stage) == 1 else f"{stage} {source}" for stage, source in zip(stages, models, strict=True)]
    fresh = embed_store(store, untrained(loaded[0]), windows, k, "embed with untrained weights")
    vectors = {name: found.by_session() for name, found in zip(names, embeddings, strict=True)} | {UNTRAINED: fresh.by_session()}
    return evaluate(store, chosen, vectors, embeddings[0].seen, seen, pretraining_unknown=unknown)
