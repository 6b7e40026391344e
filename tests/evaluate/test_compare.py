"""The result file: its keys, who counts as a baseline, and verdicts on planted truths."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from evaluate_samples import evaluate_vectors

from slimbrain.errors import InputError
from slimbrain.evaluate.result import Result
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import get_task
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

KEYS = {
    "task", "cohort", "n_subjects", "n_sessions", "split", "seeds", "rows", "best_baseline", "differences", "published",
    "models", "groups", "seen_in_pretraining", "pretraining_unknown", "test_scored", "contract", "version", "schema_version", "excluded",
    "classes", "labelled", "held_out", "tested_on", "sources", "cannot", "commands",
}  # fmt: skip
N_SUBJECTS = 24


@pytest.fixture(scope="module", autouse=True)
def few_penalties() -> Iterator[None]:
    """How a probe is tuned is tested elsewhere; here it only takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimbrain.evaluate.probes.STRENGTHS", (0.1, 10.0))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Noise in five channels, two sessions per subject; labels that only an embedding can know."""
    root = tmp_path_factory.mktemp("cohort")
    store = Store.create(root, None, tr=0.72)
    rng = np.random.default_rng(0)
    channels = Channels(tuple("abcde"), np.zeros((5, 3)))
    for subject in range(N_SUBJECTS):
        for session in "12":
            write_roi_session(store, {"sub": f"{subject:02d}", "ses": session, "task": "rest"}, rng.normal(size=(40, 5)), channels, 0.72)
    trait = rng.normal(size=N_SUBJECTS)
    rows = [f"sub-{number:02d}\t{'ab'[number % 2]}\t{trait[number]:.6f}" for number in range(N_SUBJECTS)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tgroup\ttrait", *rows]) + "\n")
    return Store(root)


def embeddings(store: Store, column: str, strength: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {"a": -1.0, "b": 1.0}
    cells = {info.key: store.participants[info.subject][column] for info in store.sessions}
    return {key: rng.normal(size=6) + strength * (values[cell] if cell in values else float(cell)) for key, cell in cells.items()}


@pytest.fixture(scope="module")
def classified(store: Store) -> Result:
    models = {"ours": embeddings(store, "group", 2.0), "untrained": embeddings(store, "group", 0.0, seed=1)}
    used = {info.key: np.arange(16) for info in store.sessions}
    task = get_task("column:group", SplitPolicy(n_splits=2, seeds=(4, 5)))
    return evaluate_vectors(store, task, models, used, 200, in_training=3)


def test_the_result_holds_what_other_programs_read(classified: Result, store: Store) -> None:
    result = json.loads(json.dumps(classified.to_dict(), allow_nan=False))
    assert set(result) == KEYS
    assert (result["n_subjects"], result["n_sessions"], result["seeds"]) == (N_SUBJECTS, 2 * N_SUBJECTS, [4, 5])
    assert all(set(row) == {"model", "method", "metric", "mean", "low", "high", "p"} for row in result["rows"])
    assert set(result["differences"][0]) == {"model", "method", "metric", "mean", "low", "high"}
    assert result["contract"] == store.contract.to_dict() and result["seen_in_pretraining"] == 3
    assert result["classes"] == {"a": 12, "b": 12}
    assert "Classes, in subjects: a 12, b 12." in to_markdown(classified)
    methods = {(row["model"], row["method"]) for row in result["rows"]}
    kinds = ("correlation", "partial correlation", "tangent", "tangent towards the population", "best of 4 chosen inside")
    assert {("connectivity", f"{kind}, {frames}") for kind in kinds for frames in ("whole run", "frames used")} <= methods
    assert {("untrained", "linear probe"), ("majority", "majority class or mean"), ("channels", "mean and std, whole run")} <= methods


def test_a_planted_class_is_found_and_beats_every_baseline(classified: Result) -> None:
    ours = next(row for row in classified.rows if (row.model, row.metric) == ("ours", "auc"))
    assert ours.low > 0.9 and ours.p <= 2 / 201
    best = classified.best_baseline
    others = [row.mean for row in classified.rows if "ours" not in row.model and row.metric == "auc"]
    assert best.mean == max(others) and best.model != "ours"
    gap, _ = classified.differences
    assert gap.low > 0 and gap.mean == pytest.approx(ours.mean - best.mean)
    assert f"ours (AUC {ours.mean:.3f} [{ours.low:.3f}, {ours.high:.3f}]) beats the best baseline" in to_markdown(classified)
    assert "pretrained on 3 of these subjects (--allow-overlap)" in to_markdown(classified)


def test_noise_beats_nothing(store: Store) -> None:
    task = get_task("column:group", SplitPolicy(n_splits=3, seeds=(0,)))
    result = evaluate_vectors(store, task, {"ours": embeddings(store, "group", 0.0)}, n_resamples=200)
    assert result.differences[0].low < 0
    assert ") beats" not in to_markdown(result)


def test_regression_goes_the_same_way(store: Store) -> None:
    task = get_task("column:trait", SplitPolicy(n_splits=3, seeds=(0,)))
    result = evaluate_vectors(store, task, {"ours": embeddings(store, "trait", 2.0)}, n_resamples=200)
    ours, constant = ({row.metric: row for row in result.rows if row.model == name} for name in ("ours", "majority"))
    assert result.differences[0].metric == "r2" and ours["r2"].low > 0.5 and ours["mse_z"].p == 1 / 201
    assert constant["r"].mean is None and constant["r2"].mean <= 0
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_the_table_has_one_line_a_predictor_with_all_its_metrics(classified: Result) -> None:
    lines = to_markdown(classified).splitlines()
    head = next(line for line in lines if line.startswith("| model"))
    assert head == "| model | method | AUC | balanced accuracy | accuracy | macro F1 | p (AUC) |"
    body = [line for line in lines if line.startswith("| ") and line != head]
    assert len(body) == len(classified.by_predictor)
    assert all(line.count("|") == head.count("|") for line in body)
    first = classified.rows[0]
    assert f"{first.mean:.3f} [{first.low:.3f}, {first.high:.3f}]" in body[0]


def test_the_same_seed_gives_the_same_numbers(store: Store) -> None:
    task = get_task("column:group", SplitPolicy(n_splits=2, seeds=(0,)))
    runs = [evaluate_vectors(store, task, {"ours": embeddings(store, "group", 0.5)}, n_resamples=50) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("models", [(), ("untrained",)])
def test_nothing_to_evaluate_is_refused(store: Store, models: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate_vectors(store, get_task("column:group"), {name: embeddings(store, "group", 1.0) for name in models})


def test_a_session_without_embedding_is_refused(store: Store) -> None:
    vectors = embeddings(store, "group", 1.0)
    vectors.pop("sub-00_ses-1_task-rest_space-roi")
    with pytest.raises(InputError, match="1 labelled sessions have no embedding"):
        evaluate_vectors(store, get_task("column:group"), {"ours": vectors})


def test_connectivity_and_the_model_stand_in_one_row_and_are_compared(classified: Result) -> None:
    """The model knows the label and connectivity nothing: both together know it as well, and the table says what the row is."""
    (method,) = {row.method for row in classified.rows if row.model == "connectivity + ours"}
    assert method == "tangent towards the population, whole run, and linear probe"
    found = {row.metric: row for row in classified.rows if row.model == "connectivity + ours"}
    assert found["auc"].mean is not None and found["auc"].mean > 0.9
    assert [gap.model for gap in classified.differences] == ["ours", "connectivity + ours"]
    assert classified.best_baseline.model != "connectivity + ours" and classified.ours == {"ours", "connectivity + ours"}


def test_baselines_say_where_they_are_from(classified: Result) -> None:
    rows = {f"{model}, {method}" for model, method in classified.by_predictor}
    assert classified.sources["connectivity, tangent, whole run"] == "Varoquaux et al. 2010"
    assert len(classified.sources) == 8 and set(classified.sources) <= rows
