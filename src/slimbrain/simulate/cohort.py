"""Specification and truth of a simulated cohort: people, traits, places, events, spikes."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slimbrain.config import Config
from slimbrain.errors import InputError
from slimbrain.store.manifest import session_key

_FloatArray = npt.NDArray[Any]
_Point = tuple[float, float, float]

SPACE = "MNI152NLin6Asym"
TASK = "rest"

_EVENT_SECONDS = 2.0
RESPONSE_SECONDS = 12.0
"""From onset until the response has come back to its baseline, before the undershoot."""
_EVENT_GAP_SECONDS = 16.0
_SPIKE_GAP_FRAMES = 6

MOST_FRAMES = 20_000
"""Four hours at 0.72 s; a session is held in memory as a whole."""

GROUP_NETWORKS = ("default", "control")
SCORE_NETWORKS = ("salience", "limbic")
_PLANTED_COUPLING = 0.35
"""A planted pair is coupled by this much on average, and by this much more or less at a trait strength of 1."""
_PLANTED_CUTOFF_HZ = 0.07
_PLANTED_OCTAVES = 1.1
OTHER_CUTOFF_HZ = 0.07


class CohortSpec(Config):
    """What to simulate. The same values give the same files; subject i does not depend on how many there are.

    Parameters
    ----------
    subjects, sessions, frames : int
        How many participants, sessions of each, and frames of each session.
    first : int
        Number of the first participant, so that cohorts can be merged.
    tr : float
        Seconds per frame.
    voxel_mm : float
        Side of a voxel.
    networks : int
        Networks of the brain, each with its map and time course.
    events_per_session : int
        Bursts of about 10 s at known places.
    spikes_per_session : int
        Jumps of the whole image for one or two frames, as of motion.
    sites : int
        Scanners; each is smoother, noisier and brighter than the one before.
    snr : float
        Network over noise, in standard deviations, where a network is strongest.
    event_amplitude : float
        Peak of an event in the voxel's own standard deviations.
    trait_strength : float
        How much group and score, the two traits, change the brain; 0 plants none, 1 is easy.
    identity_strength : float
        How much people differ in coupling and layout.
    site_strength : float
        How much sites differ.
    orientation : str
        `RAS` or `LAS`, the handedness of the stored array.
    seed : int
        Of everything that is drawn.

    Examples
    --------
    >>> CohortSpec(subjects=2, sessions=1, frames=64).tr
    0.72
    """

    subjects: int = Field(default=24, ge=1, le=999)
    first: int = Field(default=1, ge=1, le=9000)
    sessions: int = Field(default=2, ge=1, le=99)
    frames: int = Field(default=200, ge=8, le=MOST_FRAMES)
    tr: float = Field(default=0.72, gt=0)
    voxel_mm: float = Field(default=8.0, ge=1.0, le=16.0)
    networks: int = Field(default=7, ge=6, le=10)
    events_per_session: int = Field(default=6, ge=0)
    spikes_per_session: int = Field(default=3, ge=0)
    sites: int = Field(default=2, ge=1, le=5)
    snr: float = Field(default=2.0, gt=0)
    event_amplitude: float = Field(default=2.5, ge=0)
    trait_strength: float = Field(default=1.0, ge=0, le=2)
    identity_strength: float = Field(default=1.0, ge=0, le=3)
    site_strength: float = Field(default=1.0, ge=0, le=3)
    orientation: Literal["RAS", "LAS"] = Field(default="RAS")
    seed: int = Field(default=0, ge=0)


class Place(Config):
    """A set of Gaussian blobs: exp(-distance^2 / (2 sigma^2)) around each centre."""

    name: str
    centres_mm: tuple[_Point, ...] = Field(description="MNI")
    sigma_mm: float


class Event(Config):
    """One activation. Its response is highest at `peak_s` and back at the baseline 12 s after the onset."""

    onset_s: float
    duration_s: float
    peak_s: float
    kind: str = Field(description="name of a place in `Truth.event_places`")
    amplitude: float = Field(description="peak in the voxel's own standard deviations")


class SessionTruth(Config):
    """What was planted in one session."""

    key: str = Field(description="the name the session gets in a store")
    subject: str
    session: str
    events: tuple[Event, ...]
    spikes: tuple[int, ...] = Field(description="every frame that motion spoilt")

    def events_per_window(self, window_frames: int, tr: float, n_windows: int) -> npt.NDArray[np.int64]:
        """How many responses peak in each window: (n_windows,) counts, windows from frame 0 without overlap."""
        windows = [int(event.peak_s // (window_frames * tr)) for event in self.events]
        return np.bincount([window for window in windows if window < n_windows], minlength=n_windows)


class SubjectTruth(Config):
    """One person: the row of participants.tsv, and the planted values behind group and score."""

    subject: str
    site: str
    group: Literal["A", "B"]
    score: float
    age: int
    sex: Literal["F", "M"]
    group_coupling: float = Field(description="correlation asked for between the two group networks")
    group_cutoff_hz: float
    score_coupling: float
    score_cutoff_hz: float


class Truth(Config):
    """Everything planted in a cohort, as in truth.json."""

    spec: CohortSpec
    networks: tuple[Place, ...]
    group_networks: tuple[str, str] = GROUP_NETWORKS
    score_networks: tuple[str, str] = SCORE_NETWORKS
    event_places: tuple[Place, ...]
    subjects: tuple[SubjectTruth, ...]
    sessions: tuple[SessionTruth, ...]

    def session(self, key: str) -> SessionTruth:
        """The session called `key`; InputError if there is none."""
        return _named(self.sessions, "key", key)

    def subject(self, name: str) -> SubjectTruth:
        """The person called `name` (sub-001); InputError if there is none."""
        return _named(self.subjects, "subject", name)

    def network(self, name: str) -> Place:
        """The network called `name`; InputError if there is none."""
        return _named(self.networks, "name", name)

    def event_place(self, name: str) -> Place:
        """Where events of the kind `name` happen; InputError if there is none."""
        return _named(self.event_places, "name", name)


def _named(values: tuple[Any, ...], field: str, name: str) -> Any:
    for value in values:
        if getattr(value, field) == name:
            return value
    raise InputError(f"The cohort's truth has no {name}; it has {', '.join(getattr(value, field) for value in values[:3])} and so on.")


def _both_sides(*right: _Point) -> tuple[_Point, ...]:
    """Points and their mirror images across the midline; a point on the midline is its own."""
    return tuple(dict.fromkeys(side for x, y, z in right for side in ((x, y, z), (-x, y, z))))


_NETWORKS = (
    Place(name="visual", centres_mm=_both_sides((0, -84, 4), (26, -88, 12), (34, -74, -10)), sigma_mm=13.0),
    Place(name="somatomotor", centres_mm=_both_sides((42, -22, 54), (0, -14, 60), (54, -8, 30)), sigma_mm=13.0),
    Place(name="default", centres_mm=_both_sides((0, -54, 28), (0, 52, 4), (46, -64, 32), (58, -16, -18)), sigma_mm=13.0),
    Place(name="control", centres_mm=_both_sides((42, 32, 24), (42, -50, 48), (30, 54, 2), (0, 24, 46)), sigma_mm=13.0),
    Place(name="salience", centres_mm=_both_sides((36, 18, 2), (0, 16, 34), (56, -40, 32)), sigma_mm=12.0),
    Place(name="limbic", centres_mm=_both_sides((30, 6, -30), (16, 32, -18), (24, -14, -20)), sigma_mm=12.0),
    Place(name="dorsal_attention", centres_mm=_both_sides((24, -60, 58), (26, -4, 54), (48, -60, -8)), sigma_mm=12.0),
    Place(name="auditory", centres_mm=_both_sides((52, -20, 8), (58, 2, -2)), sigma_mm=12.0),
    Place(name="cerebellar", centres_mm=_both_sides((28, -64, -36), (0, -60, -24)), sigma_mm=13.0),
    Place(name="subcortical", centres_mm=_both_sides((10, -18, 8), (22, 4, 4)), sigma_mm=11.0),
)
"""Rough places of the networks that resting-state studies agree on. Those that carry a trait come first."""

_EVENT_PLACES = (
    Place(name="picture", centres_mm=_both_sides((36, -70, -10), (10, -90, 2), (26, -86, 18)), sigma_mm=16.0),
    Place(name="movement", centres_mm=_both_sides((40, -20, 56), (0, -4, 58), (20, -54, -24)), sigma_mm=16.0),
    Place(name="sound", centres_mm=_both_sides((54, -20, 8), (58, 0, -4), (46, -28, 12)), sigma_mm=16.0),
)


def stream(seed: int, *place: int) -> np.random.Generator:
    """Random numbers that belong to one place in the cohort, however much else is drawn."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


_BLOCK, PERSON, _SCHEDULE, LAYOUT, SIGNAL = range(5)
"""First number of a random stream's key: its purpose."""


def draw_truth(spec: CohortSpec) -> Truth:
    """Draw everything that is planted; no image is made.

    Raises
    ------
    InputError
        If the events or spikes asked for do not fit into a session.
    """
    require_frames(spec)
    subjects = tuple(_draw_subject(spec, number) for number in range(spec.subjects))
    sessions = tuple(_draw_session(spec, number, visit) for number in range(spec.subjects) for visit in range(spec.sessions))
    return Truth(spec=spec, networks=_NETWORKS[: spec.networks], event_places=_EVENT_PLACES, subjects=subjects, sessions=sessions)


def require_frames(spec: CohortSpec) -> None:
    """Refuse sessions too short for the events that are to be planted in each.

    Raises
    ------
    InputError
        Then, with the number of frames in which events and spikes always find room.
    """
    if spec.events_per_session and _event_slack_s(spec) <= 0:
        raise InputError(
            f"{spec.events_per_session} events, {_EVENT_GAP_SECONDS:g} s apart, do not fit into {spec.frames} frames of {spec.tr:g} s; "
            f"--frames {_ample_frames(spec)} is enough."
        )


def _event_slack_s(spec: CohortSpec) -> float:
    """Seconds by which the onsets of all events can be moved."""
    return spec.frames * spec.tr - RESPONSE_SECONDS - _EVENT_GAP_SECONDS * (spec.events_per_session - 1)


def _ample_frames(spec: CohortSpec) -> int:
    """Frames in which all events fit, and all spikes beside them wherever they fall."""
    for_events = (RESPONSE_SECONDS + _EVENT_GAP_SECONDS * (spec.events_per_session - 1)) / spec.tr
    taken_by_events = spec.events_per_session * (math.ceil(RESPONSE_SECONDS / spec.tr) + 3)
    taken_by_spikes = 2 * _SPIKE_GAP_FRAMES * spec.spikes_per_session
    return max(math.floor(for_events) + 1, taken_by_events + taken_by_spikes + _SPIKE_GAP_FRAMES + 2)


def _draw_subject(spec: CohortSpec, number: int) -> SubjectTruth:
    """Group and site come in shuffled blocks, each holding every combination once: balanced, whatever the number."""
    combinations = 2 * spec.sites
    block, within = divmod(number, combinations)
    site, group = divmod(int(stream(spec.seed, _BLOCK, block).permutation(combinations)[within]), 2)
    rng = stream(spec.seed, PERSON, number)
    score = float(np.round(np.clip(rng.standard_normal(), -2.5, 2.5), 3))
    side, graded = spec.trait_strength * (2 * group - 1), spec.trait_strength * float(np.tanh(score))
    return SubjectTruth(
        subject=f"sub-{number + spec.first:03d}",
        site=f"site{site + 1}",
        group="B" if group else "A",
        score=score,
        age=int(rng.integers(20, 71)),
        sex="M" if rng.integers(2) else "F",
        group_coupling=_planted_coupling(side),
        group_cutoff_hz=_planted_cutoff(side),
        score_coupling=_planted_coupling(graded),
        score_cutoff_hz=_planted_cutoff(graded),
    )


def _planted_coupling(strength: float) -> float:
    return round(float(np.clip(_PLANTED_COUPLING * (1 + strength), -0.8, 0.8)), 4)


def _planted_cutoff(strength: float) -> float:
    return round(_PLANTED_CUTOFF_HZ * 2 ** (_PLANTED_OCTAVES * strength), 5)


def _draw_session(spec: CohortSpec, number: int, visit: int) -> SessionTruth:
    rng = stream(spec.seed, _SCHEDULE, number, visit)
    entities = {"sub": f"{number + spec.first:03d}", "task": TASK, "space": SPACE}
    if spec.sessions > 1:
        entities["ses"] = str(visit + 1)
    key = session_key(entities)
    events = _draw_events(spec, rng)
    spikes = _draw_spikes(spec, events, rng, key)
    session = f"ses-{visit + 1}" if spec.sessions > 1 else ""
    return SessionTruth(key=key, subject=f"sub-{number + spec.first:03d}", session=session, events=events, spikes=spikes)


def _draw_events(spec: CohortSpec, rng: np.random.Generator) -> tuple[Event, ...]:
    """Onsets at least 16 s apart, early enough for the whole response; a uniform draw among all such schedules."""
    count = spec.events_per_session
    if count == 0:
        return ()
    onsets = np.sort(rng.uniform(0, _event_slack_s(spec), count)) + _EVENT_GAP_SECONDS * np.arange(count)
    times = np.arange(0, RESPONSE_SECONDS, 0.01)
    peak = float(times[np.argmax(response(times))])
    return tuple(
        Event(
            onset_s=round(float(onset), 3),
            duration_s=_EVENT_SECONDS,
            peak_s=round(float(onset) + peak, 3),
            kind=_EVENT_PLACES[int(rng.integers(len(_EVENT_PLACES)))].name,
            amplitude=round(float(spec.event_amplitude * rng.uniform(0.85, 1.15)), 3),
        )
        for onset in onsets
    )


def _draw_spikes(spec: CohortSpec, events: tuple[Event, ...], rng: np.random.Generator, key: str) -> tuple[int, ...]:
    """Frames of one- and two-frame spikes, away from each other and from every response."""
    times = spec.tr * np.arange(spec.frames)
    free = np.arange(spec.frames) >= _SPIKE_GAP_FRAMES
    free[-2:] = False
    for event in events:
        free &= (times < event.onset_s - 2 * spec.tr) | (times > event.onset_s + RESPONSE_SECONDS)
    spoilt: list[int] = []
    for _ in range(spec.spikes_per_session):
        if not free.any():
            raise InputError(
                f"{key}: {spec.spikes_per_session} motion spikes find no room beside {len(events)} events in {spec.frames} frames; "
                f"--frames {_ample_frames(spec)} is enough."
            )
        first = int(rng.choice(np.flatnonzero(free)))
        spoilt.extend(range(first, first + int(rng.integers(1, 3))))
        free[max(0, first - _SPIKE_GAP_FRAMES) : first + _SPIKE_GAP_FRAMES] = False
    return tuple(sorted(spoilt))


def response(since_onset_s: _FloatArray) -> _FloatArray:
    """Haemodynamic response to a two-second burst, peak 1: the burst convolved with t^5 e^-t / 5! - t^15 e^-t / (6 * 15!).

    The difference of gammas is the usual canonical shape; its integral has a closed form, so no convolution is sampled.
    """
    shape = _gamma_step(since_onset_s) - _gamma_step(since_onset_s - _EVENT_SECONDS)
    fine = np.arange(0, RESPONSE_SECONDS, 0.01)
    return shape / np.max(_gamma_step(fine) - _gamma_step(fine - _EVENT_SECONDS))


def _gamma_step(times_s: _FloatArray) -> _FloatArray:
    """Integral of the difference of gammas up to each time."""
    times = np.maximum(times_s, 0.0)
    return _gamma_below(times, 6) - _gamma_below(times, 16) / 6


def _gamma_below(times: _FloatArray, order: int) -> _FloatArray:
    """Distribution function of a gamma variable of whole `order` and scale 1: 1 - e^-t sum_{i < order} t^i / i!."""
    term, total = np.ones_like(times), np.ones_like(times)
    for index in range(1, order):
        term = term * times / index
        total = total + term
    return 1.0 - np.exp(-times) * total
