"""The chunks that SLIM-Brain's authors train on: `DATASET_train/SUBJECT/SUBJECT_run-1_0000-0199_1.npz`.

A name gives a range of frames (both ends counted) and the place of the file among the equal pieces into which that range was cut.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.grid import LATTICES
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.runs import Run, as_label, parse_entities
from slimbrain.prep.source import MAX_DEFLATE_RATIO, MAX_FRAMES, Source

_FloatArray = npt.NDArray[Any]

_PATTERNS = tuple(f"{folder}*_*-*.npz" for folder in ("*/*/", "*/"))
_NAME = re.compile(r"(?P<stem>.+)_(?P<start>\d{4,})-(?P<stop>\d{4,})(?:_(?P<piece>\d+))?\.npz")
_SPLIT = re.compile(r"(?P<dataset>.+)_(?P<split>train|val|test)(?:_\d+)?")
_SPACE = "MNI152"
_SPACE_FROM = "arXiv 2512.21881 (MNI space; the files name no template)"
_LATTICE = LATTICES["2mm"]
_NO_AFFINE = (
    f"its files hold no affine; they are assumed to lie on the published lattice ({_LATTICE.edge} voxels of "
    f"{_LATTICE.voxel_mm:g} mm per side, RAS+, "
    f"first voxel at {', '.join(f'{mm:g}' for mm in _LATTICE.origin_mm)} mm), so look at the images of the report."
)


@dataclass(frozen=True)
class Chunk:
    """One file.

    Attributes
    ----------
    path : Path
        The file.
    start, stop : int
        First and last frame of the range it is cut from.
    piece : int
        Its place among the pieces of that range, from 1.
    key : str
        Name of its array.
    shape : tuple of int
        (X, Y, Z, T).
    dtype : numpy.dtype
        Type of the numbers.
    """

    path: Path
    start: int
    stop: int
    piece: int
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class ChunkedSource(Source):
    """A run in pieces, each read whole: their arrays are compressed with time as the fastest axis."""

    chunks: tuple[Chunk, ...]
    has_affine: bool

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.has_affine else (_NO_AFFINE,)

    def raw_blocks(self) -> Iterator[_FloatArray]:
        for chunk in self.chunks:
            with _reading(chunk.path), np.load(chunk.path) as arrays:
                values = arrays[chunk.key]
            for start in range(0, values.shape[3], self.frames_per_block):
                frames = values[..., start : start + self.frames_per_block]
                yield np.ascontiguousarray(frames.transpose(3, 2, 1, 0)).reshape(frames.shape[3], -1)


def _matches(source: Path) -> bool:
    return any(_subject_stem(path) for path in files_matching(source, _PATTERNS))


def _subject_stem(path: Path) -> tuple[str, str] | None:
    """The participant and what else the name says, if it is a chunk's name; each lies in a folder called after the participant."""
    name, subject = _NAME.fullmatch(path.name), path.parent.name
    if name is None or not name["stem"].startswith(f"{subject}_"):
        return None
    return subject, name["stem"].removeprefix(subject).strip("_")


def _find(source: Path, request: RecordingQuery) -> Recordings:
    runs: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files_matching(source, _PATTERNS):
        if named := _subject_stem(path):
            runs[path.parent, named[1]].append(path)
    return Recordings(source, [_run(folder, rest, sorted(paths)) for (folder, rest), paths in runs.items()])


def _run(folder: Path, rest: str, paths: list[Path]) -> Run:
    said = parse_entities(f"{rest}_")
    task = as_label("".join(part for part in rest.split("_") if "-" not in part))
    entities = {"sub": as_label(folder.name), "ses": said.get("ses", ""), "task": said.get("task", task), "run": said.get("run", "")}
    split = _SPLIT.fullmatch(folder.resolve().parent.name)
    record = {"Layout": NPZ.name, "SpaceFrom": _SPACE_FROM, "SourceName": f"{folder.name}_{rest}"}
    record |= {"Dataset": split["dataset"], "Split": split["split"]} if split else {}
    return Run(
        image=paths[0],
        parts=tuple(paths[1:]),
        entities={name: label for name, label in entities.items() if label} | {"space": _SPACE},
        reader=_open_chunks,
        record=record,
    )


def _open_chunks(run: Run) -> ChunkedSource:
    """Read and check the headers of a run's pieces; no image data is touched.

    Raises
    ------
    InputError
        If a file is damaged or has another shape, or their frames do not follow each other without gap or overlap.
    """
    paths = (run.image, *run.parts)
    chunks = sorted((_chunk(path) for path in paths), key=lambda chunk: (chunk.start, chunk.stop, chunk.piece))
    _check_frames(chunks)
    n_frames = sum(chunk.shape[3] for chunk in chunks)
    dtype = np.result_type(*(chunk.dtype for chunk in chunks))
    affine, tr = _geometry(chunks[0].path)
    matrix = _LATTICE.affine if affine is None else affine
    shape = (_LATTICE.edge, _LATTICE.edge, _LATTICE.edge, n_frames)
    return ChunkedSource(run.image, shape, matrix, dtype, tr, tuple(chunks), affine is not None)


def _chunk(path: Path) -> Chunk:
    name = _NAME.fullmatch(path.name)
    assert name is not None
    with _reading(path), zipfile.ZipFile(path) as archive:
        arrays = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not arrays:
            raise InputError(f"{path}: holds no array; restore it from where it came.")
        first = arrays[0]
        with archive.open(first) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(stream)
    _check_array(path, shape, dtype, first)
    key = first.filename.removesuffix(".npy")
    return Chunk(path, int(name["start"]), int(name["stop"]), int(name["piece"] or 1), key, shape, dtype)


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], info: zipfile.ZipInfo) -> None:
    if len(shape) != 4 or shape[:3] != (_LATTICE.edge,) * 3 or not 1 <= shape[3] <= MAX_FRAMES:
        raise InputError(f"{path}: its first array has the shape {shape}, not ({_LATTICE.edge}, {_LATTICE.edge}, {_LATTICE.edge}, T).")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: holds numbers of type {dtype}, not one real value per voxel; convert it to float32.")
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if info.file_size < needed or needed > info.compress_size * MAX_DEFLATE_RATIO:
        raise InputError(f"{path}: its header claims {needed} bytes, which the file does not hold; restore it.")


def _check_frames(chunks: list[Chunk]) -> None:
    """Ranges have to follow each other from frame 0, and the pieces of a range to make it up.

    Parameters
    ----------
    chunks : list of Chunk
        Sorted by range and piece.

    Raises
    ------
    InputError
        Where a frame is missing or there twice.
    """
    expected = 0
    for (start, stop), group in groupby(chunks, key=lambda chunk: (chunk.start, chunk.stop)):
        pieces = list(group)
        path = pieces[0].path
        if start != expected:
            missing, doubled = f"frames {expected}-{start - 1} are missing before it", f"frames {start}-{expected - 1} are there twice"
            wrong = missing if start > expected else doubled
            raise InputError(f"{path}: {wrong}; restore the missing file, or remove the surplus one.")
        if [piece.piece for piece in pieces] != list(range(1, len(pieces) + 1)):
            there = ", ".join(str(piece.piece) for piece in pieces)
            raise InputError(f"{path}: of frames {start}-{stop} the pieces {there} are there, not all from 1 on; restore the others.")
        frames = sum(piece.shape[3] for piece in pieces)
        if frames != stop - start + 1:
            raise InputError(
                f"{path}: {len(pieces)} files of frames {start}-{stop} hold {frames} frames, not {stop - start + 1}; "
                "restore the missing ones, or correct the names."
            )
        expected = stop + 1


def _geometry(path: Path) -> tuple[_FloatArray | None, float | None]:
    """Affine and TR, where a file has arrays of these names."""
    with _reading(path), np.load(path) as arrays:
        affine = np.asarray(arrays["affine"], np.float64) if "affine" in arrays else None
        tr = float(arrays["tr"]) if "tr" in arrays else None
    if affine is not None and (affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine)):
        raise InputError(f"{path}: its array affine is not an invertible (4, 4) matrix; correct or remove it.")
    return affine, tr


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read as npz ({error}); the file is damaged or incomplete, restore it.") from error


NPZ = Layout("npz", "[DATASET_train/]SUBJECT/SUBJECT_run-1_0000-0199[_1].npz", _matches, _find)
