"""Nameless temporary files for what is too large for the memory: written by frames and read by columns, or the other way round."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from slimbrain.errors import StoreError

_FloatArray = npt.NDArray[Any]


class FrameFile:
    """A (T, N) array in a temporary file.

    Nameless, so that a killed process leaves nothing behind; read and written by system calls, not mapped, so that its pages never count
    as this process' memory.

    Parameters
    ----------
    folder : Path or None
        Where to put it; the system's folder for such files if None.
    shape : tuple of int
        (T, N).
    dtype : npt.DTypeLike
        Of the numbers.

    Raises
    ------
    StoreError
        Here and in `put_*`, if there is no room.
    """

    def __init__(self, folder: Path | None, shape: tuple[int, int], dtype: npt.DTypeLike) -> None:
        self._folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)

    def __enter__(self) -> Self:
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
            self._file.truncate(self.dtype.itemsize * self.shape[0] * self.shape[1])
        except OSError as error:
            raise self._refusal(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put_frames(self, start: int, block: _FloatArray) -> None:
        """Write (F, N) frames from frame `start` on."""
        self._write(start * self.shape[1], np.ascontiguousarray(block, self.dtype))

    def put_columns(self, start: int, block: _FloatArray) -> None:
        """Write (T, n) columns from column `start` on."""
        for frame, row in enumerate(np.ascontiguousarray(block, self.dtype)):
            self._write(frame * self.shape[1] + start, row)

    def columns(self, start: int, stop: int) -> _FloatArray:
        """(T, stop - start) columns."""
        block = np.empty((self.shape[0], stop - start), self.dtype)
        descriptor, size = self._file.fileno(), self.dtype.itemsize
        for frame, row in enumerate(block):
            # pread, not seek and read: several threads may read at once.
            row[:] = np.frombuffer(os.pread(descriptor, row.nbytes, size * (frame * self.shape[1] + start)), self.dtype)
        return block

    def frame(self, number: int) -> _FloatArray:
        """(N,) one frame."""
        size = self.dtype.itemsize * self.shape[1]
        return np.frombuffer(os.pread(self._file.fileno(), size, size * number), self.dtype)

    def mapped(self, shape: tuple[int, ...]) -> _FloatArray:
        """The whole as an array that reads from the file, which lives as long as the array does."""
        return np.memmap(self._file, self.dtype, mode="r", shape=shape)

    def _write(self, start: int, values: _FloatArray) -> None:
        offset, data = self.dtype.itemsize * start, values.data.cast("B")
        try:
            # A disk that fills up may take a part without an error.
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> StoreError:
        place = self._folder or tempfile.gettempdir()
        return StoreError(f"{place}: cannot hold a temporary file ({error.strerror or error}); free space or choose another folder.")
