"""Write a safetensors file piece by piece, so that no tensor need ever be in memory whole.

The format is an 8-byte header length, a JSON header, and the raw tensors without gaps. Tensors are laid out as the safetensors library
does it (widest type first, then by name, header padded to 8 bytes), so the same content gives the same bytes as its `save_file`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 8
CODES = {"float16": "F16", "float32": "F32"}
"""safetensors' names of the types that a store holds."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be.

    Attributes
    ----------
    dtype : `float16` or `float32`.
    shape : its sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one element of the first axis."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape[1:]))

    @property
    def n_bytes(self) -> int:
        return self.shape[0] * self.row_bytes


class TensorFile:
    """A safetensors file that is filled in place.

    Parameters
    ----------
    path : file to make; what is there is lost.
    tensors : type and shape of each tensor by name.
    metadata : text that the header carries, in this order.
    """

    def __init__(self, path: Path, tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> None:
        self._tensors = dict(sorted(tensors.items(), key=lambda item: (-np.dtype(item[1].dtype).itemsize, item[0])))
        self._header, self._starts = _lay_out(self._tensors, metadata)
        self._path = path
        self._file: IO[bytes]

    def __enter__(self) -> TensorFile:
        self._file = open(self._path, "wb", buffering=0)
        try:
            _write_all(self._file, memoryview(self._header))
            # A tensor that is never written is zeros, and the file always has the length that its header promises.
            self._file.truncate(len(self._header) + sum(spec.n_bytes for spec in self._tensors.values()))
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, values: npt.ArrayLike, start: int = 0) -> None:
        """Put rows of a tensor in their place, in its type and in C order whatever theirs are.

        Parameters
        ----------
        name : of the tensor.
        values : (N, ...) rows, as wide as the tensor's.
        start : number of the first of them along the first axis.

        Raises
        ------
        ValueError
            If they do not fit the tensor.
        """
        spec = self._tensors[name]
        rows = np.ascontiguousarray(values, spec.dtype)
        if rows.shape[1:] != spec.shape[1:] or not 0 <= start <= start + len(rows) <= spec.shape[0]:
            raise ValueError(f"rows {start} and on of shape {rows.shape} do not fit {name} {spec.shape}")
        self._file.seek(self._starts[name] + start * spec.row_bytes)
        _write_all(self._file, rows.data.cast("B"))


def _lay_out(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header, and where each tensor starts in the file."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, end = {}, 0
    for name, spec in tensors.items():
        offsets[name], end = end, end + spec.n_bytes
        entries[name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}


def _write_all(file: IO[bytes], data: memoryview) -> None:
    """A disk that fills up may take a part of what is written without an error; the next write then tells."""
    while data:
        data = data[file.write(data) :]
