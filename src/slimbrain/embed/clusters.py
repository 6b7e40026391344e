"""Sessions sorted into groups by their stage 1 embeddings, where cohorts are not what tells sessions apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slimbrain.disk.atomic import write_text
from slimbrain.disk.tsv import format_tsv
from slimbrain.embed.features import embed_store
from slimbrain.errors import InputError
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store

_STARTS = 10
"""k-means is started this often, and the best kept."""

_GROUP = "group"


def group_sessions(store: Store, model: TemporalExtractor, k: int, seed: int = 0) -> dict[str, str]:
    """k-means of all sessions' embeddings, each dimension of unit variance.

    Returns
    -------
    The group of each session, `g1` the largest; of equally large ones that of the first session comes first. One thread adds up, so
    that the same seed gives the same groups.

    Raises
    ------
    InputError
        If there are fewer different sessions than groups.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    embeddings = embed_store(store, model)
    values = embeddings.values.astype(np.float64)
    if len(np.unique(values, axis=0)) < k:
        raise InputError(f"{store.root}: has fewer different sessions than {k} groups; ask for fewer with --k.")
    spread = values.std(0)
    with threadpool_limits(1):
        found = KMeans(k, n_init=_STARTS, random_state=seed).fit_predict((values - values.mean(0)) / np.where(spread > 0, spread, 1.0))
    # Names must not depend on the order in which k-means happened to number its centres.
    by_size = [label for label, _ in Counter(found.tolist()).most_common()]
    names = {label: f"g{place}" for place, label in enumerate(by_size, start=1)}
    return {key: names[label] for key, label in zip(embeddings.keys, found.tolist(), strict=True)}


def write_groups(path: Path, groups: Mapping[str, str]) -> None:
    """Write a table with the columns `session` and `group`, which a mixture reads as its `table`."""
    rows = [{"session": key, _GROUP: name} for key, name in groups.items()]
    write_text(path, format_tsv(["session", _GROUP], rows))
