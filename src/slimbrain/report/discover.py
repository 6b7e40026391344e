"""What the folders and files that a user names hold for a report: stores, runs, results, window tables, maps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimbrain.config import RUN_FILE
from slimbrain.disk.nearest import nearest_path
from slimbrain.errors import InputError
from slimbrain.evaluate.result import is_result
from slimbrain.report.blocks import count
from slimbrain.report.nifti import MAP_SUFFIXES
from slimbrain.report.recorded import read_settings
from slimbrain.store.description import is_store

_TRUTH_FILE = "truth.json"
_EXPLAINED = "explained"
"""A folder of `slimbrain explain`."""

_STAGES = ("temporal", "voxel")
"""In the order in which runs are shown."""

_LARGEST_RESULT = 16 * 2**20
"""Bytes of a JSON file beyond which it is not opened to see whether it is a result."""


@dataclass(frozen=True)
class _ReportSources:
    """Paths by what they are, in the order of the page."""

    stores: tuple[Path, ...]
    windows: tuple[Path, ...]
    runs: tuple[Path, ...]
    evaluations: tuple[Path, ...]
    truths: tuple[Path, ...]
    maps: tuple[Path, ...]
    explained: tuple[Path, ...]

    def lines(self) -> list[str]:
        """One line per kind that was found, for the terminal."""
        named = (
            (self.stores, "store", ""),
            (self.windows, "window table", ""),
            (self.runs, "run", ""),
            (self.evaluations, "evaluation", ""),
            (self.truths, "truth of a simulated cohort", "truths of simulated cohorts"),
            (self.maps, "map", ""),
            (self.explained, "folder of slimbrain explain", "folders of slimbrain explain"),
        )
        return [f"found {count(len(paths), one, several)}: {', '.join(map(str, paths))}" for paths, one, several in named if paths]


def require_there(options: Mapping[str, Iterable[Path]]) -> None:
    """Refuse paths, by the option that names them, that do not exist.

    Raises
    ------
    InputError
        Then.
    """
    for option, named in options.items():
        for path in named:
            if not path.exists():
                raise InputError(f"{path}: does not exist{_near(path)}; correct {option}.")


def _near(path: Path) -> str:
    near = nearest_path(path)
    return f", the nearest name is {near}" if near else ""


def discover(paths: Sequence[Path]) -> _ReportSources:
    """Sort named files, stores, runs and folders of maps, and what lies in other named folders and in the folders within them.

    Raises
    ------
    InputError
        If a path does not exist, or holds nothing to report on.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: does not exist{_near(path)}; name a folder that holds a store, runs or results.")
        here = list(_look(path))
        if not here:
            raise InputError(f"{path}: holds no store, run, window table, result or map; name a folder that slimbrain wrote.")
        found += here
    # What is named twice, or lies in a folder that is named as well, is shown once.
    unique = list(dict.fromkeys(found))

    def of_kind(name: str) -> tuple[Path, ...]:
        return tuple(path for kind, path in unique if kind == name)

    runs = tuple(sorted(of_kind("run"), key=_stage_and_name))
    return _ReportSources(
        of_kind("store"), of_kind("windows"), runs, of_kind("evaluation"), of_kind("truth"), of_kind("map"), of_kind(_EXPLAINED)
    )


def only(paths: Sequence[Path], what: str, option: str) -> Path | None:
    """The one path, or None.

    Raises
    ------
    InputError
        If there are several: a page shows one.
    """
    if len(paths) > 1:
        raise InputError(f"{paths[0]} and {paths[1]}: are two {what}, and a page shows one; name it with {option}.")
    return paths[0] if paths else None


def _look(path: Path) -> Iterator[tuple[str, Path]]:
    kind = _kind(path)
    if kind:
        yield kind, path
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if kind := _kind(entry):
                yield kind, entry
            elif entry.is_dir():
                yield from _look_deeper(entry)


def _look_deeper(folder: Path) -> Iterator[tuple[str, Path]]:
    """Runs and folders of maps, of which a folder may hold several; of a simulated cohort only its truth."""
    if (folder / _TRUTH_FILE).is_file():
        yield "truth", folder / _TRUTH_FILE
    else:
        yield from ((kind, entry) for entry in sorted(folder.iterdir()) if entry.is_dir() and (kind := _kind(entry)) in ("run", _EXPLAINED))


def _kind(path: Path) -> str:
    """Kind of a path; empty for what a report does not show."""
    if path.is_dir():
        if (path / RUN_FILE).is_file():
            return "run"
        if is_store(path):
            return "store"
        return _EXPLAINED if _holds_maps(path) else ""
    if path.name == _TRUTH_FILE:
        return "truth"
    if path.name.endswith(MAP_SUFFIXES):
        return "map"
    if path.suffix == ".tsv":
        return "windows" if _are_of_windows(_first_line(path).split("\t")) else ""
    return "evaluation" if path.suffix == ".json" and is_result(_json_object(path)) else ""


def _holds_maps(folder: Path) -> bool:
    """Whether it is a folder of `slimbrain explain`, whose code loads torch and is asked only where files are named like its records."""
    if not any(any(place.glob("*_map.json")) for place in (folder, folder / "sessions")):
        return False
    from slimbrain.explain import holds_maps

    return holds_maps(folder)


def _are_of_windows(columns: Sequence[str]) -> bool:
    """Whether a table's columns are those of `slimbrain rank`, whose code loads torch and is asked only of tables of windows."""
    if not {"session", "window"} <= set(columns):
        return False
    from slimbrain.saliency.table import COLUMNS

    return set(COLUMNS) <= set(columns)


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        return handle.readline().rstrip("\r\n")


def _json_object(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is no JSON object: this only checks whether it is of interest."""
    try:
        if path.stat().st_size > _LARGEST_RESULT:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _stage_and_name(run: Path) -> tuple[int, str]:
    stage = read_settings(run).stage
    return _STAGES.index(stage) if stage in _STAGES else len(_STAGES), str(run)


def all_of(given: Iterable[Path] | None, found: Sequence[Path]) -> tuple[Path, ...]:
    """Paths from options and from the search, each once."""
    return tuple(dict.fromkeys([*(given or ()), *found]))
