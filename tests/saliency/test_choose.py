"""Windows chosen without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slimbrain.config import WindowConfig
from slimbrain.errors import InputError
from slimbrain.governance.provenance import CONFIG_FILE
from slimbrain.saliency.choose import STILL, open_windows, ranked_windows, window_choice, window_order
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

CUT = WindowConfig(frames=4, k=3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One run of 12 windows of slow waves, one channel empty; all jump within the windows 1, 2, 6 and 11, and 5 is the second to move."""
    times = np.arange(48.0)
    series = np.sin(times[:, None] / 20 + np.arange(6))
    for frame, size in ((6, 4.0), (10, 3.0), (26, 5.0), (46, 2.0), (22, 1.0)):
        series[frame:] += size
    series[:, 5] = 0
    store = Store.create(tmp_path, None, 1.0)
    write_roi_session(store, {"sub": "01"}, series, Channels(tuple("abcdef"), np.arange(18.0).reshape(6, 3)), 1.0)
    return Store(tmp_path)


def test_still_windows_are_spread_and_without_the_jumps(store: Store) -> None:
    chosen = window_choice(STILL, store, 4, CUT)(store.sessions[0])
    assert len(chosen) == 3
    for window, (low, high) in zip(chosen, ((0, 4), (4, 8), (8, 12)), strict=True):
        assert low <= window < high
    assert not {1, 2, 5, 6, 11} & set(chosen)


def test_windows_that_jump_most_come_last(store: Store) -> None:
    order = window_order(STILL, store, CUT)
    assert order is not None
    everything = order(store.sessions[0])
    assert sorted(everything) == list(range(12))
    assert everything[-5:] == [5, 11, 2, 1, 6]


def test_more_windows_than_there_are_is_all_of_them(store: Store) -> None:
    choose = window_choice(STILL, store, 4, WindowConfig(frames=4, k=40))
    assert choose(store.sessions[0]) == list(range(12))


@pytest.mark.parametrize(
    ("typed", "way"),
    [
        ("tabel.tsv", "the nearest name is table.tsv."),
        ("tabel", "the nearest name is table.tsv."),
        ("./tabel.csv", "the nearest name is table.tsv."),
        ("stil", "the nearest name is still."),
        ("unifrom", "the nearest name is uniform."),
        ("slimbrain-tempral", "the nearest name is slimbrain-temporal."),
        ("runs/modle", "the nearest name is runs/model."),
        ("away/table.tsv", "give a window table from `slimbrain rank`, a stage 1 model, `still` or `uniform`."),
        ("quite another", "give a window table from `slimbrain rank`, a stage 1 model, `still` or `uniform`."),
    ],
)
def test_windows_that_are_not_there_are_refused_with_the_nearest_name(
    typed: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.tsv").touch()
    Path("runs/model").mkdir(parents=True)
    Path("runs/model", CONFIG_FILE).touch()
    with pytest.raises(InputError) as refused:
        open_windows(typed)
    assert str(refused.value) == f"{typed}: there is no such window table or model; {way}"


def test_a_table_to_train_on_that_is_not_there_is_refused_with_the_nearest_name(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tabel\.tsv: there is no such window table; make one with `slimbrain rank`\.$"):
        ranked_windows(tmp_path / "tabel.tsv", store, CUT)
    (tmp_path / "table.tsv").touch()
    with pytest.raises(InputError, match=r"tabel\.tsv: there is no such window table; the nearest name is .*/table\.tsv\.$"):
        ranked_windows(tmp_path / "tabel.tsv", store, CUT)


def test_still_is_told_from_a_folder(tmp_path: Path) -> None:
    assert open_windows(STILL) == STILL and open_windows("uniform") is None
