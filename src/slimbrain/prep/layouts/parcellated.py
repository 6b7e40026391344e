"""Parcel series of XCP-D, giga_connectome and nilearn's maskers: one table per run and atlas, with labels and an image of the atlas.

XCP-D keeps its atlases in `atlases/atlas-X/` (`atlas-X_dseg.tsv` with `index` and `label`, `atlas-X_space-*_dseg.nii.gz`), giga_connectome
one image per participant (`sub-*_seg-X_dseg.nii.gz`). A parcel's place is the centre of mass of its voxels, or what a table of labels says
in columns x, y and z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError
from slimbrain.prep.bids import read_json, read_table
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings, files_matching
from slimbrain.prep.layouts.roi import ATLAS_ENTITIES, NO_CHANNELS, RegionReader, names_atlas, read_channels, read_names
from slimbrain.prep.runs import MNI152, Failure, Run, is_wanted, parse_entities
from slimbrain.store import ROI, Channels
from slimbrain.transform import affine_of

_SUFFIX = "_timeseries.tsv"
_FOLDERS = ("sub-*/", "sub-*/func/", "sub-*/ses-*/", "sub-*/ses-*/func/")
_INHERITED = ("space", "res", "den", "stat", "desc", *ATLAS_ENTITIES)
"""Entities of a table that its sidecar may lack: metadata of a run hold for its series by every atlas (BIDS inheritance)."""


def _atlas_of(table: Path) -> str:
    entities = parse_entities(table.name)
    return next(entities[name] for name in ATLAS_ENTITIES if name in entities)


def _tables(source: Path) -> list[Path]:
    return [path for path in files_matching(source, [f"{folder}sub-*{_SUFFIX}" for folder in _FOLDERS]) if names_atlas(path)]


def _matches(source: Path) -> bool:
    return source.is_dir() and not (source / "channels.tsv").is_file() and bool(_tables(source))


def _find(source: Path, request: RecordingQuery) -> Recordings:
    """A run for each table of the atlas asked for.

    Raises
    ------
    InputError
        If there are tables of several atlases and none is asked for.
    """
    tables = [path for path in _tables(source) if is_wanted(parse_entities(path.name), request.filters)]
    atlas = _choose_atlas(source, tables, request.atlas)
    runs: list[Run] = []
    failures: list[Failure] = []
    known: dict[tuple[Path | None, tuple[str, ...]], Channels | None] = {}
    for path in tables:
        if _atlas_of(path) != atlas:
            continue
        try:
            places = None if request.channels else _table_of_places(source, atlas) or _atlas_image(source, path, atlas)
            names = read_names(path)
            if (places, names) not in known:
                known[places, names] = _given(request.channels) if places is None else _located(source, atlas, places, names)
            runs.append(_run(path, atlas, known[places, names], places))
        except InputError as error:
            failures.append(Failure(path.relative_to(source).as_posix(), str(error)))
    return Recordings(source, runs, failures)


def _choose_atlas(source: Path, tables: Sequence[Path], asked: str | None) -> str:
    there = sorted({_atlas_of(path) for path in tables})
    if asked is None and len(there) == 1:
        return there[0]
    label = (asked or "").removeprefix("seg-").removeprefix("atlas-")
    if label not in there:
        what = f"holds no series of the atlas {asked}" if asked else "holds series of several atlases"
        raise InputError(f"{source}: {what}; choose one of {', '.join(there) or 'none'} with --atlas.")
    return label


def _atlas_image(source: Path, table: Path, atlas: str) -> Path:
    """The image of the atlas: the source's own, in the table's space if there is a choice, or the participant's."""
    entities = parse_entities(table.name)
    spaces = {path: parse_entities(path.name).get("space", "") for path in _atlas_files(source, atlas, ".nii.gz")}
    fitting = [path for path, space in spaces.items() if space == entities.get("space")]
    mni = [path for path, space in spaces.items() if MNI152.fullmatch(space)]
    own = files_matching(source, [f"sub-{entities['sub']}/**/*_seg-{atlas}_dseg.nii.gz"])
    found = [*fitting, *mni, *own]
    if not found:
        raise InputError(
            f"{table}: there is no image of its atlas in MNI152 space (atlases/atlas-{atlas}_space-MNI152..._dseg.nii.gz) to locate its "
            f"parcels, and no table of places (atlases/atlas-{atlas}_dseg.tsv: name, x, y, z in mm); add one, give it with --channels, or "
            f"write --channels {NO_CHANNELS} where places are not known."
        )
    return found[0]


def _atlas_files(source: Path, atlas: str, suffix: str) -> list[Path]:
    folders = (f"atlases/atlas-{atlas}/", "atlases/", f"atlas-{atlas}/", "")
    return list(files_matching(source, [f"{folder}atlas-{atlas}*_dseg{suffix}" for folder in folders]))


def _table_of_places(source: Path, atlas: str) -> Path | None:
    """The table of labels, if it says where its parcels are."""
    tables = _atlas_files(source, atlas, ".tsv")
    return tables[0] if tables and {"x", "y", "z"} <= set(read_names(tables[0])) else None


def _given(channels: str | None) -> Channels | None:
    """What `--channels` says."""
    return None if channels == NO_CHANNELS else read_channels(Path(str(channels)))


def _located(source: Path, atlas: str, places: Path, names: tuple[str, ...]) -> Channels:
    """The columns of a table with the places of their parcels, from a table of labels or an image of the atlas."""
    if places.suffix == ".tsv":
        return _picked(_read_places(places), names, places)
    centres = _parcel_centres(places)
    if names == tuple(map(str, range(len(names)))) and len(names) == len(centres):
        # giga_connectome numbers its columns from 0, in the order of the atlas's labels.
        return Channels(names, np.array([centres[number] for number in sorted(centres)]))
    # nilearn's maskers name their columns by the atlas's numbers, where they were given no labels.
    mm = {str(number): centre for number, centre in centres.items()}
    labels = _atlas_files(source, atlas, ".tsv")
    if labels:
        mm |= {name: centres[number] for number, name in _read_labels(labels[0]).items() if number in centres}
    return _picked(mm, names, labels[0] if labels else places)


def _picked(mm: Mapping[str, npt.NDArray[Any]], names: tuple[str, ...], where: Path) -> Channels:
    lost = [name for name in names if name not in mm]
    if lost:
        raise InputError(f"{where}: does not have the parcel {lost[0]!r} of the tables; give places (name, x, y, z) with --channels.")
    return Channels(names, np.array([mm[name] for name in names]))


def _parcel_centres(image: Path) -> dict[int, npt.NDArray[Any]]:
    """(3,) centre of mass in mm of each label of an atlas image; 0 is background."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from scipy.ndimage import center_of_mass

    try:
        read = cast(nibabel.Nifti1Image, nibabel.load(image))
        values = np.asarray(read.dataobj)
    except (ImageFileError, OSError, ValueError, EOFError) as error:
        raise InputError(f"{image}: cannot be read as an image of an atlas ({error}); restore it.") from error
    if values.ndim != 3 or not np.array_equal(values, np.round(values)):
        raise InputError(f"{image}: is not a three-dimensional image of whole numbers; give the discrete segmentation (dseg).")
    labels, affine = np.unique(values[values > 0]).astype(int), affine_of(image, read)
    voxels = np.array(center_of_mass(values > 0, values, labels)).reshape(len(labels), 3)
    return dict(zip(labels.tolist(), voxels @ affine[:3, :3].T + affine[:3, 3], strict=True))


def _read_labels(path: Path) -> Mapping[int, str]:
    try:
        return {int(row["index"]): _name(row) for row in read_table(path)}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns index and label ({error}); correct it, or give places with --channels.") from error


def _read_places(path: Path) -> dict[str, npt.NDArray[Any]]:
    """(3,) mm of each parcel of a table of labels; the background has none."""
    try:
        return {_name(row): np.array([float(row[axis]) for axis in "xyz"]) for row in read_table(path) if row["x"] not in ("", MISSING)}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns name, x, y and z with places in mm ({error}); correct it.") from error


def _name(row: Mapping[str, str]) -> str:
    """What XCP-D calls `label`, and BIDS and nilearn `name`."""
    return (row.get("label") or row["name"]).strip()


def _run(table: Path, atlas: str, channels: Channels | None, places: Path | None) -> Run:
    entities = parse_entities(table.name)
    sidecars = _sidecars(table)
    sidecar: dict[str, Any] = {}
    for each in sidecars:
        sidecar = {**read_json(each), **sidecar}
    frequency = sidecar.get("SamplingFrequency")
    if "RepetitionTime" not in sidecar and isinstance(frequency, int | float) and frequency > 0:
        sidecar["RepetitionTime"] = 1 / frequency
    record: dict[str, Any] = {"Layout": PARCELLATED.name, "Atlas": atlas}
    if "space" in entities:
        record["SourceSpace"] = entities["space"]
    return Run(
        image=table,
        parts=(places,) if places else (),
        entities={**{name: label for name, label in entities.items() if name not in (*ATLAS_ENTITIES, "stat")}, "space": ROI},
        sidecar=sidecar,
        sidecars=sidecars,
        reader=RegionReader(channels),
        record=record if channels else {**record, "ChannelPlaces": "unknown"},
        chosen_because=f"the series of the atlas {atlas}",
    )


def _sidecars(table: Path) -> tuple[Path, ...]:
    """JSON files that hold for a table, the most specific first."""
    entities = parse_entities(table.name)

    def holds(sidecar: Path) -> bool:
        theirs = parse_entities(sidecar.name)
        return theirs.items() <= entities.items() and all(name in theirs or name in _INHERITED for name in entities)

    return tuple(sorted(filter(holds, table.parent.glob("*_timeseries.json")), key=lambda path: (-len(path.name), path.name)))


PARCELLATED = Layout(
    "parcellated",
    f"sub-*_seg-*{_SUFFIX} or sub-*_atlas-*{_SUFFIX}, as of XCP-D, giga_connectome and nilearn",
    _matches,
    _find,
    regions=True,
)
