"""What a learned representation has to beat: connectivity, channel statistics, known confounds, the majority class.

Each baseline is a `FeatureSet` and goes through the very same `cross_validate` as an embedding does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slimbrain.evaluate.connectivity import connectivity_sets, connectivity_vectors, stacked
from slimbrain.evaluate.further_connectivity import coskewness, further_sets
from slimbrain.evaluate.phenotypes import is_missing
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.series import ChannelSeries, SessionSeries, frames_of
from slimbrain.evaluate.stats import Floats
from slimbrain.store import Store

_NUMERIC_CONFOUNDS = ("age", "fd_mean")
WHOLE_RUN = "whole run"
_CATEGORICAL_CONFOUNDS = ("sex", "gender", "site")


def store_baselines(
    store: Store,
    keys: Sequence[str],
    used: Mapping[str, NDArray[np.int64]] | None = None,
    exclude: Sequence[str] = (),
    known: Sequence[Mapping[str, str]] = (),
    series: ChannelSeries | None = None,
    whole: str = WHOLE_RUN,
    further: bool = False,
) -> list[FeatureSet]:
    """Every baseline a store allows, for the sessions `keys`, in that order.

    Parameters
    ----------
    used : Mapping[str, ndarray of int64] or None
        Frames of each session that the model used; where it left some out, adds connectivity and channel statistics on these alone.
    exclude : Sequence[str], default ()
        Columns of `participants.tsv` that must not serve as confounds (the label itself).
    known : Sequence[Mapping[str, str]], default ()
        Further cells of each session's participant, from a phenotype file; they win over `participants.tsv`.
    series : ChannelSeries or None
        The store's series, where they were read before.
    whole : str, default 'whole run'
        What a session of the store is, for the table.
    further : bool, default False
        Those of `further_sets` as well.
    """
    series = series or ChannelSeries(store)
    rows = confound_rows(store, keys)
    confounding = confounds([{**row, **more} for row, more in zip(rows, known, strict=True)] if known else rows, exclude)
    sets = _of_series(SessionSeries(series, keys), whole, confounding, further)
    if used is not None and any(len(frames_of(used, key)) < store.session(key).n_frames for key in keys):
        sets += _of_series(SessionSeries(series, keys, used), "frames used")
    return [*sets, *([confounding] if confounding else []), majority(len(keys))]


def _of_series(series: Sequence[Floats], frames: str, known: FeatureSet | None = None, further: bool = False) -> list[FeatureSet]:
    """Connectivity and channel statistics, for which each session is read once."""

    def read(values: Floats) -> dict[str, NDArray[Any]]:
        return connectivity_vectors(values) | _moments(values) | (coskewness(values) if further else {})

    vectors = stacked(series, read, f"read for baselines, {frames}")
    sets = [*connectivity_sets(vectors, frames), *(further_sets(vectors, frames, known) if further else [])]
    return [*sets, _channel_statistics(vectors["mean"], vectors["std"], frames)]


def _moments(values: Floats) -> dict[str, Floats]:
    return {"mean": values.mean(axis=0), "std": values.std(axis=0)}


def _channel_statistics(means: Floats, stds: Floats, frames: str) -> FeatureSet:
    """Mean and standard deviation over frames of every channel, (N, C) each."""
    # Over a whole z-scored run the mean is 0 but for rounding, which standardising features would blow up to noise.
    means = np.where(np.abs(means) < 1e-4 * stds, 0.0, means)
    # So is the std 1 of region-of-interest channels, which prep z-scores one by one.
    stds = np.where(np.abs(stds - 1) < 1e-4, 1.0, stds)
    return FeatureSet("channels", f"mean and std, {frames}", np.hstack([means, stds]))


def confounds(rows: Sequence[Mapping[str, str]], exclude: Sequence[str] = ()) -> FeatureSet | None:
    """Age, sex, site and head motion where they are known; None where none of them varies.

    Categories become one column each; gaps are filled with the training subjects' mean.

    Parameters
    ----------
    rows : Sequence[Mapping[str, str]]
        N rows of text cells; columns are looked up without regard to case.
    exclude : Sequence[str], default ()
        Columns that must not be used.
    """
    table = [{name.lower(): value.strip() for name, value in row.items()} for row in rows]
    left_out = {name.lower() for name in exclude}
    columns: dict[str, list[float]] = {}
    for name in _NUMERIC_CONFOUNDS:
        columns[name] = [_number(row.get(name, "")) for row in table]
    for name in _CATEGORICAL_CONFOUNDS:
        cells = [row.get(name, "") for row in table]
        for level in sorted({cell for cell in cells if not is_missing(cell)}):
            columns[f"{name}={level}"] = [float("nan") if is_missing(cell) else float(cell == level) for cell in cells]
    used = [name for name, values in columns.items() if name.split("=")[0] not in left_out and _varies(values)]
    if not used:
        return None
    data = np.column_stack([columns[name] for name in used])
    label = ", ".join(dict.fromkeys(name.split("=")[0] for name in used))
    return FeatureSet("confounds", label, data, make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()))


def majority(n_sessions: int) -> FeatureSet:
    """A constant: all that a linear model can learn from it is the majority class, or the mean of the target."""
    return FeatureSet("majority", "majority class or mean", np.zeros((n_sessions, 1)))


def confound_rows(store: Store, keys: Sequence[str]) -> list[dict[str, str]]:
    """Each session's QC cells and its subject's phenotype cells; the latter win."""
    sessions = [store.session(key) for key in keys]
    return [{**session.qc, **store.participants.get(session.subject, {})} for session in sessions]


def _number(cell: str) -> float:
    """The cell as a number, nan where it is none (`89+`, the way some releases hide old ages, is one of those)."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _varies(values: Sequence[float]) -> bool:
    known = {value for value in values if np.isfinite(value)}
    return len(known) > 1
