"""A 4D NIfTI file on disk: checked before anything is allocated, read once from front to back in blocks of frames."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError

FloatArray = npt.NDArray[Any]

MAX_EDGE = 1024
"""Voxels along one axis. The finest whole-head functional image is about 0.7 mm, 320 voxels."""

MAX_VOXELS = 2**26
"""Voxels of one frame, 406 cubed. Tables of the interpolation are as long, so that they are bounded too."""

MAX_FRAMES = 100_000
"""At TR 0.1 s that is almost three hours; more is a damaged header."""

VOXEL_MM = (0.3, 20.0)
"""Voxel sizes that can be a functional image of a whole brain."""

TR_S = (0.05, 30.0)
"""TRs that can be one; outside, the unit is wrong (milliseconds called seconds) or the value is not a TR."""

MAX_DEFLATE_RATIO = 1100
"""Deflate cannot compress more than 1032 to 1, so a header that promises more than this is wrong."""

HEADER_BYTES = 352
PLACEHOLDER_ZOOM = 1.0
"""What software leaves in the header's fourth zoom when nobody set a TR."""

TR_TOLERANCE_S = 1e-3
"""Two statements of one TR may differ by rounding to the millisecond."""

BLOCK_BYTES = 48 * 2**20
MAX_BLOCK_FRAMES = 32
PIECE_BYTES = 4 * 2**20
"""Read at once, so that a file that ends early is given no room for what its header promised."""

TIME_UNIT_BITS = 0x38
UNIT_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
"""Seconds by the time bits of NIfTI's `xyzt_units`; 0 is unknown, which practice reads as seconds."""


@dataclass(frozen=True)
class Source:
    """What the header of a usable 4D image says.

    Attributes
    ----------
    path : the file.
    shape : (X, Y, Z, T).
    affine : (4, 4) voxel index -> mm.
    dtype : type of the numbers on disk.
    offset : bytes before the first of them.
    slope, inter : value = slope * number + inter.
    header_tr : seconds a frame, None if the header has none that can be believed.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: FloatArray
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    header_tr: float | None

    @property
    def n_frames(self) -> int:
        return self.shape[3]

    @property
    def n_voxels(self) -> int:
        """Voxels a frame."""
        return math.prod(self.shape[:3])

    @property
    def voxel_mm(self) -> FloatArray:
        """(3,) edge lengths of a voxel in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def orientation(self) -> str:
        """Axis codes, for example `LAS`."""
        import nibabel

        return "".join(nibabel.aff2axcodes(self.affine))


def open_source(path: str | Path) -> Source:
    """Read and check the header; no image data is touched.

    Raises
    ------
    InputError
        If the file is not a readable NIfTI image, is not 4D, or its header cannot be that of a functional image.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    path = Path(path)
    if path.exists() and not path.is_file():
        # Opening a named pipe would wait for a writer for ever.
        raise InputError(f"{path}: is not a file; put the image in its place.")
    with _reading(path):
        try:
            image = nibabel.load(path)
        except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: is not a readable NIfTI image ({error}); restore it from where it came.") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(f"{path}: is {type(image).__name__}, not NIfTI; convert it to .nii.gz.")
    proxy: Any = image.dataobj
    _check_shape(path, image.shape)
    _check_type(path, proxy.dtype)
    _check_length(path, proxy.offset + math.prod(image.shape) * proxy.dtype.itemsize)
    _check_geometry(path, image)
    shape = cast(tuple[int, int, int, int], tuple(int(size) for size in image.shape))
    slope, inter = float(proxy.slope), float(proxy.inter)
    return Source(path, shape, np.asarray(image.affine, np.float64), proxy.dtype, int(proxy.offset), slope, inter, _header_tr(image.header))


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions {tuple(shape)}; give a 4D time series.")
    if min(shape) < 1 or max(shape[:3]) > MAX_EDGE or math.prod(shape[:3]) > MAX_VOXELS or shape[3] > MAX_FRAMES:
        raise InputError(f"{path}: its header claims the shape {tuple(shape)}, which no functional image has; restore the file.")
    if min(shape[:3]) < 2:
        raise InputError(f"{path}: has a single slice along one axis (shape {tuple(shape)}); give a whole-brain image.")


def _check_type(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: holds numbers of type {dtype}, not one real value a voxel; convert it to float32.")


def _check_length(path: Path, needed: int) -> None:
    size = path.stat().st_size
    if is_gzip(path):
        if needed > size * MAX_DEFLATE_RATIO:
            raise InputError(f"{path}: its header claims {needed} bytes, more than {size} compressed ones can hold; restore the file.")
    elif size < needed:
        raise InputError(f"{path}: holds {size} bytes where its header claims {needed}; the file is truncated, restore it.")


def _check_geometry(path: Path, image: Any) -> None:
    affine = image.affine
    if not image.header["sform_code"] and not image.header["qform_code"]:
        raise InputError(f"{path}: has neither sform nor qform, so its place in MNI space is unknown; write it with its affine.")
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < VOXEL_MM[0] ** 3:
        raise InputError(f"{path}: its affine is not invertible or not finite; write the image with its true affine.")
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if (zooms < VOXEL_MM[0]).any() or (zooms > VOXEL_MM[1]).any():
        sizes = " x ".join(f"{zoom:g}" for zoom in zooms)
        raise InputError(f"{path}: its affine gives voxels of {sizes} mm; write the image with its true affine in mm.")


def _header_tr(header: Any) -> float | None:
    zoom = float(header.get_zooms()[3])
    seconds = zoom * UNIT_SECONDS.get(int(header["xyzt_units"]) & TIME_UNIT_BITS, 0.0)
    if zoom == PLACEHOLDER_ZOOM or not TR_S[0] <= seconds <= TR_S[1]:
        return None
    # The header holds float32: 0.72 arrives as 0.7200000286.
    return round(seconds, 6)


def repetition_time(source: Source, sidecar: Mapping[str, Any], given: float | None) -> tuple[float, str]:
    """The TR, and who says so: the sidecar, else the header, else the user.

    A header value of 0 or of exactly 1 counts as missing, since software writes it when nobody set one.

    Parameters
    ----------
    sidecar : BIDS metadata of the image.
    given : value of `--tr` in seconds; may fill a gap, never contradict.

    Returns
    -------
    Seconds a frame, and `sidecar`, `header` or `--tr`.

    Raises
    ------
    InputError
        If nobody says, or two disagree.
    """
    stated = sidecar.get("RepetitionTime")
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, (int, float)) or not TR_S[0] <= stated <= TR_S[1]):
        raise InputError(f"{source.path}: its sidecar gives RepetitionTime {stated!r}, which is not a TR in seconds; correct the sidecar.")
    tr, origin = (float(stated), "sidecar") if stated is not None else (source.header_tr, "header")
    if tr is None and given is None:
        raise InputError(f"{source.path}: has no TR in a JSON sidecar or the header (0 or 1 there is none); give it in seconds with --tr.")
    if tr is None:
        return cast(float, given), "--tr"
    if given is not None and abs(given - tr) > TR_TOLERANCE_S:
        raise InputError(f"{source.path}: its {origin} gives TR {tr:g} s but --tr says {given:g} s; drop --tr or correct the {origin}.")
    return tr, origin


def frame_blocks(source: Source) -> Iterator[FloatArray]:
    """Yield the image as (F, N) float32 blocks of F frames and N voxels, first axis of the image fastest.

    The file is decompressed once, in order, up to its check sum, so a damaged gzip file never passes.

    Raises
    ------
    InputError
        If the file ends early, is damaged, or vanishes.
    """
    frame_bytes = source.n_voxels * source.dtype.itemsize
    step = max(1, min(MAX_BLOCK_FRAMES, BLOCK_BYTES // (4 * source.n_voxels)))
    with _reading(source.path), _open_stream(source.path) as stream:
        _skip(stream, source.offset, source.path)
        for start in range(0, source.n_frames, step):
            frames = min(step, source.n_frames - start)
            raw = np.frombuffer(_read_exactly(stream, frames * frame_bytes, source.path), source.dtype)
            yield _scaled(raw.reshape(frames, source.n_voxels), source)
        # gzip compares its check sum only when the end is reached; a damaged file may unpack to more than it should.
        while is_gzip(source.path) and stream.read(PIECE_BYTES):
            pass


def _scaled(raw: FloatArray, source: Source) -> FloatArray:
    # Values beyond float32 become infinite, and the voxel counts as not covered.
    with np.errstate(over="ignore", invalid="ignore"):
        block = raw.astype(np.float32)
        if source.slope != 1.0 or source.inter != 0.0:
            block *= np.float32(source.slope)
            block += np.float32(source.inter)
    return block


def is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


def _open_stream(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip(path) else open(path, "rb")


def _skip(stream: IO[bytes], n_bytes: int, path: Path) -> None:
    while n_bytes > 0:
        n_bytes -= len(_piece(stream, n_bytes, path))


def _read_exactly(stream: IO[bytes], n_bytes: int, path: Path) -> bytearray:
    data = bytearray()
    while len(data) < n_bytes:
        data += _piece(stream, n_bytes - len(data), path)
    return data


def _piece(stream: IO[bytes], n_bytes: int, path: Path) -> bytes:
    piece = stream.read(min(PIECE_BYTES, n_bytes))
    if not piece:
        raise InputError(f"{path}: ends before its header says it does; the file is truncated, restore it.")
    return piece


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist; check the path, or fetch the file if the dataset keeps it elsewhere.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); the file is damaged or incomplete, restore it.") from error
