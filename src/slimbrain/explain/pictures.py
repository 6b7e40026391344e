"""Mosaics of a map on the MNI152 template, in colours that people with any colour vision can order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.atomic import write_atomic

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

SIGNED_COLOURS, UNSIGNED_COLOURS = "PuOr_r", "viridis"
"""Orange for, purple against; dark to bright. Both keep their order without colour."""

SHOWN_SHARE = 0.25
"""Of the brain's voxels: those with the strongest values are drawn, so that the template can be seen under the others."""

BRIGHTEST = 99.5
"""Percentile of the absolute values at which colours end: a single voxel does not darken all the others."""

CUTS_MM = {"x": (-48, -24, -4, 24, 48), "y": (-80, -56, -28, 0, 40), "z": (-28, -8, 12, 32, 54)}
DOTS_PER_INCH = 100


def draw_mosaic(image: SpatialImage, values: NDArray[Any], title: str, note: str, unit: str, path: Path) -> Path:
    """Write a PNG of slices along three axes.

    Parameters
    ----------
    image : 3D map in MNI space.
    values : (voxels,) of the brain.
    title : one line.
    note : a second line; empty for none.
    unit : what the colour bar counts.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = np.abs(values)
    top = float(np.percentile(size, BRIGHTEST)) or 1.0
    bottom = min(float(np.quantile(size, 1 - SHOWN_SHARE)), 0.999 * top)
    signed = bool((values < 0).any())
    figure = pyplot.figure(figsize=(11, 7), facecolor="white")
    try:
        for row, axis in enumerate(CUTS_MM):
            place = figure.add_axes((0.01, 0.63 - 0.31 * row, 0.86, 0.30))
            _draw_row(image, figure, place, axis, bottom, top, signed)
        figure.text(0.02, 0.965, title, fontsize=13, weight="bold")
        drawn = f"drawn: the strongest {SHOWN_SHARE:.0%} of brain voxels; left is left"
        figure.text(0.02, 0.935, f"{note}; {drawn}" if note else drawn, fontsize=9)
        _colour_bar(figure, bottom, top, signed, unit)
        return write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=DOTS_PER_INCH))
    finally:
        pyplot.close(figure)


def _draw_row(image: SpatialImage, figure: Any, place: Any, axis: str, bottom: float, top: float, signed: bool) -> None:
    """The slices along one axis, of values whose size is over `bottom`."""
    from nilearn import plotting

    plotting.plot_stat_map(
        image,
        display_mode=axis,
        cut_coords=list(CUTS_MM[axis]),
        figure=figure,
        axes=place,
        threshold=bottom,
        vmax=top,
        vmin=-top if signed else bottom,
        cmap=SIGNED_COLOURS if signed else UNSIGNED_COLOURS,
        colorbar=False,
        black_bg=False,
        resampling_interpolation="nearest",
        draw_cross=False,
    )


def _colour_bar(figure: Any, bottom: float, top: float, signed: bool, unit: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(-top if signed else bottom, top), SIGNED_COLOURS if signed else UNSIGNED_COLOURS)
    bar = figure.colorbar(scale, cax=figure.add_axes((0.885, 0.2, 0.02, 0.6)), extend="both" if signed else "max")
    bar.set_label(unit)
    bar.formatter.set_powerlimits((-2, 3))
