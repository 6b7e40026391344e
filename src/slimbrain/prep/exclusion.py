"""Thresholds on quality: which runs a store leaves out, and what is written down about them.

An excluded run is no failure: it was read and measured, and a limit that the user set, or left on, keeps it out. What was
measured stays in `OUT/excluded/SESSION.json`, so that the same command leaves it out again without reading it, and another
limit takes it in; `OUT/excluded.tsv` lists all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from slimbrain.config import Config
from slimbrain.disk.atomic import write_json, write_text
from slimbrain.disk.tsv import format_tsv
from slimbrain.errors import InputError, StoreError

EXCLUDED_FILE = "excluded.tsv"
_EXCLUDED_FOLDER = "excluded"
COLUMNS = ("file", "session", "measure", "value", "threshold", "reason")
_RECORD_KEY = "Excluded"


class Limits(Config):
    """What a run must reach to be taken; None sets no limit."""

    min_coverage: float = Field(0.7, ge=0, le=1, description="share of the mask a run must cover")
    min_tsnr: float | None = Field(None, ge=0, description="least tSNR, median over the brain")
    max_fd_mean: float | None = Field(None, ge=0, description="most framewise displacement in mm, mean over the run")
    max_flagged: float | None = Field(None, ge=0, le=1, description="largest share of frames that moved over 0.5 mm or have a spike")
    min_template_overlap: float | None = Field(None, ge=0, le=1, description="least overlap of the image with the MNI brain mask")


@dataclass(frozen=True)
class _Limit:
    """One kind of limit.

    Attributes
    ----------
    option : str
        Field of `Limits`.
    measure : str
        What it is compared with, a scalar of `Quality`.
    lowest : bool
        Whether the value must not be lower; else it must not be higher.
    words : str
        What the value is, with a place for it.
    needs : str
        What a run without the measure lacks.
    """

    option: str
    measure: str
    lowest: bool
    words: str
    needs: str

    @property
    def flag(self) -> str:
        return "--" + self.option.replace("_", "-")

    def breaks(self, value: float, threshold: float) -> bool:
        """Whether a value is beyond the threshold; one that is not a number always is."""
        return not (value >= threshold if self.lowest else value <= threshold)


_LIMITS = (
    _Limit("min_coverage", "coverage", True, "covers {:.1%} of the brain mask", "a brain mask"),
    _Limit("min_tsnr", "tsnr", True, "has a tSNR of {:.4g}", "voxels"),
    _Limit("max_fd_mean", "fd_mean", False, "has a mean framewise displacement of {:.4g} mm", "motion in a table of confounds"),
    _Limit("max_flagged", "flagged_share", False, "has {:.1%} of its frames flagged", "frames that could be flagged"),
    _Limit("min_template_overlap", "template_overlap", True, "overlaps with the MNI brain mask by {:.3g}", "an image in its first frames"),
)


@dataclass(frozen=True)
class _Breach:
    """A limit that a run is beyond."""

    measure: str
    value: float
    threshold: float
    reason: str


@dataclass(frozen=True)
class ExcludedRun:
    """A run that is left out.

    Attributes
    ----------
    file : str
        Its image, relative to the source.
    key : str
        The session it would be.
    breaches : tuple of _Breach
        The limits it is beyond; at least one.
    """

    file: str
    key: str
    breaches: tuple[_Breach, ...]


def judge(name: str, measured: Mapping[str, Any], limits: Limits, gap: str = "") -> tuple[_Breach, ...]:
    """The limits that a run is beyond.

    Parameters
    ----------
    name : str
        Of the run, for messages.
    measured : mapping
        Its scalars.
    gap : str
        Where the image ends, for the message on coverage.

    Raises
    ------
    InputError
        If a limit is set on something that this run does not have: it is not known then on which side it is.
    """
    found = []
    for limit in _LIMITS:
        threshold = getattr(limits, limit.option)
        if threshold is None:
            continue
        if limit.measure not in measured:
            raise InputError(f"{name}: has no {limit.needs}, which {limit.flag} needs; supply it, or leave {limit.flag} out.")
        value = float(measured[limit.measure])
        if limit.breaks(value, threshold):
            where = f" (missing {gap})" if gap and limit.measure == "coverage" else ""
            side = "under" if limit.lowest else "over"
            reason = f"{name}: {limit.words.format(value)}{where}, {side} {limit.flag} {threshold:g}; it is left out."
            found.append(_Breach(limit.measure, value, threshold, reason))
    return tuple(found)


def _record_path(root: Path, key: str) -> Path:
    """Where what was measured of an excluded run lies."""
    return root / _EXCLUDED_FOLDER / f"{key}.json"


def write_record(root: Path, run: ExcludedRun, sidecar: Mapping[str, Any]) -> None:
    """Write down an excluded run: what its sidecar would have said, and the limits it is beyond.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    breaches = [{"Measure": each.measure, "Value": each.value, "Threshold": each.threshold, "Reason": each.reason} for each in run.breaches]
    path = _record_path(root, run.key)
    try:
        write_json(path, {**sidecar, _RECORD_KEY: {"File": run.file, "Breaches": breaches}})
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); free space, then run the same command again.") from error


def read_record(root: Path, key: str) -> dict[str, Any] | None:
    """What was written down about an excluded run; None if nothing was, or it cannot be read and must be measured again."""
    try:
        record = json.loads(_record_path(root, key).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("QC"), dict) else None


def drop_record(root: Path, key: str) -> None:
    """Forget an excluded run: it is about to be measured again, or to enter the store."""
    _record_path(root, key).unlink(missing_ok=True)


def write_table(root: Path) -> Path:
    """Write `excluded.tsv` from all records, of this command and of earlier ones; one row per run and limit."""
    rows = []
    for path in sorted((root / _EXCLUDED_FOLDER).glob("*.json")):
        excluded = (read_record(root, path.stem) or {}).get(_RECORD_KEY, {})
        for breach in excluded.get("Breaches", ()):
            cells = {name.lower(): value for name, value in breach.items()}
            rows.append({"file": excluded.get("File", ""), "session": path.stem, **cells})
    return write_text(root / EXCLUDED_FILE, format_tsv(COLUMNS, rows))
