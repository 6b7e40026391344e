"""How much of a signal can a linear model predict, by kind of target? The ceiling that a predictor's skill is compared with.

`python benchmarks/stage2_learning/ceilings.py --out stage2-run` adds four rows to `ceilings.jsonl` (about a minute); `painted.py` first.
The conditional expectation of a Gaussian whose covariance is that of the pretraining people's cells over steps of four frames, separable
in place and time, on the validation people, frames and masks of `stage2_lab.held_out_skill`.
"""

from __future__ import annotations

import numpy as np
import stage2_lab
from painted_cohort import Cohort, append_row, parser, segment_means

SIGNALS = ("unit", "cell", "patch")
LAGS = 60
"""Steps of four frames over which the autocorrelation is estimated; 0 beyond."""
PLACE_RIDGE, TIME_RIDGE = 0.02, 0.05


def conditional_weights(visible: np.ndarray, cross: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Weights of the best linear prediction of Y from X: (X'X + ridge)^-1 X'Y.

    Parameters
    ----------
    visible : (X, X) covariance of what is visible
    cross : (X, Y) covariance of what is visible with what is hidden
    """
    return np.linalg.solve(visible + ridge * np.eye(len(visible)), cross)


def moments(cohort: Cohort, tables: stage2_lab.Tables) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """(C, C) covariance of cells, (C, U * N) with each kind of signal, (LAGS,) autocorrelation of unit means; every second person."""
    own, count = np.zeros((1, 1)), 0
    cross = {kind: np.zeros((1, 1)) for kind in SIGNALS}
    lagged, pairs = np.zeros(LAGS), np.zeros(LAGS)
    for run in cohort.split["pretrain"][::2]:
        voxels = steps_of(cohort.clip(run, np.arange(run.frames // 4 * 4)))
        cells = segment_means(voxels, cohort.grid.cells.offsets)
        own, count = own + cells.T @ cells, count + len(cells)
        signals = {kind: voxels @ tables[kind][0].numpy() / tables[kind][2].numpy().ravel() for kind in SIGNALS}
        cross = {kind: cross[kind] + cells.T @ signals[kind] for kind in SIGNALS}
        units = signals["unit"]
        for lag in range(min(LAGS, len(units))):
            lagged[lag] += (units[lag:] * units[: len(units) - lag]).mean() * (len(units) - lag)
            pairs[lag] += len(units) - lag
    autocorrelation = lagged / pairs
    return own / count, {kind: value / count for kind, value in cross.items()}, autocorrelation / autocorrelation[0]


def steps_of(voxels: np.ndarray) -> np.ndarray:
    """(T, P) -> (T / 4, P) means over steps."""
    return voxels.reshape(-1, 4, voxels.shape[1]).mean(1)


def ceiling(cohort: Cohort, tables: stage2_lab.Tables, known: tuple, variant: stage2_lab.Variant, people: int = 24) -> dict[str, float]:
    """Skill of the linear model for every signal and kind of target."""
    own, cross, autocorrelation = known
    random, sums = np.random.default_rng(99), {}
    validation = cohort.split["validation"]
    for run in validation[:: len(validation) // people][:people]:
        frames = stage2_lab.draw_frames(cohort, variant, run, random)
        mask = stage2_lab.draw_mask(variant, cohort.grid.units.mm, random)
        voxels = steps_of(cohort.clip(run, frames))
        cells = segment_means(voxels, cohort.grid.cells.offsets)
        middle = frames.reshape(-1, 4).mean(1)
        lag = np.rint(np.abs(middle[:, None] - middle[None]) / 4).astype(int)
        correlation = np.where(lag < LAGS, autocorrelation[np.minimum(lag, LAGS - 1)], 0)
        shown, hidden = np.flatnonzero(mask.times), np.flatnonzero(~mask.times)
        visible = np.flatnonzero(mask.places[cohort.grid.cell_unit])
        over_time = conditional_weights(correlation[np.ix_(shown, shown)], correlation[np.ix_(shown, hidden)], TIME_RIDGE).T
        for signal in SIGNALS:
            matrix, exists, std = (value.numpy() for value in tables[signal])
            shape = (-1, *exists.shape)
            wanted = (voxels @ matrix / std.ravel()).reshape(shape)
            weights = conditional_weights(own[np.ix_(visible, visible)], cross[signal][visible], PLACE_RIDGE)
            within = (cells[shown][:, visible] @ weights).reshape(shape)
            cases = {"cross_location": (shown, ~mask.places, within)}
            if len(hidden):
                later = np.einsum("ht,tun->hun", over_time, within)
                cases |= {"cross_time": (hidden, mask.places, later), "double_cross": (hidden, ~mask.places, later)}
            for kind, (steps, places, predicted) in cases.items():
                truth, real = wanted[steps][:, places], exists[places]
                error = np.square(predicted[:, places] - truth)[:, real].sum()
                total = sums.setdefault(f"{signal}/{kind}", np.zeros(2))
                total += (error, np.square(truth)[:, real].sum())
    return {name: round(1 - total[0] / total[1], 3) for name, total in sums.items()}


def main() -> None:
    cohort = Cohort(parser(__doc__).parse_args().out)
    tables = stage2_lab.signal_tables(cohort)
    known = moments(cohort, tables)
    for mask, fraction, clip in (
        ("product", 0.3, "stretch"),
        ("product", 0.3, "random"),
        ("location", 0.5, "stretch"),
        ("location", 0.3, "stretch"),
    ):
        variant = stage2_lab.Variant("ceiling", mask=mask, fraction=fraction, clip=clip)
        row = {"mask": mask, "fraction": fraction, "clip": clip, **ceiling(cohort, tables, known, variant)}
        append_row(cohort.out / "ceilings.jsonl", row)


if __name__ == "__main__":
    main()
