"""Recordings that stand twice: found under any name, listed by a command, left out of pretraining; real cohorts hold some."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from slimbrain.cli import run_command
from slimbrain.governance.duplicates import copies_note, find_duplicates, without_duplicates
from slimbrain.governance.fingerprint import SIGNATURE_BITS_APART, close_pairs, signature
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

COPIES = {
    ("sub-50578_task-rest", "sub-50602_task-rest"),
    ("sub-50805_task-rest", "sub-50808_task-rest"),
    ("sub-essen004", "sub-essen005"),
}
"""Of the public recordings: each pair stands under two participants, with different ages, of rpn122 with different sexes."""


def recording(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.cumsum(rng.normal(size=(140, 4)), axis=0) @ rng.normal(size=(4, 8)) + rng.normal(size=(140, 8))).astype(np.float32)


def write(root: Path, sessions: dict[tuple[str, str], np.ndarray]) -> Store:
    store = Store.create(root, None, 0.72)
    for (subject, session), series in sessions.items():
        channels = Channels(tuple(f"c{number}" for number in range(series.shape[1])), np.zeros((series.shape[1], 3)))
        write_roi_session(store, {"sub": subject, "ses": session, "task": "rest"}, series, channels, 0.72)
    return Store(root)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four people; c is a copy of a with noise, d's second session the first to the last byte, e a copy of c."""
    noise = np.random.default_rng(9).normal(size=(140, 8)).astype(np.float32)
    a = recording(0)
    copy = a + 0.2 * a.std(axis=0) * noise
    series = {("a", "1"): a, ("a", "2"): recording(1), ("b", "1"): recording(2), ("c", "1"): copy}
    return write(tmp_path / "store", series | {("d", "1"): recording(3), ("d", "2"): recording(3), ("e", "1"): copy})


def key(subject: str, session: str = "1") -> str:
    return f"sub-{subject}_ses-{session}_task-rest_space-roi"


def test_pairs_come_with_their_evidence(store: Store) -> None:
    found = {(pair.first.key, pair.second.key): pair for pair in find_duplicates(store)}
    assert set(found) == {(key("a"), key("c")), (key("a"), key("e")), (key("c"), key("e")), (key("d", "1"), key("d", "2"))}
    near, equal = found[key("a"), key("c")], found[key("c"), key("e")]
    series = [np.asarray(store.coarse(name), float) for name in (key("a"), key("c"))]
    flat = [((values - values.mean(axis=0)) / values.std(axis=0)).ravel() for values in series]
    r = np.corrcoef(*flat)[0, 1]
    assert near.correlation == pytest.approx(r) and not near.same_file and near.bits is not None and 0 < near.bits <= 56
    assert near.evidence == f"by content: signatures differ in {near.bits} of 256 bits, correlation {r:.4f}"
    assert equal.same_file and equal.bits == 0 and equal.evidence == "their data files are the same"
    assert found[key("d", "1"), key("d", "2")].one_participant and not near.one_participant


def test_a_silent_recording_is_like_no_other_but_its_copy(tmp_path: Path) -> None:
    store = write(tmp_path, {("a", "1"): np.zeros((20, 3), np.float32), ("b", "1"): np.ones((20, 3), np.float32), ("c", "1"): recording(0)})
    assert find_duplicates(store) == []
    store = write(tmp_path / "same", {("a", "1"): np.zeros((20, 3), np.float32), ("b", "1"): np.zeros((20, 3), np.float32)})
    (pair,) = find_duplicates(store)
    assert pair.same_file and pair.bits is None and pair.correlation == 0


def test_close_pairs_are_those_of_two_loops() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, size=(6, 32), dtype=np.uint8)
    rows = [*base, base[0] ^ np.r_[np.full(7, 255), np.zeros(25)].astype(np.uint8), base[1] ^ np.r_[255, np.zeros(31)].astype(np.uint8)]
    rows.append(base[0] ^ np.r_[np.full(7, 255), 1, np.zeros(24)].astype(np.uint8))
    texts = [bytes(row.astype(np.uint8)).hex() for row in rows] + [""]
    bits = [int(text, 16) if text else None for text in texts]
    slow = [
        (i, j, (bits[i] ^ bits[j]).bit_count())  # type: ignore[operator]
        for i, j in combinations(range(len(texts)), 2)
        if bits[i] is not None and bits[j] is not None and (bits[i] ^ bits[j]).bit_count() <= SIGNATURE_BITS_APART
    ]
    assert close_pairs(texts) == slow and (0, 6, 56) in slow and (0, 8, 57) not in slow


def test_the_command_lists_pairs_and_says_by_its_exit_code_whether_there_are_any(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["store", "duplicates", str(store.root)]) == 1
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["session", "participant_id", "other_session", "other_participant_id", "same_file", "bits_apart", "correlation"]
    assert [line[:5] for line in lines[1:]] == [
        [key("a"), "sub-a", key("c"), "sub-c", "no"],
        [key("a"), "sub-a", key("e"), "sub-e", "no"],
        [key("c"), "sub-c", key("e"), "sub-e", "yes"],
        [key("d", "1"), "sub-d", key("d", "2"), "sub-d", "yes"],
    ]
    assert run_command(["store", "duplicates", str(store.root), "--json"]) == 1
    assert [row["other_session"] for row in json.loads(capsys.readouterr().out)] == [line[2] for line in lines[1:]]
    alone = write(tmp_path / "alone", {("a", "1"): recording(0), ("b", "1"): recording(1)})
    assert run_command(["store", "duplicates", str(alone.root)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_pretraining_takes_each_recording_under_one_participant(store: Store) -> None:
    left, found = without_duplicates(store)
    assert [info.key for info in left.sessions] == [key("a"), key("a", "2"), key("b"), key("d", "1"), key("d", "2")]
    assert all(not pair.one_participant for pair in found) and {pair.second.subject for pair in found} == {"sub-c", "sub-e"}


def test_pretraining_names_copies_when_a_run_begins_and_trains_on_them(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what one participant has twice, not with --drop-duplicates, and not again on resuming."""
    settings = ("window.frames=4", "window.k=1", "temporal.window_frames=4", "temporal.width=16", "temporal.depth=1", "temporal.heads=2")
    settings += ("temporal.groups=4", "train_temporal.steps=1", "train_temporal.batch=1")
    words = ["pretrain", "temporal", str(store.root), "--preset", "tiny", *(word for each in settings for word in ("--set", each))]
    assert run_command([*words, "--out", str(tmp_path / "run")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "two participants" in line]
    for first, second in ((key("a"), key("c")), (key("a"), key("e")), (key("c"), key("e"))):
        assert f"{first} and {second} (" in line
    assert key("d", "2") not in line and "--drop-duplicates" in line and f"slimbrain store duplicates {store.root}" in line
    assert line.startswith(f"{store.root}: ") and line.endswith(".")
    trained = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    for more in (["--resume", "auto"], ["--drop-duplicates"]):
        assert run_command([*words, *more, "--out", str(tmp_path / ("run" if "--resume" in more else "dropped"))]) == 0
        assert "two participants" not in capsys.readouterr().err
    assert (trained, json.loads((tmp_path / "dropped" / "run.json").read_text())["sessions"]) == (7, 5)


def test_of_many_pairs_three_are_named(tmp_path: Path) -> None:
    store = write(tmp_path / "store", {(name, "1"): recording(0) for name in "abcd"})
    note = copies_note(store)
    assert note.count(" and sub-") == 3 and ", and 3 more;" in note


@pytest.fixture(scope="module")
def roi(shared_data: Path) -> Path:
    return shared_data / "roi"


def test_real_recordings_that_stand_under_two_names_are_found(roi: Path, tmp_path: Path) -> None:
    """Two sites of ABIDE with one pair each, correlated at 0.94 and 0.93."""
    for site, pair, least in (("YALE", ("sub-50578", "sub-50602"), 0.93), ("KKI", ("sub-50805", "sub-50808"), 0.91)):
        with np.load(roi / "abide-cc200" / site / "timeseries.npz") as arrays:
            sessions = {(name.split("_")[0].removeprefix("sub-"), "1"): arrays[name].astype(np.float32) for name in arrays.files}
        (found,) = find_duplicates(write(tmp_path / site, sessions))
        assert {found.first.subject, found.second.subject} == set(pair) and found.correlation > least and not found.same_file
        assert found.bits is not None and found.bits <= 40


@pytest.mark.slow
def test_the_threshold_parts_copies_from_innocent_pairs_in_all_real_recordings(roi: Path) -> None:
    """1,276 recordings: copies are at most 34 bits apart, the closest two others of one cohort 92; the threshold is 56."""
    names: list[str] = []
    copies, closest, n = set(), 256, 0
    for cohort in ("abide-cc200", "hcp-dk68", "rpn122"):
        names, signatures = [], []
        for path in sorted((roi / cohort).rglob("timeseries.npz")):
            with np.load(path) as arrays:
                names += sorted(arrays.files)
                signatures += [signature(arrays[name].astype(np.float32)) for name in sorted(arrays.files)]
        n += len(names)
        for one, other, bits in close_pairs(signatures, 110):
            pair = (names[one], names[other])
            if bits <= SIGNATURE_BITS_APART:
                copies.add(pair)
                assert bits <= 40, pair
            else:
                closest = min(closest, bits)
    assert n == 1276 and copies == COPIES and closest == 92
