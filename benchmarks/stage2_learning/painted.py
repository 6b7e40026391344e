"""Paint ABIDE's parcel series into voxels of 8 mm, so that stage 2 can be studied on hundreds of people.

Every voxel takes the series of its nearest parcel (Voronoi cells of channels.tsv), times a smooth gain that is the same for all, plus
noise like that of coinstac30's real voxels (`voxel_noise.py`: r = 0.71 with the rest of the own parcel; residuals correlate 0.27 at 10 mm,
0 at 20 mm, and 0.25 from frame to frame at 2 s). Nothing finer than a parcel is real.

`python benchmarks/stage2_learning/painted.py --out stage2-run` takes about three minutes and 3.8 GB.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from painted_cohort import LATTICE, PARCELS, TR_S, parcel_places, parser
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

from slimbrain.grid import Grid

NOISE_SHARE = 0.45
"""Variance of a voxel that its parcel does not explain."""
NOISE_SIGMA_MM = 4.9
NOISE_AR1 = 0.61
"""Of neighbouring frames of 0.72 s: 0.25 at 2 s."""
GAIN_SIGMA_MM, GAIN_SPREAD = 24.0, 0.25
DUPLICATES = {"sub-50578", "sub-50602", "sub-50805", "sub-50808"}
"""Two recordings that stand under two participants each, with different ages: none of the four can be trusted."""


def read_runs() -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Participant's row and (T, 200) z-scored series at 0.72 s of every run."""
    for site in sorted(path for path in PARCELS.iterdir() if path.is_dir()):
        tr = json.loads((site / "timeseries.json").read_text())["RepetitionTime"]
        with (site / "participants.tsv").open() as table:
            people = {row["participant_id"]: row for row in csv.DictReader(table, delimiter="\t")}
        with np.load(site / "timeseries.npz") as series:
            for key in sorted(series.files):
                person = people[key.split("_")[0]]
                if person["participant_id"] not in DUPLICATES:
                    yield person, resample(series[key], tr)


def resample(series: np.ndarray, tr: float) -> np.ndarray:
    """(T, C) z-scored series at 0.72 s by cubic splines."""
    values = series.astype(np.float64) / 24
    seconds = np.arange(len(values)) * tr
    values = make_interp_spline(seconds, values, k=3)(np.arange(int(seconds[-1] / TR_S) + 1) * TR_S)
    return ((values - values.mean(0)) / (values.std(0) + 1e-6)).astype(np.float32)


def nearest_parcel(mm: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(P,) parcel whose centre is nearest to each of (P, 3) voxels."""
    return np.argmin(((mm[:, None] - places[None]) ** 2).sum(-1), 1)


def smooth_gain(grid: Grid) -> np.ndarray:
    """(P,) positive gain, the same for everyone."""
    fixed = np.random.default_rng(0)
    gain = gaussian_filter(fixed.standard_normal((LATTICE.edge,) * 3), GAIN_SIGMA_MM / LATTICE.voxel_mm)[tuple(grid.patches.index.T)]
    return np.exp(GAIN_SPREAD * (gain - gain.mean()) / gain.std()).astype(np.float32)


def noise(grid: Grid, frames: int, random: np.random.Generator) -> np.ndarray:
    """(T, P) noise, smooth in space, AR(1) in time, with a standard deviation of 1."""
    sigma = NOISE_SIGMA_MM / LATTICE.voxel_mm
    values = random.standard_normal((frames, *(LATTICE.edge,) * 3), dtype=np.float32)
    values = gaussian_filter(values, (0, sigma, sigma, sigma))[(slice(None), *grid.patches.index.T)]
    values = lfilter([1], [1, -NOISE_AR1], values, axis=0)
    return values / values.std(0)


def paint(series: np.ndarray, nearest: np.ndarray, gain: np.ndarray, noise: np.ndarray | float, share: float = NOISE_SHARE) -> np.ndarray:
    """(T, C) parcels -> (T, P) z-scored voxels, of whose variance `share` is noise."""
    voxels = np.sqrt(1 - share) * gain * series[:, nearest] + np.sqrt(share) * noise
    return (voxels - voxels.mean(0)) / voxels.std(0)


def main(out: Path) -> None:
    folder = out / "painted"
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid.from_nifti(load_mni152_brain_mask(resolution=2), "8mm-p1")
    places = parcel_places()
    nearest, gain = nearest_parcel(grid.patches.mm, places), smooth_gain(grid)
    np.savez(folder / "grid.npz", mask=grid.mask, nearest=nearest, gain=gain, places=places)
    rows, parcels, first = [], [], 0
    with (folder / "voxels.f16").open("wb") as file:
        for number, (person, series) in enumerate(read_runs()):
            random = np.random.default_rng((1, number))
            file.write(paint(series, nearest, gain, noise(grid, len(series), random)).astype(np.float16).tobytes())
            rows.append({**person, "first": first, "frames": len(series)})
            parcels.append(series.astype(np.float16))
            first += len(series)
    np.save(folder / "parcels.npy", np.concatenate(parcels))
    with (folder / "runs.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(parser(__doc__).parse_args().out)
