"""Windows of runs as samples: they hold the frames they say, states are read from them with people left out, events from the sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slimbrain.errors import InputError
from slimbrain.evaluate.compare import evaluate
from slimbrain.evaluate.designs import Design, Screening
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.raw_series import RAW, RawPerceptron, raw_series
from slimbrain.evaluate.splits import Split, SplitPolicy, pose
from slimbrain.evaluate.stats import OutOfFold, permutation_p
from slimbrain.evaluate.tasks import get_task, read_target
from slimbrain.evaluate.window_store import WindowStore
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

N, FRAMES = 12, 47


@pytest.fixture(scope="module", autouse=True)
def few_penalties() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimbrain.evaluate.probes.STRENGTHS", (0.1, 10.0))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two runs each: at rest all channels are noise; in the task the first two go together."""
    root = tmp_path_factory.mktemp("states")
    store = Store.create(root, None, tr=2.0)
    rng, places = np.random.default_rng(0), Channels(tuple("abcd"), np.zeros((4, 3)))
    for number in range(N):
        for task in ("rest", "game"):
            series = rng.normal(size=(FRAMES, 4))
            if task == "game":
                series[:, 1] = 0.9 * series[:, 0] + 0.4 * series[:, 1]
            write_roi_session(store, {"sub": f"{number:02d}", "task": task}, series, places, 2.0)
    return Store(root)


def test_windows_are_the_frames_of_their_run(store: Store) -> None:
    windows = WindowStore(store, 10)
    assert len(windows.sessions) == 2 * N * (FRAMES // 10) and all(info.n_frames == 10 for info in windows.sessions)
    for info in windows.sessions[:9]:
        origin, start = windows.origin(info.key)
        assert np.array_equal(windows.coarse(info.key), store.coarse(origin)[start : start + 10])
        assert windows.session(info.key) == info and windows.channels(info.key).names == ("a", "b", "c", "d")
    assert [windows.origin(info.key)[1] for info in windows.sessions[:4]] == [0, 10, 20, 30]


def test_long_runs_give_windows_from_their_whole_length(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "long", None, tr=1.0)
    write_roi_session(store, {"sub": "01"}, np.random.default_rng(0).normal(size=(1000, 2)), Channels(("a", "b"), np.zeros((2, 3))), 1.0)
    windows = WindowStore(Store(store.root), 5)
    starts = [windows.origin(info.key)[1] for info in windows.sessions]
    assert len(starts) == 20 and starts[0] == 0 and starts[-1] == 995 and len(set(starts)) == 20


@pytest.mark.parametrize(("frames", "message"), [(3, "too short"), (48, "no session has 48 frames")])
def test_windows_that_cannot_be_are_refused(store: Store, frames: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WindowStore(store, frames)


def test_no_frames_are_not_taken_for_no_answer(store: Store) -> None:
    with pytest.raises(InputError, match="--frames 0: is too short a window"):
        Screening(get_task("column:task"), {}, Design(frames=0)).of(store)


def test_states_are_read_from_windows_of_people_left_out(store: Store) -> None:
    task = get_task("column:task", SplitPolicy(n_splits=3, seeds=(0,)))
    windows, series, screened = Screening(task, {}, Design(frames=20)).of(store)
    target = screened.target
    assert len(target.keys) == 2 * N * 2 and sorted(set(target.labels)) == ["game", "rest"] and target.n_subjects == N
    assert sorted(set(target.runs)) == [info.key for info in store.sessions]
    constant = FeatureSet("ours", "linear probe", np.zeros((len(target.keys), 2)))
    more = raw_series(series, target.keys)
    result = evaluate(windows, task, screened, [constant], None, (), series, 100, more=more)
    areas = {row.predictor: row.mean for row in result.rows if row.metric == "auc"}
    assert areas["connectivity", "correlation, 20 frames"] > 0.95 and areas["ours", "linear probe"] == 0.5
    # What goes together is no sum of values, so that a linear model of the series cannot see it.
    assert abs(areas[RAW, "linear model"] - 0.5) < 0.25
    assert result.n_sessions == len(target.keys) and result.n_subjects == N


def test_a_run_is_one_draw_of_a_permutation_not_as_many_as_it_has_windows() -> None:
    """Four people with two runs of 25 windows each, all told right: labels of runs can fall as they are in 1 of 16 ways."""
    subject, run = np.repeat(np.arange(4), 50).astype(str), np.repeat(np.arange(8), 25).astype(str)
    truth = np.tile(np.repeat([0.0, 1.0], 25), 4)
    scores = np.stack([1 - truth, truth], axis=1)[None]
    shape = (1, 200)
    said = OutOfFold(subject, truth, scores, np.zeros(shape, int), np.ones(shape), np.zeros(shape), ("a", "b"), run=run)
    assert permutation_p(said, "auc", 4000) == pytest.approx(1 / 16, abs=0.015)
    assert permutation_p(OutOfFold(subject, truth, scores, *(np.zeros(shape, int), np.ones(shape), np.zeros(shape)), ("a", "b")),
                         "auc", 500) < 0.005  # fmt: skip


def test_events_label_the_windows_that_they_fill(store: Store, tmp_path: Path) -> None:
    """A block from 15 s to 35 s shows from 20 s to 40 s: of windows of 20 s, that is the second."""
    own = Store.create(tmp_path / "own", None, tr=2.0)
    for number in range(4):
        write_roi_session(
            own, {"sub": f"{number}"}, store.coarse(store.sessions[number].key), Channels(tuple("abcd"), np.zeros((4, 3))), 2.0
        )
    own = Store(own.root)
    for number, info in enumerate(own.sessions):
        path = (own.root / info.path).with_suffix(".json")
        blocks = [{"onset": 15.0, "duration": 20.0, "trial_type": "face"}, {"onset": 55.0, "duration": 30.0, "trial_type": "house"}]
        path.write_text(json.dumps({**json.loads(path.read_text()), "Events": blocks[: 1 + number % 2]}))
    task = get_task("events")
    target = read_target(task, WindowStore(own, 10))
    told = {(key.split("_")[0], int(key[-6:])): label for key, label in zip(target.keys, target.labels, strict=True)}
    assert told == {**{(f"sub-{n}", 10): "face" for n in range(4)}, **{(f"sub-{n}", 30): "house" for n in (1, 3)}}
    assert target.excluded == {"no event that fills half of the window": 10}
    with pytest.raises(InputError, match="with --frames"):
        read_target(task, own)


def test_the_perceptron_learns_what_no_linear_model_can() -> None:
    """Exclusive or of two signs, which stand in the raw values; nothing of the tested rows is read before they are predicted."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(600, 6)).astype(np.float32)
    labels = np.where(data[:, 0] * data[:, 1] > 0, "same", "other")
    problem, split = pose(labels, np.arange(600), "classification"), Split(np.arange(400), np.arange(0), np.arange(400, 600))
    found = RawPerceptron(data).fit_predict(problem, split, 0)
    assert np.mean(problem.target[400:] == found.scores.argmax(axis=1)) > 0.8
    changed = data.copy()
    changed[500:] += 3
    again = RawPerceptron(changed).fit_predict(problem, split, 0)
    assert np.array_equal(again.scores[:100], found.scores[:100]) and again.loss == found.loss
    straight = FeatureSet(RAW, "linear model", data.astype(np.float64)).fit_predict(problem, split, 0)
    assert np.mean(problem.target[400:] == straight.scores.argmax(axis=1)) < 0.65


def test_the_perceptron_regresses_in_the_targets_own_unit() -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(300, 4)).astype(np.float32)
    problem = pose(1000 + 50 * data[:, 0].astype(np.float64), np.arange(300), "regression")
    found = RawPerceptron(data).fit_predict(problem, Split(np.arange(200), np.arange(0), np.arange(200, 300)), 0)
    assert np.corrcoef(found.scores[:, 0], problem.target[200:])[0, 1] > 0.9 and abs(found.scores.mean() - 1000) < 15
