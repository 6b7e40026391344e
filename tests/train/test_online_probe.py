"""The online probe finds what was planted, never on participants that are trained on, and is logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import TR_S, entities
from train_samples import small_preset

from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.store.write import write_session
from slimbrain.train import Loop, VoxelStage, read_metrics
from slimbrain.train.online_probe import _out_of_fold, _targets

HELD_OUT = "sampling.held_out=0.8"


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """30 participants of noise, by turns of single voxels and of whole patches, which is their group; an age that nothing tells."""
    store, shape = Store.create(tmp_path_factory.mktemp("store"), grid8, TR_S), grid8.voxel_mask.shape
    rows = ["participant_id\tgroup\tage\tone"]
    for number in range(30):
        random = np.random.default_rng(number)
        series = random.normal(size=(16, *shape)) if number % 2 else np.repeat(random.normal(size=(16, shape[0], 1)), shape[1], 2)
        series = (series - series.mean(0)) / series.std(0) * grid8.voxel_mask
        write_session(store, entities(f"{number:02d}"), series, np.ones(shape), np.ones(shape), TR_S)
        rows.append(f"sub-{number:02d}\t{'voxels' if number % 2 else 'patches'}\t{random.integers(20, 60)}\talike")
    (store.root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return Store(store.root)


def stage_of(store: Store, column: str, *overrides: str, **training: object) -> VoxelStage:
    preset = small_preset(HELD_OUT, f"train_voxel.probe={column}", "train_voxel.probe_every=3", *overrides, **training)
    return VoxelStage(store, preset, 0, None)


def test_finds_a_planted_group_and_not_an_age_that_nothing_tells(store: Store) -> None:
    group, age = (stage_of(store, column).probe(0) for column in ("group", "age"))
    assert group["probe_group"] > 0.9
    assert age["probe_age"] < 0.2


def test_probes_held_out_participants_alone(store: Store) -> None:
    stage = stage_of(store, "group")
    assert stage.online_probe is not None
    assert set(stage.online_probe.people) == {info.subject for info in stage.draws.held_out}
    assert not set(stage.online_probe.people) & {info.subject for info in stage.draws.sessions}
    assert len(stage.online_probe.people) == 24


def test_is_logged_every_few_steps_and_at_the_end(store: Store, tmp_path: Path) -> None:
    stage = stage_of(store, "group", steps=6, accumulate=1)
    Loop(stage, stage.train, tmp_path / "run", torch.device("cpu")).fit()
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "probe_group" in line] == [0, 3, 5]


def test_predictions_are_of_people_who_were_not_fitted() -> None:
    """Of random targets, a probe that saw them would tell them perfectly from as many features."""
    random = np.random.default_rng(0)
    features, wanted = random.normal(size=(60, 60)), random.normal(size=(60, 1))
    assert np.corrcoef(_out_of_fold(features, wanted)[:, 0], wanted[:, 0])[0, 1] < 0.4


def test_numbers_are_scored_by_r2_and_classes_by_auc() -> None:
    age, group, three = _targets(["1", "2.5", "7"]), _targets(["0", "1", "1"]), _targets(["a", "b", "c"] * 2)
    assert age.score(age.values) == 1 and age.score(np.full((3, 1), age.values.mean())) == pytest.approx(0)
    assert group.is_class and group.fewest == 1 and group.score(1 - group.values) == 0
    assert three.score(three.values) == 1 and three.score(np.zeros((6, 3))) == 0.5


@pytest.mark.parametrize(
    ("column", "overrides", "words"),
    [("sex", (), "no table"), ("one", (), "of each class"), ("age", ("sampling.held_out=0.2",), "6 held-out")],
)
def test_refuses_what_says_nothing(store: Store, column: str, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        stage_of(store, column, *overrides)
