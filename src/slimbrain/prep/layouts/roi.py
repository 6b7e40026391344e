"""Region-of-interest series: npz, TSV or CIFTI ptseries, with `channels.tsv` (name, x, y, z) at the root of the folder."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import numpy.typing as npt

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.prep.bids import read_json, read_table
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.runs import Failure, RoiSeries, Run, parse_entities
from slimbrain.prep.source import MAX_FRAMES
from slimbrain.prep.timing import TR_S
from slimbrain.store import ROI, Channels

_FloatArray = npt.NDArray[Any]

_CHANNELS_FILE = "channels.tsv"
NO_CHANNELS = "none"
"""What `--channels` says where the places of the regions are not known."""

_NPZ_SUFFIX, _TSV_SUFFIX, _CIFTI_SUFFIX = "timeseries.npz", "_timeseries.tsv", ".ptseries.nii"
_FOLDERS = ("", "sub-*/", "sub-*/func/", "sub-*/ses-*/", "sub-*/ses-*/func/")
_CONFOUNDS = "_desc-confounds_"
ATLAS_ENTITIES = ("seg", "atlas")
"""What names the atlas of a table: `atlas-` in XCP-D before 0.8, `seg-` since then and in giga_connectome."""

_UNKNOWN_PLACES = "the places of its channels are not known and stand as 0, so stage 1 cannot tell them apart by place."


@dataclass(frozen=True)
class RegionReader:
    """Opens one recording.

    Attributes
    ----------
    channels : Channels or None
        Names and places as the table has them; None where there is none.
    key : str
        The array of an npz file.
    """

    channels: Channels | None
    key: str = ""

    def __call__(self, run: Run) -> RoiSeries:
        """Read the series and match it with the channels.

        Raises
        ------
        InputError
            If it cannot be read, or does not fit the channels.
        """
        path = run.image
        if path.name.endswith(_CIFTI_SUFFIX):
            values, names, tr = _read_cifti(path)
        elif path.name.endswith(_TSV_SUFFIX):
            values, names, tr = *_read_tsv(path), None
        else:
            values, names, tr = _read_npz(path, self.key), None, None
        if values.ndim != 2 or values.dtype.kind not in "iuf" or not 1 <= len(values) <= MAX_FRAMES:
            raise InputError(f"{run.name}: has the shape {values.shape} and type {values.dtype}, not (frames, channels) of real numbers.")
        if self.channels is None:
            names = names or tuple(f"channel-{number:03d}" for number in range(values.shape[1]))
            return RoiSeries(path, values, Channels(tuple(names), np.zeros((len(names), 3))), tr, (_UNKNOWN_PLACES,))
        if names is None:
            _require_width(run.name, values, self.channels)
            return RoiSeries(path, values, self.channels, tr)
        return RoiSeries(path, values[:, _columns(run.name, names, self.channels)], self.channels, tr)


def _require_width(name: str, values: _FloatArray, channels: Channels) -> None:
    if values.shape[1] != len(channels.names):
        turned = values.shape[0] == len(channels.names)
        advice = "it seems to be (channels, frames), turn it" if turned else "give the table of these"
        raise InputError(f"{name}: has {values.shape[1]} columns for {len(channels.names)} channels; {advice}.")


def _columns(name: str, names: Sequence[str], channels: Channels) -> list[int]:
    """Where each channel of the table stands in the file."""
    if len(set(names)) < len(names):
        raise InputError(f"{name}: names a channel twice; give every column its own name.")
    if surplus := [column for column in names if column not in channels.names]:
        raise InputError(f"{name}: its channel {surplus[0]} is not in the table of channels; add it there, or leave it out here.")
    if missing := [channel for channel in channels.names if channel not in names]:
        raise InputError(f"{name}: lacks the channel {missing[0]}; every session of a table needs all its channels.")
    return [names.index(channel) for channel in channels.names]


def _matches(source: Path) -> bool:
    """Tables that name their atlas are those of another layout (`parcellated`), unless a table of channels lies at the root."""
    own = (source / _CHANNELS_FILE).is_file()
    return source.is_dir() and any(own or not names_atlas(path) for path in _series_files(source))


def names_atlas(path: Path) -> bool:
    """Whether a file is a table of series whose name says of which atlas."""
    return path.name.endswith(_TSV_SUFFIX) and not parse_entities(path.name).keys().isdisjoint(ATLAS_ENTITIES)


def _series_files(source: Path) -> Iterator[Path]:
    loose = ("*.npz",) if (source / _CHANNELS_FILE).is_file() else (f"*{_NPZ_SUFFIX}",)
    yield from files_matching(source, loose)
    for path in files_matching(source, [f"{folder}sub-*{suffix}" for folder in _FOLDERS for suffix in (_TSV_SUFFIX, _CIFTI_SUFFIX)]):
        if _CONFOUNDS not in path.name:
            yield path


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """A run for each file, and for each array of an npz file.

    Raises
    ------
    InputError
        If there is no table of channels, or it cannot be used.
    """
    table = _channel_table(source, request.channels)
    channels = read_channels(table) if table else None
    runs: list[Run] = []
    failures: list[Failure] = []
    for path in _series_files(source):
        try:
            keys = _keys(path) if path.suffix == ".npz" else [""]
        except InputError as error:
            failures.append(Failure(path.relative_to(source).as_posix(), str(error)))
            continue
        for key in keys:
            try:
                runs.append(_run(path, key, channels, table))
            except InputError as error:
                failures.append(Failure(f"{path.relative_to(source).as_posix()}{f' ({key})' if key else ''}", str(error)))
    return Recordings(source, runs, failures)


def _channel_table(source: Path, asked: str | None) -> Path | None:
    if asked == NO_CHANNELS:
        return None
    table = Path(asked) if asked else source / _CHANNELS_FILE
    if not table.is_file():
        raise InputError(
            f"{table}: is not there; give the names and MNI places of the regions (columns name, x, y, z, in mm) in a {_CHANNELS_FILE} or "
            f"with --channels, or write --channels {NO_CHANNELS} where they are not known."
        )
    return table


def read_channels(path: Path) -> Channels:
    rows = read_table(path)
    try:
        names = tuple(row["name"].strip() for row in rows)
        mm = np.array([[float(row[axis]) for axis in "xyz"] for row in rows])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns name, x, y and z with places in mm ({error}); correct the table.") from error
    if not rows or not np.isfinite(mm).all() or not all(names) or len(set(names)) < len(names):
        raise InputError(f"{path}: needs a name of its own and a finite place for every channel; correct the table.")
    return Channels(names, mm)


def _run(path: Path, key: str, channels: Channels | None, table: Path | None) -> Run:
    entities = parse_entities(f"{key}_" if key else path.name)
    if not entities.get("sub"):
        raise InputError(f"{path}{f' ({key})' if key else ''}: its name has no participant; begin it with sub-LABEL.")
    sidecar_path = path.with_name(path.name.removesuffix(_CIFTI_SUFFIX).removesuffix(".npz").removesuffix(".tsv") + ".json")
    sidecars = (sidecar_path,) if sidecar_path.is_file() else ()
    record: dict[str, Any] = {"Layout": REGIONS.name} | ({"SourceSpace": entities["space"]} if "space" in entities else {})
    return Run(
        image=path,
        place=key,
        parts=(table,) if table else (),
        entities={**entities, "space": ROI},
        sidecar=read_json(sidecar_path) if sidecars else {},
        sidecars=sidecars,
        reader=RegionReader(channels, key),
        record=record if table else {**record, "ChannelPlaces": "unknown"},
    )


def _keys(path: Path) -> list[str]:
    with _reading(path), np.load(path) as arrays:
        return list(arrays.files)


def _read_npz(path: Path, key: str) -> _FloatArray:
    with _reading(path), np.load(path) as arrays:
        return np.asarray(arrays[key])


def _read_tsv(path: Path) -> tuple[_FloatArray, tuple[str, ...]]:
    with _reading(path), open(path, encoding="utf-8-sig", newline="") as handle:
        header, *rows = [row for row in csv.reader(handle, delimiter="\t") if row] or [[]]
    if header and not header[0].strip() and len(header) > 1:
        raise InputError(f"{path}: its first column has no name, as the index that pandas writes; leave it out (to_csv(..., index=False)).")
    # Columns of a table that names its atlas may be called by its numbers: from 0 (giga_connectome), or as nilearn's maskers do.
    numbered = names_atlas(path) and all(name.isdigit() for name in header)
    if not header or (any(_is_number(name) for name in header) and not numbered):
        raise InputError(f"{path}: its first line does not name the channels; add a header.")
    if not rows or any(len(row) != len(header) for row in rows):
        raise InputError(f"{path}: has lines with another number of cells than its header, or none; restore it.")
    try:
        values = np.array([[np.nan if cell in ("", MISSING) else float(cell) for cell in row] for row in rows])
    except ValueError as error:
        raise InputError(f"{path}: holds what is no number ({error}); correct it.") from error
    return values, tuple(name.strip() for name in header)


def read_names(path: Path) -> tuple[str, ...]:
    """Names of the channels of a table, from its first line.

    Raises
    ------
    InputError
        If it has none.
    """
    with _reading(path), open(path, encoding="utf-8-sig", newline="") as handle:
        return tuple(name.strip() for name in next(csv.reader(handle, delimiter="\t"), []))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_cifti(path: Path) -> tuple[_FloatArray, tuple[str, ...], float | None]:
    import nibabel
    from nibabel.cifti2.cifti2 import Cifti2Image
    from nibabel.cifti2.cifti2_axes import ParcelsAxis, SeriesAxis
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    with _reading(path):
        try:
            image = nibabel.load(path)
        except (ImageFileError, HeaderDataError, ExpatError) as error:
            raise ValueError(str(error)) from error
        if not isinstance(image, Cifti2Image):
            raise InputError(f"{path}: is {type(image).__name__}, not CIFTI; make it with wb_command -cifti-parcellate.")
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
        if len(axes) != 2 or not isinstance(axes[0], SeriesAxis) or not isinstance(axes[1], ParcelsAxis):
            raise InputError(f"{path}: is not a series of parcels; give a .ptseries.nii.")
        values = np.asarray(image.dataobj)
    seconds = float(axes[0].step) if axes[0].unit == "SECOND" else 0.0
    return values, tuple(map(str, axes[1].name)), seconds if TR_S[0] <= seconds <= TR_S[1] else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, csv.Error, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged or incomplete, restore it.") from error


REGIONS = Layout(
    "roi",
    f"{_CHANNELS_FILE} with *.npz, or *{_NPZ_SUFFIX}, sub-*{_TSV_SUFFIX}, sub-*{_CIFTI_SUFFIX}",
    _matches,
    _find,
    regions=True,
)
