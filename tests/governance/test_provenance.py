"""Whom a checkpoint remembers: the person of a cohort and the recording under any name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimbrain.config import WindowConfig
from slimbrain.errors import InputError
from slimbrain.governance.fingerprint import signature
from slimbrain.governance.provenance import REMEMBERED, Person, Provenance, people_in, remember
from slimbrain.store import Channels, Contract, Store
from slimbrain.store.description import COHORT
from slimbrain.store.subjects import subject_hash
from slimbrain.store.write import write_roi_session


def model_of(**training: Any) -> Provenance:
    return Provenance(Contract("roi", "", "roi", 1.0), WindowConfig(), None, training)


def trained_on(*people: Person) -> Provenance:
    return model_of(**{REMEMBERED: remember(people)})


def heard(seed: int) -> str:
    return signature(np.random.default_rng(seed).normal(size=(200, 10)))


def test_the_same_label_of_another_cohort_is_another_person() -> None:
    model = trained_on(Person("sub-01", "a"), Person("sub-02", "b"))
    assert model.trained_on([Person("sub-01", "a"), Person("sub-02", "b")]) == ["sub-01", "sub-02"]
    assert model.trained_on([Person("sub-01", "b"), Person("sub-02", "a"), Person("sub-03", "a")]) == []


def test_padding_does_not_make_another_person() -> None:
    assert trained_on(Person("sub-0051456", "abide")).trained_on([Person("sub-51456", "abide")]) == ["sub-51456"]
    assert trained_on(Person("sub-100", "a")).trained_on([Person("sub-1", "a")]) == []


@pytest.mark.parametrize(("there", "here"), [("", "a"), ("a", ""), ("", "")])
def test_equal_labels_count_where_a_cohort_is_not_known(there: str, here: str) -> None:
    model = trained_on(Person("sub-01", there))
    assert model.trained_on([Person("sub-01", here), Person("sub-02", here)]) == ["sub-01"]


def test_a_recording_is_known_under_another_name() -> None:
    model = trained_on(Person("sub-01", "a", (heard(1), heard(2))), Person("sub-02", "a", (heard(3),)))
    assert model.trained_on([Person("sub-99", "b", (heard(7), heard(2))), Person("sub-98", "b", (heard(8),))]) == ["sub-99"]


def test_a_recording_without_change_is_nobodys() -> None:
    assert trained_on(Person("sub-01", "a", ("",))).trained_on([Person("sub-02", "b", ("",))]) == []


def test_a_hash_is_the_same_in_every_version() -> None:
    """Models that were given away hold them."""
    assert subject_hash("sub-01") == "fe5528b26b16d22f"


def test_a_model_that_names_nobody_remembers_nothing() -> None:
    assert trained_on(Person("sub-01")).remembers and not model_of(stage="voxel").remembers


@pytest.mark.parametrize(
    "memory", [{"persons": "abc"}, {"persons": [1]}, {"labels": {"a": 1}}, {"recordings": ["zz"]}, {"unplaced": ["sub-01"]}, "x", [1]]
)
def test_a_damaged_memory_is_refused(memory: Any) -> None:
    with pytest.raises(InputError, match="by which the model remembers its participants, is damaged"):
        model_of(**{REMEMBERED: memory}).trained_on([Person("sub-01", "", (heard(1),))])


def test_names_are_not_told() -> None:
    kept = remember([Person("sub-Anna", "secret study", (heard(1),))])
    assert not any(word in str(kept).casefold() for word in ("anna", "secret", "sub-"))


def test_people_of_a_store_have_cohort_and_recordings(tmp_path: Path) -> None:
    store = Store.create(tmp_path, None, 1.0)
    rng = np.random.default_rng(0)
    for subject, session, cohort in (("01", "1", "a"), ("01", "2", "a"), ("02", "1", None)):
        entities, series = {"sub": subject, "ses": session}, rng.normal(size=(150, 4)).astype(np.float32)
        sidecar = {COHORT: cohort} if cohort else {}
        write_roi_session(store, entities, series, Channels(tuple("abcd"), np.zeros((4, 3))), 1.0, sidecar=sidecar)
    first, second = people_in(store)
    assert (first.label, first.cohort, len(set(first.recordings))) == ("sub-01", "a", 2) and (second.label, second.cohort) == ("sub-02", "")
    assert people_in(store, store.sessions[:1])[0].recordings == first.recordings[:1]
