"""Volumes small enough for the page: one byte per voxel, cropped, deflated, as text.

A byte of 0 says that a voxel has no value; the others are equal steps from `low` to `high`. Values beyond it are
shown as the end of the scale, and the page says "at least". The script in `templates/script/` reads them back.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_FloatArray = npt.NDArray[Any]

_STEPS = 254
"""Steps of a byte's scale: 0 is taken for "no value", and an even number has 0 in the middle of a signed scale."""

_CLIP_PERCENT, _CLIP_RATIO = 99.9, 2.0
"""Where values may be clipped and the largest magnitude is over this many times that percentile (of all but 0), the percentile ends the
scale: one extreme voxel at the rim of the brain must not fade all others."""

_TEMPLATE_SHADES = 62
"""Shades of grey of the template; more are invisible under a map, and do not compress."""

_TEMPLATE_STEP = 2
"""Every second millimetre of nilearn's 1 mm template."""


@dataclass(frozen=True)
class Volume:
    """Values on a lattice whose axes are those of MNI space.

    Attributes
    ----------
    values : array
        (X, Y, Z), NaN where there is no value.
    origin_mm : array
        (3,) centre of voxel (0, 0, 0) in MNI mm.
    step_mm : array
        (3,) millimetres from one voxel to the next, positive: x to the right, y to the front, z up.
    """

    values: _FloatArray
    origin_mm: _FloatArray
    step_mm: _FloatArray

    def cropped(self) -> Volume:
        """The smallest box that holds all values; the volume itself if it has none."""
        places = np.argwhere(np.isfinite(self.values))
        if not len(places):
            return self
        first, last = places.min(axis=0), places.max(axis=0) + 1
        box = tuple(slice(start, stop) for start, stop in zip(first, last, strict=True))
        return Volume(self.values[box], self.origin_mm + first * self.step_mm, self.step_mm)

    def halved(self) -> Volume:
        """Means of blocks of 2 x 2 x 2 voxels, over those that have a value: an eighth of the bytes."""
        padding = [(0, size % 2) for size in self.values.shape]
        padded = np.pad(self.values.astype(np.float64), padding, constant_values=np.nan)
        x, y, z = (size // 2 for size in padded.shape)
        blocks = padded.reshape(x, 2, y, 2, z, 2)
        known = np.isfinite(blocks)
        counts = known.sum(axis=(1, 3, 5))
        sums = np.where(known, blocks, 0).sum(axis=(1, 3, 5))
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return Volume(means, self.origin_mm + self.step_mm / 2, self.step_mm * 2)

    def peak(self) -> tuple[list[float], float]:
        """Place in mm, and value, of the largest magnitude; of several, the one nearest to their middle. Needs one value at least."""
        size = np.abs(self.values)
        places = np.argwhere(size == np.nanmax(size))
        place = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
        return rounded(self.origin_mm + place * self.step_mm), float(self.values[tuple(place)])


@dataclass(frozen=True)
class NamedMap:
    """A map with its description.

    Attributes
    ----------
    unit : str
        Unit of its values; empty if unknown.
    about : str
        One or two sentences.
    threshold : float
        Initial threshold of the viewer, as a share of the largest value.
    clip : bool
        Whether a few extreme values may lie beyond the colour scale.
    from_zero : bool
        Whether the colour scale of unsigned values begins at zero, not at the smallest.
    """

    name: str
    unit: str
    about: str
    volume: Volume
    threshold: float = 0.0
    clip: bool = False
    from_zero: bool = True

    def encoded(self, volume: Volume) -> dict[str, Any]:
        """Its values, at the resolution of this volume."""
        return encode(volume, clip=self.clip, from_zero=self.from_zero)


def encode(volume: Volume, steps: int = _STEPS, clip: bool = False, from_zero: bool = True) -> dict[str, Any]:
    """The volume as JSON for the page's script; `clip` and `from_zero` as of `NamedMap`."""
    volume = volume.cropped()
    low, high = scale_of(volume.values, clip)
    if low == 0 < high and not from_zero:
        low = min(float(f"{np.nanmin(volume.values):.4g}"), 0.999 * high)
    mm, value = volume.peak() if np.isfinite(volume.values).any() else ([0.0, 0.0, 0.0], 0.0)
    return {
        "shape": list(volume.values.shape),
        "origin": rounded(volume.origin_mm),
        "step": rounded(volume.step_mm),
        "peak": {"mm": mm, "value": float(f"{value:.4g}")},
        **encode_values(volume.values, low, high, steps),
    }


def encode_values(values: _FloatArray, low: float, high: float, steps: int = _STEPS) -> dict[str, Any]:
    """Values of any shape, NaN where there is none, as bytes in C order with their scale."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / (high - low)
    codes = np.where(known, 1 + np.round(np.clip(share, 0, 1) * steps), 0).astype(np.uint8)
    clipped = bool((np.abs(values[known]) > 1.001 * max(-low, high)).any())
    return {
        "low": low,
        "high": high,
        "steps": steps,
        "clipped": clipped,
        "data": base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode("ascii"),
    }


def scale_of(values: _FloatArray, clip: bool = False) -> tuple[float, float]:
    """Ends of the scale: even about 0 where values have both signs, else from 0 to the top."""
    known = np.abs(values[np.isfinite(values) & (values != 0)])
    top, most = (float(np.percentile(known, percent)) for percent in (100, _CLIP_PERCENT)) if len(known) else (1.0, 1.0)
    top = float(f"{most if clip and top > _CLIP_RATIO * most else top:.4g}")
    signed, negative = (values < 0).any(), not (values > 0).any()
    return (-top, 0.0) if signed and negative else (-top, top) if signed else (0.0, top)


@lru_cache(maxsize=1)
def template() -> dict[str, Any]:
    """The MNI152 T1 template that nilearn carries, without skull, to draw maps on; nothing is fetched."""
    import nibabel
    from nilearn.datasets import MNI152_FILE_PATH

    image = nibabel.nifti1.load(MNI152_FILE_PATH)
    step = _TEMPLATE_STEP
    values = np.asarray(image.dataobj)[::step, ::step, ::step].astype(np.float64)
    spacing = np.diag(image.affine)[:3] * step
    volume = Volume(np.where(values > 0, values, np.nan), image.affine[:3, 3].astype(np.float64), spacing)
    return encode(volume, _TEMPLATE_SHADES)


def rounded(values: _FloatArray) -> list[float]:
    """As JSON, without digits below a scanner's precision."""
    return [round(float(value), 3) for value in values]
