"""Draws: the same for any number of workers, every session once per epoch, and just the store's frames and seconds."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import TR_S, make_store, network_series, write_run
from torch.utils.data import DataLoader

from slimbrain.config import JepaConfig, SamplingConfig, WindowConfig
from slimbrain.data.clip import read_clip
from slimbrain.data.draws import ClipDraws, MaskedClip, Series, SeriesDraws
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session, write_session

WINDOW = WindowConfig(frames=8, k=3)


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three sessions of 44, 44 and 40 frames: five windows each."""
    return make_store(tmp_path_factory.mktemp("store"), grid8)


def clip_draws(
    store: Store, seed: int = 0, window: WindowConfig = WINDOW, unit: str = "unit", unit_frames: int = 4, **more: object
) -> ClipDraws:
    return ClipDraws(store, window, seed, unit, unit_frames, JepaConfig(hide="places_and_times"), **more)  # type: ignore[arg-type]


def windows_of(sample: MaskedClip, frames: int = 8, tr: float = TR_S) -> list[int]:
    """The windows that a clip holds, told from its seconds."""
    frame = sample.clip.seconds.numpy() / tr
    np.testing.assert_allclose(frame, frame.round(), atol=1e-6)
    cut = frame.round().astype(int).reshape(-1, frames)
    np.testing.assert_array_equal(cut, cut[:, :1] + np.arange(frames))
    assert not (cut[:, 0] % frames).any()
    return (cut[:, 0] // frames).tolist()


def same(first: object, second: object) -> bool:
    if isinstance(first, Series) and isinstance(second, Series):
        return (
            torch.equal(first.values, second.values)
            and torch.equal(first.mm, second.mm)
            and (first.tr, first.draw) == (second.tr, second.draw)
        )
    assert isinstance(first, MaskedClip) and isinstance(second, MaskedClip)
    clips = torch.equal(first.clip.voxels, second.clip.voxels) and torch.equal(first.clip.seconds, second.clip.seconds)
    return clips and np.array_equal(first.mask.context, second.mask.context)


# --- order


@pytest.mark.parametrize(
    ("stage", "workers", "start"), [("temporal", 1, None), ("temporal", 2, None), ("voxel", 2, None), ("voxel", 1, "spawn")]
)
def test_workers_change_nothing(stage: str, workers: int, start: str | None, store: Store) -> None:
    # Python 3.14 starts processes without forking on every system, as macOS does already.
    draws = SeriesDraws(store, WINDOW, 0) if stage == "temporal" else clip_draws(store)
    alone = [draws[number] for number in range(2, 9)]
    loader = DataLoader(draws, batch_size=2, sampler=range(2, 9), collate_fn=list, num_workers=workers, multiprocessing_context=start)
    loaded = [sample for batch in loader for sample in batch]
    assert len(loaded) == len(alone) and all(map(same, alone, loaded))


def test_draws_can_be_sent_to_a_process_that_was_not_forked(store: Store) -> None:
    draws = clip_draws(store)
    assert same(pickle.loads(pickle.dumps(draws))[5], draws[5])


def test_every_epoch_visits_every_session_once_in_an_order_of_its_own(grid8: Grid, tmp_path: Path) -> None:
    draws = SeriesDraws(make_store(tmp_path, grid8, subjects=6, frames=16), WINDOW, 0)
    epochs = [[draws.session_of(6 * epoch + place).key for place in range(6)] for epoch in range(8)]
    assert all(sorted(epoch) == [info.key for info in draws.sessions] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 4


def test_a_draw_depends_on_the_seed_and_its_number_alone(store: Store) -> None:
    first, again = clip_draws(store), clip_draws(store)
    backwards = [again[number] for number in reversed(range(10))][::-1]
    assert all(same(first[number], backwards[number]) for number in range(10))
    other = clip_draws(store, seed=1)
    assert not all(same(first[number], other[number]) for number in range(10))
    # The same session in the next epoch is another draw.
    by_session: dict[str, list[MaskedClip]] = {}
    for number in range(30):
        by_session.setdefault(first.session_of(number).key, []).append(first[number])
    assert all(len({sample.mask.context.tobytes() for sample in samples}) > 3 for samples in by_session.values())


# --- cohorts and the choice of windows

MIXED = SamplingConfig(by="site", weights={"A": 2, "B": 1})


@pytest.fixture(scope="module")
def mixed(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five sessions: two of site A, three of site B."""
    root = tmp_path_factory.mktemp("mixed")
    make_store(root, grid8, subjects=5, frames=40)
    (root / "participants.tsv").write_text("participant_id\tsite\n" + "".join(f"sub-{n:02d}\t{'AB'[n > 2]}\n" for n in range(1, 6)))
    return Store(root)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("stage", ["temporal", "voxel"])
@pytest.mark.parametrize("windows", ["random", "uniform"])
def test_workers_change_nothing_about_a_mixture(stage: str, windows: str, workers: int, mixed: Store) -> None:
    sampling = MIXED.model_copy(update={"windows": windows})
    draws = SeriesDraws(mixed, WINDOW, 7, sampling) if stage == "temporal" else clip_draws(mixed, 7, sampling=sampling)
    alone = [draws[number] for number in range(4, 13)]
    loader = DataLoader(draws, batch_size=2, sampler=range(4, 13), collate_fn=list, num_workers=workers)
    loaded = [sample for batch in loader for sample in batch]
    assert len(loaded) == len(alone) and all(map(same, alone, loaded))


def test_cohorts_are_drawn_by_weight_and_the_small_one_repeats(mixed: Store) -> None:
    draws = SeriesDraws(mixed, WINDOW, 0, MIXED)
    subjects = [draws.session_of(number).subject for number in range(1000)]
    assert sum(subject in ("sub-01", "sub-02") for subject in subjects) == 667
    assert {subject: count for subject, count in Counter(subjects).items() if subject > "sub-02"} == dict.fromkeys(
        ("sub-03", "sub-04", "sub-05"), 111
    )


def test_a_cohort_without_weight_is_not_trained_on(mixed: Store) -> None:
    draws = clip_draws(mixed, sampling=SamplingConfig(by="site", weights={"A": 0, "B": 1}))
    assert {info.subject for info in draws.sessions} == {"sub-03", "sub-04", "sub-05"}
    assert {draws.session_of(number).subject for number in range(9)} == {"sub-03", "sub-04", "sub-05"}


def test_uniform_windows_are_spread_over_the_session(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, subjects=1, frames=96)
    draws = clip_draws(store, sampling=SamplingConfig(windows="uniform"))
    drawn = [windows_of(draws[number]) for number in range(60)]
    assert all(np.diff(windows).tolist() == [4, 4] for windows in drawn)
    assert {windows[0] for windows in drawn} == {0, 1, 2, 3}


def test_the_choice_of_windows(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, subjects=1, frames=96)
    ranked = {store.sessions[0].key: [11, 0, 5, 7, 2, 1, 3, 4, 6, 8, 9, 10]}

    def seen(windows: str, table: dict[str, list[int]] | None) -> set[int]:
        draws = clip_draws(store, ranked=table, sampling=SamplingConfig(windows=windows))  # type: ignore[arg-type]
        return {window for number in range(60) for window in windows_of(draws[number])}

    assert seen("auto", ranked) == seen("saliency", ranked) == {11, 0, 5}
    assert seen("auto", None) == seen("random", None) == seen("random", ranked) == seen("uniform", ranked) == set(range(12))
    with pytest.raises(InputError, match=r"sampling\.windows=saliency"):
        seen("saliency", None)


# --- contents


def test_clips_hold_the_frames_and_seconds_of_the_store(store: Store) -> None:
    draws = clip_draws(store)
    for number in range(12):
        sample, info = draws[number], draws.session_of(number)
        windows = windows_of(sample)
        assert windows == sorted(set(windows)) and len(windows) == 3 and max(windows) < 5
        voxels = store.voxels(info.key)
        np.testing.assert_array_equal(
            sample.clip.voxels.numpy(), np.concatenate([voxels[8 * window : 8 * window + 8] for window in windows])
        )
        assert sample.clip.grid == store.grid
        assert sample.mask.context.shape == (6, store.grid.n_units)


def test_all_windows_are_drawn_alike(store: Store) -> None:
    draws = clip_draws(store)
    counts = Counter(window for number in range(300) for window in windows_of(draws[number]))
    # 300 draws of 3 of 5 windows: each 180 times, std 8.5.
    assert set(counts) == set(range(5)) and all(140 < count < 220 for count in counts.values())


def test_windows_are_joined_in_the_order_given(store: Store) -> None:
    info = store.sessions[0]
    clip = read_clip(store, info, [4, 0], 8)
    voxels = store.voxels(info.key)
    np.testing.assert_array_equal(clip.voxels.numpy(), np.concatenate([voxels[32:40], voxels[:8]]))
    np.testing.assert_allclose(clip.seconds.numpy(), np.r_[32:40, 0:8] * TR_S, rtol=1e-15)
    with pytest.raises(StoreError, match="44"):
        read_clip(store, info, [5], 8)


def test_seconds_come_from_each_sessions_tr(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, 0.75)
    write_run(store, frames=24)
    assert windows_of(clip_draws(store)[0], tr=0.75) == [0, 1, 2]


def test_series_are_the_coarse_channels(store: Store) -> None:
    draws = SeriesDraws(store, WINDOW, 0)
    for number in range(3):
        series, info = draws[number], draws.session_of(number)
        np.testing.assert_array_equal(series.values.numpy(), store.coarse(info.key))
        np.testing.assert_allclose(series.mm.numpy(), store.grid.cells.mm)
        assert series.tr == TR_S and series.draw == number


def test_series_of_parcels(tmp_path: Path) -> None:
    store = Store.create(tmp_path, None, 1.0)
    places = np.arange(12.0).reshape(4, 3)
    write_roi_session(store, {"sub": "01"}, np.ones((20, 4)), Channels(tuple("abcd"), places), 1.0)
    series = SeriesDraws(store, WINDOW, 0)[0]
    assert series.values.shape == (20, 4) and series.tr == 1.0
    np.testing.assert_array_equal(series.mm.numpy(), places)


# --- units and masks


@pytest.mark.parametrize(("frames", "k", "unit_frames", "steps"), [(8, 3, 4, 6), (8, 3, 8, 3), (6, 4, 4, 6), (5, 8, 8, 5), (5, 8, 4, 10)])
def test_masks_have_a_row_for_each_time_unit(frames: int, k: int, unit_frames: int, steps: int, store: Store) -> None:
    window = WindowConfig(frames=frames, k=k)
    sample = clip_draws(store, window=window, unit="region", unit_frames=unit_frames)[0]
    assert sample.clip.voxels.shape[0] == frames * k
    assert sample.mask.context.shape == (steps, len(store.grid.regions))


def test_time_units_inside_windows_are_masked_with_their_window(store: Store) -> None:
    draws = clip_draws(store)
    for number in range(20):
        seen = draws[number].mask.times.reshape(3, 2)
        np.testing.assert_array_equal(seen[:, 0], seen[:, 1])


# --- ranked windows


def test_ranked_windows_are_those_drawn(store: Store) -> None:
    ranked = {info.key: [3, 1, 4, 0, 2] for info in store.sessions}
    draws = clip_draws(store, ranked=ranked)
    assert all(windows_of(draws[number]) == [1, 3, 4] for number in range(10))


def test_the_pool_is_as_many_times_larger_as_asked(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, subjects=1, frames=80)
    ranked = {store.sessions[0].key: [9, 0, 5, 7, 2, 1, 3, 4, 6, 8]}
    draws = clip_draws(store, window=WindowConfig(frames=8, k=3, pool=2), ranked=ranked)
    drawn = [windows_of(draws[number]) for number in range(40)]
    assert {window for windows in drawn for window in windows} == {9, 0, 5, 7, 2, 1}
    assert len(set(map(tuple, drawn))) > 10


def test_a_table_without_a_session_is_refused(store: Store) -> None:
    ranked = {info.key: [0, 1, 2] for info in store.sessions}
    del ranked[store.sessions[1].key]
    with pytest.raises(InputError, match=f"lacks 1 sessions, first {store.sessions[1].key}"):
        clip_draws(store, ranked=ranked)


def test_sessions_that_a_budget_leaves_too_few_windows_are_not_drawn(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (info.key for info in store.sessions)
    draws = clip_draws(store, ranked={first: [0, 1, 2], second: [0, 1], third: [4, 3, 2, 1]})
    assert [info.key for info in draws.sessions] == [first, third]
    assert "1 sessions are not trained on" in capsys.readouterr().err
    with pytest.raises(InputError, match="--per-run"):
        clip_draws(store, ranked={key: [0] for key in (first, second, third)})


# --- too short


def test_sessions_too_short_are_left_out(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    for run, frames in enumerate((15, 16, 23, 24), start=1):
        write_run(store, frames=frames, run=run)
    assert [info.n_frames for info in SeriesDraws(store, WINDOW, 0).sessions] == [16, 23, 24]
    assert [info.n_frames for info in clip_draws(store).sessions] == [24]


def test_nothing_to_train_on_is_refused(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    write_session(store, {"sub": "01", "space": "MNI"}, network_series(grid8, 9, 0), *np.ones((2, *grid8.voxel_mask.shape)), TR_S)
    makers: list[Callable[[], object]] = [lambda: SeriesDraws(store, WINDOW, 0), lambda: clip_draws(store)]
    for make in makers:
        with pytest.raises(InputError, match="no session to train on"):
            make()
