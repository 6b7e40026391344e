"""A folder of maps: finished maps are kept, new ones added, and averages taken over all of them at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbrain.disk.tsv import read_tsv
from slimbrain.evaluate.tasks import label_name
from slimbrain.explain.averages import CONTRAST, MAGNITUDE, MEAN, NAMES, Averages, Values, smooth
from slimbrain.explain.files import (
    MapName,
    group_map,
    read_map,
    read_record,
    session_map,
    trust,
    write_map,
    write_record,
    write_regions,
)
from slimbrain.explain.methods import TITLES, MapRequest, Opened, data_hash
from slimbrain.explain.pictures import draw_mosaic
from slimbrain.explain.regions import Atlas, channel_rows, region_rows
from slimbrain.store import ROI, Channels, SessionInfo, Store

PICTURES = ("group", "all", "none")


@dataclass(frozen=True)
class Output:
    """What is written beside the maps.

    Attributes
    ----------
    atlas, labels : Path or None
        As of `read_atlas`; the encoder's units if None.
    by_window : bool
        Also a 4D image per session, one volume per window.
    pictures : str
        One of `PICTURES`.
    fwhm_mm : float
        Width to smooth averages by; 0 for none.
    commands : tuple of str
        For the record: command lines that made the table of participants, if there was one, and the maps.

    Examples
    --------
    >>> Output(pictures="none", fwhm_mm=16).by_window
    False
    """

    atlas: Path | None = None
    labels: Path | None = None
    by_window: bool = False
    pictures: str = "group"
    fwhm_mm: float = 0.0
    commands: tuple[str, ...] = ()


class MapFolder:
    """Writes the maps of one request.

    Parameters
    ----------
    out : Path
        The folder.
    atlas : Atlas or None
        Regions; None where channels are parcels.
    facts : mapping of str to object
        What every record says.
    output : Output
        What is written beside the maps.
    """

    def __init__(
        self, store: Store, out: Path, request: MapRequest, opened: Opened, atlas: Atlas | None, facts: Mapping[str, Any], output: Output
    ) -> None:
        self.store, self.out, self.request, self.opened = store, out, request, opened
        self.atlas, self.output = atlas, output
        self.facts = {"method": request.method, "unit": opened.explainer.unit, **facts, "atlas": atlas.name if atlas else "channels"}
        self._voxels: Averages | None = None
        self._parcels: tuple[Channels, Averages] | None = None

    def add(self, info: SessionInfo, picture: bool) -> bool:
        """Explain a session, or keep its finished map; True if it was explained."""
        name, settings = session_map(self.out, info.key, self.request.method), self._settings(info)
        before = read_record(name.record)
        fresh = before is None or before.get("settings") != settings or not self._whole(name, info)
        record = self._explain(info, name, settings) if fresh else before
        assert record is not None
        if info.space == ROI:
            self._add_parcels(info, name)
        else:
            self._add_voxels(info, name, record, picture)
        return fresh

    def finish(self, refused: Mapping[str, str], picture: bool) -> None:
        """Write the averages over the sessions added; older averages of other settings are deleted."""
        for suffix in (MEAN, MAGNITUDE, CONTRAST):
            name = group_map(self.out, f"{self.request.method}{suffix}")
            for path in (name.record, name.image, name.regions, name.picture):
                path.unlink(missing_ok=True)
        if self._voxels:
            for suffix, values in self._voxels.maps().items():
                self._write_average(suffix, values, len(self._voxels.codes), refused, picture)
        if self._parcels:
            channels, averages = self._parcels
            for suffix, values in averages.maps().items():
                name = group_map(self.out, f"{self.request.method}{suffix}")
                write_regions(name.regions, channel_rows(values, channels.names, channels.mm))
                write_record(name.record, self._average_record(suffix, len(averages.codes), refused))

    def _explain(self, info: SessionInfo, name: MapName, settings: str) -> dict[str, Any]:
        # An older map belongs to other settings; without its record it counts as incomplete.
        name.record.unlink(missing_ok=True)
        found = self.opened.explainer.explain(info)
        mean = found.values.mean(axis=0)
        if info.space == ROI:
            channels = self.store.channels(info.key)
            write_regions(name.regions, channel_rows(mean, channels.names, channels.mm))
        else:
            write_map(name.image, mean, self.store.grid)
            if self.output.by_window:
                write_map(name.by_window, found.values, self.store.grid)
        record = {
            "title": self._title(f"{info.key}, mean over windows"),
            "session": info.key,
            **self.facts,
            **self._used(info),
            **found.facts,
        }
        record |= {"sums": found.values.reshape(len(found.values), -1).sum(axis=1).tolist(), "settings": settings}
        write_record(name.record, record)
        return record

    def _used(self, info: SessionInfo) -> dict[str, Any]:
        """Which windows the model used, and when they began."""
        windows = self.opened.explainer.windows.get(info.key)
        if windows is None:
            return {"windows": "all"}
        return {"windows": list(windows), "onsets_s": [round(number * self.opened.window_frames * info.tr, 3) for number in windows]}

    def _whole(self, name: MapName, info: SessionInfo) -> bool:
        needed = [name.regions] if info.space == ROI else [name.image, *([name.by_window] if self.output.by_window else [])]
        return all(path.exists() for path in needed)

    def _add_voxels(self, info: SessionInfo, name: MapName, record: Mapping[str, Any], picture: bool) -> None:
        values = read_map(name.image, self.store.grid)
        assert self.atlas is not None
        write_regions(name.regions, region_rows(values, self.atlas, self.store.grid))
        if picture:
            self._draw(name, values, str(record["title"]))
        self._voxels = self._voxels or Averages(values.shape)
        self._voxels.add(values, self._code(info))

    def _add_parcels(self, info: SessionInfo, name: MapName) -> None:
        """Sessions of the first one's parcellation are averaged; others only have their own tables."""
        channels = self.store.channels(info.key)
        rows = {row["region"]: float(row["mean"]) for row in read_tsv(name.regions)}
        if self._parcels is None:
            self._parcels = channels, Averages((len(channels.names),))
        first, averages = self._parcels
        if first.names == channels.names:
            averages.add(np.array([rows[channel] for channel in first.names]), self._code(info))

    def _code(self, info: SessionInfo) -> float:
        return self.opened.deciders.code[info.key] if self.opened.deciders else 0.0

    def _write_average(self, suffix: str, values: Values, count: int, refused: Mapping[str, str], picture: bool) -> None:
        name, grid = group_map(self.out, f"{self.request.method}{suffix}"), self.store.grid
        values = smooth(values, grid, self.output.fwhm_mm)
        write_map(name.image, values, grid)
        assert self.atlas is not None
        write_regions(name.regions, region_rows(values, self.atlas, grid))
        record = self._average_record(suffix, count, refused)
        if picture:
            self._draw(name, values, str(record["title"]))
        write_record(name.record, record)

    def _average_record(self, suffix: str, count: int, refused: Mapping[str, str]) -> dict[str, Any]:
        contrast = self.opened.deciders.contrast if self.opened.deciders else ""
        what = contrast if suffix == CONTRAST else NAMES[suffix]
        smoothed = f", smoothed by {self.output.fwhm_mm:g} mm" if self.output.fwhm_mm else ""
        title = self._title(f"{what}, {count} sessions{smoothed}")
        return {
            "title": title,
            "session": "",
            **self.facts,
            "average": what,
            "fwhm_mm": self.output.fwhm_mm,
            "sessions": count,
            "left_out": dict(refused),
        }

    def _title(self, of: str) -> str:
        task = f", {label_name(self.opened.task)}" if self.opened.task else ""
        return f"{TITLES[self.request.method]}{task}: {of}"

    def _draw(self, name: MapName, values: NDArray[Any], title: str) -> None:
        grid = self.store.grid
        draw_mosaic(grid.to_nifti(values), values[grid.voxel_mask], title, trust(self.facts), str(self.facts["unit"]), name.picture)

    def _settings(self, info: SessionInfo) -> str:
        """A hash of everything that a session's map depends on."""
        request, deciders = self.request, self.opened.deciders
        windows = list(self.opened.explainer.windows.get(info.key, ()))
        facts = [request.method, self.opened.task, request.target, request.steps, request.seed, windows, data_hash(self.store, info.key)]
        learnt = deciders.learnt_from if deciders else ""
        digest = json.dumps([facts, learnt, self.facts["model"]["weights_sha256"], self.store.contract.to_dict(), self.facts["version"]])
        return hashlib.sha256(digest.encode()).hexdigest()[:24]
