"""Terms of sessions: read from a file, carried by stores and copies, changed at one moment, unknown where nobody said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_samples import CLOSED, OPEN, make

from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError, StoreError
from slimbrain.governance.query import set_governance
from slimbrain.prep import PrepOptions
from slimbrain.prep.declared import declare
from slimbrain.store import Store
from slimbrain.store import records as governance
from slimbrain.store.manifest import LEDGER_COLUMNS
from slimbrain.store.merge import merge, subset
from slimbrain.store.records import RECORDS_FILE, Governance, read_governance, strictest_record
from slimbrain.store.select import Choice, choose_sessions
from slimbrain.store.terms import strictest
from slimbrain.store.verify import verify
from slimbrain.store.write import assign


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "governance.yaml"
    path.write_text(text)
    return path


# --- the file


def test_a_file_is_read_whichever_way_it_is_written(tmp_path: Path) -> None:
    text = "cohort: my study\nlicense: cc-by-4.0\nconsent: no-commercial, broad-research\nnot_for: [insurers]\nsource: 10.5/x\n"
    record = read_governance(yaml_file(tmp_path, text))
    assert record.model_dump() == {
        "cohort": "my study",
        "source": "10.5/x",
        "licence": "CC-BY-4.0",
        "consent": ("broad-research", "no-commercial"),
        "not_for": ("insurers",),
    }
    assert record == read_governance(yaml_file(tmp_path, text.replace("license", "licence")))


@given(st.permutations(range(4)), st.data())
def test_the_strictest_of_several_records_is_as_strict_as_all_together(order: list[int], data: st.DataObject) -> None:
    licences = st.sampled_from(["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "unknown"])
    consents = st.sampled_from([["broad-research"], ["no-commercial"], ["no-commercial", "no-derivatives"], ["unknown"]])
    said = st.builds(lambda licence, consent: Governance(cohort="c", licence=licence, consent=consent), licences, consents)
    records = data.draw(st.lists(said, min_size=4, max_size=4))
    found, turned = strictest_record(records), strictest_record([records[place] for place in order])
    joint = strictest(record.terms for record in records)
    if found is None:
        assert turned is None and all(record.terms != joint for record in records)
    else:
        assert turned is not None and found.terms == turned.terms == joint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("licnse: MIT\n", r"licnse: is no entry; there are cohort, source, licence, consent, not_for\.$"),
        ("license: my own\n", r"licence: 'my own' is no licence of the SPDX list"),
        ("consent: [non-commercial]\n", r"consent: 'non-commercial' looks like no-commercial, misspelt"),
        ("cohort: 7\n", "cohort: must be text, not 7"),
        ("license: MIT\nlicence: CC0-1.0\n", "license: is no entry"),
        ("- a\n", "the file as a whole"),
        ("", "the file as a whole"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_governance(yaml_file(tmp_path, text))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


def test_options_stand_over_the_file_and_the_file_is_found(tmp_path: Path) -> None:
    derivative = tmp_path / "raw" / "derivatives" / "fmriprep"
    derivative.mkdir(parents=True)
    yaml_file(tmp_path / "raw", "cohort: a\nlicense: MIT\n")
    said = declare(derivative, PrepOptions(license="CC0-1.0"))
    assert (said.record.cohort, said.record.licence, said.given) == ("a", "CC0-1.0", {"cohort", "licence"})
    assert declare(tmp_path, PrepOptions()).record == Governance()
    with pytest.raises(InputError, match=r"^--license: licence: 'x y' is no licence"):
        declare(tmp_path, PrepOptions(license="x y"))


def test_another_record_has_another_name() -> None:
    values = ({}, {"cohort": "a"}, {"licence": "MIT"}, {"consent": ("no-commercial",)}, {"not_for": ("b",)})
    records = [Governance.model_validate(value) for value in values]
    assert len({record.name for record in records}) == len(records)


# --- in a store


def test_the_manifest_can_be_filtered_by_terms(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN, "02": CLOSED})
    rows = {row["participant_id"]: [row[name] for name in LEDGER_COLUMNS[:3]] for row in read_tsv(store.root / "sessions.tsv")}
    assert rows == {"sub-01": ["open study", "CC0-1.0", "broad-research"], "sub-02": ["closed study", "CC-BY-NC-4.0", "no-commercial"]}
    chosen = choose_sessions(store, Choice(where=["licence == 'CC0-1.0'"]))
    assert {info.subject for info in chosen} == {"sub-01"}
    assert store.governance(store.sessions[-1]).not_for == ("insurers",)


def test_a_store_of_before_says_unknown(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": None})
    assert store.governance(store.sessions[0]) == Governance() and verify(store.root).problems == []
    assert "cohort" not in read_tsv(store.root / "sessions.tsv")[0]


def test_merge_and_subset_carry_the_terms(tmp_path: Path) -> None:
    first, second, third = make(tmp_path / "a", {"01": OPEN}), make(tmp_path / "b", {"02": CLOSED}), make(tmp_path / "c", {"03": None})
    assert merge(tmp_path / "all", [first, second, third]).exit_code == 0
    both = Store(tmp_path / "all")
    assert [both.governance(info).cohort for info in both.sessions] == 2 * ["open study"] + 2 * ["closed study"] + 2 * ["unknown"]
    assert verify(both.root).problems == []
    subset(both, tmp_path / "some", choose_sessions(both, Choice(participants=["02"])))
    some = Store(tmp_path / "some")
    assert [some.governance(info) for info in some.sessions] == 2 * [Governance.model_validate(CLOSED)]


def test_terms_are_set_afterwards_and_nothing_else_changes(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": None, "02": None})
    files = {path: path.read_bytes() for path in store.root.rglob("*_bold.*")}
    count = set_governance(
        store.root, yaml_file(tmp_path, "license: MIT\nconsent: broad-research\ncohort: c\n"), ["participant_id == 'sub-02'"]
    )
    after = Store(store.root)
    assert count == 2 and [after.governance(info).licence for info in after.sessions] == 2 * ["unknown"] + 2 * ["MIT"]
    assert files == {path: path.read_bytes() for path in store.root.rglob("*_bold.*")}
    assert all(after.is_whole(info.key) for info in after.sessions) and verify(store.root).problems == []
    # What the file does not say stays.
    set_governance(after.root, yaml_file(tmp_path, "not_for: [insurers]\n"), ["licence == 'MIT'"])
    record = Store(store.root).governance(Store(store.root).sessions[-1])
    assert (record.licence, record.cohort, record.not_for) == ("MIT", "c", ("insurers",))


def test_a_cohort_that_is_known_does_not_become_another(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN})
    with pytest.raises(InputError, match="cohort other: these sessions are of cohort open study"):
        set_governance(store.root, yaml_file(tmp_path, "cohort: other\nlicense: MIT\n"))
    assert Store(store.root).governance(store.sessions[0]).licence == "CC0-1.0"


@pytest.mark.parametrize("event", range(1, 8))
def test_a_change_that_is_killed_holds_for_all_or_for_none(event: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each file is put in place or deleted: the replacement of the manifest alone decides."""
    store = make(tmp_path / "store", {"01": OPEN, "02": OPEN})
    seen = 0

    def stop(function):  # type: ignore[no-untyped-def]
        def maybe(*arguments: object, **named: object) -> object:
            nonlocal seen
            seen += 1
            if seen == event:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return maybe

    for name in ("replace", "unlink", "fsync", "chmod"):
        monkeypatch.setattr(os, name, stop(getattr(os, name)))
    new = Governance(cohort="open study", licence="MIT")
    try:
        assign(store.root, {info.key: new for info in store.sessions})
        finished = True
    except KeyboardInterrupt:
        finished = False
    monkeypatch.undo()
    after = Store(store.root)
    said = {after.governance(info).licence for info in after.sessions}
    assert len(after.sessions) == 4 and said in ({"MIT"}, {"CC0-1.0"}) and (not finished or said == {"MIT"})
    assert [problem for problem in verify(store.root).problems if problem.kind != "unlisted"] == []


def test_a_row_or_a_record_that_was_tampered_with_is_noticed(tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": CLOSED})
    manifest, records = store.root / "sessions.tsv", store.root / RECORDS_FILE
    text, kept = manifest.read_text(), records.read_text()
    manifest.write_text(text.replace("CC-BY-NC-4.0", "CC0-1.0"))
    with pytest.raises(StoreError, match=r"sessions.tsv: the row of sub-01.* says other than the record"):
        Store(store.root).governance(Store(store.root).sessions[0])
    assert {problem.kind for problem in verify(store.root).problems} == {"damaged"}
    manifest.write_text(text)
    records.write_text(kept.replace("CC-BY-NC-4.0", "CC0-1.0"))
    with pytest.raises(StoreError, match=r"governance.json: record g-\w+ is not what was written"):
        Store(store.root).governance(Store(store.root).sessions[0])
    records.unlink()
    with pytest.raises(StoreError, match=r"which governance\.json lacks"):
        Store(store.root).governance(Store(store.root).sessions[0])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"g-1": 3}', json.dumps({"g-1": {"odd": 1}})])
def test_damaged_records_are_refused(text: str, tmp_path: Path) -> None:
    store = make(tmp_path / "store", {"01": OPEN})
    (store.root / RECORDS_FILE).write_text(text)
    with pytest.raises(StoreError, match=r"governance.json"):
        governance.record_of(store.root, store.sessions[0])
    assert any(problem.file == RECORDS_FILE or "governance.json" in problem.reason for problem in verify(store.root).problems)
