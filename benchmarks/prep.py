"""Preparation, ours beside nilearn: seconds from the same file to the same brain voxels, and the memory a whole run takes.

    python benchmarks/prep.py [--quick]

One JSON line per case, nothing else on standard output. `prep/resample_seconds` reads `faces` (../shared/data, or a simulated file of its
shape), `prep/resample_seconds_2mm` a simulated run on the 2 mm template, whose voxels coincide with the lattice's. Both sides start at
the compressed file and end at (T, brain voxels) float32 on the lattice. `prep/peak_rss_mib` runs the whole of `slimbrain prep`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from case import Case
from nilearn.image import resample_img
from recordings import FACES, FACES_IMAGE, MNI_2MM, SPM_3MM, cut, simulate
from threadpoolctl import threadpool_limits

from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep import source as reading
from slimbrain.prep.source import Source, open_source
from slimbrain.prep.volume import Sampling, interpolate, prepare_image
from slimbrain.store import Store
from slimbrain.store.write import write_session

Array = npt.NDArray[Any]

AGAINST = "nilearn"
HCP_TR_S, FACES_TR_S = 0.72, 2.0
MIB = 2**20
STILL = 1e-2
"""Voxels whose standard deviation over time is under this share of the median are left out of the z-scored comparison."""


@dataclass(frozen=True)
class Size:
    """Frames of the two files that are resampled, and of the runs whose memory is measured; the first is the case's value."""

    faces: int
    simulated: int
    runs: tuple[int, int]
    repeats: int
    quick: bool


FULL = Size(faces=351, simulated=120, runs=(1200, 2400), repeats=3, quick=False)
QUICK = Size(faces=12, simulated=8, runs=(40, 80), repeats=1, quick=True)


def status_mib(field: str) -> float:
    """A line of /proc/self/status: `VmRSS`, `VmHWM`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


# --- seconds


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and what the last gave."""
    seconds, result = [], None
    for _ in range(repeats):
        result = None
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def ours(path: Path, grid: Grid) -> Array:
    """(T, N) brain voxels in patch order, as `prepare_image` gets them."""
    source = open_source(path)
    result = np.empty((source.n_frames, grid.n_voxels), np.float32)

    def put(start: int, block: Array) -> None:
        result[start : start + len(block)] = block

    interpolate(source, Sampling.of(grid, source), put)
    return result


def nilearns(path: Path, grid: Grid) -> Array:
    """(N, T) brain voxels in the order of the lattice. Numbers are read as float32, since nilearn rounds to the file's own type."""
    image = nibabel.load(path)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine)
    settings = {"interpolation": "linear", "force_resample": True, "copy_header": True}
    resampled = resample_img(image, grid.lattice.affine, grid.mask.shape, **settings)
    return np.asarray(resampled.get_fdata(dtype=np.float32)[grid.mask])


def drain(source: Source) -> None:
    """Decompress the file as `interpolate` does, and do nothing with it."""
    with reading._open_stream(source.path) as stream:
        while stream.read(reading.BLOCK_BYTES):
            pass


def whole(path: Path, grid: Grid, tr: float) -> None:
    """All that becomes of an image: interpolated, resampled in time, z-scored, written."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = Store.create(folder, grid, HCP_TR_S)
        result = prepare_image(open_source(path), grid, tr, scratch=store.root)
        write_session(store, {"sub": "01", "space": "MNI152NLin6Asym"}, result.voxels, result.mean, result.std, result.tr)


def difference(grid: Grid, mine: Array, theirs: Array) -> dict[str, float]:
    """How far both are apart: in standard deviations of all values, in standard deviations over time, and where only one has data."""
    place = np.full(grid.mask.size, -1)
    place[np.flatnonzero(grid.mask)] = np.arange(grid.n_voxels)
    theirs = theirs[place[grid.voxel_index[grid.voxel_mask]]].T
    both = mine.any(axis=0) == theirs.any(axis=0)
    gap = np.abs(mine - theirs).max(axis=0)[both]
    spread = theirs.std(axis=0)[both]
    moving = spread > STILL * np.median(spread)
    return {
        "max_difference_of_overall_sd": float(gap.max() / theirs.std()),
        "max_difference_of_voxel_sd": float((gap[moving] / spread[moving]).max()),
        "voxels_on_the_rim_that_only_one_fills": int((~both).sum()),
    }


def resample_case(name: str, path: Path, recording: str, tr: float, size: Size) -> Case:
    grid = Grid.mni152("2mm")
    source = open_source(path)
    with threadpool_limits(2):
        first, _ = timed(lambda: ours(path, grid))
        value, mine = timed(lambda: ours(path, grid), size.repeats)
        against, theirs = timed(lambda: nilearns(path, grid))
        gzip_seconds, _ = timed(lambda: drain(source), size.repeats)
        prepare_seconds, _ = timed(lambda: whole(path, grid, tr), size.repeats)
    detail = {
        "quick": size.quick,
        "recording": recording,
        "shape": list(source.shape),
        "brain_voxels": grid.n_voxels,
        "from_to": "compressed file to (T, brain voxels) float32",
        "statistic": f"fastest of {size.repeats}, nilearn once",
        "seconds_with_the_table_to_compute": round(first, 3),
        "frames_per_second": round(source.n_frames / value, 1),
        "gzip_seconds": round(gzip_seconds, 3),
        "gzip_share": round(gzip_seconds / value, 3),
        "prepare_seconds": round(prepare_seconds, 3),
        "prepare_frames_per_second": round(source.n_frames / prepare_seconds, 1),
        "prepare_gzip_share": round(gzip_seconds / prepare_seconds, 3),
        "prepare_ratio": round(prepare_seconds / against, 4),
        **{key: float(f"{number:.3g}") for key, number in difference(grid, mine, theirs).items()},
    }
    return Case(name, value, "s", AGAINST, against, detail)


def resample_cases(folder: Path, size: Size) -> Iterator[Case]:
    real = FACES / FACES_IMAGE
    path = real if real.exists() else simulate(folder / "faces", SPM_3MM, size.faces, FACES_TR_S)
    if real.exists() and size.quick:
        path = cut(real, folder / "faces", size.faces)
    yield resample_case("prep/resample_seconds", path, "faces" if real.exists() else "simulated", FACES_TR_S, size)
    path = simulate(folder / "simulated", MNI_2MM, size.simulated, HCP_TR_S)
    yield resample_case("prep/resample_seconds_2mm", path, "simulated", HCP_TR_S, size)


# --- memory


def peak_case(folder: Path, size: Size) -> Case:
    """Peak resident memory of `slimbrain prep` on one run, in a process of its own, against the run as dense float32."""
    peaks = {frames: _peak_of(folder / str(frames), frames) for frames in size.runs}
    frames = size.runs[0]
    dense = float(np.prod(MNI_2MM.shape)) * 4 * frames / MIB
    detail = {
        "quick": size.quick,
        "shape": [*MNI_2MM.shape, frames],
        "above": "resident memory after imports; `absolute` is the peak itself",
        **{f"frames_{count}": peak for count, peak in peaks.items()},
    }
    return Case("prep/peak_rss_mib", peaks[frames]["above_base"], "MiB", "dense-float32", dense, detail)


def _peak_of(folder: Path, frames: int) -> dict[str, float]:
    simulate(folder / "bids" / "sub-01" / "func", MNI_2MM, frames, HCP_TR_S)
    command = [sys.executable, __file__, "--peak-of", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def report_peak(folder: Path) -> None:
    """What `_peak_of` starts: prepare, then print the peak."""
    base = status_mib("VmRSS")
    started = time.perf_counter()
    summary = prepare(folder / "bids", folder / "store", PrepOptions())
    seconds = time.perf_counter() - started
    if len(summary.prepared) != 1:
        raise SystemExit(f"the run was not prepared: {summary.failures}")
    peak = status_mib("VmHWM")
    numbers = {"above_base": peak - base, "absolute": peak, "seconds": seconds}
    print(json.dumps({name: round(number, 1) for name, number in numbers.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 and 8 frames are resampled, runs of 40 and 80 prepared")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        report_peak(options.peak_of)
        return
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        for case in resample_cases(Path(folder), size):
            case.print()
        peak_case(Path(folder), size).print()


if __name__ == "__main__":
    main()
