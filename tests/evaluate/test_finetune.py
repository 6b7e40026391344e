"""Fine-tuning against what was planted in the voxels, the published schedule by hand, and a run that is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbrain.config import HieraConfig, TemporalConfig
from slimbrain.errors import InputError
from slimbrain.evaluate.finetune import FinetuneConfig, FineTuning, TunedEncoder, Views, _parameter_groups, _set_rates, require_encoder
from slimbrain.evaluate.probes import cross_validate
from slimbrain.evaluate.splits import PredictionProblem, SplitPolicy, outer_splits
from slimbrain.evaluate.stats import score
from slimbrain.governance.provenance import PEOPLE_FILE, people_in, trained_on
from slimbrain.grid import Grid
from slimbrain.models.hiera import Hiera
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store
from slimbrain.store.write import write_session

SUBJECTS, FRAMES = 16, 4
SMALL = HieraConfig(embed=4, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), mlp_ratio=1, recompute=False)
POLICY = SplitPolicy(n_splits=2, seeds=(0,))
QUICK = FinetuneConfig(epochs=6, warmup_epochs=1, head_lr=2e-2, lr=2e-3, final_lr=1e-4, batch=4, patience=6)
"""Faster than published: half a minute's training instead of an evening's, on a network of four blocks."""


@pytest.fixture(scope="module")
def small_grid() -> Grid:
    """A slab of brain in eight units of the 8 mm lattice, so that a step takes milliseconds."""
    from slimbrain.grid import LATTICES

    lattice = LATTICES["8mm"]
    mask = np.zeros((lattice.edge,) * 3, bool)
    mask[8:16, 8:16, 8:12] = True
    return Grid(lattice, mask)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small_grid: Grid) -> Store:
    """Two sessions per subject of four windows; in those of every second subject, one corner of the brain lies higher."""
    root = tmp_path_factory.mktemp("tuning")
    store, rng = Store.create(root, small_grid, 0.72), np.random.default_rng(0)
    shape = small_grid.voxel_mask.shape
    for subject in range(SUBJECTS):
        for session in "12":
            voxels = rng.normal(size=(4 * FRAMES, *shape))
            voxels[:, small_grid.patch_unit == 0] += 1.5 * (subject % 2)
            voxels = np.where(small_grid.voxel_mask, voxels, 0).astype(np.float16)
            entities = {"sub": f"{subject:02d}", "ses": session, "task": "rest", "space": "MNI152NLin6Asym"}
            write_session(store, entities, voxels, np.zeros(shape), np.ones(shape), 0.72)
    return Store(root)


def tuning(store: Store, folder: Path | None = None, config: FinetuneConfig = QUICK) -> FineTuning:
    torch.manual_seed(0)
    encoder = Hiera(SMALL, store.grid.voxels_per_patch)
    keys = [info.key for info in store.sessions]
    views = {key: Views((0, 2), (0, 1, 2, 3)) for key in keys}
    return FineTuning("ours", encoder, store, keys, views, FRAMES, config, torch.device("cpu"), folder)


def labels_of(store: Store) -> tuple[np.ndarray, np.ndarray]:
    who = np.array([info.subject for info in store.sessions])
    return np.array([int(name[4:]) % 2 for name in who]), who


def test_a_label_in_the_voxels_is_found_and_the_encoder_moves(store: Store) -> None:
    labels, who = labels_of(store)
    oof = cross_validate(tuning(store), labels, who, "classification", POLICY)
    assert oof.subject.tolist() == sorted(set(who))
    assert score(oof, "auc")[0] > 0.9
    probe = tuning(store)
    problem = PredictionProblem(labels.astype(float), who, ("0", "1"))
    tuned, loss = probe.tune(problem, np.arange(16), np.arange(16, 32), 0)
    moved = [not torch.equal(a, b) for a, b in zip(tuned.encoder.parameters(), probe.encoder.parameters(), strict=True)]
    assert all(moved) and loss / 16 < np.log(2)


def test_a_value_in_the_voxels_is_found_in_its_own_unit(store: Store) -> None:
    labels, who = labels_of(store)
    oof = cross_validate(tuning(store), 40 + 10.0 * labels, who, "regression", POLICY)
    assert score(oof, "r")[0] > 0.8 and oof.scores.mean() == pytest.approx(45, abs=4)


def test_shuffled_labels_are_not_found(store: Store) -> None:
    """Labels that are half those of the planted groups: nothing to find, but for a subject whose two sessions are parted."""
    _, who = labels_of(store)
    values = []
    for seed in range(4):
        dealt = np.tile([0, 0, 1, 1], SUBJECTS // 4)
        names = np.unique(who)
        order = np.random.default_rng(seed).permutation(SUBJECTS // 2)
        # As many of each label in either planted group.
        by_name = {name: dealt[2 * order[number // 2] + number % 2] for number, name in enumerate(names)}
        labels = np.array([by_name[name] for name in who])
        oof = cross_validate(tuning(store, config=QUICK.model_copy(update={"epochs": 3})), labels, who, "classification", POLICY)
        values.append(score(oof, "auc")[0])
    assert np.mean(values) < 0.7


def test_layers_learn_by_their_depth_as_published() -> None:
    """lr 1e-4 at the last norm, times 0.75 a block further down; head 5e-4; no decay for vectors."""
    tuned = TunedEncoder(Hiera(SMALL, 8), 2)
    tuned.begin(torch.randn(4, 10))
    rates = {id(parameter): group for group in _parameter_groups(tuned, FinetuneConfig()) for parameter in group["params"]}
    assert len(rates) == len(list(tuned.parameters()))
    encoder = tuned.encoder
    assert rates[id(tuned.head.weight)]["peak"] == rates[id(tuned.head.bias)]["peak"] == 5e-4
    assert rates[id(encoder.norm.weight)]["peak"] == 1e-4
    for up, block in enumerate(reversed(encoder.blocks), start=1):
        assert rates[id(block.qkv.weight)]["peak"] == pytest.approx(1e-4 * 0.75**up)
    assert rates[id(encoder.patch_embed.weight)]["peak"] == pytest.approx(1e-4 * 0.75**5)
    assert rates[id(encoder.patch_embed.weight)]["weight_decay"] == 0.05
    assert rates[id(encoder.patch_embed.bias)]["weight_decay"] == rates[id(encoder.norm.weight)]["weight_decay"] == 0


def test_two_epochs_of_warm_up_then_a_cosine_to_a_millionth() -> None:
    config = FinetuneConfig(epochs=12)
    optimizer = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.ones(1))], "peak": config.lr}])
    rates = []
    for step in range(120):
        _set_rates(optimizer, config, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:20] == pytest.approx(1e-4 * np.arange(1, 21) / 20)
    assert rates[20:] == pytest.approx(1e-6 + (1e-4 - 1e-6) * (1 + np.cos(np.pi * np.arange(100) / 99)) / 2)
    assert (config.layer_decay, config.weight_decay, config.betas, config.clip, config.head_lr) == (0.75, 0.05, (0.9, 0.99), 1.0, 5e-4)


def test_windows_are_pooled_before_scoring_and_drawn_anew_in_training(store: Store) -> None:
    """The scored vector is that of one clip of all scored windows; training draws as many, from all windows there are."""
    probe = tuning(store)
    clip = probe._scored(3)
    assert clip.seconds.tolist() == pytest.approx([0.72 * frame for frame in (0, 1, 2, 3, 8, 9, 10, 11)])
    drawn = [tuple(probe._draw(3, (0, epoch, 3))) for epoch in range(20)]
    assert len(set(drawn)) > 3 and all(len(set(windows)) == 2 and sorted(windows) == list(windows) for windows in drawn)
    assert set(np.ravel(drawn)) == {0, 1, 2, 3}


def test_nothing_is_fitted_on_the_test_subjects(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a fold is tuned, no session of its test subjects is even read."""
    labels, who = labels_of(store)
    split = outer_splits(who, labels, "classification", POLICY, 0)[0]
    probe, read = tuning(store, config=QUICK.model_copy(update={"epochs": 1})), []
    monkeypatch.setattr(
        FineTuning, "_clip", lambda self, row, windows, clip=FineTuning._clip: read.append(int(row)) or clip(self, row, windows)
    )
    predicted = len(split.test)
    probe.fit_predict(PredictionProblem(labels.astype(float), who, ("0", "1")), split, 0)
    assert set(read[:-predicted]) == set(split.train.tolist()) and read[-predicted:] == split.test.tolist()


def test_a_stopped_evaluation_goes_on_with_the_next_fold(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, who = labels_of(store)
    config = QUICK.model_copy(update={"epochs": 1})
    expected = cross_validate(tuning(store, config=config), labels, who, "classification", POLICY)
    plain, calls = FineTuning.tune, []

    def killed_at_the_second(self: FineTuning, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(FineTuning, "tune", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(tuning(store, tmp_path, config), labels, who, "classification", POLICY)
    # What is left of it says whose it is.
    assert trained_on(json.loads((tmp_path / PEOPLE_FILE).read_text()), people_in(store)) == sorted(set(who))
    again = cross_validate(tuning(store, tmp_path, config), labels, who, "classification", POLICY)
    assert len(calls) == 3 and np.array_equal(again.scores, expected.scores)
    other = tuning(store, tmp_path, config)
    with torch.no_grad():
        other.encoder.norm.weight.mul_(2)
    cross_validate(other, labels, who, "classification", POLICY)
    cross_validate(tuning(store, tmp_path, QUICK.model_copy(update={"epochs": 2})), labels, who, "classification", POLICY)
    cross_validate(tuning(store, tmp_path, config), 1 - labels, who, "classification", POLICY)
    assert len(calls) == 9, "other weights, settings or labels must not be answered from the folder"


def test_stage_one_is_not_fine_tuned() -> None:
    with pytest.raises(InputError, match="fine-tuning is for stage 2"):
        require_encoder(TemporalExtractor(TemporalConfig(width=8, depth=1, heads=1, groups=1)), "runs/temporal/model")
