"""Brainmarks' Arrow files: one row per recording, its brain voxels z-scored in `bold` (T, V), `mean` and `std` (1, V) beside them.

V are the voxels of the MNI152NLin6Asym 2 mm brain mask, RAS, listed from arrays that have the axes (Z, Y, X).
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.runs import Failure, Run, as_label
from slimbrain.prep.source import Source
from slimbrain.store.manifest import session_key
from slimbrain.store.participants import PARTICIPANTS_FILE

_FloatArray = npt.NDArray[Any]

_PATTERNS = tuple(f"{folder}*.arrow" for folder in ("", "*/", "*/*/"))
_CACHED = "cache-"
"""Files that Hugging Face's datasets leaves beside the data."""

_SHAPE = (91, 109, 91)
_AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
_N_VOXELS = 228_483
_NEEDED = ("sub", "bold", "mean", "std", "tr")
_ARRAYS = ("bold", "mean", "std")
_ENTITY_COLUMNS = {"sub": ("sub",), "ses": ("ses", "visit"), "task": ("task",), "acq": ("mag",), "dir": ("dir",), "run": ("run",)}
_RECORDING_COLUMNS = {"sub", "ses", "visit", "mod", "task", "mag", "dir", "run", "path", "start", "end", "n_frames", "tr", "segment"}
"""Columns about the recording; the others may describe the participant."""

_START = "start"
_SPLITS = ("train", "validation", "test")
SPACE = "MNI152NLin6Asym"
_SPACE_FROM = "Brainmarks (voxels of the MNI152NLin6Asym 2 mm brain mask)"
MASK_NAME = "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz"


@dataclass(frozen=True)
class _MaskedSource(Source):
    """A recording of which only the voxels of a mask are listed; the others are 0.

    Attributes
    ----------
    values : ndarray
        (T, V) z-scored, mapped from the file, not read.
    mean, std : ndarray
        (V,) undo the z-score.
    place : ndarray of int
        (V,) of each voxel in a volume whose first axis is fastest.
    """

    values: _FloatArray
    mean: _FloatArray
    std: _FloatArray
    place: npt.NDArray[np.int64]

    def raw_blocks(self) -> Iterator[_FloatArray]:
        for start in range(0, self.n_frames, self.frames_per_block):
            listed = self.values[start : start + self.frames_per_block].astype(np.float32)
            block = np.zeros((len(listed), self.n_voxels), np.float32)
            block[:, self.place] = listed * self.std + self.mean
            yield block


@dataclass(frozen=True)
class _RowReader:
    """Opens one row.

    Attributes
    ----------
    batch, row : int
        Which row of which record batch of the file.
    mask : Path
        Image of the mask.
    """

    batch: int
    row: int
    mask: Path

    def __call__(self, run: Run) -> _MaskedSource:
        """Map the row's arrays.

        Raises
        ------
        InputError
            If they have other sizes than the mask, or the file is damaged.
        """
        place = mask_places(self.mask)
        with _reading(run.image):
            batch = next((batch for number, batch in enumerate(_batches(run.image)) if number == self.batch), None)
            if batch is None:
                raise ValueError(f"it has no batch {self.batch} any more")
            values, mean, std = (_matrix(batch.column(name), self.row) for name in _ARRAYS)
        return masked_source(run.image, values, mean, std, place, run.name)


def masked_source(
    path: Path, values: _FloatArray, mean: _FloatArray, std: _FloatArray, place: npt.NDArray[np.int64], name: str = ""
) -> _MaskedSource:
    """One recording of the space `mni` as a source.

    Parameters
    ----------
    path : Path
        Where it is from.
    values : ndarray
        (T, V) z-scored.
    mean, std : ndarray
        (1, V) undo the z-score.
    place : ndarray of int
        (V,) from `mask_places`.
    name : str
        What messages call it; the path if empty.

    Raises
    ------
    InputError
        If they have other sizes than the mask.
    """
    if values.shape[1:] != (_N_VOXELS,) or len(values) < 1 or mean.shape != (1, _N_VOXELS) or std.shape != (1, _N_VOXELS):
        shapes = ", ".join(f"{array_name} {array.shape}" for array_name, array in zip(_ARRAYS, (values, mean, std), strict=True))
        raise InputError(f"{name or path}: has {shapes}, not (T, {_N_VOXELS}) and (1, {_N_VOXELS}); give the files of the space `mni`.")
    return _MaskedSource(path, (*_SHAPE, len(values)), _AFFINE, np.dtype(np.float32), None, values, mean[0], std[0], place)


def mask_places(path: Path) -> npt.NDArray[np.int64]:
    """(V,) place of the mask's voxels with X fastest, which is the order in which arrays with axes (Z, Y, X) list them."""
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        mask = np.asarray(image.dataobj) > 0
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path}: cannot be read as a mask ({error}); give {MASK_NAME} of TemplateFlow.") from error
    if mask.shape != _SHAPE or not np.allclose(image.affine, _AFFINE, atol=1e-3) or mask.sum() != _N_VOXELS:
        found = f"{int(mask.sum())} voxels and the shape {mask.shape}"
        raise InputError(f"{path}: has {found}, not Brainmarks' {_N_VOXELS} in {_SHAPE}; give {MASK_NAME} of TemplateFlow.")
    return np.flatnonzero(mask.ravel(order="F"))


def _matrix(column: Any, row: int) -> _FloatArray:
    """Row of a column of lists of lists as (N, M), without copying."""
    import pyarrow
    import pyarrow.compute

    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    inner = column.slice(row, 1).flatten()
    flat = inner.flatten()
    widths = set(pyarrow.compute.list_value_length(inner).to_pylist())
    if flat.null_count or len(widths) > 1:
        raise ValueError("its arrays have empty cells or rows of different length")
    return np.asarray(flat.to_numpy(zero_copy_only=True)).reshape(len(inner), -1)


def _batches(path: Path) -> Iterator[Any]:
    """Record batches of an Arrow file, mapped; datasets writes streams, other software files."""
    import pyarrow

    mapped = pyarrow.memory_map(str(path))
    try:
        reader = pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        file = pyarrow.ipc.open_file(mapped)
        yield from (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        yield from reader


def _matches(source: Path) -> bool:
    return any(True for _ in _files(source))


def _files(source: Path) -> Iterator[Path]:
    if source.is_file() and source.suffix == ".arrow":
        yield source
    yield from (path for path in files_matching(source, _PATTERNS) if not path.name.startswith(_CACHED))


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """A run for each row.

    Raises
    ------
    InputError
        If pyarrow is not installed, or the mask is not given or another.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(f"{source}: reading Arrow needs pyarrow; install the extra slimbrain[arrow], or pyarrow itself.") from error
    if request.mask_source is None:
        raise InputError(f"{source}: lists voxels without their places; give the mask with --mask-source, {MASK_NAME} of TemplateFlow.")
    mask_places(request.mask_source)
    root = source if source.is_dir() else source.parent
    runs: list[Run] = []
    failures: list[Failure] = []
    for path in _files(source):
        name = path.relative_to(root).as_posix()
        try:
            rows = list(_rows(path))
        except InputError as error:
            failures.append(Failure(name, str(error)))
            continue
        for number, (batch, row, cells) in enumerate(rows):
            try:
                runs.append(_run(path, cells, _RowReader(batch, row, request.mask_source), number))
            except InputError as error:
                failures.append(Failure(f"{name} (row {number})", str(error)))
    runs = _tell_clips_apart(runs)
    return Recordings(root, runs, failures, None if (root / PARTICIPANTS_FILE).is_file() else _participants(runs))


def _rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Batch, place in the batch and plain cells of each row; the arrays are not touched."""
    with _reading(path):
        for number, batch in enumerate(_batches(path)):
            if missing := [name for name in _NEEDED if name not in batch.schema.names]:
                raise InputError(f"{path}: has no column {', '.join(missing)}; give a file of Brainmarks.")
            plain = [name for name in batch.schema.names if name not in _ARRAYS]
            for row in range(batch.num_rows):
                yield number, row, {name: _cell(batch.column(name)[row].as_py()) for name in plain}


def _cell(value: Any) -> Any:
    """What JSON and a table can hold: absent numbers are None, and what is no plain value is its text."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _run(path: Path, cells: Mapping[str, Any], reader: _RowReader, number: int) -> Run:
    entities = {}
    for entity, columns in _ENTITY_COLUMNS.items():
        stated = next((cells[column] for column in columns if cells.get(column) not in (None, "")), "")
        if label := as_label(str(stated).removeprefix(f"{entity}-")):
            entities[entity] = label
    if "sub" not in entities:
        raise InputError(f"{path}: row {number} names no participant in `sub`; correct the file.")
    split = {"Split": path.parent.name} if path.parent.name in _SPLITS else {}
    return Run(
        image=path,
        place=f"row {number}",
        parts=(reader.mask,),
        entities={**entities, "space": SPACE},
        sidecar={} if cells["tr"] is None else {"RepetitionTime": cells["tr"]},
        tr_from="row",
        reader=reader,
        record={"Layout": BRAINMARKS.name, "SpaceFrom": _SPACE_FROM, **split, "Row": dict(cells)},
    )


def _tell_clips_apart(runs: list[Run]) -> list[Run]:
    """Rows that are clips of one recording get the frame they start at as a further label."""
    counts = Counter(session_key(run.entities) for run in runs)
    told = []
    for run in runs:
        start = run.record["Row"].get(_START)
        several = counts[session_key(run.entities)] > 1 and start is not None
        told.append(replace(run, entities={**run.entities, "chunk": str(start)}) if several else run)
    return told


def _participants(runs: list[Run]) -> list[Mapping[str, str]]:
    """Columns that are the same in all rows of a participant, and the split they are in."""
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        of_participant = values[f"sub-{run.entities['sub']}"]
        described = {name: value for name, value in run.record["Row"].items() if name not in _RECORDING_COLUMNS}
        for name, value in {**described, "split": run.record.get("Split")}.items():
            of_participant[name].add("" if value is None else str(value))
    varying = {name for columns in values.values() for name, found in columns.items() if len(found) > 1}
    return [
        {"participant_id": name} | {column: next(iter(found)) for column, found in columns.items() if column not in varying}
        for name, columns in values.items()
    ]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    # pyarrow's own errors are kinds of these.
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read as Arrow ({error}); the file is damaged or incomplete, restore it.") from error


BRAINMARKS = Layout("brainmarks", "*.arrow, up to NAME.mni.arrow/train/ deep", _matches, _find)
