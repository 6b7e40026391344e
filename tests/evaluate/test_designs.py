"""Who learns and who is tested: labelled draws, sites left out, another cohort; planted signals, and that tested people teach nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_samples import evaluate_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbrain.errors import InputError
from slimbrain.evaluate.compare import compare
from slimbrain.evaluate.designs import Design
from slimbrain.evaluate.held_out import with_blocks
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.result import Result, as_result
from slimbrain.evaluate.splits import SplitPolicy, labelled_policies, outer_splits, policy_called
from slimbrain.evaluate.stats import OutOfFold, bootstrap, score
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import Target, Task, get_task, read_target
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

N = 60


@pytest.fixture(scope="module", autouse=True)
def few_penalties() -> Iterator[None]:
    """How a probe is tuned is tested elsewhere; here it only takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimbrain.evaluate.probes.STRENGTHS", (0.1, 10.0))
        yield


def make_store(root: Path, n: int = N, channels: int = 4, first: int = 0) -> Store:
    """Noise; `group` by parity, `site` in threes, one session per participant."""
    store = Store.create(root, None, tr=1.0)
    rng = np.random.default_rng(first)
    places = Channels(tuple("abcdefgh"[:channels]), np.arange(3.0 * channels).reshape(channels, 3))
    for number in range(first, first + n):
        write_roi_session(store, {"sub": f"{number:03d}", "task": "rest"}, rng.normal(size=(30, channels)), places, 1.0)
    rows = [f"sub-{number:03d}\t{'ab'[number % 2]}\t{'xyz'[number % 3]}\t{number / 10}" for number in range(first, first + n)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tgroup\tsite\ttrait", *rows]) + "\n")
    return Store(root)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("here"))


def planted(store: Store, strength: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    signs = {info.key: 1.0 if store.participants[info.subject]["group"] == "b" else -1.0 for info in store.sessions}
    return {key: rng.normal(size=5) + strength * sign for key, sign in signs.items()}


# --- draws


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=4),
    share=st.floats(0.25, 0.6),
    kind=st.sampled_from(["classification", "regression"]),
    seed=st.integers(0, 99),
)
def test_a_draw_has_its_size_and_the_shares_of_all(counts: list[int], share: float, kind: str, seed: int) -> None:
    total = sum(counts)
    labels = np.repeat(np.arange(len(counts)), counts)[np.random.default_rng(seed).permutation(total)]
    n = int(share * total)
    values = labels + 0.0 if kind == "classification" else np.random.default_rng(seed).normal(size=total)
    (split,) = outer_splits(np.arange(total), values, kind, SplitPolicy("labelled", labelled=n), seed)  # type: ignore[arg-type]
    assert len(split.train) == n and sorted([*split.train, *split.test]) == list(range(total)) and not len(split.valid)
    if kind == "classification":
        for label, count in enumerate(counts):
            assert abs(np.count_nonzero(labels[split.train] == label) - n * count / total) < 1
    else:
        # Sorted by value and cut into n stretches as equal as can be, one is drawn of each, give or take a neighbour.
        ranks = np.sort(values.argsort().argsort()[split.train])
        assert np.abs(ranks - np.arange(n) * total / n).max() <= total / n + 1


def test_sessions_of_one_person_and_relatives_are_never_on_both_sides() -> None:
    subjects = np.repeat(np.arange(40), 2)
    families = subjects // 2
    labels = np.tile([0.0, 0.0, 1.0, 1.0], 20)
    for seed in range(5):
        (split,) = outer_splits(subjects, labels, "classification", SplitPolicy("labelled", labelled=12), seed, None, families)
        assert len(np.unique(subjects[split.train])) == 12
        assert not set(families[split.train]) & set(families[split.test])


@pytest.mark.parametrize(("n", "message"), [(55, "ask for 50 at most"), (2, "only 1 of class")])
def test_draws_that_leave_too_few_are_refused(n: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        outer_splits(np.arange(60), np.arange(60) % 2, "classification", SplitPolicy("labelled", labelled=n), 0)


def test_options_are_read_and_contradictions_refused() -> None:
    assert [policy.labelled for policy in labelled_policies("60, 30", 2)] == [30, 60]
    assert policy_called("5-fold") == SplitPolicy() and policy_called("70/10/20").kind == "70/10/20"
    for wrong in ("1-fold", "half", ""):
        with pytest.raises(InputError, match="no such split"):
            policy_called(wrong)
    for wrong in ("", "30,x", "1"):
        with pytest.raises(InputError, match="no list of numbers"):
            labelled_policies(wrong)
    with pytest.raises(InputError, match="give one of them"):
        Design(split="5-fold", labelled="30")
    with pytest.raises(InputError, match="nothing is trained"):
        Design(labelled="30").require_fitting(get_task("identity"), ("identify",))


def test_an_interval_over_draws_is_that_of_the_draws_where_people_are_all_alike() -> None:
    """Draw s predicts everybody with error s: the mean over S draws, resampled, has the variance of the errors over S."""
    n, errors = 50, np.arange(8.0)
    scores = np.tile(errors[:, None, None], (1, n, 1))
    shape = (len(errors), n)
    said = OutOfFold(np.arange(n).astype(str), np.zeros(n), scores, np.zeros(shape, int), np.ones(shape), np.zeros(shape), ())
    fixed = bootstrap(said, "mae", 4000)
    assert fixed.low == pytest.approx(fixed.mean) == pytest.approx(3.5)
    free = bootstrap(replace(said, drawn=True), "mae", 4000)
    half = 1.96 * errors.std() / np.sqrt(len(errors))
    assert (free.mean - free.low, free.high - free.mean) == pytest.approx((half, half), rel=0.06)


def test_changing_the_tested_changes_nothing_that_was_fitted() -> None:
    """Other labels and other features of one tested person: what the models say of all the others stays the same to the last bit."""
    rng = np.random.default_rng(1)
    data, labels, subjects = rng.normal(size=(N, 6)), np.arange(N) % 2, np.arange(N)
    covariances = np.einsum("nij,nkj->nik", rng.normal(size=(N, 4, 30)), rng.normal(size=(N, 4, 30)))
    policies = [SplitPolicy("labelled", seeds=(0,), labelled=20), SplitPolicy("leave-out", seeds=(0,), column="site")]
    site = np.array(["xyz"[number % 3] for number in range(N)])
    from slimbrain.evaluate.connectivity import TangentSpace

    matrices = covariances @ covariances.swapaxes(1, 2) + np.eye(4)
    for policy in policies:
        (split, *_) = outer_splits(subjects, labels, "classification", policy, 0, blocks=site)
        changed = int(split.test[3])
        for features in (FeatureSet("m", "vectors", data), FeatureSet("m", "tangent", matrices, TangentSpace())):
            one = features.fit_predict(_problem(labels, subjects), split, 0)
            other_data, other_labels = features.data.copy(), labels.copy()
            other_data[changed], other_labels[changed] = other_data[changed] * 7 + np.eye(len(other_data[0]))[0], 1 - labels[changed]
            two = replace(features, data=other_data).fit_predict(_problem(other_labels, subjects), split, 0)
            kept = split.test != changed
            assert np.array_equal(one.scores[kept], two.scores[kept]) and one.loss == two.loss
            assert not np.array_equal(one.scores[~kept], two.scores[~kept])


def _problem(labels: np.ndarray, subjects: np.ndarray) -> object:
    from slimbrain.evaluate.splits import pose

    return pose(labels, subjects, "classification")


# --- the curve


@pytest.fixture(scope="module")
def curve(store: Store) -> Result:
    from slimbrain.evaluate.compare import evaluate
    from slimbrain.evaluate.leaks import screen
    from slimbrain.evaluate.probes import embedding_set

    task = get_task("column:group")
    screened = screen(store, task, {})
    vectors = {"ours": planted(store, 0.45), "untrained": planted(store, 0.0, seed=1)}
    sets = [embedding_set(name, found, screened.target.keys) for name, found in vectors.items()]
    return evaluate(store, task, screened, sets, n_resamples=100, labelled=labelled_policies("10,20,40", 4))


def test_the_curve_rises_with_labels_and_has_every_row(curve: Result) -> None:
    assert [(point.labelled, point.n_tested) for point in curve.labelled] == [(10, 50), (20, 40), (40, 20)]
    assert all({row.predictor for row in point.rows} == set(curve.by_predictor) for point in curve.labelled)
    ours = [next(row for row in point.rows if row.model == "ours") for point in curve.labelled]
    assert ours[0].mean < ours[-1].mean and ours[-1].low > 0.7
    assert all(row.metric == "auc" and row.low is not None and row.low <= row.mean <= row.high for row in ours)
    last = curve.labelled[-1]
    assert curve.rows[0].mean == ours[-1].mean and curve.best_baseline == last.best_baseline
    assert "40 labelled subjects, tested on all others, 4 draws" in curve.split and curve.test_scored.tests_per_seed == 1


def test_the_file_and_the_table_have_the_curve(curve: Result) -> None:
    assert as_result("file", curve.to_dict()) == curve
    text = to_markdown(curve)
    assert "| model | method | 10 labelled | 20 labelled | 40 labelled |" in text
    assert "resampled subjects and draws" in text
    for point in curve.labelled:
        mean = next(row for row in point.rows if row.model == "ours").mean
        assert f"{point.labelled} labelled: ours (AUC {mean:.3f}" in text


# --- sites left out


def test_each_site_is_tested_by_models_of_all_others(store: Store) -> None:
    task = replace(get_task("column:group"), policy=SplitPolicy("leave-out", seeds=(0,), column="site"))
    target = with_blocks(read_target(task, store), store, "site")
    row = [store.participants[subject]["site"] for subject in target.subjects]
    splits = outer_splits(target.subjects, target.labels, "classification", task.policy, 0, blocks=target.blocks)
    assert [{row[at] for at in split.test} for split in splits] == [{"x"}, {"y"}, {"z"}]
    assert all(not {row[at] for at in split.train} & {row[at] for at in split.test} for split in splits)
    # Where a site's own level says the class, and other sites' say the opposite, whoever has trained on the site itself would profit.
    vectors = np.array([planted(store, 1.0)[key] for key in target.keys])
    result = compare(task, target, [FeatureSet("ours", "linear probe", vectors)], [FeatureSet("none", "zeros", np.zeros((N, 1)))], 50)
    assert [(part.value, part.n_subjects) for part in result.held_out] == [("x", 20), ("y", 20), ("z", 20)]
    whole = cross_validate(FeatureSet("ours", "linear probe", vectors), target.labels, target.subjects, "classification", task.policy,
                           blocks=target.blocks)  # fmt: skip
    for number, part in enumerate(result.held_out):
        alone = whole.take(whole.fold[0] == number)
        assert part.rows[0].mean == pytest.approx(float(score(alone, "auc")[0]))
    assert "each site left out in turn" in result.split and "| x | 20 |" in to_markdown(result)
    assert as_result("file", result.to_dict()) == result


def test_a_column_that_nobody_has_or_that_is_the_same_for_all_is_refused(store: Store) -> None:
    target = read_target(get_task("column:group"), store)
    with pytest.raises(InputError, match="needs a column of that name"):
        with_blocks(target, store, "scanner")
    with pytest.raises(InputError, match="all participants have the same"):
        with_blocks(target.take([row for row, key in enumerate(target.keys) if store.participants[target.subjects[row]]["site"] == "x"]),
                    store, "site")  # fmt: skip


def test_participants_without_the_column_are_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", 12)
    table = tmp_path / "s" / "participants.tsv"
    table.write_text(table.read_text().replace("sub-003\tb\tx", "sub-003\tb\tn/a"))
    target = with_blocks(read_target(get_task("column:group"), store), Store(store.root), "site")
    assert target.n_subjects == 11 and sum(target.excluded.values()) == 1


def test_evaluate_vectors_still_takes_folds(store: Store) -> None:
    result = evaluate_vectors(store, get_task("column:group", SplitPolicy(n_splits=2, seeds=(0,))), {"ours": planted(store, 2.0)})
    assert result.labelled == () and result.held_out == () and result.rows[0].mean > 0.9


def test_a_task_of_a_target_is_untouched_by_take(store: Store) -> None:
    target = read_target(get_task("column:trait"), store)
    assert isinstance(target, Target) and isinstance(get_task("column:trait"), Task)
    part = target.take([3, 1])
    assert part.keys == (target.keys[3], target.keys[1]) and part.labels.tolist() == [target.labels[3], target.labels[1]]
