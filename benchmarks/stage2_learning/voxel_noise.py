"""How noisy are real voxels? coinstac30's 10 mm voxels against the mean of their own CC200 parcel.

`python benchmarks/stage2_learning/voxel_noise.py` prints means over ten runs: the numbers that `painted.py` makes its noise from.
"""

from __future__ import annotations

import json

import nibabel
import numpy as np
from painted_cohort import DATA, parcel_places

RUNS = 10
REACH_MM = 20.0
"""A voxel further than this from every parcel's centre is left out."""


def standardised(x: np.ndarray) -> np.ndarray:
    """Rows with a standard deviation of 1; rows are centred already."""
    return x / (x.std(1, keepdims=True) + 1e-9)


def neighbour_correlation(index: np.ndarray, values: np.ndarray, step: int) -> float:
    """Mean correlation of voxels `step` apart along an axis."""
    place = {tuple(voxel): number for number, voxel in enumerate(index)}
    products = []
    for axis in range(3):
        for number, voxel in enumerate(index):
            other = voxel.copy()
            other[axis] += step
            if (near := place.get(tuple(other))) is not None:
                products.append((values[number] * values[near]).mean())
    return float(np.mean(products))


def noise_of(image: nibabel.Nifti1Image, places: np.ndarray) -> dict[str, float]:
    """Voxels of one run: correlation with the rest of the parcel, and how what is left correlates in time and space."""
    values = np.asarray(image.dataobj, np.float32)
    mean = values.mean(-1)
    brain = (mean > 0.4 * np.percentile(mean, 98)) & (values.std(-1) > 0)
    index = np.argwhere(brain)
    mm = nibabel.affines.apply_affine(image.affine, index)
    time = np.linspace(-1, 1, values.shape[-1])
    trend = np.c_[np.ones_like(time), time, time * time]
    series = values[brain]
    series = standardised(series - (series @ trend) @ np.linalg.pinv(trend.T @ trend) @ trend.T)
    nearest = np.argmin(((mm[:, None] - places[None]) ** 2).sum(-1), 1)
    close = np.sqrt(((mm - places[nearest]) ** 2).sum(-1)) < REACH_MM
    series, nearest, index = series[close], nearest[close], index[close]
    count = np.bincount(nearest, minlength=len(places))
    sums = np.zeros((len(places), series.shape[1]), np.float32)
    np.add.at(sums, nearest, series)
    rest = standardised((sums[nearest] - series) / np.maximum(count[nearest] - 1, 1)[:, None])
    correlation = (series * rest).mean(1)[count[nearest] > 3]
    parcel = standardised(sums / np.maximum(count, 1)[:, None])[nearest]
    residual = standardised(series - (series * parcel).mean(1, keepdims=True) * parcel)
    return {
        "voxels": len(series),
        "r_with_rest_of_parcel": correlation.mean(),
        "residual_frame_to_frame": (residual[:, 1:] * residual[:, :-1]).mean(),
        "residual_10mm": neighbour_correlation(index, residual, 1),
        "residual_20mm": neighbour_correlation(index, residual, 2),
    }


def main() -> None:
    images = sorted((DATA / "coinstac30").glob("*.nii.gz"))[:RUNS]
    rows = [noise_of(nibabel.load(path), parcel_places()) for path in images]
    print(json.dumps({key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}))


if __name__ == "__main__":
    main()
