"""Write and read a safetensors file piece by piece, so that no tensor need ever be in memory whole.

The format is an 8-byte header length, a JSON header, and the raw tensors without gaps. Tensors are laid out as the safetensors library
does it (widest type first, then by name, header padded to 8 bytes), so the same content gives the same bytes as its `save_file`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8
_CODES = {"float16": "F16", "float32": "F32"}
"""safetensors' names of the types that a store holds."""

_TYPES = {code: dtype for dtype, code in _CODES.items()}
_METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be.

    Attributes
    ----------
    dtype : str
        `float16` or `float32`.
    shape : tuple of int
        Its sizes.
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
    path : Path
        File to make; what is there is lost.
    tensors : mapping
        Type and shape of each tensor by name.
    metadata : mapping
        Text that the header carries, in this order.
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
        name : str
            Of the tensor.
        values : (N, ...) array
            Rows, as wide as the tensor's.
        start : int
            Number of the first of them along the first axis.

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
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offsets, end = {}, 0
    for name, spec in tensors.items():
        offsets[name], end = end, end + spec.n_bytes
        entries[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}


def _write_all(file: IO[bytes], data: memoryview) -> None:
    """A disk that fills up may take a part of what is written without an error; the next write then tells."""
    while data:
        data = data[file.write(data) :]


def read_rows(path: Path, name: str, parts: Sequence[slice] | None = None, length: int | None = None) -> npt.NDArray[Any]:
    """Rows of a tensor, joined in the order asked for, in one array that only their bytes are read into.

    Not mapped, as `safetensors.safe_open` does it: a page of a map is fetched by a fault, which takes longer than to copy it (40 frames of
    a 2 mm session took twice as long), and a process that reads a mapped file which is truncated meanwhile is killed by SIGBUS.

    Parameters
    ----------
    name : str
        Of the tensor.
    parts : sequence of slice, optional
        Stretches of its first axis, each with start and stop; all of it if None.
    length : int, optional
        How long its first axis must be; any length will do if None.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no safetensors file, was cut short, or has no such rows.
    """
    with open(path, "rb", buffering=0) as file:
        start, spec = _find(file, name)
        if length not in (None, spec.shape[0]):
            raise ValueError(f"it has {spec.shape[0]} rows, not {length}")
        parts = [slice(0, spec.shape[0])] if parts is None else parts
        if any(not 0 <= part.start <= part.stop <= spec.shape[0] for part in parts):
            raise ValueError(f"it has {spec.shape[0]} rows")
        rows = np.empty((sum(part.stop - part.start for part in parts), *spec.shape[1:]), spec.dtype)
        place = 0
        for part in parts:
            piece = rows[place : place + part.stop - part.start]
            file.seek(start + part.start * spec.row_bytes)
            _read_all(file, piece.reshape(-1).view(np.uint8).data)
            place += len(piece)
    return rows


def read_metadata(path: Path) -> dict[str, Any]:
    """The text that the header carries beside the tensors.

    Raises
    ------
    OSError, ValueError
        As `read_rows`.
    """
    with open(path, "rb", buffering=0) as file:
        metadata = _header(file)[1].get(_METADATA, {})
    if not isinstance(metadata, dict):
        raise ValueError("its safetensors header is damaged: metadata are no object")
    return metadata


def _find(file: IO[bytes], name: str) -> tuple[int, TensorSpec]:
    """Where a tensor starts in the file and what it is, after checking that header and file fit each other."""
    start, header, specs = _header(file)
    if name not in specs:
        raise ValueError("it has no such tensor")
    return start + header[name]["data_offsets"][0], specs[name]


def _header(file: IO[bytes]) -> tuple[int, dict[str, Any], dict[str, TensorSpec]]:
    """Where the tensors start, the header, and the tensors that it lists without gaps up to the end of the file."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise ValueError("it has no safetensors header")
    try:
        header = json.loads(file.read(length))
        tensors = {key: entry for key, entry in header.items() if key != _METADATA}
        places = sorted((_place(entry), key) for key, entry in tensors.items())
        specs = {key: TensorSpec(_TYPES[entry["dtype"]], tuple(entry["shape"])) for key, entry in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"its safetensors header is damaged: {error}") from error
    end = 0
    for (start, stop), key in places:
        if start != end or stop - start != specs[key].n_bytes:
            raise ValueError("its safetensors header is damaged: tensors overlap, leave gaps or have another size")
        end = stop
    if 8 + length + end != size:
        raise ValueError(f"it holds {size} bytes where its header claims {8 + length + end}")
    return 8 + length, header, specs


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    """First byte of a tensor and the first after it, once all its numbers are sizes."""
    start, stop = entry["data_offsets"]
    if not entry["shape"] or any(type(number) is not int or number < 0 for number in (start, stop, *entry["shape"])):
        raise ValueError("a size is no size")
    return start, stop


def _read_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        count = file.readinto(data)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends early")
        data = data[count:]
