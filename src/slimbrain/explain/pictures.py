"""Mosaics of a map on the MNI152 template, in the colours of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.colours import stops
from slimbrain.disk.atomic import write_atomic

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

SHOWN_SHARE = 0.25
"""Of the brain's voxels, where values have signs: the strongest are drawn, so that the template can be seen under the others.

Without negative values all are drawn: the smallest of a quarter would look like the smallest of all.
"""

_SHADES = 256

_BRIGHTEST = 99.5
"""Percentile of the absolute values at which colours end: a single voxel must not fade all others."""

_CUTS_MM = {"x": (-48, -24, -4, 24, 48), "y": (-80, -56, -28, 0, 40), "z": (-28, -8, 12, 32, 54)}
_DOTS_PER_INCH = 100


def draw_mosaic(image: SpatialImage, values: NDArray[Any], title: str, note: str, unit: str, path: Path) -> Path:
    """Write a PNG of slices along three axes.

    Parameters
    ----------
    image : SpatialImage
        3D map in MNI space.
    values : array
        (voxels,) of the brain.
    title : str
        One line.
    note : str
        A second line; empty for none.
    unit : str
        Unit of the colour bar.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scale = _scale(values)
    image = _within(image, scale)
    figure = pyplot.figure(figsize=(11, 7), facecolor="white")
    try:
        for row, axis in enumerate(_CUTS_MM):
            place = figure.add_axes((0.01, 0.63 - 0.31 * row, 0.86, 0.30))
            _draw_row(image, figure, place, axis, scale)
        figure.text(0.02, 0.965, title, fontsize=13, weight="bold")
        which = f"the strongest {SHOWN_SHARE:.0%} of brain voxels" if scale.signed else "all brain voxels"
        drawn = f"drawn: {which}; left is left"
        figure.text(0.02, 0.935, f"{note}; {drawn}" if note else drawn, fontsize=9)
        _colour_bar(figure, scale, unit)
        return write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=_DOTS_PER_INCH))
    finally:
        pyplot.close(figure)


@dataclass(frozen=True)
class _Scale:
    """Ends of the colour scale, the magnitude from which values are drawn, and whether they have signs."""

    low: float
    high: float
    threshold: float
    signed: bool

    @property
    def colours(self) -> Any:
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("slimbrain-map", stops(self.signed), N=_SHADES)


def _scale(values: NDArray[Any]) -> _Scale:
    size = np.abs(values)
    high = float(np.percentile(size, _BRIGHTEST)) or 1.0
    if (values < 0).any():
        return _Scale(-high, high, min(float(np.quantile(size, 1 - SHOWN_SHARE)), 0.999 * high), True)
    # Zero is what lies outside the brain.
    return _Scale(min(float(np.percentile(size, 100 - _BRIGHTEST)), 0.999 * high), high, float(np.finfo(np.float32).tiny), False)


def _within(image: SpatialImage, scale: _Scale) -> SpatialImage:
    """The map with what lies under an unsigned scale brought to its end, in its darkest colour: nilearn would leave holes there."""
    if scale.signed:
        return image
    values = np.asarray(image.dataobj)
    return type(image)(np.where(values > 0, np.maximum(values, scale.low), values), image.affine, image.header)


def _draw_row(image: SpatialImage, figure: Any, place: Any, axis: str, scale: _Scale) -> None:
    """The slices along one axis."""
    from nilearn import plotting

    plotting.plot_stat_map(
        image,
        display_mode=axis,
        cut_coords=list(_CUTS_MM[axis]),
        figure=figure,
        axes=place,
        threshold=scale.threshold,
        vmax=scale.high,
        vmin=scale.low,
        cmap=scale.colours,
        colorbar=False,
        black_bg=True,
        resampling_interpolation="nearest",
        draw_cross=False,
    )


def _colour_bar(figure: Any, scale: _Scale, unit: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    bar = figure.colorbar(colours, cax=figure.add_axes((0.885, 0.2, 0.02, 0.6)), extend="both")
    bar.set_label(unit)
    bar.formatter.set_powerlimits((-2, 3))
