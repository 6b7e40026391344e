"""The section with the slice viewer: given maps, maps that explain a model, chosen windows, tSNR and coverage, on the MNI template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain.explain import map_entry
from slimbrain.grid import Grid
from slimbrain.progress import track
from slimbrain.report.blocks import Block, Data, Prose, Section, Viewer, count
from slimbrain.report.explained import banners, named, named_maps
from slimbrain.report.explained import blocks as explained_blocks
from slimbrain.report.inputs import Material, has_voxels
from slimbrain.report.nifti import map_name, read_map
from slimbrain.report.volumes import NamedMap, Volume, template
from slimbrain.report.window_maps import frames_of
from slimbrain.store import ROI, Store

_FloatArray = npt.NDArray[Any]

_TITLE = "Maps"

_UNDERLAY, _VIEWER = "underlay", "viewer"
"""Ids on the page, by which the script finds them."""

_VIEWER_BYTES = 1_500_000
"""Bytes of text of all maps of the viewer; each gets an equal part, and is shown coarser where it needs more."""

_LEAST_PARTS = 4

_MOST_SESSIONS = 40
"""Sessions that coverage and tSNR are read from; of more, every n-th is read."""

_READ_BYTES = 512 * 2**20
"""Bytes of voxels of chosen windows to read at most: the page must not take minutes."""

_HOW_TO_MOVE = (
    "Click or drag in a slice to move the crosshair, or use the sliders. With a slice in focus, the arrow keys move the crosshair, "
    "Page Up and Page Down change the slice, Home returns to the largest value."
)
_WHAT_IS_SHOWN = (
    "Left is left, coordinates are MNI millimetres, and the grey image is the MNI152 template. Values are kept to 1 part in 254 of the "
    "scale."
)

_ABSENT = (
    "no map was given, nor a store with images; --map adds a NIfTI map, --explained a folder of slimbrain explain, --store chosen windows, "
    "tSNR and coverage."
)


def build(material: Material) -> Section:
    """One viewer for all maps."""
    maps = [*_given(material.inputs.maps), *named_maps(material.explained, material.evaluations), *_of_store(material)]
    tables = explained_blocks(material.explained, material.evaluations)
    if not maps:
        if tables:
            return Section("maps", _TITLE, tuple(tables))
        return Section("maps", _TITLE, absent=_ABSENT)
    share = _VIEWER_BYTES // max(len(maps), _LEAST_PARTS)
    blocks: list[Block] = [
        *banners(material.explained, material.evaluations),
        Prose(_HOW_TO_MOVE, on_screen=True),
        Prose(_WHAT_IS_SHOWN),
        *_underlay(),
        Data(f"{_VIEWER}-maps", [_fitted(one, share) for one in maps]),
        Viewer(_VIEWER),
        *tables,
    ]
    return Section("maps", _TITLE, tuple(blocks))


def _underlay() -> Iterator[Data]:
    """The template, once on the page; stage 1's windows are drawn on it too."""
    yield Data(_UNDERLAY, template())


def _fitted(one: NamedMap, share: int) -> dict[str, Any]:
    """The map as JSON of at most `share` bytes or so, its voxels doubled until it fits."""
    volume, encoded = one.volume, one.encoded(one.volume)
    while len(encoded["data"]) > share and min(volume.values.shape) > 1:
        volume = volume.halved()
        encoded = one.encoded(volume)
    coarser = f" Shown in voxels of {volume.step_mm[0]:g} mm, to keep the page small." if volume is not one.volume else ""
    return {"name": one.name, "unit": one.unit, "about": one.about + coarser, "threshold": one.threshold, **encoded}


def _given(paths: Sequence[Path]) -> Iterator[NamedMap]:
    for path in paths:
        if entry := map_entry(path):
            yield named(entry, path)
            continue
        yield NamedMap(map_name(path), "", f"From the file {path.name}; the unit is the file's own.", read_map(path), 0.3)


def _of_store(material: Material) -> Iterator[NamedMap]:
    store = material.store
    if store is None or not material.sessions or not has_voxels(store):
        return
    if material.windows:
        yield from _chosen(store, material)
    keys = [session.info.key for session in material.sessions if session.info.space != ROI]
    step = -(-len(keys) // _MOST_SESSIONS)
    keys = keys[::step]
    if not keys:
        return
    tsnr, coverage = _moments(store, keys)
    of = f"{count(len(keys), 'session')}{f', every {_ordinal(step)} of the store' if step > 1 else ''}"
    about = f"Mean over time divided by standard deviation over time, averaged over {of}, where there is signal."
    yield NamedMap("tSNR", "", about, tsnr, clip=True)
    yield NamedMap("Coverage", "%", f"Share of {of} that have data in a voxel of the brain mask.", coverage)


def _ordinal(n: int) -> str:
    return {2: "second", 3: "third"}.get(n, f"{n}th")


def _moments(store: Store, keys: Sequence[str]) -> tuple[Volume, Volume]:
    """tSNR and coverage in %."""
    grid = store.grid
    total, covered = np.zeros(grid.voxel_mask.shape), np.zeros(grid.voxel_mask.shape)
    for key in track(keys, "report: tSNR and coverage"):
        mean, std = store.moments(key)
        known = std > 0
        total += np.where(known, np.abs(mean) / np.where(known, std, 1), 0)
        covered += known
    tsnr = np.where(covered > 0, total / np.maximum(covered, 1), np.nan)
    return _on_lattice(grid, tsnr), _on_lattice(grid, 100 * covered / len(keys))


def _chosen(store: Store, material: Material) -> Iterator[NamedMap]:
    """Mean of the windows that stage 1 chose: where they differ from the rest of the session."""
    frame_bytes = store.grid.voxel_index.size * np.dtype(np.float16).itemsize
    room, used, total = _READ_BYTES, 0, np.zeros(store.grid.voxel_mask.shape)
    for session in track(material.in_detail, "report: mean of chosen windows"):
        key, info = session.info.key, session.info
        rows = material.windows.get(key, ())
        chosen = [frames_of(row, info.tr) for row in rows if row.among(material.k)]
        room -= sum(stop - start for start, stop in chosen) * frame_bytes
        if not chosen or info.space == ROI:
            continue
        if room < 0:
            break
        total += np.mean([store.voxels(key, start, stop).mean(axis=0, dtype=np.float32) for start, stop in chosen], axis=0)
        used += 1
    if used:
        about = (
            f"Mean signal of the {material.k} windows that stage 1 chose, averaged over {count(used, 'session')}. Voxels are z-scored over "
            "their session, so that 0 is a session's own mean and the map shows where the chosen windows lie above or below it."
        )
        yield NamedMap("Chosen windows", "SD", about, _on_lattice(store.grid, total / used), 0.3)


def _on_lattice(grid: Grid, packed: _FloatArray) -> Volume:
    lattice = grid.lattice
    values = grid.unpack(np.asarray(packed, np.float64), fill=np.nan)
    return Volume(values, lattice.origin_mm, np.full(3, lattice.voxel_mm))
