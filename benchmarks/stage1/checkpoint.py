"""The recommended readout: a connectome at anchors, read by conditional expectation, on learnt axes; numpy alone.

Not a program: `run.py --experiment final` and `test` measure it, tests/benchmarks/test_stage1_readout.py checks it, docs/stage1.md has the
formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cohorts import Floats, standardise
from connectome import Axes, channel_model, correlations, flatten

RIDGE = 1e-3
MOST_RESTORED = 3.0


@dataclass
class ConnectomeReadout:
    """Embeds runs of any parcellation with MNI coordinates.

    Attributes
    ----------
    anchors : (K, 3) MNI millimetres
    mean : (K, K) population correlation of anchor series
    modes : (K, R) directions that whiten the population (modes' mean modes = identity), in descending order of population variance
    entry_weights : (D,) of the entries of the tangent, D = R (R + 1) / 2
    centre : (D,) mean tangent of the pretraining people
    axes : (D, Q) principal axes of the weighted tangent
    scales : (Q,) that axis scores are multiplied by
    width, nugget : of the channel model: millimetres, and the smallest share of a channel's variance that is its own
    weight : of the population in the shrunk covariance
    restore : power of the amplification of modes that a parcellation reads poorly, relative to `reference`; 0 switches it off
    reference : (R,) share of each mode's variance that the pretraining parcellation reads
    """

    anchors: Floats
    mean: Floats
    modes: Floats
    width: float = 8.0
    nugget: float = 0.2
    weight: float = 0.5
    entry_weights: Floats | None = None
    centre: Floats | None = None
    axes: Floats | None = None
    scales: Floats | None = None
    restore: float = 0.0
    reference: Floats | None = None
    gains: dict[bytes, tuple[Floats, Floats]] = field(default_factory=dict, repr=False)

    @classmethod
    def fit_population(cls, runs: Sequence[Floats], anchors: Floats, n_modes: int, **settings: float) -> ConnectomeReadout:
        """Mean and modes from runs (T, K) at the anchors themselves."""
        stack = sum(correlations(runs[at : at + 64]).sum(0, dtype=np.float64) for at in range(0, len(runs), 64))
        mean = (1 - RIDGE) * stack / len(runs) + RIDGE * np.eye(len(anchors))
        values, vectors = np.linalg.eigh(mean)
        modes = (vectors / np.sqrt(values))[:, ::-1][:, :n_modes]
        return cls(anchors, mean, modes, **settings)

    def fit_axes(self, vectors: Floats, n_axes: int, power: float, entry_weights: Floats | None = None) -> ConnectomeReadout:
        """Axes from tangent vectors (N, D); scores are scaled by variance^(power / 2), the first axis by 1."""
        self.entry_weights = np.ones(vectors.shape[1], dtype=np.float32) if entry_weights is None else entry_weights
        learnt = Axes.fit(vectors * self.entry_weights, n_axes)
        self.centre, self.axes = learnt.mean, learnt.directions
        self.scales = ((learnt.variances / learnt.variances[0]) ** (power / 2)).astype(np.float32)
        return self

    def quantised(self) -> ConnectomeReadout:
        """Axes rounded to int8 with one scale per axis, to measure what rounding costs."""
        step = np.abs(self.axes).max(0) / 127
        self.axes = (np.round(self.axes / step).astype(np.int8) * step).astype(np.float32)
        return self

    def gain(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """(R, C) from channels to modes, and (R, R) the modes' second moments that the population itself gives."""
        cross, expected = channel_model(coordinates, self.anchors, self.mean, self.width, self.nugget)
        gain = np.linalg.solve(expected, cross.T @ self.modes).T
        read = gain @ expected @ gain.T
        if self.reference is not None and self.restore:
            factor = np.clip(self.reference / np.diag(read), 1, MOST_RESTORED) ** self.restore
            gain, read = gain * factor[:, None], read * factor[:, None] * factor[None]
        return gain.astype(np.float32), read.astype(np.float32)

    def deviations(self, runs: Sequence[Floats], coordinates: Floats) -> Floats:
        """(N, R, R) whitened second moments of the modes less the population's; 0 in directions that no channel observes."""
        made = []
        for run in runs:
            present = run.std(0) > 0
            key = coordinates.tobytes() + present.tobytes()
            if key not in self.gains:
                self.gains[key] = self.gain(coordinates[present])
            gain, expected = self.gains[key]
            latent = run[:, present] @ gain.T
            made.append(latent.T @ latent / len(run) - expected)
        if len(self.gains) > 256:
            self.gains.clear()
        return np.stack(made)

    def vectors(self, runs: Sequence[Floats], coordinates: Floats, block: int = 64) -> Floats:
        """(N, D) logarithms of identity + (1 - weight) deviations, divided by 1 - weight."""
        made, keep = [], np.float32(1 - self.weight)
        for at in range(0, len(runs), block):
            shrunk = keep * self.deviations(runs[at : at + block], coordinates)
            values, vectors = np.linalg.eigh(shrunk + np.eye(shrunk.shape[-1], dtype=np.float32))
            logs = np.log(np.maximum(values, 1e-3)) / keep
            made.append(flatten((vectors * logs[..., None, :]) @ np.swapaxes(vectors, -1, -2)))
        return np.concatenate(made)

    def scores(self, vectors: Floats) -> Floats:
        """(N, Q) scaled scores on the axes."""
        return ((vectors * self.entry_weights - self.centre) @ self.axes) * self.scales

    def embed(self, runs: Sequence[Floats], coordinates: Floats) -> Floats:
        """(N, Q) from runs (T, C) as they come; coordinates (C, 3)."""
        return np.concatenate(
            [self.scores(self.vectors([standardise(run) for run in runs[at : at + 128]], coordinates)) for at in range(0, len(runs), 128)]
        )

    def n_bytes(self) -> int:
        """Of a checkpoint: axes at 8 bits, anchors and scales as float32, all else as float16."""
        d, q = self.axes.shape
        return 4 * self.anchors.size + 2 * self.mean.size + 2 * self.modes.size + 2 * d * 2 + d * q + 8 * q
