"""Readouts of unit tokens: what a place's tokens tell of its own cells, the tangent of what is decoded, and ridge probes.

Imported by `surrogate_lab.py` (today's code) and `final_lab.py` (commit 5ea4a25 with the patches): works with both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from painted_cohort import TR_S, Cohort, Run, Tangent, covariance, labels, out_of_fold, score, segment_means

SECONDS_PER_STEP = 4 * TR_S

Decode = Callable[[np.ndarray], np.ndarray]


class Cells:
    """Two-frame means of every cell of every run, in memory."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort, grid = cohort, cohort.grid
        units, of_cell = len(grid.units), grid.cell_unit
        slot = np.arange(len(of_cell)) - np.searchsorted(of_cell, of_cell)
        self.place = of_cell * 8 + slot
        self.exists = torch.zeros(units * 8, dtype=torch.bool)
        self.exists[torch.from_numpy(self.place)] = True
        self.exists = self.exists.view(units, 8).repeat_interleave(2, 1)
        path = cohort.out / "halves.npy"
        if not path.exists():
            parts = []
            for run in cohort.runs:
                v = cohort.clip(run, np.arange(run.frames // 8 * 8))
                x = segment_means(v, grid.cells.offsets)
                parts.append((x.reshape(-1, 2, x.shape[1]).mean(1) / 0.72).astype(np.float16))
            np.save(path, np.concatenate(parts))
        self.values = np.load(path)
        counts = [run.frames // 8 * 4 for run in cohort.runs]
        self.first = dict(zip((run.key for run in cohort.runs), np.concatenate(([0], np.cumsum(counts)[:-1])), strict=True))

    def windows(self, run: Run, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(S, U, 16) cells by unit in both halves of each step, and (S,) seconds, of windows of 8 frames."""
        rows = (self.first[run.key] + chosen[:, None] * 4 + np.arange(4)).ravel()
        cells = self.values[rows].astype(np.float32)
        dense = np.zeros((len(cells), len(self.exists) * 8), np.float32)
        dense[:, self.place] = cells
        dense = dense.reshape(-1, 2, len(self.exists), 8).transpose(0, 2, 3, 1)
        steps = (chosen[:, None] * 2 + np.arange(2)).ravel()
        return dense.reshape(len(dense), len(self.exists), 16), steps * SECONDS_PER_STEP


def probe(name: str, pre: np.ndarray, val: np.ndarray, runs: list[Run], keep: dict) -> dict[str, float]:
    """Ridge on `runs` alone (five folds) from all axes of the reference people, unscaled, and from the 50 leading ones, scaled.

    Axes are learnt without labels. All features without that projection do far worse: 0.09 for 0.4 of log age from cells.
    """
    mean = pre.mean(0)
    pre, val = pre - mean, val - mean
    gram = (pre @ pre.T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    k = min(len(pre), pre.shape[1]) - 1
    values, vectors = values[::-1][:k].clip(1e-9), vectors[:, ::-1][:, :k]
    every = (val @ pre.T) @ vectors / np.sqrt(values)
    row = {}
    for label, y in labels(runs).items():
        few = every[:, :50] / np.sqrt(values[:50])
        keep[f"{name}/{label}"] = np.stack((out_of_fold(every, y, 4), out_of_fold(few, y, 4)))
        row[f"{name}_{label}"], row[f"{name}_{label}_axes"] = (round(score(label, y, p), 3) for p in keep[f"{name}/{label}"])
    return row


def tangents(pre: list[np.ndarray], val: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tangent vectors of two groups' series, at the first group's mean."""
    a, b = [covariance(x) for x in pre], [covariance(x) for x in val]
    tangent = Tangent(a)
    return np.stack([tangent(m) for m in a]), np.stack([tangent(m) for m in b])


def spread_windows(run: Run, clips: int = 2) -> list[np.ndarray]:
    """Windows spread evenly over the run, as clips of five: 40 frames each, and no more of them than the run has."""
    slots = run.frames // 8
    clips = min(clips, slots // 5)
    windows = np.floor((np.arange(5 * clips) + 0.5) * slots / (5 * clips)).astype(int)
    return [windows[first::clips] for first in range(clips)]


def spread_signals(cells: Cells, run: Run) -> np.ndarray:
    """(20, U, 16) cells of those windows."""
    return np.concatenate([cells.windows(run, windows)[0] for windows in spread_windows(run)])


def unit_means(x: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """(T, C) cells -> (T, U) means."""
    unit = np.repeat(np.arange(len(exists)), exists.sum(1))
    return np.stack([x[:, unit == u].mean(1) for u in range(len(exists))], 1)


def series(x: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """(S, U, 16) -> (2 S, C) cells at two frames per sample."""
    s, u, _ = x.shape
    return x.reshape(s, u, 8, 2).transpose(0, 3, 1, 2).reshape(2 * s, u, 8)[:, exists]


def place_weights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(U, D, K) ridge from a place's centred tokens (S, U, D) to its own signals (S, U, K), one for each place."""
    weights = []
    for u in range(x.shape[1]):
        gram = x[:, u].T @ x[:, u]
        weights.append(np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), x[:, u].T @ y[:, u]))
    return np.stack(weights)


def place_decoders(tokens: list[np.ndarray], signals: list[np.ndarray], exists: np.ndarray) -> tuple[Decode, float]:
    """Ridge from a place's tokens to its own cells, one for each place; and R2 on the last third of the people."""
    mean = np.concatenate(tokens).mean(0)
    x, y = np.concatenate(tokens) - mean, np.concatenate(signals)
    cut = len(x) * 2 // 3
    weights = place_weights(x[:cut], y[:cut])
    error = sum(float(np.square(y[cut:, u] - x[cut:, u] @ w).sum()) for u, w in enumerate(weights))
    total = float(np.square(y[cut:]).sum())
    return (lambda t: series(np.einsum("sud,udk->suk", t - mean, weights, optimize=True).astype(np.float32), exists)), round(
        1 - error / total, 3
    )


Pairs = list[tuple[np.ndarray, np.ndarray]]


def readouts(pre: Pairs, val: Pairs, cells: Cells, tag: str, people: str = "validation", wide: bool = True) -> dict[str, object]:
    """Probes of (tokens, cells) of reference people and of those probed: mean token, leading components, decoded units and cells."""
    runs, keep, row = cells.cohort.split[people], {}, {}
    exists = cells.exists.numpy()[:, ::2]
    t_pre, t_val = [p[0] for p in pre], [p[0] for p in val]
    mean = np.concatenate(t_pre).mean(0)
    d = mean.shape[1]
    row |= probe("mean", np.stack([x.mean((0, 1)) for x in t_pre]), np.stack([x.mean((0, 1)) for x in t_val]), runs, keep)
    flat = (np.concatenate(t_pre) - mean).reshape(-1, d)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    for channels in (1, 4):
        axes = vectors[:, ::-1][:, :channels]
        row |= probe(
            f"cov{channels}", *tangents(*([((x - mean) @ axes).reshape(len(x), -1) for x in t] for t in (t_pre, t_val))), runs, keep
        )
    decode, row["decoded_r2"] = place_decoders(t_pre, [p[1] for p in pre], exists)
    decoded = [[decode(x) for x in t] for t in (t_pre, t_val)]
    means = [[unit_means(x, exists) for x in group] for group in decoded]
    row |= probe("decodedunits", *tangents(*means), runs, keep)
    if wide:
        row |= probe("decodedcells", *tangents(*decoded), runs, keep)
    (cells.cohort.out / "predictions").mkdir(exist_ok=True)
    np.savez(cells.cohort.out / "predictions" / f"{tag}.npz", **keep)
    return row
