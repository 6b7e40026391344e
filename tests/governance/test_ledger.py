"""The ledger of stores and models: what it counts, what it answers, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ledger_samples import CLOSED, OPEN, TR_S, make

from slimbrain.cli import run_command
from slimbrain.config import TemporalConfig, WindowConfig, load_preset
from slimbrain.doctor import inspect_path
from slimbrain.errors import InputError
from slimbrain.governance.ledger import entries_from, entries_of, gaps, summary, terms_lines, times_by_person, warning
from slimbrain.governance.provenance import REMEMBERED, Provenance, people_in, remember
from slimbrain.models.hub import save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store
from slimbrain.store.records import Governance
from slimbrain.store.subjects import subject_hash
from slimbrain.train import Loop, pretrain
from slimbrain.train import session_counts as counts_module
from slimbrain.train.session_counts import SessionCounts

MODEL = (
    *("window.frames=4", "window.k=2", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2"),
    *("temporal.groups=4", "train_temporal.batch=2", "train_temporal.accumulate=2", "train_temporal.steps=4"),
    *("train_temporal.log_every=1", "train_temporal.save_every=1", "train_temporal.warmup=1"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(tmp_path / "store", {"01": OPEN, "02": OPEN, "03": CLOSED})


def say(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run_command(["ledger", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


# --- what is counted


def test_a_store_is_summed_up_by_its_terms(store: Store) -> None:
    entries = entries_of(store, store.sessions)
    assert [(entry.governance.cohort, entry.subjects, entry.sessions, entry.seconds, entry.times_seen) for entry in entries] == [
        ("closed study", 1, 2, 2 * 40 * TR_S, None),
        ("open study", 2, 4, 4 * 40 * TR_S, None),
    ]
    assert gaps(entries) == {} and warning(entries) == ""
    assert summary(entries) == ("Cohort: closed study, open study. Licence: CC-BY-NC-4.0, CC0-1.0. Consent: broad-research, no-commercial.")
    assert "Commercial use: no (closed study: CC-BY-NC-4.0, consent no-commercial)." in terms_lines(entries)


def test_what_nobody_knows_is_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make(tmp_path / "store", {"01": None, "02": {**OPEN, "consent": ["unknown"]}})
    entries = entries_of(store, store.sessions)
    assert gaps(entries) == {"licence": 2, "consent": 4}
    assert warning(entries).startswith("UNKNOWN: nobody says the licence of 2 of 4 sessions and the consent of 4 of 4 sessions; ")
    assert inspect_path(store.root)["ledger"].endswith(
        "Licence: CC0-1.0; unknown for 2 of 4 sessions. Consent: unknown for 4 of 4 sessions."
    )
    code, out, _ = say(capsys, store.root)
    assert code == 0 and "UNKNOWN: the licence of 2 sessions." in out and "not known to be permitted" in out


def test_entries_of_checkpoints_come_back(store: Store) -> None:
    seen = {info.key: number for number, info in enumerate(store.sessions)}
    entries = entries_of(store, store.sessions, seen)
    assert [entry.times_seen for entry in entries] == [4 + 5, 0 + 1 + 2 + 3]
    assert entries_from({"ledger": json.loads(json.dumps([entry.to_dict() for entry in entries]))}) == entries
    assert times_by_person(store, store.sessions, seen) == {
        subject_hash("sub-01", "open study"): 1,
        subject_hash("sub-02", "open study"): 5,
        subject_hash("sub-03", "closed study"): 9,
    }


def test_a_checkpoint_without_a_ledger_is_one_entry_of_unknowns() -> None:
    (entry,) = entries_from({"subjects": 2})
    assert (entry.governance, entry.subjects, entry.sessions) == (Governance(), 2, None)


@pytest.mark.parametrize("ledger", ["x", [1], [{"licence": "my own"}], [{"odd": 1}]])
def test_a_damaged_ledger_is_refused(ledger: Any) -> None:
    with pytest.raises(InputError, match=r"config.json: .*ledger"):
        entries_from({"ledger": ledger})


def test_counts_are_summed_over_processes_and_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    first, second = SessionCounts(["a", "b", "c"], [5, 0, 1]), SessionCounts(["a", "b", "c"], [5, 0, 1])
    first.add(["a", "b", "a"])
    second.add(["c", "a"])
    shares = {"first": torch.tensor([2, 1, 0]), "second": torch.tensor([1, 0, 1])}
    for one, other in ((first, "second"), (second, "first")):
        monkeypatch.setattr(counts_module, "all_reduce", lambda mine, other=other: mine + shares[other])
        assert one.counts(cpu) == [5 + 3, 1, 1 + 1]
        # A second state counts nothing twice.
        assert one.by_key(cpu) == {"a": 8, "b": 1, "c": 2}


def test_training_counts_what_its_steps_were_made_of(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the keys that the loss was given, through a kill between two saved states and a resumption."""
    preset = load_preset("tiny", [*MODEL, "train_temporal.save_every=2"])
    given: list[list[str]] = []
    original, stop = Loop._step, True

    def watch(self: Loop, step: int, batches: Any) -> Any:
        if stop and step == 3:
            raise KeyboardInterrupt
        loss = self.stage.loss
        keys: list[str] = []
        monkeypatch.setattr(self.stage, "loss", lambda batch: keys.extend(sample.key for sample in batch) or loss(batch))
        sums = original(self, step, batches)
        monkeypatch.setattr(self.stage, "loss", loss)
        given[step:] = [keys]
        return sums

    monkeypatch.setattr(Loop, "_step", watch)
    with pytest.raises(KeyboardInterrupt):
        pretrain("temporal", store, preset, tmp_path / "run", seed=1, device="cpu")
    stop = False
    pretrain("temporal", store, preset, tmp_path / "run", seed=1, resume=True, device="cpu")
    training = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["training"]
    drawn = [key for step in given for key in step]
    assert len(drawn) == 4 * 2 * 2
    cohorts = {"sub-01": "open study", "sub-02": "open study", "sub-03": "closed study"}
    for label, cohort in cohorts.items():
        assert training["times_seen"][subject_hash(label, cohort)] == sum(key.startswith(label) for key in drawn)
    assert [entry["times_seen"] for entry in training["ledger"]] == [
        sum(cohorts[key[:6]] == cohort for key in drawn) for cohort in ("closed study", "open study")
    ]
    assert [entry["seconds"] for entry in training["ledger"]] == [120.0, 240.0]
    for path in (tmp_path / "run").rglob("*.json"):
        assert "sub-0" not in path.read_text(), path
    # A run that never came to a model says whom it saw as well.
    told = json.loads((tmp_path / "run" / "run.json").read_text())[REMEMBERED]
    assert told["persons"] == training[REMEMBERED]["persons"] and told["recordings"] == []


# --- questions


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Path:
    """A stage 1 model that says it was trained on the store."""
    seen = {info.key: 3 for info in store.sessions}
    training = {
        "stage": "temporal",
        REMEMBERED: remember(people_in(store)),
        "ledger": [entry.to_dict() for entry in entries_of(store, store.sessions, seen)],
        "times_seen": times_by_person(store, store.sessions, seen),
    }
    net = TemporalExtractor(TemporalConfig(window_frames=4, width=16, depth=1, heads=2, groups=4))
    return save_pretrained(net, tmp_path / "run" / "model", Provenance(store.contract, WindowConfig(frames=4), None, training))


def test_table_and_json_say_the_same(store: Store, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, store.root)
    assert code == 0 and out.splitlines()[0].split() == [
        *("cohort", "licence", "consent", "not", "for", "participants", "sessions", "hours", "source"),
    ]
    assert "closed study  CC-BY-NC-4.0  no-commercial   insurers  1             2         0.03   unknown" in out
    assert "not legal advice" in out and "In the way: not for insurers." in out
    code, out, _ = say(capsys, model.parent, "--json")
    told = json.loads(out)
    assert code == 0 and [entry["times_seen"] for entry in told["entries"]] == [6, 12] and told["participants"] == 3
    assert told["terms"]["commercial"] == "no" and told["terms"]["limits"] == ["not for insurers"]
    assert inspect_path(model)["ledger"].startswith("Cohort: closed study, open study. Licence: ")


def test_is_someone_in_it(store: Store, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = subject_hash("sub-03", "closed study")
    for path, words, code in (
        (store.root, ["03"], 0),
        (store.root, ["sub-03", "--cohort", "closed study"], 0),
        (store.root, ["sub-03", "--cohort", "open study"], 1),
        (store.root, ["sub-04"], 1),
        (store.root, [name], 0),
        (model, ["sub-03"], 0),
        (model, ["sub-003", "--cohort", "closed study"], 0),
        (model, ["sub-03", "--cohort", "open study"], 1),
        (model, ["04"], 1),
        (model, [name], 0),
        (model, ["0" * 16], 1),
    ):
        got, out, _ = say(capsys, path, "--contains", *words)
        assert got == code, (path, words, out)
    assert "drawn 6 times" in say(capsys, model, "--contains", "03", "--cohort", "closed study")[1]
    assert json.loads(say(capsys, model, "--contains", "04", "--json")[1])["contains"] is False


def test_nobody_can_tell_is_not_no(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((model / "config.json").read_text())
    config["training"] = {"stage": "voxel"}
    (model / "config.json").write_text(json.dumps(config))
    assert "config.json: was cut short, damaged or exchanged" in say(capsys, model, "--contains", "01")[2]
    (model / "seal.json").unlink()  # a model of nobody knows whom
    assert say(capsys, model, "--contains", "01")[0] == 2
    code, out, error = say(capsys, tmp_path / "nowhere", "--contains", "01")
    assert (code, out) == (2, "") and "is neither a store nor a model" in error
    assert say(capsys, model, "--compatible-with", "free")[0] == 2
    assert say(capsys, model, "--diff", tmp_path / "nowhere")[0] == 2
    # What is no question has the exit code of every command.
    assert say(capsys, tmp_path / "nowhere")[0] == 1


def test_may_it_be_given_away(store: Store, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, store.root, "--compatible-with", "CC-BY-4.0")
    assert code == 1 and "may NOT be given away under CC-BY-4.0" in out
    assert "not for insurers; commercial use not permitted" in out and "sub-03_ses-1" in out and "sub-01" not in out
    verdict = json.loads(say(capsys, model, "--compatible-with", "CC-BY-4.0", "--json")[1])
    assert not verdict["compatible"] and [block["cohort"] for block in verdict["blocks"]] == ["closed study"]
    (store.root / "g.yaml").write_text("license: CC-BY-4.0\nconsent: broad-research\nnot_for: []\n")
    code, out, _ = say(capsys, store.root, "--set", store.root / "g.yaml", "--where", "cohort == 'closed study'")
    assert (code, out) == (0, f"2 sessions are under the terms of {store.root / 'g.yaml'} now\n")
    assert say(capsys, store.root, "--compatible-with", "CC-BY-4.0")[0] == 0
    assert say(capsys, store.root, "--compatible-with", "CC0-1.0")[0] == 1


def test_what_differs(store: Store, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, store.root, "--diff", model)[:2] == (
        0,
        "participants: 0 in the first alone, 0 in the second alone, 3 in both\n",
    )
    other = make(tmp_path / "other", {"01": OPEN, "05": {**OPEN, "cohort": "third"}})
    code, out, _ = say(capsys, store.root, "--diff", other.root)
    assert code == 1 and out.splitlines() == [
        "- closed study, CC-BY-NC-4.0, no-commercial: 1 participants, 2 sessions",
        "+ third, CC0-1.0, broad-research: 1 participants, 2 sessions",
        "- open study, CC0-1.0, broad-research: 2 participants, 4 sessions",
        "+ open study, CC0-1.0, broad-research: 1 participants, 2 sessions",
        "participants: 2 in the first alone, 1 in the second alone, 1 in both",
    ]


def test_one_question_at_a_time(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "one question at a time" in say(capsys, store.root, "--contains", "01", "--diff", store.root)[2]
    assert "belongs to --set" in say(capsys, store.root, "--where", "a=b")[2]
