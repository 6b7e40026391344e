"""Which windows of a session stage 2 sees: the one place that chooses, for embedding, pretraining, evaluation and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.config import WindowConfig
from slimbrain.data.clip import Sessions
from slimbrain.disk.nearest import nearest_path
from slimbrain.errors import InputError
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.shipped import is_hub_id, nearest_model, shipped_folder
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.saliency.ranking import rank_session, trained_saliency
from slimbrain.saliency.scores import window_dvars
from slimbrain.saliency.select import order_spread, select_uniform
from slimbrain.saliency.table import read_window_table
from slimbrain.store import SessionInfo

Ranker = str | Path | TemporalExtractor | None
Windows = Ranker | Mapping[str, Sequence[int]]
UNIFORM, STILL = "uniform", "still"
"""Windows chosen without a model: evenly spread; and from each of k equal stretches of a run the one that moves least, by DVARS."""

_TABLE = ".tsv"


def open_windows(windows: Ranker) -> Path | TemporalExtractor | str | None:
    """What windows are chosen by: a table, a stage 1 model, `STILL`, or nothing for evenly spread ones.

    Raises
    ------
    InputError
        If it is a model of stage 2, nothing of the kind, or not there.
    """
    if windows is None or windows == UNIFORM or isinstance(windows, TemporalExtractor):
        return None if isinstance(windows, str) else windows
    if windows == STILL:
        return STILL
    path = Path(windows)
    if path.is_file():
        return path
    if not (path.is_dir() or shipped_folder(str(windows)) or (is_hub_id(windows) and path.suffix != _TABLE)):
        ways_alike = get_close_matches(str(windows), (STILL, UNIFORM), n=1)
        near = nearest_path(path, _TABLE) or next(iter(ways_alike), "") or nearest_model(str(windows))
        ways = f"give a window table from `slimbrain rank`, a stage 1 model, `{STILL}` or `{UNIFORM}`"
        raise InputError(f"{windows}: there is no such window table or model; {f'the nearest name is {near}' if near else ways}.")
    return require_model(from_pretrained(windows), TemporalExtractor, windows)


def window_choice(windows: Windows, store: Sessions, unit_frames: int, cut: WindowConfig) -> Callable[[SessionInfo], list[int]]:
    """Which windows of a session of the store stage 2 sees; as of `choose_windows`.

    Parameters
    ----------
    windows : Windows
        As of `embed_store`.
    unit_frames : int
        Of stage 2's mask unit.
    cut : WindowConfig
        Frames per window and how many windows.
    """
    if isinstance(windows, Mapping):
        return lambda info: list(windows[info.key])
    order = window_order(windows, store, cut)
    return lambda info: choose_windows(info, cut, unit_frames, order(info) if order else None)


def window_order(windows: Ranker, store: Sessions, cut: WindowConfig) -> Callable[[SessionInfo], list[int]] | None:
    """The order in which windows of a session are to be taken, best first; None where they are to be spread evenly.

    Raises
    ------
    InputError
        If a window table or stage 1 model has windows of another length; later, if the table leaves a session no window.
    """
    opened = open_windows(windows)
    if opened is None:
        return None
    if isinstance(opened, TemporalExtractor):
        return _scored_order(opened, store, cut)
    if isinstance(opened, str):
        return lambda info: order_spread(_motion(store, info, cut.frames), cut.k).tolist()
    ranked = ranked_windows(opened, store, cut)

    def look_up(info: SessionInfo) -> list[int]:
        if order := ranked.get(info.key):
            return order
        left = "leaves it no window; rank with a larger --per-session"
        what = left if info.key in ranked else "does not have it; run `slimbrain rank` here"
        raise InputError(f"{info.key}: the window table {what}.")

    return look_up


def _motion(store: Sessions, info: SessionInfo, frames: int) -> NDArray[np.float64]:
    """(N,) DVARS of each window of a session, over channels with a signal."""
    series = standardise(torch.from_numpy(store.coarse(info.key)))
    return window_dvars(series[:, series.ne(0).any(0)], frames)


def _scored_order(scorer: TemporalExtractor, store: Sessions, cut: WindowConfig) -> Callable[[SessionInfo], list[int]]:
    saliency = trained_saliency(scorer)
    if scorer.provenance:
        scorer.provenance.require(store.contract, "the stage 1 model", "the data")
    if scorer.window_frames != cut.frames:
        raise InputError(
            f"the stage 1 model scores windows of {scorer.window_frames} frames, but stage 2 sees windows of {cut.frames}; "
            "give one of the same preset."
        )
    # Budgets over several runs are for training: a vector must not depend on what else is embedded.
    return lambda info: [row.window for row in sorted(rank_session(store, info, scorer, saliency), key=lambda row: row.rank)]


def choose_windows(info: SessionInfo, window: WindowConfig, unit_frames: int, order: Sequence[int] | None) -> list[int]:
    """The k first windows of an order, or k evenly spread ones, in order of time; fewer where there are not as many."""
    count = min(window.k, info.n_windows(window.frames), len(order) if order is not None else window.k)
    while count and (count * window.frames) % unit_frames:
        count -= 1
    if not count:
        raise InputError(f"{info.path}: {info.n_frames} frames do not hold one window of {window.frames} frames; leave this session out.")
    if order is None:
        return [int(number) for number in select_uniform(info.n_windows(window.frames), count)]
    return sorted(int(number) for number in order[:count])


def ranked_windows(path: str | Path, store: Sessions, window: WindowConfig) -> dict[str, list[int]]:
    """Windows of each session in a window table that are chosen, best first.

    Raises
    ------
    InputError
        If there is no such table, it was made with windows of another length, or lacks windows of a session.
    """
    if not Path(path).exists():
        near = nearest_path(Path(path), _TABLE)
        way = f"the nearest name is {near}" if near else "make one with `slimbrain rank`"
        raise InputError(f"{path}: there is no such window table; {way}.")
    tables = read_window_table(path)
    for info in store.sessions:
        rows = tables.get(info.key, [])
        if not rows:
            continue
        if abs(rows[0].duration_s - window.frames * info.tr) > info.tr / 2:
            raise InputError(
                f"{path}: has windows of {rows[0].duration_s:g} s, but {window.frames} frames of {info.key} last "
                f"{window.frames * info.tr:g} s; rank again with a stage 1 model of the same preset."
            )
        if len(rows) != info.n_windows(window.frames):
            raise InputError(
                f"{path}: has {len(rows)} of the {info.n_windows(window.frames)} windows of {info.key}; run `slimbrain rank` again."
            )
    return {session: [row.window for row in sorted(rows, key=lambda row: row.rank) if row.chosen] for session, rows in tables.items()}
