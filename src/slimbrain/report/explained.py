"""Maps of `slimbrain explain` on the page: averages in the slice viewer, region tables, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimbrain.evaluate.result import PROBE, Result
from slimbrain.evaluate.stats import metric_words
from slimbrain.evaluate.table import chance_of, is_at_chance
from slimbrain.explain import TITLES, MapEntry
from slimbrain.explain.averages import MAGNITUDE, NAMES
from slimbrain.explain.pictures import SHOWN_SHARE
from slimbrain.explain.regions import UNITS
from slimbrain.report.blocks import MISSING, Block, Column, Fold, Prose, Table, TableBuilder, WarningBlock, count
from slimbrain.report.nifti import read_map
from slimbrain.report.volumes import NamedMap

_Folders = Sequence[tuple[Path, Sequence[MapEntry]]]

_CHANCE = {"auc": 0.5, "r2": 0.0}
"""What guessing scores, of the metrics of what a map explains."""

_MEANINGS = {
    "gradient": "The signal times the decision's gradient by it: what each voxel adds to the decision, to first order.",
    "integrated": "What each voxel adds to the decision; over the brain, it adds up to what the signal changed of it.",
    "occlusion": "Change of the decision when the unit that a voxel lies in is deleted.",
    "surprise": "Prediction error at a place while it is hidden from the model.",
    "channels": "What a place adds to stage 1's reconstruction of hidden windows, or to a decision of a probe on stage 1.",
}

_MINUS = "\N{MINUS SIGN}"

_MOST_REGIONS = 12
"""Rows of a table of regions: those with the largest share."""


def averages(entries: Sequence[MapEntry]) -> list[MapEntry]:
    """What the page shows of a folder: maps of single sessions are many, and each alone says little."""
    return [entry for entry in entries if not entry.session]


@dataclass(frozen=True)
class _Score:
    """How well what a map explains predicts people it was not fitted on, in words, and whether its interval holds chance."""

    words: str
    at_chance: bool


def _score(entry: MapEntry, evaluations: Sequence[Result]) -> _Score:
    """That of an evaluation of the same weights, pooling and task on this page, so that a reader meets one number; else the map's own."""
    decided = entry.weights_sha256, entry.decided_by.get("pooling")
    for result in evaluations:
        names = [model.name for model in result.models if (model.weights_sha256, model.pooling) == decided]
        if entry.weights_sha256 and result.task == entry.task and entry.decided_by.get("kind") == "probe":
            metric = result.metrics[0]
            for row in result.rows:
                if row.model in names and row.method == PROBE and row.metric == metric and row.mean is not None:
                    interval = "" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]"
                    words = f"held-out {metric_words(metric)} {row.mean:.3f}{interval}, as in the evaluation"
                    return _Score(words, is_at_chance(row.low, row.high, chance_of(result, metric)))
    known = entry.decided_by
    return _Score(entry.held_out, is_at_chance(known.get("low"), known.get("high"), _CHANCE.get(str(known.get("metric")))))


def _trusted(entry: MapEntry, evaluations: Sequence[Result]) -> str:
    return "; ".join(filter(None, (_score(entry, evaluations).words, entry.overlap)))


def named_maps(folders: _Folders, evaluations: Sequence[Result]) -> Iterator[NamedMap]:
    """The averages that have an image."""
    return (named(entry, entry.image, evaluations) for _, entries in folders for entry in averages(entries) if entry.image)


def named(entry: MapEntry, image: Path, evaluations: Sequence[Result] = ()) -> NamedMap:
    """A map as the viewer shows it."""
    volume = read_map(image)
    values = volume.values[np.isfinite(volume.values)]
    signed, size = bool((values < 0).any()), np.abs(values)
    # At first the viewer shows as much as the PNG mosaics do.
    threshold = float(np.quantile(size, 1 - SHOWN_SHARE) / size.max()) if signed else 0.0
    return NamedMap(entry.title, _short(entry.unit), _about(entry, evaluations), volume, threshold, clip=True, from_zero=signed)


def _about(entry: MapEntry, evaluations: Sequence[Result]) -> str:
    """Meaning of a value, its unit, and how far to trust it."""
    meaning = _MEANINGS.get(entry.method, f"Method: {entry.method}.")
    if entry.explains_decision and entry.average != NAMES[MAGNITUDE]:
        meaning += " Red speaks for it, blue against it."
    trusted, noise = _trusted(entry, evaluations), _score(entry, evaluations).at_chance
    warning = "At chance: this map shows noise. " if noise else ""
    return f"{warning}{meaning} Unit: {entry.unit}.{f' {_sentence(trusted)}' if trusted else ''}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _short(unit: str) -> str:
    """Unit behind each number of the viewer; long units stand only in the words above it."""
    return unit if len(unit) <= 24 else ""


def banners(folders: _Folders, evaluations: Sequence[Result]) -> list[Block]:
    """A warning over the maps of each folder whose decision is at chance."""
    found: list[Block] = []
    for folder, entries in folders:
        noise = [one for entry in averages(entries) if (one := _score(entry, evaluations)).at_chance]
        if noise:
            found.append(
                WarningBlock(
                    f"Maps of {folder.name}: what they explain is at chance ({noise[0].words}), so they show noise. Do not read places "
                    "from them."
                )
            )
    return found


def blocks(folders: _Folders, evaluations: Sequence[Result]) -> list[Block]:
    """What was explained, and the regions of each folder's first map; those of its other maps are folded."""
    return [block for folder, entries in folders for block in _of_folder(folder, entries, evaluations)]


def _of_folder(folder: Path, entries: Sequence[MapEntry], evaluations: Sequence[Result]) -> Iterator[Block]:
    shown = averages(entries)
    if not shown:
        kept = count(len(entries), "map of a session", "maps of sessions")
        yield Prose(f"{folder} has {kept} and no average; run the same slimbrain explain to its end.")
        return
    yield Prose(_told(folder, shown, evaluations))
    tables = tuple(_regions(entry) for entry in shown if entry.rows and not entry.atlas.startswith(UNITS))
    if tables:
        yield Fold(f"Regions of {count(len(tables), 'map')} of {folder.name}", tables)
    else:
        yield Prose(
            "No atlas was given, so regions have no names and are not listed: slimbrain explain --atlas FILE --labels FILE names them."
        )


def _told(folder: Path, shown: Sequence[MapEntry], evaluations: Sequence[Result]) -> str:
    methods = ", ".join(dict.fromkeys(TITLES.get(entry.method, entry.method) for entry in shown))
    contrast = " The contrast, the difference between labels, is the one to look at first." if any(map(_is_contrast, shown)) else ""
    note = _trusted(shown[0], evaluations)
    trusted = f" {_sentence(note)}" if note else ""
    return (
        f"{folder.name}: {methods} of {count(shown[0].sessions, 'session')}, averaged.{contrast}{trusted} "
        "A map says what moved the model, not what caused anything; where the model is at chance it shows noise."
    )


def _is_contrast(entry: MapEntry) -> bool:
    return entry.average not in NAMES.values()


def _regions(entry: MapEntry) -> Table:
    rows = entry.rows[:_MOST_REGIONS]
    which = f"the {len(rows)} of {len(entry.rows)} regions with the largest share" if len(rows) < len(entry.rows) else "all regions"
    caption = (
        f"{entry.title}: {which}. Share: of the sum of absolute values over the brain; peak: the value farthest from zero, and its "
        f"coordinates (MNI, mm). Unit: {entry.unit}. Regions: {entry.atlas or MISSING}."
    )
    heads = ("voxels", "mean", "share (%)", "peak", "x", "y", "z")
    table = TableBuilder(caption, (Column("region"), *(Column(head, True) for head in heads)))
    for row in rows:
        values = [_digits(row[name]) for name in ("mean", "share", "peak")]
        values[1] = f"{100 * float(row['share']):.1f}"
        places = [f"{float(row[f'peak_{axis}_mm']):g}" for axis in "xyz"]
        # A line may break after a hyphen, not after a minus.
        table.add([row["region"], row["voxels"], *(cell.replace("-", _MINUS) for cell in (*values, *places))])
    return table.build()


def _digits(text: str) -> str:
    return f"{float(text):.3g}"
