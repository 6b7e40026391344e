"""Does an image that claims to be in MNI space look like it: the brightest voxels against the template's brain mask.

The header says where every voxel lies, and nothing in the file can prove it right. But a brain that stands on its head,
faces backwards or lies elsewhere covers the template's mask worse than a brain in its place, and better once it is
flipped back. A few frames from the start of the file, at 8 mm, are enough to see that. Which side is left they cannot tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from slimbrain.grid import LATTICES, Grid
from slimbrain.prep.source import Source, frame_blocks

_BoolArray = npt.NDArray[np.bool_]
_FloatArray = npt.NDArray[Any]

_RESOLUTION = "8mm"
_LIKENESS_FRAMES = 8
"""Frames looked at: the first ones, so that hardly anything is decompressed twice."""

_PROBE_MM = (-2.0, 2.0)
"""An 8 mm place is sampled at two points along each axis, 4 mm apart."""

_WARN_OVERLAP = 0.8
"""Heads that lie right reach 0.88 or more, also with a cut field of view (docs/quality.md)."""

_FLIP_MARGIN = 0.01
"""A flip that fits better by more than this is believed; docs/quality.md has the rates of false and missed alarms."""

_TELLING = 0.92
"""A flip is judged only if the mask overlaps with its own mirror image by less. That of MNI152 overlaps by 0.98 with left and right
swapped (0.84 front to back, 0.87 upside down): the shape of a head, or a shift of 3 mm, outweighs the rest."""

_FLIPS: Mapping[str, tuple[int, ...]] = MappingProxyType({"left_right": (0,), "front_back": (1,), "up_down": (2,), "turned": (1, 2)})
"""World axes that each flip turns round."""

_SEEN: Mapping[str, str] = MappingProxyType(
    {
        "left_right": "with left and right swapped",
        "front_back": "front to back",
        "up_down": "upside down",
        "turned": "upside down and front to back",
    }
)


@dataclass(frozen=True)
class Likeness:
    """How well an image fits the template.

    Attributes
    ----------
    overlap : float
        Dice coefficient of support and brain mask, 0 to 1, with the image where its header puts it.
    flipped : mapping
        The same for the image with its array flipped along one or two axes, by the names of `_FLIPS`.
    telling : collection of str
        The flips that the mask's shape can tell (`_TELLING`).
    """

    overlap: float
    flipped: Mapping[str, float]
    telling: Collection[str]

    @property
    def better_flip(self) -> str:
        """Name of the telling flip that fits clearly better than the image as it claims to be; empty if none does."""
        gains = {name: value - self.overlap for name, value in self.flipped.items() if name in self.telling}
        best = max(gains, key=lambda name: gains[name], default="")
        return best if best and gains[best] > _FLIP_MARGIN else ""

    @property
    def warnings(self) -> list[str]:
        """What was found, in one sentence; none if the image looks like what it claims to be."""
        if flip := self.better_flip:
            fit = f"{self.flipped[flip]:.2f} against {self.overlap:.2f}"
            return [f"fits the MNI brain mask better {_SEEN[flip]} (overlap {fit}); check its orientation."]
        if self.overlap < _WARN_OVERLAP:
            low = f"{self.overlap:.2f}, under {_WARN_OVERLAP:g}"
            return [f"does not look like a brain in MNI space (overlap with the brain mask {low}); check that it is normalised."]
        return []


def template_likeness(source: Source, brain: _BoolArray | None = None) -> Likeness | None:
    """Compare the first frames of an image with the brain mask, as it claims to be and flipped.

    The brightness of a voxel is its root mean square over `_LIKENESS_FRAMES` frames, so that a series whose mean was
    removed counts as well. Places where the file holds 0 may be masked or outside the field of view, and say nothing: how much
    of the brain is missing is what coverage tells.

    Parameters
    ----------
    source : Source
        The checked image.
    brain : ndarray of bool or None
        (24, 24, 24) mask on the 8 mm lattice; that of MNI152 if None.

    Returns
    -------
    Likeness or None
        None if there is nothing to compare: no part of the brain in the field of view, or only zeros in these frames.

    Raises
    ------
    InputError
        If the image cannot be read.
    """
    brain = _template_mask() if brain is None else brain
    image = brightness(source)
    claimed = overlap(_on_lattice(image, source.affine), brain)
    if claimed is None:
        return None
    flipped = {}
    for name, axes in _FLIPS.items():
        on_disk = _array_axes(source.affine, axes)
        fit = overlap(_on_lattice(np.flip(image, on_disk), source.affine), brain)
        if fit is not None:
            flipped[name] = fit
    return Likeness(claimed, flipped, tuple(name for name, axes in _FLIPS.items() if _mirror_overlap(brain, axes) < _TELLING))


@lru_cache(maxsize=1)
def _template_mask() -> _BoolArray:
    """(24, 24, 24) MNI152 brain on the 8 mm lattice. The template, not the store's mask, which may be of a part of the brain."""
    return Grid.mni152(_RESOLUTION).mask


def brightness(source: Source) -> _FloatArray:
    """(X, Y, Z) root mean square of the first frames; 0 where a value is not finite."""
    first = next(frame_blocks(source))[:_LIKENESS_FRAMES]
    values = np.sqrt(np.square(first, dtype=np.float64).mean(axis=0))
    return np.asarray(np.where(np.isfinite(values), values, 0).reshape(source.shape[:3], order="F"))


def _on_lattice(image: _FloatArray, affine: _FloatArray) -> _FloatArray:
    """(24, 24, 24) mean of the probes around each place of the 8 mm lattice; NaN where most lie outside the image."""
    lattice = LATTICES[_RESOLUTION]
    to_source = np.linalg.inv(affine)
    mm = lattice.origin_mm + lattice.voxel_mm * np.indices((lattice.edge,) * 3).reshape(3, -1).T
    total, inside = np.zeros(len(mm)), np.zeros(len(mm), int)
    probes = list(product(_PROBE_MM, repeat=3))
    for probe in probes:
        place = (mm + probe) @ to_source[:3, :3].T + to_source[:3, 3]
        values = map_coordinates(image, place.T, order=1, cval=np.nan)
        known = np.isfinite(values)
        total[known] += values[known]
        inside += known
    sampled = np.divide(total, inside, out=np.full(len(mm), np.nan), where=2 * inside >= len(probes))
    return np.asarray(sampled.reshape((lattice.edge,) * 3))


def _array_axes(affine: _FloatArray, world: Collection[int]) -> tuple[int, ...]:
    """Axes of the array that run along axes of the world."""
    along = nibabel.io_orientation(affine)[:, 0]
    return tuple(int(np.flatnonzero(along == axis)[0]) for axis in world)


def _mirror_overlap(brain: _BoolArray, axes: Collection[int]) -> float:
    """Dice coefficient of a mask and its mirror image about its own middle."""
    corner = [slice(places.min(), places.max() + 1) for places in np.nonzero(brain)]
    cropped = brain[tuple(corner)]
    return float((np.flip(cropped, tuple(axes)) & cropped).sum() / cropped.sum())


def overlap(image: _FloatArray, brain: _BoolArray) -> float | None:
    """Share of the brightest places that lie in the mask, as many as the mask has where the image shows anything.

    Parameters
    ----------
    image : ndarray
        Brightness; 0 or NaN where it shows nothing.
    brain : ndarray of bool
        Same shape.

    Returns
    -------
    float or None
        Their Dice coefficient, which for two sets of one size is that share; None if the image shows nothing of the brain.
    """
    shown = np.nan_to_num(image) > 0
    values, inside = image[shown], brain[shown]
    size = int(inside.sum())
    if not size:
        return None
    brightest = np.argpartition(values, -size)[-size:]
    return float(inside[brightest].mean())
