"""Identification against scipy by hand, on planted fingerprints, and on real recordings whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate_samples import evaluate_vectors
from scipy.stats import rankdata

from slimbrain.errors import InputError
from slimbrain.evaluate.connectivity import connectivity
from slimbrain.evaluate.identify import Pairing, identify, pair_sessions
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.stats import OutOfFold, bootstrap, permutation_p, score
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import get_task
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

N = 14


def pairing(n: int = N) -> Pairing:
    names = tuple(f"sub-{number:02d}" for number in range(n))
    return Pairing(("a", "b"), names, tuple((f"{name}_a", f"{name}_b") for name in names), 0)


def fingerprints(strength: float, n: int = N, seed: int = 0) -> FeatureSet:
    """Two noisy copies of each person, on top of what all people share."""
    rng = np.random.default_rng(seed)
    person, common = rng.normal(size=(n, 12)), 20 * rng.normal(size=12)
    data = np.vstack([common + strength * person + rng.normal(size=(n, 12)) for _ in range(2)])
    return FeatureSet("ours", "identification", data)


def test_ranks_are_those_of_demeaned_correlations_by_hand() -> None:
    features = fingerprints(1.5)
    oof = identify(features, pairing())
    hits, ranks = [], []
    for gallery, query in ((features.data[:N], features.data[N:]), (features.data[N:], features.data[:N])):
        likeness = np.corrcoef(query - gallery.mean(0), gallery - gallery.mean(0))[:N, N:]
        rank = np.diag(np.array([rankdata(-row) for row in likeness]))
        hits += list(rank == 1)
        ranks += list(1 / rank)
    assert 0.3 < np.mean(hits) < 1
    assert score(oof, "top1")[0] == pytest.approx(np.mean(hits))
    assert score(oof, "mrr")[0] == pytest.approx(np.mean(ranks))


def test_people_are_found_where_they_have_a_fingerprint_and_not_otherwise() -> None:
    found = identify(fingerprints(5.0), pairing())
    assert score(found, "top1")[0] == 1 and permutation_p(found, "top1", 199) == 1 / 200
    values = [score(identify(fingerprints(0.0, seed=seed), pairing()), "top1")[0] for seed in range(60)]
    # 28 queries each, right with probability 1/14; the standard error over 60 cohorts is about 0.007.
    assert np.mean(values) == pytest.approx(1 / N, abs=0.02)


def test_the_gallery_decides_what_is_common_and_queries_do_not() -> None:
    """A monstrous query must not move what is said of the others."""
    features = fingerprints(1.0)
    before = identify(features, pairing()).scores[0, :N]
    features.data[N] = 1e6
    after = identify(features, pairing()).scores[0, :N]
    assert np.array_equal(after[1:], before[1:]) and not np.allclose(after[0], before[0])


def test_ties_count_as_chance() -> None:
    oof = identify(FeatureSet("chance", "everybody alike", np.zeros((2 * N, 1))), pairing())
    assert score(oof, "top1")[0] == pytest.approx(1 / N)
    assert score(oof, "mrr")[0] == pytest.approx(np.mean(1 / np.arange(1, N + 1)))
    assert permutation_p(oof, "top1", 99) == 1


def test_ranks_with_some_ties() -> None:
    """Likeness 3, 2, 2, 1, the truth in turn at each place: one of two equals at random."""
    likeness = np.tile([3.0, 2.0, 2.0, 1.0], (4, 1))
    ones = np.ones((1, 4))
    oof = OutOfFold(np.array(list("abcd")), np.arange(4.0), likeness[None], np.zeros((1, 4), int), ones, ones, (), gallery=True)
    assert score(oof, "top1")[0] == pytest.approx(1 / 4)
    assert score(oof, "mrr")[0] == pytest.approx(np.mean([1, (1 / 2 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2, 1 / 4]))


def test_intervals_resample_people_with_both_their_queries() -> None:
    """Ten people found in both directions, ten in neither: as wide as 20 coins, not as 40."""
    likeness = np.eye(20)
    likeness[10:] = np.roll(likeness, 1, axis=1)[10:]
    both = np.vstack([likeness, likeness])[None]
    names, ones = np.tile([f"{number:02d}" for number in range(20)], 2), np.ones((1, 40))
    oof = OutOfFold(names, np.tile(np.arange(20.0), 2), both, np.repeat([0, 1], 20)[None], ones, ones, (), gallery=True)
    interval = bootstrap(oof, "top1", 2000)
    assert interval.mean == 0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 20), abs=0.06)


def cohort(root: Path, n: int = 8, sessions: str = "12", strength: float = 4.0) -> Store:
    """Runs of noise in which each person's channels go together in a way of their own."""
    store, rng = Store.create(root, None, tr=0.72), np.random.default_rng(0)
    channels = Channels(tuple("abcdef"), np.zeros((6, 3)))
    for person in range(n):
        mixing = np.eye(6) + strength * rng.normal(size=(6, 6)) / 6
        for session in sessions:
            entities = {"sub": f"{person:02d}", "ses": session, "task": "rest"}
            write_roi_session(store, entities, rng.normal(size=(120, 6)) @ mixing, channels, 0.72)
    rows = [f"sub-{number:02d}\t{20 + number}\t{'FM'[number % 2]}" for number in range(n)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]) + "\n")
    return Store(root)


def test_every_baseline_stands_beside_ours(tmp_path: Path) -> None:
    store = cohort(tmp_path)
    rng = np.random.default_rng(1)
    vectors = {info.key: rng.normal(size=5) for info in store.sessions}
    models = {"ours": vectors, "untrained": {key: rng.normal(size=5) for key in vectors}}
    used = {key: np.arange(30) for key in vectors}
    result = evaluate_vectors(store, get_task("identity"), models, used, n_resamples=100)
    there = set(result.by_predictor)
    kinds = ("correlation", "partial correlation", "tangent")
    assert {("connectivity", f"{kind}, {frames}") for kind in kinds for frames in ("whole run", "frames used")} <= there
    assert {("untrained", "identification"), ("chance", "everybody alike"), ("confounds", "age, sex")} <= there
    assert {("channels", "mean and std, whole run"), ("channels", "mean and std, frames used")} <= there
    # Age is of the subject: whoever knows it finds everybody, and no embedding of noise beats that.
    assert result.best_baseline.mean == 1 and result.differences[0].high < 0
    assert "ours (top-1" in to_markdown(result) and "is beaten by the best baseline" in to_markdown(result)
    assert (result.n_subjects, result.n_sessions, result.seeds) == (8, 16, ())


def test_the_pair_that_most_people_have_is_taken_unless_named(tmp_path: Path) -> None:
    store = cohort(tmp_path, n=5)
    channels = store.channels(store.sessions[0].key)
    for person in range(4):
        write_roi_session(
            store, {"sub": f"{person:02d}", "ses": "0", "task": "rest"}, np.random.default_rng(9).normal(size=(40, 6)), channels, 0.72
        )
    store = Store(tmp_path)
    assert pair_sessions(store).occasions == ("ses-1_task-rest", "ses-2_task-rest") and pair_sessions(store).left_out == 4
    named = pair_sessions(store, ("ses-0_task-rest", "ses-1_task-rest"))
    assert len(named.subjects) == 4 and all("_ses-0_" in first and "_ses-1_" in second for first, second in named.keys)
    with pytest.raises(InputError, match="no sessions called ses-9"):
        pair_sessions(store, ("ses-9", "ses-1_task-rest"))
    with pytest.raises(InputError, match="name both"):
        get_task("identity:ses-1_task-rest")


def test_a_session_each_identifies_nobody(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 subjects have two"):
        pair_sessions(cohort(tmp_path, sessions="1"))


def test_rest_to_rest_of_real_recordings(shared_data: Path) -> None:
    """27 people, whole runs: the source's figures are 82 % for correlation and 100 % for partial correlation."""
    runs = np.load(shared_data / "roi" / "song25" / "timeseries.npz")
    keys = [[name for name in runs.files if task in name] for task in ("rest1", "rest2")]
    assert len(keys[0]) == len(keys[1]) == 27
    series = [runs[name] for side in keys for name in sorted(side)]
    correlation, partial, tangent, _ = (identify(features, pairing(27)) for features in connectivity(series, "whole run"))
    assert score(partial, "top1")[0] == 1 and score(tangent, "top1")[0] > 0.9
    assert score(correlation, "top1")[0] == pytest.approx(0.82, abs=0.05)
