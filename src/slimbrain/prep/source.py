"""A series of volumes on disk, checked before anything is allocated and read once from front to back in blocks of frames.

`Source` is what preparation asks of any file that holds one; `_NiftiSource` is the 4D NIfTI image. Other people's containers
(`slimbrain.prep.layouts`) have theirs beside the layout that finds them.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.timing import TR_S
from slimbrain.transform import image_transform

# The same interface and the same bytes, two to three times as fast, for those who install the extra `fast`.
_gzip_module: ModuleType = gzip
_GZIP_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
try:
    from isal import igzip, isal_zlib
except ImportError:
    pass
else:
    _gzip_module, _GZIP_DAMAGE = igzip, (*_GZIP_DAMAGE, cast(type[Exception], isal_zlib.error))

_FloatArray = npt.NDArray[Any]
_Block = TypeVar("_Block")

_MAX_EDGE = 1024
"""Voxels along one axis. The finest whole-head functional image is about 0.7 mm, 320 voxels."""

_MAX_VOXELS = 2**26
"""Voxels of one frame, 406 cubed. Tables of the interpolation are as long, so that they are bounded too."""

MAX_FRAMES = 100_000
"""At TR 0.1 s that is almost three hours; more is a damaged header."""

MAX_DEFLATE_RATIO = 1100
"""Deflate cannot compress more than 1032 to 1, so a header that promises more than this is wrong."""

IMAGE_SUFFIXES = (".nii.gz", ".nii")

_PLACEHOLDER_ZOOM = 1.0
"""What software leaves in the header's fourth zoom when no TR was set."""

BLOCK_BYTES = 32 * 2**20
"""Bytes of the file's own numbers in a block of frames; up to three blocks are in memory at once."""

_MAX_BLOCK_FRAMES = 32
_PIECE_BYTES = 4 * 2**20
"""Read at once, so that a file that ends early is given no room for what its header promised."""

_TIME_UNIT_BITS = 0x38
_UNIT_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
"""Seconds by the time bits of NIfTI's `xyzt_units`; 0 is unknown, which practice reads as seconds."""


@dataclass(frozen=True)
class Source(ABC):
    """A series of volumes that can be prepared.

    Attributes
    ----------
    path : Path
        The file that messages name.
    shape : tuple of int
        (X, Y, Z, T).
    affine : ndarray
        (4, 4) voxel index -> mm.
    dtype : numpy.dtype
        Type of the numbers on disk.
    header_tr : float or None
        Seconds per frame, None if the file does not say or cannot be believed.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: _FloatArray
    dtype: np.dtype[Any]
    header_tr: float | None

    @abstractmethod
    def raw_blocks(self) -> Iterator[_FloatArray]:
        """Yield all frames in order as (F, N) blocks of F frames and N voxels in the file's own numbers, first axis fastest.

        Raises
        ------
        InputError
            If the file ends early, is damaged, or vanishes.
        """

    def scaled(self, raw: _FloatArray) -> _FloatArray:
        """Numbers of the file as a new float32 array in the image's units."""
        # Values beyond float32 become infinite, and the voxel counts as not covered.
        with np.errstate(over="ignore", invalid="ignore"):
            return raw.astype(np.float32)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the file before it is read."""
        return ()

    @property
    def frames_per_block(self) -> int:
        """How many frames a block should hold, so that memory does not depend on the length of the run."""
        return max(1, min(_MAX_BLOCK_FRAMES, BLOCK_BYTES // (self.dtype.itemsize * self.n_voxels)))

    @property
    def n_frames(self) -> int:
        return self.shape[3]

    @property
    def n_voxels(self) -> int:
        """Voxels per frame."""
        return math.prod(self.shape[:3])

    @property
    def voxel_mm(self) -> _FloatArray:
        """(3,) edge lengths of a voxel in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def orientation(self) -> str:
        """Axis codes, for example `LAS`."""
        import nibabel

        return "".join(nibabel.aff2axcodes(self.affine))


@dataclass(frozen=True)
class _NiftiSource(Source):
    """A 4D NIfTI image.

    Attributes
    ----------
    offset : int
        Bytes before the first number.
    slope, inter : float
        value = slope * number + inter.
    transform_note : str
        What the user should know of its sform and qform, empty if nothing.
    """

    offset: int
    slope: float
    inter: float
    transform_note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.transform_note,) if self.transform_note else ()

    def raw_blocks(self) -> Iterator[_FloatArray]:
        """The file is decompressed once, in order, up to its check sum, so a damaged gzip file never passes."""
        frame_bytes = self.n_voxels * self.dtype.itemsize
        with _reading(self.path), _open_stream(self.path) as stream:
            _skip(stream, self.offset, self.path)
            for start in range(0, self.n_frames, self.frames_per_block):
                frames = min(self.frames_per_block, self.n_frames - start)
                raw = np.frombuffer(_read_exactly(stream, frames * frame_bytes, self.path), self.dtype)
                yield raw.reshape(frames, self.n_voxels)
            # gzip compares its check sum only when the end is reached, and damage may have made the data longer than the header says.
            while _is_gzip(self.path) and stream.read(_PIECE_BYTES):
                pass

    def scaled(self, raw: _FloatArray) -> _FloatArray:
        block = super().scaled(raw)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.slope != 1.0 or self.inter != 0.0:
                block *= np.float32(self.slope)
                block += np.float32(self.inter)
        return block


def open_source(path: str | Path) -> _NiftiSource:
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
    affine, note = image_transform(path, image)
    shape = cast(tuple[int, int, int, int], tuple(int(size) for size in image.shape))
    slope, inter = float(proxy.slope), float(proxy.inter)
    return _NiftiSource(path, shape, affine, proxy.dtype, _header_tr(image.header), int(proxy.offset), slope, inter, note)


@dataclass(frozen=True)
class _ArraySource(Source):
    """A series of volumes in memory.

    Attributes
    ----------
    values : ndarray
        (X, Y, Z, T) in the image's units.
    transform_note : str
        As of `_NiftiSource`.
    """

    values: _FloatArray
    transform_note: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.transform_note,) if self.transform_note else ()

    def raw_blocks(self) -> Iterator[_FloatArray]:
        for start in range(0, self.n_frames, self.frames_per_block):
            block = self.values[..., start : start + self.frames_per_block].T
            yield np.ascontiguousarray(block).reshape(len(block), -1)


def source_of(image: Any, name: str) -> Source:
    """An image that nibabel, or a library that builds on it, holds.

    One that was loaded and not changed is read from its file, like the file itself: to the bit the same numbers, and none of them in
    memory whole. Affine and TR are the image's own, which may have been corrected since.

    Parameters
    ----------
    image : object
        A nibabel image.
    name : str
        What messages call it if it is no file.

    Raises
    ------
    InputError
        As `open_source`.
    """
    import nibabel

    file = image.get_filename() if isinstance(image, nibabel.spatialimages.SpatialImage) else None
    path = Path(file or name)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(f"{path}: is {type(image).__name__}, not a NIfTI image; give a nibabel.Nifti1Image.")
    _check_shape(path, image.shape)
    affine, note = image_transform(path, image)
    header_tr = _header_tr(image.header)
    if file and nibabel.is_proxy(image.dataobj):
        return replace(open_source(file), affine=affine, header_tr=header_tr, transform_note=note)
    values = np.asanyarray(image.dataobj)
    _check_type(path, values.dtype)
    shape = cast(tuple[int, int, int, int], tuple(int(size) for size in image.shape))
    return _ArraySource(path, shape, affine, values.dtype, header_tr, values, note)


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise InputError(f"{path}: has {len(shape)} dimensions {tuple(shape)}; give a 4D time series.")
    if min(shape) < 1 or max(shape[:3]) > _MAX_EDGE or math.prod(shape[:3]) > _MAX_VOXELS or shape[3] > MAX_FRAMES:
        raise InputError(f"{path}: its header claims the shape {tuple(shape)}, which no functional image has; restore the file.")
    if min(shape[:3]) < 2:
        raise InputError(f"{path}: has a single slice along one axis (shape {tuple(shape)}); give a whole-brain image.")


def _check_type(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: holds numbers of type {dtype}, not one real value per voxel; convert it to float32.")


def _check_length(path: Path, needed: int) -> None:
    size = path.stat().st_size
    if _is_gzip(path):
        if needed > size * MAX_DEFLATE_RATIO:
            raise InputError(f"{path}: its header claims {needed} bytes, more than {size} compressed ones can hold; restore the file.")
    elif size < needed:
        raise InputError(f"{path}: holds {size} bytes where its header claims {needed}; the file is truncated, restore it.")


def _header_tr(header: Any) -> float | None:
    zoom = float(header.get_zooms()[3])
    seconds = zoom * _UNIT_SECONDS.get(int(header["xyzt_units"]) & _TIME_UNIT_BITS, 0.0)
    if zoom == _PLACEHOLDER_ZOOM or not TR_S[0] <= seconds <= TR_S[1]:
        return None
    # The header holds float32: 0.72 arrives as 0.7200000286.
    return round(seconds, 6)


def require_whole(source: _NiftiSource) -> None:
    """Refuse an image that ends early.

    A file that is not compressed is known by its size (`open_source`). A compressed one ends with the number of its bytes; only where this
    is not what the header claims, as where gzip had parts, it is read to its end.

    Raises
    ------
    InputError
        If it does.
    """
    claimed = source.offset + source.n_frames * source.n_voxels * source.dtype.itemsize
    if not _is_gzip(source.path) or int.from_bytes(_last_bytes(source.path, 4), "little") == claimed % 2**32:
        return
    for _ in source.raw_blocks():
        pass


def _last_bytes(path: Path, count: int) -> bytes:
    with _reading(path), open(path, "rb") as file:
        file.seek(-count, os.SEEK_END)
        return file.read()


def frame_blocks(source: Source) -> Iterator[_FloatArray]:
    """Yield the series as (F, N) float32 blocks of F frames and N voxels, first axis of the image fastest.

    Raises
    ------
    InputError
        If the file ends early, is damaged, or vanishes.
    """
    for raw in source.raw_blocks():
        yield source.scaled(raw)


def ahead(blocks: Iterator[_Block]) -> Iterator[_Block]:
    """The same blocks, each made in another thread while the one before it is used: decompressing leaves Python to others."""
    done = object()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        coming = pool.submit(next, blocks, done)
        while (block := coming.result()) is not done:
            coming = pool.submit(next, blocks, done)
            yield cast(_Block, block)


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


def _open_stream(path: Path) -> IO[bytes]:
    return cast(IO[bytes], _gzip_module.open(path, "rb")) if _is_gzip(path) else open(path, "rb")


def _skip(stream: IO[bytes], n_bytes: int, path: Path) -> None:
    while n_bytes > 0:
        n_bytes -= len(_piece(stream, n_bytes, path))


def _read_exactly(stream: IO[bytes], n_bytes: int, path: Path) -> bytearray:
    data = bytearray()
    while len(data) < n_bytes:
        data += _piece(stream, n_bytes - len(data), path)
    return data


def _piece(stream: IO[bytes], n_bytes: int, path: Path) -> bytes:
    piece = stream.read(min(_PIECE_BYTES, n_bytes))
    if not piece:
        raise InputError(f"{path}: ends before its header says it does; the file is truncated, restore it.")
    return piece


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist; check the path, or fetch the file if the dataset keeps it elsewhere.") from error
    except _GZIP_DAMAGE as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); the file is damaged or incomplete, restore it.") from error
