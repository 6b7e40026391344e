"""What other commands recorded, typed: the settings and the log of a pretraining run, the quality and the series of a session."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slimbrain.config import RUN_FILE
from slimbrain.errors import InputError
from slimbrain.store import SessionInfo, Store

_Floats = npt.NDArray[np.float64]

_TRACES = ("fd", "dvars", "global_signal")

_RUN_WANTED = "a pretraining run, name a folder that `slimbrain pretrain` wrote"


class _Recorded(BaseModel):
    """Other versions may have written more, or less."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _WindowSettings(_Recorded):
    k: int | None = None


class _TrainSettings(_Recorded):
    batch: int | None = None
    accumulate: int = 1
    lr: float | None = None


class _JepaSettings(_Recorded):
    targets: str | None = None


class _PresetSettings(_Recorded):
    name: str = ""
    window: _WindowSettings = _WindowSettings()
    train_temporal: _TrainSettings = _TrainSettings()
    train_voxel: _TrainSettings = _TrainSettings()
    jepa: _JepaSettings = _JepaSettings()


class _RunSettings(_Recorded):
    """What a page tells of a run.json; None where that does not say."""

    stage: str = "unknown"
    sessions: int | None = None
    held_out_sessions: int | None = None
    seed: int | None = None
    threads: int | None = None
    commands: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    preset: _PresetSettings = _PresetSettings()

    @property
    def train(self) -> _TrainSettings:
        """Settings of the optimiser, of this run's stage."""
        return {"temporal": self.preset.train_temporal, "voxel": self.preset.train_voxel}.get(self.stage, _TrainSettings())


@dataclass(frozen=True)
class RunRecord:
    """A pretraining run: its folder, its settings, its log."""

    folder: Path
    settings: _RunSettings
    metrics: tuple[Mapping[str, float | None], ...]

    @property
    def stage(self) -> str:
        return self.settings.stage

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a logged number, where it was logged."""
        points = [(line["step"], line.get(name)) for line in self.metrics]
        logged = [(float(step), float(value)) for step, value in points if step is not None and value is not None]
        return [step for step, _ in logged], [value for _, value in logged]


def read_run(folder: Path) -> RunRecord:
    """A run folder's run.json and metrics.jsonl.

    Raises
    ------
    InputError
        If one of them is missing or damaged.
    """
    settings = read_settings(folder)
    # Only now, since it loads torch: a folder that is no run is refused before.
    from slimbrain.train import METRICS_FILE, read_metrics

    try:
        metrics = tuple(_numbers(line) for line in read_metrics(folder))
        if not all("step" in line for line in metrics):
            raise ValueError("a line without its step")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / METRICS_FILE}: is damaged ({error}); restore it, or leave the run out.") from error
    return RunRecord(folder, settings, metrics)


def read_settings(folder: Path) -> _RunSettings:
    """A run folder's run.json.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    path = folder / RUN_FILE
    recorded = _read_object(path, _RUN_WANTED)
    try:
        return _RunSettings.model_validate(recorded)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{path}: its {where} is not what `slimbrain pretrain` writes; restore the file, or leave the run out.") from error


def _read_object(path: Path, wanted: str) -> dict[str, Any]:
    """A JSON file that holds an object; `wanted` says in the error what it should be."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as {wanted} ({getattr(error, 'strerror', None) or error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: does not hold {wanted}.")
    return value


@dataclass(frozen=True)
class SessionFacts:
    """A session and what prep found out about it.

    Attributes
    ----------
    label : str
        Shortest name that tells it from the others.
    qc : mapping of str to float
        Measures of quality.
    warnings : tuple of str
        Sentences.
    denoise, resampling : str
        Strategy of nuisance regression, and how the series was brought to the store's TR; empty where not recorded.
    gap : str
        Where in the brain data are missing; empty if nowhere.
    recorded : tuple of float and int, or None
        TR and frames as they were recorded, where the sidecar tells; stored series are resampled.
    """

    info: SessionInfo
    label: str
    qc: Mapping[str, float]
    warnings: tuple[str, ...]
    denoise: str = ""
    resampling: str = ""
    gap: str = ""
    recorded: tuple[float, int] | None = None

    @property
    def source_tr(self) -> float:
        """Seconds per frame as recorded, or as stored where that is not known."""
        return self.recorded[0] if self.recorded else self.info.tr

    @property
    def source_frames(self) -> int:
        """Frames as recorded, or as stored."""
        return self.recorded[1] if self.recorded else self.info.n_frames


def session_facts(store: Store, info: SessionInfo, label: str) -> SessionFacts:
    """QC from the sidecar, which keeps all digits, over that of the manifest."""
    sidecar = store.sidecar(info.key)
    measured = _mapping(sidecar.get("QC"))
    return SessionFacts(
        info,
        label,
        qc={**_numbers(info.qc), **_numbers(measured)},
        warnings=tuple(map(str, sidecar.get("Warnings", ()))),
        denoise=str(_mapping(sidecar.get("Denoise")).get("Strategy", "")),
        resampling=str(sidecar.get("TimeResampling", "")),
        gap=str(measured.get("gap", "")),
        recorded=_as_recorded(sidecar),
    )


@dataclass(frozen=True)
class SessionSeries:
    """What prep recorded of a session over time.

    Attributes
    ----------
    times : array
        (N,) seconds of the frames as they were recorded, before any resampling.
    traces : mapping of str to (N,) array
        `fd` (mm), `dvars` (SD) and `global_signal`, as far as known; NaN where undefined.
    flagged : array
        (M,) seconds of flagged frames.
    events : sequence of (float, str)
        Onset in seconds, and name.
    """

    times: _Floats = field(default_factory=lambda: np.empty(0))
    traces: Mapping[str, _Floats] = field(default_factory=dict)
    flagged: _Floats = field(default_factory=lambda: np.empty(0))
    events: Sequence[tuple[float, str]] = ()


def session_series(store: Store, key: str) -> SessionSeries:
    """Series and events from a session's sidecar; a trace that has no value, or not one per frame, is left out."""
    sidecar = store.sidecar(key)
    series = _mapping(sidecar.get("Series"))
    times = _floats(series.get("time_s", ()))
    traces = {name: _floats(series[name]) for name in _TRACES if name in series}
    flagged = [frame for frame in series.get("flagged", ()) if frame < len(times)]
    return SessionSeries(
        times,
        {name: values for name, values in traces.items() if len(values) == len(times) and np.isfinite(values).any()},
        times[flagged] if flagged else np.empty(0),
        [(float(event["onset"]), str(event.get("trial_type") or "event")) for event in sidecar.get("Events") or ()],
    )


def _floats(values: Sequence[float | None]) -> _Floats:
    """A recorded series as numbers, NaN where prep wrote None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def _as_recorded(sidecar: Mapping[str, Any]) -> tuple[float, int] | None:
    shape, tr = sidecar.get("SourceShape"), sidecar.get("SourceRepetitionTime")
    if isinstance(shape, list) and shape and isinstance(tr, (int, float)):
        return float(tr), int(shape[0])
    return None
