"""The window table reads back to the bit, refuses damage, and marks what a budget leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_samples import make_store

from slimbrain import progress
from slimbrain.cli import run_command
from slimbrain.config import SaliencyConfig, TemporalConfig, WindowConfig
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.shipped import TEMPORAL
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.saliency import (
    WindowRow,
    WindowScores,
    exact_scores,
    order_apart,
    order_by_score,
    order_diverse,
    rank_store,
    ranks_of,
    read_window_table,
    window_rows,
    within_budget,
    write_window_table,
)
from slimbrain.saliency.choose import ranked_windows
from slimbrain.store import Store
from slimbrain.store.write import write_session

ROWS = [
    WindowRow("sub-01_task-rest", 0, 0.0, 5.76, 0.1 + 0.2, 1 / 3, -1e-17, 2, 0.7, 1.1),
    WindowRow("sub-01_task-rest", 1, 5.76, 5.76, 0.5, 0.25, 1.5, 1, 2 / 3, 0.1, chosen=False),
    WindowRow("sub-02_task-rest", 0, 0.0, 5.76, -0.5, 0.9, 0.0, 1, -0.25, 1e300),
]


def test_window_table_reads_back_to_the_bit(tmp_path: Path) -> None:
    path = write_window_table(tmp_path / "windows.tsv", ROWS)
    header = path.read_text().splitlines()[0]
    assert header == "session\twindow\tonset_s\tduration_s\tinformativeness\tnovelty\tscore\trank\texplained\tdvars\tchosen"
    assert read_window_table(path) == {"sub-01_task-rest": ROWS[:2], "sub-02_task-rest": ROWS[2:]}
    assert [file.name for file in tmp_path.iterdir()] == ["windows.tsv"]


def test_damaged_window_tables_are_refused(tmp_path: Path) -> None:
    path = write_window_table(tmp_path / "windows.tsv", ROWS)
    path.write_text(path.read_text().replace("5.76", "soon", 1))
    with pytest.raises(InputError, match=r"windows.tsv, line 2: .*soon.*slimbrain rank"):
        read_window_table(path)
    path.write_text("session\twindow\nsub-01\t0\n")
    with pytest.raises(InputError, match="onset_s"):
        read_window_table(path)
    with pytest.raises(StoreError, match=r"missing.tsv"):
        read_window_table(tmp_path / "missing.tsv")


def rows_of_two(n: int = 25) -> list[WindowRow]:
    rng = np.random.default_rng(0)
    return [row for run in ("sub-01_task-rest", "sub-02_task-rest") for row in made(run, rng.normal(size=n).tolist())]


def edited(rows: list[WindowRow], at: int, **changes: object) -> list[WindowRow]:
    """The second session, changed in one row."""
    return [*rows[: 25 + at], replace(rows[25 + at], **changes), *rows[26 + at :]]  # type: ignore[arg-type]


CONTRADICTIONS = {
    "every row twice": (lambda rows: [*rows, *rows], r"sub-01_task-rest has window 0 in 2 rows"),
    "one session twice": (lambda rows: [*rows, *rows[25:]], r"sub-02_task-rest has window 0 in 2 rows"),
    "one window under all numbers": (
        lambda rows: [*rows[:25], *(replace(rows[30], window=row.window, rank=row.rank) for row in rows[25:])],
        r"sub-02_task-rest has window 0 of 5.76 s at 28.8 s, not at 0 s",
    ),
    "all windows are one": (lambda rows: [*rows[:25], *(replace(row, window=3) for row in rows[25:])], r"has window 3 in 25 rows"),
    "tied ranks": (lambda rows: edited(rows, 4, rank=rows[25].rank), r"sub-02_task-rest has rank \d+ in 2 rows"),
    "a negative rank": (lambda rows: edited(rows, 4, rank=-1), r"has 25 rows and none of them is rank \d+"),
    "ranks from 0": (lambda rows: [replace(row, rank=row.rank - 1) for row in rows], r"none of them is rank 25"),
    "a rank too high": (lambda rows: edited(rows, 4, rank=99), r"none of them is rank"),
    "a negative window": (lambda rows: edited(rows, 0, window=-1), r"none of them is window 0"),
    "one window left of 25": (lambda rows: [*rows[:25], rows[30]], r"sub-02_task-rest has 1 rows and none of them is window 0"),
    "the middle is gone": (lambda rows: [*rows[:10], *rows[12:]], r"sub-01_task-rest has 23 rows and none of them is window 10"),
    "a score that is no number": (lambda rows: edited(rows, 2, score=float("nan")), r"not defined in window 2"),
    "an endless score": (lambda rows: edited(rows, 2, score=float("inf")), r"not defined in window 2"),
    "no duration": (lambda rows: [replace(row, duration_s=0.0) for row in rows], r"not defined in window 0"),
    "two durations": (lambda rows: edited(rows, 2, duration_s=2.88), r"has windows of 5.76 s and of 2.88 s"),
}


@pytest.mark.parametrize(("change", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_table_that_contradicts_itself_is_refused_by_name(
    change: Callable[[list[WindowRow]], list[WindowRow]], said: str, tmp_path: Path
) -> None:
    """Each of these chose other windows, and gave other embeddings, without a word."""
    assert len(read_window_table(write_window_table(tmp_path / "windows.tsv", rows_of_two()))) == 2
    path = write_window_table(tmp_path / "windows.tsv", change(rows_of_two()))
    with pytest.raises(InputError, match=rf"windows.tsv: .*{said}.*run `slimbrain rank` again\.$"):
        read_window_table(path)


def test_a_session_that_lost_its_last_windows_is_refused_where_the_store_has_them(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", grid8, subjects=2, frames=40)
    first, second = store.sessions
    cut = WindowConfig(frames=8, k=2)
    rows = [row for info in store.sessions for row in made(info.key, [0.1 * number for number in range(info.n_frames // 8)])]
    path = write_window_table(tmp_path / "windows.tsv", rows)
    assert ranked_windows(path, store, cut)[second.key] == [4, 3, 2, 1, 0]
    left = [*(row for row in rows if row.session == first.key), replace(made(second.key, [0.0])[0])]
    with pytest.raises(InputError, match=rf"has 1 of the 5 windows of {second.key}; run `slimbrain rank` again"):
        ranked_windows(write_window_table(path, left), store, cut)


def test_rows_carry_the_rank_of_their_score_or_of_the_order_given() -> None:
    score = np.array([0.1, 3.0, -1.0, 2.0])
    scores = WindowScores(*[score] * 4, onset_s=np.arange(4) * 2.0, duration_s=np.full(4, 2.0), score=score)
    assert [row.rank for row in window_rows("a", scores, order_by_score(scores.score))] == [3, 1, 4, 2]
    assert [row.onset_s for row in window_rows("a", scores, order_by_score(scores.score))] == [0, 2, 4, 6]
    assert [row.rank for row in window_rows("a", scores, np.array([2, 0, 1, 3]))] == [2, 3, 1, 4]


def made(run: str, scores: list[float]) -> list[WindowRow]:
    column = np.array(scores)
    onset, duration = np.arange(len(scores)) * 5.76, np.full(len(scores), 5.76)
    return window_rows(run, WindowScores(*[column] * 4, onset_s=onset, duration_s=duration, score=column), order_by_score(column))


def chosen(rows: list[WindowRow]) -> set[tuple[str, int]]:
    return {(row.session, row.window) for row in rows if row.chosen}


def test_a_budget_takes_the_best_of_all_runs_of_a_session() -> None:
    rows = made("a1", [0.0, 5.0, 4.0]) + made("a2", [3.0, -1.0, 1.0]) + made("b1", [9.0, 8.0, 7.0])
    scans = {"a1": "sub-a_ses-1", "a2": "sub-a_ses-1", "b1": "sub-b_ses-1"}
    assert chosen(within_budget(rows, scans, per_session=3)) == {("a1", 1), ("a1", 2), ("a2", 0), ("b1", 0), ("b1", 1), ("b1", 2)}
    assert chosen(within_budget(rows, scans, per_run=1, per_session=3)) == {("a1", 1), ("a2", 0), ("b1", 0)}
    # Each run gives one while the budget lasts: the second best of a1 would beat the best of a2.
    assert chosen(within_budget(rows, scans, per_session=2)) == {("a1", 1), ("a2", 0), ("b1", 0), ("b1", 1)}
    assert chosen(within_budget(rows, scans, per_session=1)) == {("a1", 1), ("b1", 0)}
    assert [replace(row, chosen=True) for row in within_budget(rows, scans)] == rows


@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=8), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 12))
def test_budgets_hold_and_are_used_up(runs: list[list[int]], per_run: int, per_session: int) -> None:
    rows = [row for number, scores in enumerate(runs) for row in made(f"run{number}", [float(score) for score in scores])]
    scans = {f"run{number}": "one" for number in range(len(runs))}
    taken = chosen(within_budget(rows, scans, per_run, per_session))
    counts = [sum(run == f"run{number}" for run, _ in taken) for number in range(len(runs))]
    assert all(count <= per_run for count in counts)
    assert len(taken) == min(per_session, sum(min(per_run, len(scores)) for scores in runs))
    if per_session >= len(runs):
        assert min(counts) >= 1


@pytest.fixture
def two_runs(tmp_path: Path, grid8: Grid) -> Store:
    rng = np.random.default_rng(0)
    store = Store.create(tmp_path / "store", grid8, tr=0.72)
    moments = np.ones((2, *grid8.voxel_mask.shape), np.float32)
    for run in ("1", "2"):
        voxels = rng.standard_normal((34, *grid8.voxel_mask.shape)) * grid8.voxel_mask
        write_session(store, {"sub": "01", "task": "rest", "run": run, "space": "MNI152NLin6Asym"}, voxels, *moments, 0.72)
    return store


@pytest.fixture
def model() -> TemporalExtractor:
    torch.manual_seed(0)
    made = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4)).eval()
    torch.nn.init.normal_(made.write.weight)
    return made


def test_rank_store_scores_every_session_at_its_own_places(two_runs: Store, grid8: Grid, model: TemporalExtractor) -> None:
    weights = SaliencyConfig(novelty_weight=0.5, order="score")
    rows = rank_store(two_runs, model, weights)
    assert [row.window for row in rows] == list(range(8)) * 2
    for info in two_runs.sessions:
        alone = exact_scores(model, torch.from_numpy(two_runs.coarse(info.key)), torch.tensor(grid8.cells.mm).float(), 0.72, weights)
        mine = [row for row in rows if row.session == info.key]
        np.testing.assert_allclose([row.score for row in mine], alone.score, atol=1e-12)
        assert sorted(row.rank for row in mine) == list(range(1, 9))


@pytest.mark.parametrize(("method", "way"), [("exact", "--method fast"), ("fast", "slimbrain store subset")])
def test_a_long_ranking_says_how_to_make_it_shorter(
    method: str, way: str, two_runs: Store, model: TemporalExtractor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every look at the clock finds it 700 s later: so long the second run takes, too."""
    seconds = itertools.count(start=0.0, step=700.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    rank_store(two_runs, model, SaliencyConfig(method=method))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "shorter" in line]
    assert line.startswith("rank will take about 12 min more; to make it shorter: ") and way in line


def test_python_ranks_as_the_command_does(two_runs: Store, tmp_path: Path) -> None:
    """By the scoring that the model was trained with, which is not the library's default."""
    ranker = from_pretrained(TEMPORAL)
    assert isinstance(ranker, TemporalExtractor) and ranker.provenance
    own = SaliencyConfig(novelty_weight=0.7, explained_weight=0.0, order="score").model_dump()
    ranker.provenance = replace(ranker.provenance, training={**ranker.provenance.training, "saliency": own})
    folder = save_pretrained(ranker, tmp_path / "model")
    assert run_command(["rank", str(two_runs.root), "--temporal", str(folder), "--out", str(tmp_path / "windows.tsv")]) == 0
    rows = rank_store(two_runs, ranker)
    assert [row for found in read_window_table(tmp_path / "windows.tsv").values() for row in found] == rows
    assert rows != rank_store(two_runs, ranker, SaliencyConfig())


def test_rank_store_orders_and_chooses_as_it_is_told(two_runs: Store, grid8: Grid, model: TemporalExtractor) -> None:
    by_score = rank_store(two_runs, model)
    apart = rank_store(two_runs, model, SaliencyConfig(order="apart", min_distance_s=6.0, per_session=5))
    diverse = rank_store(two_runs, model, SaliencyConfig(order="diverse", diversity=2.0))
    assert sum(row.chosen for row in apart) == 5
    for info in two_runs.sessions:
        scores = [row.score for row in by_score if row.session == info.key]
        onset = [row.onset_s for row in by_score if row.session == info.key]
        with torch.no_grad():
            series = torch.from_numpy(two_runs.coarse(info.key))[None]
            embeddings = model.embed(series, torch.tensor(grid8.cells.mm).float(), 0.72)[1][0].numpy()
        for rows, order in ((apart, order_apart(scores, onset, 6.0)), (diverse, order_diverse(scores, embeddings, 2.0))):
            assert [row.rank for row in rows if row.session == info.key] == ranks_of(order).tolist()
