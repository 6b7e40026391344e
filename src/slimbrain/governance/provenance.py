"""What a model's weights cannot say: which data they may read and whom they were trained on.

A checkpoint remembers its participants without naming them, in two ways. A salted hash of cohort and label knows a person again in another
session. A signature of each recording (`governance.fingerprint`) knows it again under another label, in another cohort, or prepared anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain.config import WindowConfig
from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError
from slimbrain.governance.fingerprint import SIGNATURE_BITS_APART, SIGNATURE_DIGITS, nearest, signature
from slimbrain.grid import Grid
from slimbrain.progress import track
from slimbrain.store import Contract, SessionInfo, Store
from slimbrain.store.description import read_object
from slimbrain.store.subjects import HASH_DIGITS, is_hash, subject_hash

REMEMBERED = "participants"
"""Field of `training` that holds hashes and signatures."""

MODEL_FOLDER = "model"
"""Of a run: the model that came out."""

CONFIG_FILE = "config.json"
"""Of a model folder: it holds what is said here, under `training`."""

PEOPLE_FILE = "participants.json"
"""In a folder of results that are no model: whose they are, with the one field `REMEMBERED`."""

FOLDS_SUFFIX = ".folds"
"""How a folder of finished folds of fine-tuning ends; it has a `PEOPLE_FILE`."""

PRETRAINING_UNKNOWN = "pretraining_unknown"
"""Field of `training` of a model that was fine-tuned here and pretrained nobody knows on whom."""


@dataclass(frozen=True, order=True)
class Person:
    """One participant of a store.

    Attributes
    ----------
    label : str
        `sub-01`.
    cohort : str
        What `slimbrain prep` took the cohort to be; empty where it could not tell.
    recordings : tuple of str
        Signatures of its sessions.
    """

    label: str
    cohort: str = ""
    recordings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """A participant a model was trained on.

    Attributes
    ----------
    label : str
        `sub-01`.
    recording, known : str
        Signatures of the participant's recording and of the one that the model was trained on; empty where the name decided.
    bits : int or None
        By how many bits they differ; None where the name decided.
    """

    label: str
    recording: str = ""
    known: str = ""
    bits: int | None = None


@dataclass(frozen=True)
class Provenance:
    """Travels with every trained model.

    Attributes
    ----------
    contract : Contract
        Lattice, mask, space and TR of the training store.
    window : WindowConfig
        How sessions were cut.
    grid : Grid, optional
        The mask itself, so that the model can prepare new images; None for region-of-interest stores.
    training : mapping
        Counts, seed, steps, losses, as in config.json.
    weights_sha256 : str
        Of the file that the weights were read from; empty before they were saved.
    any_channels : bool
        Whether the model reads channels of any parcellation or grid, at any TR, as one with a connectome readout does.
    """

    contract: Contract
    window: WindowConfig
    grid: Grid | None
    training: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    any_channels: bool = False

    def require(self, contract: Contract, mine: str, theirs: str) -> None:
        """Refuse data that the model cannot read; see `Contract.require`."""
        if not self.any_channels:
            self.contract.require(contract, mine, theirs)

    @property
    def remembers(self) -> bool:
        """Whether it is known whom the model was pretrained on; it is not of the published weights, fine-tuned or not."""
        return not self.training.get(PRETRAINING_UNKNOWN) and bool(self.training.get(REMEMBERED))

    def trained_on(self, people: Collection[Person]) -> list[str]:
        """Labels of these participants whom the model was pretrained or fine-tuned on, sorted.

        Cohort and label decide, or a recording of theirs that the model was trained on under whatever name. Where the cohort is not
        known on one of the two sides, equal labels count: better a false alarm than a leak.

        Raises
        ------
        InputError
            If what the model remembers is damaged.
        """
        return trained_on(self.training, people)

    def matches(self, people: Collection[Person]) -> list[Match]:
        """As `trained_on`, with what each was recognised by."""
        return _matches_in(self.training, people)


def trained_on(training: Mapping[str, Any], people: Collection[Person]) -> list[str]:
    """As `Provenance.trained_on`, from what a checkpoint's config.json says of its training."""
    return [match.label for match in _matches_in(training, people)]


def _matches_in(training: Mapping[str, Any], people: Collection[Person]) -> list[Match]:
    """As `Provenance.matches`, from what a checkpoint's config.json says of its training; sorted, each label once.

    A participant whom both the name and a recording give away counts as recognised by name.
    """
    memory = _memory(training)
    full, unplaced, labels = (set(memory.get(name, ())) for name in ("persons", "unplaced", "labels"))
    found = _recognised(people, memory.get("recordings", []))
    for person in people:
        if subject_hash(person.label) in (unplaced if person.cohort else labels | unplaced) or (
            person.cohort and subject_hash(person.label, person.cohort) in full
        ):
            found[person.label] = Match(person.label)
    return [found[label] for label in sorted(found)]


def remember(people: Sequence[Person]) -> dict[str, list[str]]:
    """What a checkpoint keeps of those it was trained on.

    Returns
    -------
    `persons`: hashes of cohort and label; `labels`: of labels alone, for stores that do not know their cohort; `unplaced`: those
    labels whose cohort is not known here; `recordings`: signatures.
    """
    return {
        "persons": sorted({subject_hash(person.label, person.cohort) for person in people if person.cohort}),
        "labels": sorted({subject_hash(person.label) for person in people}),
        "unplaced": sorted({subject_hash(person.label) for person in people if not person.cohort}),
        "recordings": sorted({recording for person in people for recording in person.recordings if recording}),
    }


def remember_also(training: Mapping[str, Any], people: Sequence[Person]) -> dict[str, list[str]]:
    """What a checkpoint keeps once it was trained on these people as well.

    Raises
    ------
    InputError
        If what the model remembers is damaged.
    """
    before = _memory(training)
    return {name: sorted({*before.get(name, ()), *values}) for name, values in remember(people).items()}


def remember_beside(folder: Path, people: Sequence[Person]) -> None:
    """Say in a folder whose recordings went into its files; those whom it names already stay.

    Raises
    ------
    StoreError, InputError
        If what is there is damaged.
    """
    path = folder / PEOPLE_FILE
    before = read_object(path) if path.exists() else {}
    together = {REMEMBERED: remember_also(before, people)}
    if together != before:
        write_json(path, together)


def count_remembered(training: Mapping[str, Any]) -> int:
    """How many participants a model remembers; 0 if it does not say.

    Raises
    ------
    InputError
        If what the model remembers is damaged.
    """
    memory = _memory(training)
    return len(memory.get("persons", ())) + len(memory.get("unplaced", ()))


def remembered_hashes(training: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Hashes of a checkpoint's participants: one each (of cohort and label, or of the label where no cohort is known), and of all labels.

    Raises
    ------
    InputError
        If what the model remembers is damaged.
    """
    memory = _memory(training)
    return frozenset([*memory.get("persons", ()), *memory.get("unplaced", ())]), frozenset(memory.get("labels", ()))


def people_in(
    store: Store, sessions: Sequence[SessionInfo] | None = None, signature_of: Callable[[str], str] | None = None
) -> list[Person]:
    """Participants of these sessions, of all by default, with the signature of every session; reads the channel series, never voxels.

    A participant whose sessions name several cohorts (a merged store) is listed once for each.

    Parameters
    ----------
    signature_of : callable, optional
        The signature of a session by its key, where its series was read before.
    """
    signature_of = signature_of or (lambda key: signature(store.coarse(key)))
    recordings: dict[tuple[str, str], list[str]] = {}
    for info in track(store.sessions if sessions is None else sessions, "signatures"):
        recordings.setdefault((info.subject, store.cohort(info)), []).append(signature_of(info.key))
    return [Person(label, cohort, tuple(signatures)) for (label, cohort), signatures in recordings.items()]


def _memory(training: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a checkpoint says of its participants, if it is lists of hex."""
    kept = training.get(REMEMBERED) or {}
    fields = kept if isinstance(kept, dict) else {REMEMBERED: kept}
    for name, values in fields.items():
        width = SIGNATURE_DIGITS if name == "recordings" else HASH_DIGITS
        if not isinstance(values, list) or not all(is_hash(value, width) for value in values):
            raise InputError(f"config.json: {name}, by which the model remembers its participants, is damaged; export the model again.")
    return fields


def _recognised(people: Collection[Person], recordings: list[str]) -> dict[str, Match]:
    """Those of whom a recording is among `recordings`, by label, each with its closest."""
    owned = [(person.label, recording) for person in people for recording in person.recordings if recording]
    if not owned or not recordings:
        return {}
    found: dict[str, Match] = {}
    apart, place = nearest([recording for _, recording in owned], recordings)
    for (label, recording), bits, which in zip(owned, apart.tolist(), place.tolist(), strict=True):
        if bits <= SIGNATURE_BITS_APART and (label not in found or bits < (found[label].bits or 0)):
            found[label] = Match(label, recording, recordings[which], bits)
    return found
