"""A leak of each kind is planted and caught; what only looks like one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_samples import evaluate_vectors
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import roc_auc_score

from slimbrain.config import WindowConfig
from slimbrain.disk.seal import sha256
from slimbrain.errors import InputError
from slimbrain.evaluate import leaks
from slimbrain.evaluate.compare import compare
from slimbrain.evaluate.leaks import _require_apart, _require_no_duplicates, _require_no_overlap, scoring_record, screen
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.result import Scoring
from slimbrain.evaluate.splits import Split, SplitPolicy
from slimbrain.evaluate.stats import score
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import Target, Task, get_task, read_target
from slimbrain.governance.duplicates import find_duplicates
from slimbrain.governance.fingerprint import correlation
from slimbrain.governance.provenance import REMEMBERED, Person, Provenance, people_in, remember
from slimbrain.store import Channels, Contract, Store
from slimbrain.store.description import COHORT
from slimbrain.store.write import write_roi_session

TASK = get_task("column:group")
CHANNELS = Channels(tuple("abcdefgh"), np.zeros((8, 3)))
N_PEOPLE = 12


def recording(seed: int, frames: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    courses = np.cumsum(rng.normal(size=(frames, 4)), axis=0)
    return (courses @ rng.normal(size=(4, 8)) + rng.normal(size=(frames, 8))).astype(np.float32)


def add(store: Store, subject: str, series: np.ndarray, session: str = "1", cohort: str = "study") -> str:
    info = write_roi_session(store, {"sub": subject, "ses": session, "task": "rest"}, series, CHANNELS, 0.72, sidecar={COHORT: cohort})
    return info.key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve people of one session, in two groups."""
    store = Store.create(tmp_path / "store", None, 0.72)
    for number in range(N_PEOPLE):
        add(store, f"{number:02d}", recording(number))
    rows = [f"sub-{number:02d}\t{'ab'[number % 2]}" for number in range(N_PEOPLE)]
    (store.root / "participants.tsv").write_text("\n".join(["participant_id\tgroup", *rows, "sub-copy\tb"]) + "\n")
    return Store(store.root)


def model_trained_on(people: list[Person]) -> Provenance:
    return Provenance(Contract("roi", "", "roi", 0.72), WindowConfig(), None, {REMEMBERED: remember(people)})


def embed(store: Store) -> dict[str, np.ndarray]:
    return {info.key: np.random.default_rng(7).normal(size=3) for info in store.sessions}


# --- the model was pretrained on the same subject


def test_subjects_of_pretraining_are_refused_or_counted(store: Store) -> None:
    model, target = model_trained_on(people_in(store)[:4]), read_target(TASK, store)
    said = "was trained on 4 of the 12 participants to be evaluated: sub-00 by name, sub-01 by name, sub-02 by name, and 1 more; evaluate"
    with pytest.raises(InputError, match=f"^run/model: {said}"):
        _require_no_overlap(store, target, {"run/model": model}, allow=False)
    assert _require_no_overlap(store, target, {"run/model": model, "other": None}, allow=True) == 4
    others = read_target(TASK, store, store.sessions[4:])
    assert _require_no_overlap(store, others, {"run/model": model}, allow=False) == 0


def test_another_session_of_a_subject_of_pretraining_is_refused(store: Store) -> None:
    model = model_trained_on(people_in(store, store.sessions[:1]))
    add(store, "00", recording(100), session="2")
    add(store, "01", recording(101), session="2")
    store = Store(store.root)
    later = read_target(TASK, store, [info for info in store.sessions if info.session == "ses-2"])
    with pytest.raises(InputError, match="on 1 of the 2 participants to be evaluated: sub-00 by name;"):
        _require_no_overlap(store, later, {"m": model}, allow=False)


# --- the same subject under another name


def test_a_relabelled_subject_of_another_cohort_is_refused(store: Store, tmp_path: Path) -> None:
    model = model_trained_on(people_in(store))
    other = Store.create(tmp_path / "other", None, 0.72)
    add(other, "new", recording(4), cohort="renamed")
    add(other, "04", recording(50), cohort="renamed")
    (other.root / "participants.tsv").write_text("participant_id\tgroup\nsub-new\ta\nsub-04\tb\n")
    other = Store(other.root)
    said = (
        "on 1 of the 2 participants to be evaluated: sub-new by content: signatures differ in 0 of 256 bits between "
        "sub-new_ses-1_task-rest_space-roi and a recording that it was trained on, which this store does not have;"
    )
    with pytest.raises(InputError, match=said):
        _require_no_overlap(other, read_target(TASK, other), {"m": model}, allow=False)


def test_a_copy_of_the_training_is_named_with_its_original_and_can_be_dropped(store: Store) -> None:
    """sub-03 was trained on; sub-copy is sub-03 with noise. By name nobody of the evaluation is known."""
    model = model_trained_on(people_in(store, store.sessions[3:4]))
    series = store.coarse(store.sessions[3].key)
    add(store, "copy", (series + 0.3 * series.std(axis=0) * np.random.default_rng(1).normal(size=series.shape)).astype(np.float32))
    whole = Store(store.root)
    evaluated = whole.only([info.key for info in whole.sessions if info.subject != "sub-03"])
    with pytest.raises(InputError) as refusal:
        screen(evaluated, TASK, {"run/model": model})
    message = str(refusal.value)
    assert "was trained on 1 of the 12 participants to be evaluated: sub-copy by content: signatures differ in " in message
    assert "between sub-copy_ses-1_task-rest_space-roi and sub-03_ses-1_task-rest_space-roi, which it was trained on; " in message
    assert "--drop-duplicates" in message and message.endswith(".") and "\n" not in message
    screened = screen(evaluated, TASK, {"run/model": model}, drop=True)
    assert screened.in_training == 0 and "sub-copy" not in screened.target.subjects and len(screened.target.keys) == 11
    assert screened.target.excluded["copy of a recording that a model was trained on (--drop-duplicates)"] == 1
    assert screen(evaluated, TASK, {"run/model": model}, allow=True).in_training == 1


def test_by_name_is_not_dropped(store: Store) -> None:
    model = model_trained_on(people_in(store)[:1])
    with pytest.raises(InputError, match="sub-00 by name"):
        screen(store, TASK, {"m": model}, drop=True)


def test_a_copied_recording_under_another_name_is_refused(store: Store) -> None:
    original, copy = store.sessions[2].key, add(store, "copy", store.coarse(store.sessions[2].key))
    store = Store(store.root)
    assert store.sidecar(original)["DataSha256"] == store.sidecar(copy)["DataSha256"]
    with pytest.raises(InputError, match=f"{original} and {copy} .their data files are the same.; add --drop-duplicates"):
        evaluate_vectors(store, get_task("column:group"), {"ours": embed(store)})


# --- a near copy


@pytest.mark.parametrize(("noise", "found"), [(0.0, True), (0.06, True), (0.3, True), (0.5, True), (3.0, False)])
def test_a_noisy_copy_is_refused(store: Store, noise: float, found: bool) -> None:
    """Noise of standard deviation s leaves a correlation of 1 / sqrt(1 + s^2): 0.894 at 0.5, 0.316 at 3; the threshold is about 0.77."""
    series = store.coarse(store.sessions[5].key)
    noisy = series + noise * series.std(axis=0) * np.random.default_rng(1).normal(size=series.shape)
    # Another scale, offset and file; what changes over time is what counts.
    copy = add(store, "copy", (3 * noisy + 10).astype(np.float32))
    store = Store(store.root)
    pairs = find_duplicates(store)
    assert [(pair.first.key, pair.second.key) for pair in pairs] == ([(store.sessions[5].key, copy)] if found else [])
    if found:
        assert pairs[0].correlation == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.02)
        with pytest.raises(InputError, match=rf"by content: signatures differ in {pairs[0].bits} of 256 bits, correlation"):
            _require_no_duplicates(store, read_target(TASK, store))


def test_the_correlation_is_numpys(store: Store) -> None:
    first, second = recording(1), recording(1)[:140] + recording(2)[:140]
    flat = [((x - x.mean(axis=0)) / x.std(axis=0)).ravel() for x in (first[:140].astype(float), second.astype(float))]
    assert correlation(first, second) == pytest.approx(np.corrcoef(*flat)[0, 1])
    assert correlation(first, first[:, :3]) == 0 and correlation(np.ones((9, 2)), np.ones((9, 2))) == 0


def test_every_pair_is_looked_at_by_brute_force(store: Store) -> None:
    for number in (1, 1, 7):
        add(store, f"x{number}{len(Store(store.root).sessions)}", recording(number) + np.float32(1e-3) * recording(99))
    store = Store(store.root)
    keys = [info.key for info in store.sessions]
    slow = {(a, b) for n, a in enumerate(keys) for b in keys[n + 1 :] if correlation(store.coarse(a), store.coarse(b)) > 0.9}
    assert {(pair.first.key, pair.second.key) for pair in find_duplicates(store, keys)} == slow and len(slow) == 4


@pytest.mark.parametrize(("copied", "left_out"), [("04", {"sub-04", "sub-copy"}), ("05", {"sub-copy"})])
def test_both_go_where_labels_disagree_and_the_later_where_they_agree(store: Store, copied: str, left_out: set[str]) -> None:
    """sub-04 is of group a, sub-05 and sub-copy of group b."""
    add(store, "copy", store.coarse(f"sub-{copied}_ses-1_task-rest_space-roi"))
    add(store, copied, recording(70), session="2")
    store = Store(store.root)
    target, kept = read_target(TASK, store), screen(store, TASK, {}, drop=True).target
    assert set(target.subjects) - set(kept.subjects) == left_out
    gone = sum(subject in left_out for subject in target.subjects)
    assert kept.excluded == {"one recording under two names (--drop-duplicates)": gone} and len(kept.keys) == len(target.keys) - gone
    assert [target.labels[target.keys.index(key)] for key in kept.keys] == kept.labels.tolist()
    _require_no_duplicates(store, kept)


def test_a_recording_twice_under_one_name_leaks_only_in_identification(store: Store) -> None:
    add(store, "00", store.coarse(store.sessions[0].key), session="2")
    add(store, "01", recording(60), session="2")
    store = Store(store.root)
    _require_no_duplicates(store, read_target(get_task("column:group"), store))
    with pytest.raises(InputError, match=r"one recording stands under two names.*sub-00_ses-1.* and sub-00_ses-2.* .their data files"):
        _require_no_duplicates(store, read_target(get_task("hcp-fingerprint"), store))
    kept = screen(store, get_task("hcp-fingerprint"), {}, drop=True).target
    assert kept.keys == ("sub-00_ses-1_task-rest_space-roi", "sub-01_ses-1_task-rest_space-roi", "sub-01_ses-2_task-rest_space-roi")


def test_a_copy_that_no_label_is_wanted_of_does_not_matter(store: Store) -> None:
    add(store, "unlisted", store.coarse(store.sessions[2].key))
    store = Store(store.root)
    _require_no_duplicates(store, read_target(get_task("column:group"), store))


def test_real_recordings_hold_one_copy(shared_data: Path, tmp_path: Path) -> None:
    """Two of the 119 participants of rpn122, said to be a woman of 20 and a man of 30, share one series; no others are alike."""
    with np.load(shared_data / "roi" / "rpn122" / "timeseries.npz") as arrays:
        series = {name: arrays[name] for name in sorted(arrays.files)}
    store = Store.create(tmp_path / "store", None, 2.0)
    names = Channels(tuple(f"c{number}" for number in range(122)), np.zeros((122, 3)))
    for name, values in series.items():
        write_roi_session(store, {"sub": name.removeprefix("sub-")}, values.astype(np.float32), names, 2.0)
    keys = [info.key for info in Store(store.root).sessions]
    (pair,) = find_duplicates(Store(store.root), keys)
    assert (pair.first.key, pair.second.key, pair.bits) == ("sub-essen004_space-roi", "sub-essen005_space-roi", 0)
    assert np.array_equal(series["sub-essen004"], series["sub-essen005"])


# --- something fitted on the test subjects


class LabelDependent(TransformerMixin, BaseEstimator):
    """Keeps the ten of a thousand features that go best with the labels of the rows it is fitted on: pays on those rows alone."""

    truth: np.ndarray
    fitted_on: list[frozenset[float]]

    def fit(self, X: np.ndarray, y: object = None) -> LabelDependent:
        rows = X[:, 0].astype(int)
        LabelDependent.fitted_on.append(frozenset(rows.tolist()))
        gap = X[LabelDependent.truth[rows] == 1].mean(axis=0) - X[LabelDependent.truth[rows] == 0].mean(axis=0)
        gap[0] = 0
        self.kept_, self.signs_ = np.argsort(-np.abs(gap))[:10], np.sign(gap)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return (X * self.signs_)[:, self.kept_]


@pytest.mark.parametrize("policy", [SplitPolicy(n_splits=4, seeds=(0, 1)), SplitPolicy("70/10/20", seeds=(0, 1, 2))])
def test_a_transform_that_only_pays_if_fitted_on_test_does_not_pay(policy: SplitPolicy) -> None:
    """Noise alone, 60 subjects: fitted on everybody the transform reaches AUC 0.9, which is what the leak would give."""
    rng = np.random.default_rng(3)
    truth = np.arange(60) % 2
    data = np.column_stack([np.arange(60), rng.normal(size=(60, 1000))])
    LabelDependent.truth, LabelDependent.fitted_on = truth, []
    leaked = LabelDependent().fit(data)
    assert roc_auc_score(truth, leaked.transform(data).sum(axis=1)) > 0.9
    LabelDependent.fitted_on.clear()
    subjects = np.array([f"sub-{number:02d}" for number in range(60)])
    predictions = cross_validate(FeatureSet("x", "y", data, LabelDependent()), truth.astype(str), subjects, "classification", policy)
    assert abs(np.mean(score(predictions, "auc")) - 0.5) < 0.2
    for place, seed in enumerate(policy.seeds):
        folds = [set(np.flatnonzero(predictions.fold[place] == number)) for number in range(predictions.fold[place].max() + 1)]
        seen = LabelDependent.fitted_on[place * len(folds) : (place + 1) * len(folds)]
        assert len(seen) == len(folds) and all(not fitted & tested for fitted, tested in zip(seen, folds, strict=True)), seed


def test_the_target_of_a_test_subject_shapes_nothing() -> None:
    """The oldest becomes a thousand years old, which leaves all ranks and so the split as they were: no prediction moves."""
    rng = np.random.default_rng(0)
    age, subjects = rng.normal(40, 10, size=60), np.array([f"sub-{number:02d}" for number in range(60)])
    features, policy = FeatureSet("x", "y", rng.normal(size=(60, 5))), SplitPolicy("70/10/20", seeds=tuple(range(12)))
    plain = cross_validate(features, age, subjects, "regression", policy)
    oldest = int(age.argmax())
    with_oldest_in_test = [place for place in range(12) if plain.fold[place, oldest] == 0]
    assert 0 < len(with_oldest_in_test) < 12
    age[oldest] = 1000
    again = cross_validate(features, age, subjects, "regression", policy)
    moved = [not np.allclose(plain.scores[place], again.scores[place], equal_nan=True) for place in range(12)]
    assert not any(moved[place] for place in with_oldest_in_test) and any(moved)
    assert np.array_equal(plain.scale[with_oldest_in_test], again.scale[with_oldest_in_test])


# --- splits, and what the result says of them


def target_of(n_people: int = 40, sessions: int = 2) -> Target:
    subjects = np.repeat([f"sub-{number:02d}" for number in range(n_people)], sessions)
    labels = np.repeat(np.array(["a", "b"])[np.arange(n_people) % 2], sessions)
    return Target(tuple(f"{subject}_{row}" for row, subject in enumerate(subjects)), subjects, labels, "classification", None, {})


@pytest.mark.parametrize(
    ("policy", "tuned"),
    [
        (SplitPolicy(n_splits=5, seeds=(0, 1, 2)), "inner folds of the training subjects"),
        (SplitPolicy("70/10/20"), "the validation subjects"),
    ],
)
def test_the_result_says_how_often_test_was_scored(policy: SplitPolicy, tuned: str) -> None:
    target, rng = target_of(), np.random.default_rng(0)
    sets = [FeatureSet(name, "linear probe", rng.normal(size=(80, 3))) for name in ("ours", "theirs")]
    result = compare(Task("t", "t", policy=policy), target, sets[:1], sets[1:], n_resamples=20)
    wanted = Scoring(tests_per_seed=1, seeds=3, predictors=2, tuned_on=tuned, fitted_on="the training subjects")
    assert result.test_scored == wanted
    line = f"Test: each subject is tested once per seed (3) and predictor (2); tuned on {tuned}, fitted on the training subjects."
    assert line in to_markdown(result)


def test_a_subject_tested_twice_or_on_two_sides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of()
    rows = np.arange(80)
    with pytest.raises(InputError, match="sub-00: is in train and in test of one split"):
        _require_apart(target, Split(rows[1:60], rows[60:70], np.array([0])))
    twice = [Split(rows[40:], rows[:0], rows[:40]), Split(rows[40:], rows[:0], rows[38:40])]
    monkeypatch.setattr(leaks, "outer_splits", lambda *arguments: twice)
    with pytest.raises(InputError, match="tested 2 times with one seed"):
        scoring_record(target, SplitPolicy())
    torn = [Split(rows[1:], rows[:0], rows[:1])]
    monkeypatch.setattr(leaks, "outer_splits", lambda *arguments: torn)
    with pytest.raises(InputError, match="is in train and in test"):
        compare(Task("t", "t"), target, [FeatureSet("ours", "probe", np.zeros((80, 1)))], [], n_resamples=20)


def test_identification_fits_and_tunes_nothing() -> None:
    target = replace(target_of(), kind="identification")
    record = scoring_record(target, SplitPolicy())
    assert (record.tests_per_seed, record.tuned_on, record.fitted_on) == (1, "nothing", "nothing")


def test_what_is_not_known_of_pretraining_is_said(store: Store) -> None:
    task = get_task("column:group", SplitPolicy(n_splits=2, seeds=(0,)))
    result = evaluate_vectors(store, task, {"ours": embed(store)}, unknown=("slimbrain voxel",))
    assert "Which participants slimbrain voxel was pretrained on is not recorded" in to_markdown(result)


def test_files_that_differ_only_by_a_name_have_one_hash(store: Store) -> None:
    """So that equal content shows in the sidecars: nothing of the participant stands in the data file."""
    copy = add(store, "copy", store.coarse(store.sessions[0].key))
    store = Store(store.root)
    assert sha256(store.root / store.session(copy).path) == sha256(store.root / store.sessions[0].path)
