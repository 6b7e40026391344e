"""In which order to take windows, given what each is worth.

An order lists all windows of a session, the one to take first in front, so that any number can be cut off it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbrain.saliency.scores import z

IntArray = NDArray[np.int64]
_FloatArray = NDArray[np.floating]


def order_by_score(scores: ArrayLike) -> IntArray:
    """Windows from the highest score (N,) to the lowest; the earlier window wins a tie."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").astype(np.int64)


def order_apart(scores: ArrayLike, onset_s: ArrayLike, distance_s: float) -> IntArray:
    """Windows by score, but none within `distance_s` of a better one while there are others; those passed over follow by score.

    Parameters
    ----------
    scores : array_like
        (N,).
    onset_s : array_like
        (N,) seconds; two windows are as far apart as their onsets.
    distance_s : float
        Least distance, in seconds.
    """
    onset_s = np.asarray(onset_s, dtype=np.float64)
    # Onsets are products of whole numbers and a TR: a distance that is one of them must not fail by rounding.
    reach = distance_s * (1 - 1e-9)
    taken: list[int] = []
    passed_over: list[int] = []
    for window in order_by_score(scores).tolist():
        near = bool(taken) and bool((np.abs(onset_s[taken] - onset_s[window]) < reach).any())
        (passed_over if near else taken).append(window)
    return np.array(taken + passed_over, dtype=np.int64)


def order_diverse(scores: ArrayLike, embeddings: _FloatArray, weight: float) -> IntArray:
    """Greedily, the window with the highest z(score) less `weight` times its likeness to the most similar window taken before.

    Likeness is the cosine of two windows' embeddings, centred over the session since what all windows share tells none apart
    (maximal marginal relevance, Carbonell & Goldstein 1998).

    Parameters
    ----------
    scores : array_like
        (N,).
    embeddings : ndarray of float
        (N, D) of the windows.
    weight : float
        0 gives the order by score.
    """
    worth = z(scores)
    centred = np.asarray(embeddings, dtype=np.float64) - np.mean(embeddings, axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    direction = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    likeness = np.full(len(worth), -1.0)
    left, order = np.ones(len(worth), dtype=bool), []
    for _ in range(len(worth)):
        value = np.where(left, worth - weight * likeness, -np.inf)
        window = int(np.argmax(value))
        order.append(window)
        left[window] = False
        likeness = np.maximum(likeness, direction @ direction[window])
    return np.array(order, dtype=np.int64)


def order_spread(motion: ArrayLike, k: int) -> IntArray:
    """From each of k equal stretches of the run the window that moves least, then all others; both by motion, the least first.

    Parameters
    ----------
    motion : array_like
        (N,) of each window, for example its DVARS; the earlier window wins a tie.
    k : int
        Stretches; as many as windows if there are fewer.
    """
    motion = np.asarray(motion, dtype=np.float64)
    stretches = np.array_split(np.arange(len(motion)), min(k, len(motion))) if len(motion) else []
    first = np.array([stretch[np.argmin(motion[stretch])] for stretch in stretches], dtype=np.int64)
    calm_first = np.argsort(motion, kind="stable").astype(np.int64)
    chosen = np.isin(calm_first, first)
    return np.concatenate((calm_first[chosen], calm_first[~chosen]))


def ranks_of(order: IntArray) -> IntArray:
    """Rank of each window, 1 the first of the order: (N,) -> (N,)."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def select_uniform(n: int, k: int) -> IntArray:
    """k of n windows at equal distances, each in the middle of its stretch; all if there are fewer."""
    k = min(k, n)
    return np.floor((np.arange(k) + 0.5) * n / k).astype(np.int64) if k else np.empty(0, np.int64)
