"""Score, order and choose the windows of all sessions of a store."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slimbrain.config import SaliencyConfig
from slimbrain.data.clip import Sessions
from slimbrain.errors import InputError
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency.fast import fast_scores
from slimbrain.saliency.scores import WindowScores, exact_scores
from slimbrain.saliency.select import IntArray, order_apart, order_by_score, order_diverse
from slimbrain.saliency.table import WindowRow, window_rows, within_budget
from slimbrain.store import SessionInfo, Store


def rank_store(store: Store, model: TemporalExtractor, saliency: SaliencyConfig | None = None, device: str = "cpu") -> list[WindowRow]:
    """Score all windows of all sessions of a store, session by session in manifest order, put them in order and apply budgets.

    Parameters
    ----------
    store : Store
        Whose channel series are read.
    model : TemporalExtractor
        Stage 1, which says how long windows are.
    saliency : SaliencyConfig or None
        How; as `slimbrain rank`, the way of the preset that the model was trained with, if None.
    device : str
        Where to compute; the model has to be there.

    Returns
    -------
    list of WindowRow
        One per window: onset and duration in s, score, and rank in its session (1 is taken first). `write_window_table` writes them.

    Raises
    ------
    InputError
        If a session cannot be scored.

    Examples
    --------
    >>> import slimbrain
    >>> from slimbrain.saliency import rank_store
    >>> rows = rank_store(slimbrain.Store("store"), slimbrain.from_pretrained("slimbrain-temporal"))
    >>> sorted(row.rank for row in rows if row.session.startswith("sub-01"))
    [1, 2, 3]
    """
    saliency = saliency or trained_saliency(model)
    rows: list[WindowRow] = []
    shorter = "an estimate (--method fast)" if saliency.method == "exact" else "fewer sessions (slimbrain store subset)"
    for info in track(store.sessions, "rank", shorter=shorter):
        rows += rank_session(store, info, model, saliency, device)
    scans = {info.key: f"{info.subject}_{info.session}" for info in store.sessions}
    return within_budget(rows, scans, saliency.per_run, saliency.per_session)


def rank_session(
    store: Sessions, info: SessionInfo, model: TemporalExtractor, saliency: SaliencyConfig, device: str = "cpu"
) -> list[WindowRow]:
    """Score all windows of one session and put them in order; no budget is applied.

    Raises
    ------
    InputError
        If it cannot be scored.
    """
    series = torch.from_numpy(store.coarse(info.key)).to(device)
    places = torch.from_numpy(np.asarray(store.channels(info.key).mm, np.float32)).to(device)
    score = exact_scores if saliency.method == "exact" else fast_scores
    try:
        scores = score(model, series, places, info.tr, saliency)
    except InputError as error:
        raise InputError(f"{info.path}: {error}") from error
    return window_rows(info.key, scores, _order(model, series, places, info.tr, scores, saliency))


def _order(model: TemporalExtractor, series: Tensor, places: Tensor, tr: float, scores: WindowScores, saliency: SaliencyConfig) -> IntArray:
    if saliency.order == "apart":
        return order_apart(scores.score, scores.onset_s, saliency.min_distance_s)
    if saliency.order == "diverse":
        with torch.no_grad():
            embeddings = model.embed(series[None], places, tr)[1][0].cpu().numpy()
        return order_diverse(scores.score, embeddings, saliency.diversity)
    return order_by_score(scores.score)


def trained_saliency(model: TemporalExtractor) -> SaliencyConfig:
    """How the preset that a model was trained with scores and chooses windows; the defaults where the model does not say."""
    training = model.provenance.training if model.provenance else {}
    return SaliencyConfig.model_validate(training.get("saliency", {}))
