"""Linear pretraining: the leading axes of connectivity in people without labels, as the features of others.

A network that was pretrained on people has to beat the axes that they give without any network: few labels go further along them than
along all connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.evaluate.connectivity import PopulationTangent, plain_vectors, stacked
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.series import ChannelSeries, SessionSeries
from slimbrain.evaluate.stats import Floats
from slimbrain.governance.provenance import Provenance, people_in
from slimbrain.store import Store

LINEAR_PRETRAINING = "linear pretraining"
_AXES = 50
"""Most axes; with 50 of 600 other people's, age was read from 30 labelled people with R2 0.32 (all of the tangent: 0.08)."""
_FEWEST = 10
"""People from whom axes are worth learning."""


class TangentAxes:
    """Origin, mean and leading axes of the tangent towards the population, learnt without labels.

    Parameters
    ----------
    plain : ndarray
        (N, C (C + 1) / 2) correlations of the people who are learnt from.
    """

    def __init__(self, plain: NDArray[Any], axes: int = _AXES) -> None:
        self.tangent = PopulationTangent().fit(plain)
        vectors = self.tangent.transform(plain).astype(np.float64)
        self.mean = vectors.mean(axis=0)
        vectors -= self.mean
        values, along = np.linalg.eigh(vectors @ vectors.T)
        count = min(axes, len(plain) - 1, int((values > values[-1] * 1e-10).sum()))
        self.axes: Floats = (along[:, ::-1][:, :count] / np.sqrt(values[::-1][:count])).T @ vectors

    def __call__(self, plain: NDArray[Any]) -> Floats:
        """(N, K) places along the axes."""
        places: Floats = (self.tangent.transform(plain).astype(np.float64) - self.mean) @ self.axes.T
        return places


def linear_pretraining(
    store: Store, keys: Sequence[str], series: ChannelSeries, provenance: Provenance | None, told: Path | None = None
) -> FeatureSet | None:
    """Axes learnt in the people whom the model was pretrained on, as features of the sessions `keys`.

    Parameters
    ----------
    provenance : Provenance or None
        What the model remembers of its people, who are looked for among all in the store who are not evaluated.
    told : Path or None
        A table of participants of the store, or another store, to learn from instead.

    Returns
    -------
    FeatureSet or None
        None where nobody is told and fewer than ten of the model's people are in the store.

    Raises
    ------
    InputError
        If those told are evaluated as well, are too few, or have other channels.
    """
    whole = Store(store.root)
    source = Store(told) if told and told.is_dir() else whole
    if told:
        chosen = [info.key for info in source.sessions] if source is not whole else _listed(whole, told)
    else:
        chosen = _remembered(whole, {store.session(key).subject for key in keys}, provenance)
    people = {source.session(key).subject for key in chosen}
    if told and source.root.resolve() == store.root.resolve() and (both := people & {store.session(key).subject for key in keys}):
        raise InputError(f"{told}: lists {min(both)}, who is evaluated; axes are learnt from others, so name other participants.")
    if len(people) < _FEWEST:
        if told:
            raise InputError(f"{told}: names {len(people)} participants of a store; axes need at least {_FEWEST}.")
        return None
    own = stacked(SessionSeries(series, keys), plain_vectors)["plain"]
    learnt = stacked(SessionSeries(ChannelSeries(source), chosen), plain_vectors, "read for linear pretraining")["plain"]
    if own.shape[1] != learnt.shape[1]:
        raise InputError(f"{source.root}: has other channels than {store.root}; axes are of one parcellation, so name another store.")
    axes = TangentAxes(learnt)
    method = f"{len(axes.axes)} axes of {len(people)} participants, whole run"
    return FeatureSet(LINEAR_PRETRAINING, method, axes(own), source="leading components of the tangent, without labels")


def _listed(store: Store, table: Path) -> list[str]:
    rows = read_tsv(table)
    if not rows or "participant_id" not in rows[0]:
        raise InputError(f"{table}: has no column participant_id; give a table with one, such as participants.tsv, or a store.")
    names = {f"sub-{row['participant_id'].removeprefix('sub-')}" for row in rows}
    return [info.key for info in store.sessions if info.subject in names]


def _remembered(store: Store, evaluated: set[str], provenance: Provenance | None) -> list[str]:
    """Sessions of the model's people, but for those who are evaluated."""
    others = [info for info in store.sessions if info.subject not in evaluated]
    if not others or provenance is None or not provenance.remembers:
        return []
    known = set(provenance.trained_on(people_in(store, others)))
    return [info.key for info in others if info.subject in known]
