"""Averages of maps over sessions: mean, mean of absolute values, contrast of labels; and their smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from slimbrain.grid import Grid

MEAN, MAGNITUDE, CONTRAST = "", "Magnitude", "Contrast"
"""Added to the method's name for the mean over sessions, the mean of their absolute maps, and the contrast of labels."""

NAMES = {MEAN: "mean", MAGNITUDE: "mean of absolute maps"}
"""What records call them; a contrast is called by its labels."""

_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))

Values = NDArray[np.float64]


def smooth(values: NDArray[Any], grid: Grid, fwhm_mm: float) -> NDArray[Any]:
    """(P, V) values, Gaussian means over the brain voxels around each; what lies outside the mask has no weight."""
    if fwhm_mm <= 0:
        return values
    sigma = fwhm_mm / _FWHM_PER_SIGMA / grid.lattice.voxel_mm
    weight = gaussian_filter(grid.mask.astype(np.float64), sigma)
    return grid.pack(gaussian_filter(grid.unpack(values.astype(np.float64)), sigma) / np.maximum(weight, np.finfo(np.float64).tiny))


class Averages:
    """Running sums of maps, of their absolute values, and of their products with the sessions' labels.

    Parameters
    ----------
    shape : tuple of int
        Of a map.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.signed, self.size, self.coded = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.codes: list[float] = []

    def add(self, values: NDArray[Any], code: float) -> None:
        self.signed += values
        self.size += np.abs(values)
        self.coded += code * values
        self.codes.append(code)

    def maps(self) -> dict[str, Values]:
        """Averages by suffix; a contrast where labels differ.

        The contrast is the slope of the map on the label: of two classes, the mean of one less the mean of the other. What moves every
        decision alike cancels; where attributions add up to decisions, it adds up to the probe's distance between the labels.
        """
        codes, count = np.array(self.codes), len(self.codes)
        mean, spread = self.signed / count, float(((codes - codes.mean()) ** 2).sum())
        found = {MEAN: mean}
        if (self.signed != self.size).any():
            found[MAGNITUDE] = self.size / count
        if spread > 0:
            found[CONTRAST] = (self.coded - count * codes.mean() * mean) / spread
        return found
