"""Image files that the benchmarks of preparation read: simulated runs of any length, or the first frames of a real one."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

FACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "faces" / "sub-01" / "func"
FACES_IMAGE = "sub-01_task-facerep_space-MNI152Lin_res-3_desc-preproc_bold.nii.gz"
STEM = "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold"
BRAIN_FILL = 0.47
"""Semi-axes of the simulated head as a share of the image's edges."""

LEVEL, SIGNAL, NOISE = 10_000, 100, 80
"""Mean, and standard deviations of what the voxels share and of what each has for itself, in units of the int16 on disk."""

HEADER_BYTES = 352
"""Of a NIfTI-1 file without extensions: where its voxels begin."""

UNIQUE_FRAMES = 40
"""Frames simulated; a longer run repeats them, since no figure depends on what they hold."""


@dataclass(frozen=True)
class Space:
    """Grid of an image: shape, voxel edge in mm, place of the first voxel in mm. The first axis runs to the left, as in FSL."""

    shape: tuple[int, int, int]
    voxel_mm: float
    origin_mm: tuple[float, float, float]

    @property
    def affine(self) -> npt.NDArray[Any]:
        matrix = np.diag((-self.voxel_mm, self.voxel_mm, self.voxel_mm, 1.0))
        matrix[:3, 3] = self.origin_mm
        return matrix


MNI_2MM = Space((91, 109, 91), 2.0, (90.0, -126.0, -72.0))
"""MNI152NLin6Asym at 2 mm, as fMRIPrep and HCP write it: its voxels coincide with the lattice's."""

SPM_3MM = Space((53, 63, 46), 3.0, (78.0, -112.0, -50.0))
"""SPM's box at 3 mm, of the shape of `faces`."""


def simulate(folder: Path, space: Space, frames: int, tr: float) -> Path:
    """Write an int16 .nii.gz whose data are one gzip member after another, each holding the same simulated frames.

    A file of several members is a valid gzip file, so a run of any length costs one compression of `UNIQUE_FRAMES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEM}.nii.gz"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((*space.shape, frames))
    header.set_zooms((space.voxel_mm,) * 3 + (tr,))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(space.affine, 4)
    header.set_qform(space.affine, 4)
    header["vox_offset"] = HEADER_BYTES
    header["magic"] = b"n+1"
    data = _frames(space, min(frames, UNIQUE_FRAMES))
    whole = gzip.compress(data.tobytes(), compresslevel=1)
    with open(path, "wb") as handle:
        handle.write(gzip.compress(header.binaryblock + bytes(HEADER_BYTES - len(header.binaryblock))))
        for _ in range(frames // len(data)):
            handle.write(whole)
        handle.write(gzip.compress(data[: frames % len(data)].tobytes()) if frames % len(data) else b"")
    return path


def _frames(space: Space, count: int) -> npt.NDArray[np.int16]:
    """(count, Z, Y, X): a head of smooth brightness, six smooth networks with random courses, and noise; 0 outside the head."""
    generator = np.random.default_rng(0)
    shape = space.shape[::-1]
    place = np.indices(shape).reshape(3, -1).T
    middle = (np.array(shape) - 1) / 2
    head = ((((place - middle) / (np.array(shape) * BRAIN_FILL)) ** 2).sum(axis=1) < 1).reshape(shape)
    fields = np.stack([gaussian_filter(generator.standard_normal(shape, dtype=np.float32), 2) for _ in range(7)])
    fields /= fields.std(axis=(1, 2, 3), keepdims=True)
    level = LEVEL * (1 + 0.1 * fields[0])
    courses = generator.standard_normal((count, 6)).astype(np.float32)
    frames = np.empty((count, *shape), np.int16)
    for frame, course in zip(frames, courses, strict=True):
        signal = SIGNAL * np.tensordot(course, fields[1:], 1) + NOISE * generator.standard_normal(shape, dtype=np.float32)
        frame[...] = np.rint((level + signal) * head)
    return frames


def cut(image: Path, folder: Path, frames: int) -> Path:
    """Write the first frames of an image."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEM}.nii.gz"
    nibabel.load(image).slicer[..., :frames].to_filename(path)
    return path
