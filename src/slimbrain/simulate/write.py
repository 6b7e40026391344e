"""A simulated cohort on disk: a BIDS derivative named the way fMRIPrep names its own, and truth.json beside it."""

from __future__ import annotations

import gzip
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from slimbrain import __version__
from slimbrain.disk.atomic import write_atomic, write_json, write_text
from slimbrain.disk.tsv import MISSING, format_tsv
from slimbrain.errors import InputError
from slimbrain.progress import track
from slimbrain.simulate.cohort import SPACE, TASK, CohortSpec, SessionTruth, Truth, draw_truth
from slimbrain.simulate.signals import Brain, SimulatedPerson, compose, draw_person, frames, load_brain
from slimbrain.store.description import COMMANDS
from slimbrain.store.records import GOVERNANCE_FILE

_FloatArray = npt.NDArray[Any]

_TRUTH_FILE = "truth.json"
_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_HEAD_RADIUS_MM = 50.0
"""Turns a rotation into the millimetres it moves the cortex (Power et al. 2012), as framewise displacement counts it."""
_STEP_MM = 0.02
_SPIKE_MM = (0.6, 1.2)
_TISSUE_MM = {"csf": ((8.0, -14.0, 20.0), (-8.0, -14.0, 20.0)), "white_matter": ((26.0, -20.0, 30.0), (-26.0, -20.0, 30.0))}
"""Where the confound signals are read: in the lateral ventricles and the centrum semiovale."""
_TISSUE_RADIUS_MM = 9.0
_COSINE_SECONDS = 128.0

_PARTICIPANTS = {
    "participant_id": {"Description": "Participant"},
    "site": {"Description": "Scanner"},
    "group": {"Description": "Planted two-class trait", "Levels": {"A": "slow, loosely coupled", "B": "fast, tightly coupled"}},
    "score": {"Description": "Planted continuous trait, standard normal"},
    "age": {"Description": "Not related to the images", "Units": "year"},
    "sex": {"Description": "Not related to the images", "Levels": {"F": "female", "M": "male"}},
}
_CONFOUNDS = {
    "framewise_displacement": {"Description": "Power et al. 2012, head of 50 mm", "Units": "mm"},
    "dvars": {"Description": "Root mean square over the mask of the change since the frame before"},
    "std_dvars": {"Description": "dvars over its median"},
}
_GOVERNANCE = """# What may be done with these data, for `slimbrain prep` (docs/ledger.md).
cohort: simulated cohort, seed {seed}
source: slimbrain simulate --seed {seed}
license: CC0-1.0
consent: [broad-research]
"""
_README = """# A simulated cohort

Not recordings: made by `slimbrain simulate`. The images carry planted identities, traits, events, motion spikes and site
effects, all listed in truth.json; the signal model is documented in `slimbrain.simulate`. Free to use for any purpose.
"""


def simulate_cohort(out: str | Path, spec: CohortSpec | None = None, mask: str | PathLike[str] | None = None, command: str = "") -> Truth:
    """Write a cohort with known truth as a BIDS derivative; a stopped run resumes where it stopped.

    Parameters
    ----------
    out : str or Path
        Folder to write to; new, empty, or holding the same cohort, whole or in part.
    spec : CohortSpec or None
        What to simulate; the default is 24 people of two sessions at 8 mm.
    mask : str or PathLike or None
        Brain mask in MNI152 space (NIfTI); default is the one that nilearn carries.
    command : str
        Command line to record in the cohort's description, if any.

    Returns
    -------
    Truth
        What was planted, as in `out`/truth.json.

    Raises
    ------
    InputError
        If `out` holds another dataset, the mask cannot be used, or the events and spikes asked for do not fit.

    Examples
    --------
    >>> from slimbrain.simulate import CohortSpec, simulate_cohort
    >>> truth = simulate_cohort("simulated", CohortSpec(subjects=1, sessions=1, frames=32, events_per_session=1, spikes_per_session=0))
    >>> [session.key for session in truth.sessions]
    ['sub-001_task-rest_space-MNI152NLin6Asym']
    """
    out, spec = Path(out), spec or CohortSpec()
    _require_own_folder(out, spec)
    truth, brain = draw_truth(spec), load_brain(spec, mask)
    _write_description(out, truth, command)
    places = [(number, visit) for number in range(spec.subjects) for visit in range(spec.sessions)]
    person, drawn = None, -1
    for (number, visit), session in track(list(zip(places, truth.sessions, strict=True)), "simulate"):
        if _session_file(out, spec, session).exists():
            continue
        if person is None or drawn != number:
            person, drawn = draw_person(truth, number, brain), number
        _write_session(out, truth, person, session, brain, (number, visit))
    return truth


def load_truth(path: str | Path) -> Truth:
    """Read what was planted in a simulated cohort.

    Parameters
    ----------
    path : str or Path
        `truth.json`, or the folder it is in.

    Returns
    -------
    Truth
        The specification, and networks, people and sessions with their events and spikes.

    Raises
    ------
    InputError
        If there is none or it is damaged.

    Examples
    --------
    >>> from slimbrain.simulate import load_truth
    >>> load_truth("fmriprep").spec.frames
    32
    """
    path = Path(path)
    path = path / _TRUTH_FILE if path.is_dir() else path
    try:
        return Truth.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a folder that `slimbrain simulate` wrote.") from error
    except ValidationError as error:
        raise InputError(f"{path}: is no truth of a cohort ({error.errors()[0]['msg']}); run `slimbrain simulate` again.") from error


def _session_file(out: Path, spec: CohortSpec, session: SessionTruth) -> Path:
    """Where a session's preprocessed BOLD image goes."""
    return _folder(out, session) / f"{_stem(spec, session)}_desc-preproc_bold.nii.gz"


def _folder(out: Path, session: SessionTruth) -> Path:
    return out / session.subject / session.session / "func"


def _stem(spec: CohortSpec, session: SessionTruth) -> str:
    return f"{session.key}_res-{f'{spec.voxel_mm:g}'.replace('.', 'p')}"


def _require_own_folder(out: Path, spec: CohortSpec) -> None:
    if (out / _TRUTH_FILE).exists():
        if load_truth(out).spec != spec:
            raise InputError(f"{out}: holds a cohort simulated with other settings; name a new folder or delete this one.")
    elif (out / "dataset_description.json").exists():
        raise InputError(f"{out}: holds a dataset that was not simulated; name a new folder.")


def _write_description(out: Path, truth: Truth, command: str) -> None:
    """The files at the root. The truth goes first: it marks the folder as a simulated cohort."""
    write_json(out / _TRUTH_FILE, truth.model_dump(mode="json"))
    write_json(
        out / "dataset_description.json",
        {
            # The seed makes the people: those of another cohort are others.
            "Name": f"Simulated cohort, seed {truth.spec.seed}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": [{"Name": "slimbrain simulate", "Version": __version__, **({COMMANDS: [command]} if command else {})}],
        },
    )
    write_text(out / GOVERNANCE_FILE, _GOVERNANCE.format(seed=truth.spec.seed))
    columns = tuple(_PARTICIPANTS)
    rows = [{**subject.model_dump(), "participant_id": subject.subject} for subject in truth.subjects]
    write_text(out / "participants.tsv", format_tsv(columns, rows))
    write_json(out / "participants.json", _PARTICIPANTS)
    write_text(out / "README.md", _README)
    write_text(out / ".bidsignore", f"{_TRUTH_FILE}\n{GOVERNANCE_FILE}\n")


def _write_session(out: Path, truth: Truth, person: SimulatedPerson, session: SessionTruth, brain: Brain, place: tuple[int, int]) -> None:
    """All files of one session. The image comes last: where it exists, the session is complete."""
    spec = truth.spec
    signal = compose(truth, person, truth.subjects[place[0]], session, brain, place)
    motion = _draw_motion(spec, person, session, signal.rng)
    series = np.empty((spec.frames, len(brain.mm)), dtype=np.int16)
    start = 0
    for part in frames(signal, spec, brain):
        series[start : start + len(part)] = np.clip(np.rint(part), 0, np.iinfo(np.int16).max)
        start += len(part)
    image = _session_file(out, spec, session)
    run = image.with_name(session.key.removesuffix(f"_space-{SPACE}"))
    _write_confounds(run.with_name(f"{run.name}_desc-confounds_timeseries.tsv"), spec, motion, series, brain)
    _write_events(run.with_name(f"{run.name}_events.tsv"), session)
    mask = image.with_name(f"{_stem(spec, session)}_desc-brain_mask.nii.gz")
    write_json(_json_of(mask), {"Type": "Brain", "Resolution": _resolution(spec), "RawSources": []})
    _write_image(mask, brain.mask.astype(np.uint8), brain.affine, spec)
    write_json(_json_of(image), _sidecar(spec))
    _write_image(image, _dense(series, brain), brain.affine, spec)


def _dense(series: npt.NDArray[Any], brain: Brain) -> npt.NDArray[Any]:
    """Mask voxels (T, V) into the box (X, Y, Z, T), in NIfTI's order on disk: x fastest, time slowest."""
    volume = np.zeros((len(series), *brain.mask.shape[::-1]), dtype=series.dtype).T
    volume[brain.mask] = series.T
    return volume


def _json_of(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def _resolution(spec: CohortSpec) -> str:
    return f"{spec.voxel_mm:g} mm isotropic"


def _sidecar(spec: CohortSpec) -> dict[str, Any]:
    return {
        "RepetitionTime": spec.tr,
        "TaskName": TASK,
        "SkullStripped": True,
        "SpatialReference": SPACE,
        "Resolution": _resolution(spec),
        "Sources": [],
    }


def _write_image(path: Path, data: npt.NDArray[Any], affine: _FloatArray, spec: CohortSpec) -> None:
    """Write (X, Y, Z[, T]) gzipped without a time stamp, so that equal images are equal files."""
    if spec.orientation == "LAS":
        data, affine = data[::-1], affine @ np.array([[-1.0, 0, 0, data.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    if data.ndim == 4:
        image.header.set_zooms((*[spec.voxel_mm] * 3, spec.tr))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
            image.to_stream(packed)

    write_atomic(path, write)


def _draw_motion(spec: CohortSpec, person: SimulatedPerson, session: SessionTruth, rng: np.random.Generator) -> _FloatArray:
    """Head position (T, 6) in mm and radians: small drifting steps, and at every spoilt frame a jump that stays."""
    steps = person.restless * _STEP_MM * rng.standard_normal((spec.frames, 6))
    for frame in session.spikes:
        share = rng.dirichlet(np.ones(6))
        steps[frame] = rng.uniform(*_SPIKE_MM) * share * rng.choice([-1.0, 1.0], 6)
    position: _FloatArray = np.cumsum(steps, axis=0)
    position[:, 3:] /= _HEAD_RADIUS_MM
    return position


def _tissue(brain: Brain, name: str) -> _FloatArray:
    """Weights (V,) that average the voxels of a tissue; of the whole mask where it holds none of them."""
    near = np.zeros(len(brain.mm), dtype=bool)
    for centre in _TISSUE_MM.get(name, ()):
        near |= np.linalg.norm(brain.mm - centre, axis=1) <= _TISSUE_RADIUS_MM
    near = near if near.any() else np.ones_like(near)
    weights: _FloatArray = near / near.sum()
    return weights


def _write_confounds(path: Path, spec: CohortSpec, motion: _FloatArray, series: npt.NDArray[Any], brain: Brain) -> None:
    """Confounds under fMRIPrep's names, with the expansions that nilearn's confound strategies need."""
    tissues = np.stack([_tissue(brain, name) for name in ("all", *_TISSUE_MM)])
    values = series.astype(np.float32)
    table: dict[str, _FloatArray] = dict(zip(("global_signal", *_TISSUE_MM), (values @ tissues.T.astype(np.float32)).T, strict=True))
    table |= dict(zip(_MOTION, motion.T, strict=True))
    for name in tuple(table):
        table[f"{name}_derivative1"] = _after_first(np.diff(table[name]))
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    table["framewise_displacement"] = _after_first(np.abs(np.diff(motion, axis=0)) @ np.array([1.0] * 3 + [_HEAD_RADIUS_MM] * 3))
    dvars = np.sqrt(np.mean(np.diff(values, axis=0) ** 2, axis=1))
    table["dvars"], table["std_dvars"] = _after_first(dvars), _after_first(dvars / np.median(dvars))
    # The discrete cosines of fMRIPrep's high-pass filter: all slower than 128 s.
    for order in range(1, int(2 * spec.frames * spec.tr / _COSINE_SECONDS) + 1):
        phase = np.pi * order * (np.arange(spec.frames) + 0.5) / spec.frames
        table[f"cosine{order - 1:02d}"] = np.sqrt(2 / spec.frames) * np.cos(phase)
    rows = [dict(zip(table, map(_number, row), strict=True)) for row in zip(*table.values(), strict=True)]
    write_text(path, format_tsv(tuple(table), rows))
    write_json(path.with_suffix(".json"), _CONFOUNDS)


def _after_first(values: _FloatArray) -> _FloatArray:
    """A course of differences, with no value for the first frame."""
    return np.concatenate([[np.nan], values])


def _number(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.8g}"


def _write_events(path: Path, session: SessionTruth) -> None:
    rows = [{"onset": event.onset_s, "duration": event.duration_s, "trial_type": event.kind} for event in session.events]
    write_text(path, format_tsv(("onset", "duration", "trial_type"), rows))
