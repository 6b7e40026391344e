"""A fine-tuned model in a folder: it embeds, predicts what was planted in new people, by hand the same, and remembers whom it saw."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, JepaConfig, WindowConfig
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.evaluate.finetune import FinetuneConfig, FineTuning, Views
from slimbrain.evaluate.tasks import Target
from slimbrain.evaluate.tuned import load_tuned, predict_store, save_tuned
from slimbrain.governance.provenance import REMEMBERED, Person, Provenance, people_in, remember
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hub import HEAD_FILE, from_pretrained, save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.store import Store
from slimbrain.store.write import write_session

FRAMES, KNOWN, NEW = 4, 12, 6
SMALL = HieraConfig(embed=4, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), mlp_ratio=1, recompute=False)
QUICK = FinetuneConfig(epochs=6, warmup_epochs=1, head_lr=2e-2, lr=2e-3, final_lr=1e-4, batch=4, patience=6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of every second of 18 participants, one corner of the brain lies higher."""
    lattice = LATTICES["8mm"]
    mask = np.zeros((lattice.edge,) * 3, bool)
    mask[8:16, 8:16, 8:12] = True
    grid, root = Grid(lattice, mask), tmp_path_factory.mktemp("tuned") / "cohort"
    store, rng, shape = Store.create(root, grid, 0.72), np.random.default_rng(0), grid.voxel_mask.shape
    for number in range(KNOWN + NEW):
        voxels = rng.normal(size=(4 * FRAMES, *shape))
        voxels[:, grid.patch_unit == 0] += 2 * (number % 2)
        entities = {"sub": f"{number:02d}", "task": "rest", "space": "MNI152NLin6Asym"}
        voxels = np.where(grid.voxel_mask, voxels, 0).astype(np.float16)
        write_session(store, entities, voxels, np.zeros(shape), np.ones(shape), 0.72)
    return Store(root)


@pytest.fixture(scope="module")
def model(store: Store, tmp_path_factory: pytest.TempPathFactory) -> HieraJEPA:
    """With fresh weights, which say that they were pretrained on the last participant."""
    torch.manual_seed(0)
    people = people_in(store, store.sessions[-1:])
    provenance = Provenance(store.contract, WindowConfig(frames=FRAMES, k=3), store.grid, {REMEMBERED: remember(people)})
    made = HieraJEPA(SMALL, JepaConfig(predictor_width=8, predictor_depth=1, predictor_heads=1), store.grid.voxels_per_patch)
    loaded = from_pretrained(save_pretrained(made, tmp_path_factory.mktemp("pretrained"), provenance))
    assert isinstance(loaded, HieraJEPA)
    return loaded


def tuning_and_target(store: Store, model: HieraJEPA, regression: bool = False) -> tuple[FineTuning, Target]:
    sessions = store.sessions[:KNOWN]
    keys, who = tuple(info.key for info in sessions), np.array([info.subject for info in sessions])
    high = np.array([int(name[4:]) % 2 for name in who])
    labels = 40.0 + 10 * high if regression else np.where(high, "high", "low")
    views = {key: Views((0, 2), (0, 1, 2, 3)) for key in keys}
    tuning = FineTuning("ours", model.encoder, store, keys, views, FRAMES, QUICK, torch.device("cpu"))
    return tuning, Target(keys, who, labels, "regression" if regression else "classification", None, {})


@pytest.fixture(scope="module")
def folder(store: Store, model: HieraJEPA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tuning, target = tuning_and_target(store, model)
    return save_tuned(tmp_path_factory.mktemp("saved") / "tuned", model, tuning, target, "column:group")


def test_new_people_are_told_by_the_command(store: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "said.tsv"
    assert run_command(["predict", str(store.root), "--model", str(folder), "--out", str(out)]) == 0
    rows = read_tsv(out)
    assert list(rows[0]) == ["session", "participant_id", "prediction", "p_high", "p_low", "in_training"]
    truth = ["high" if int(row["participant_id"][4:]) % 2 else "low" for row in rows]
    assert [row["prediction"] for row in rows[KNOWN:]] == truth[KNOWN:]
    assert [row["in_training"] for row in rows] == [*["yes"] * KNOWN, *["no"] * (NEW - 1), "yes"]
    assert f"18 sessions in {out}, 13 of them from participants that the model was trained on" in capsys.readouterr().out


def test_what_is_predicted_is_the_head_on_the_vectors_of_embed(store: Store, folder: Path, tmp_path: Path) -> None:
    assert run_command(["embed", str(store.root), "--model", str(folder), "--out", str(tmp_path / "x.npz")]) == 0
    vectors, tuned = np.load(tmp_path / "x.npz")["embedding"], load_tuned(folder)
    parts = {name: tensor.numpy() for name, tensor in tuned.tensors.items()}
    logits = (vectors - parts["centre"]) / parts["spread"] @ parts["weight"].T + parts["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = np.array([[float(row[f"p_{name}"]) for name in ("high", "low")] for row in predict_store(store, tuned)])
    assert said == pytest.approx(expected, abs=2e-5)
    assert tuned.model.provenance is not None and tuned.model.provenance.window.k == 2


def test_values_come_in_the_unit_of_the_target(store: Store, model: HieraJEPA, tmp_path: Path) -> None:
    tuning, target = tuning_and_target(store, model, regression=True)
    tuned = load_tuned(save_tuned(tmp_path / "age", model, tuning, target, "column:age"))
    said = np.array([float(row["prediction"]) for row in predict_store(store, tuned)])[KNOWN:]
    truth = np.array([40.0 + 10 * (number % 2) for number in range(KNOWN, KNOWN + NEW)])
    assert np.corrcoef(said, truth)[0, 1] > 0.8 and abs(said.mean() - 45) < 4
    assert 42 < tuned.head.centre < 48 and tuned.head.scale == pytest.approx(5, abs=0.5)


def test_those_it_was_tuned_on_are_not_evaluated_on(store: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provenance = from_pretrained(folder).provenance
    assert provenance is not None and provenance.remembers
    assert provenance.trained_on(people_in(store)) == [*(f"sub-{number:02d}" for number in range(KNOWN)), f"sub-{KNOWN + NEW - 1:02d}"]
    rows = "\n".join(f"sub-{number:02d}\t{'ab'[number % 2]}" for number in range(KNOWN + NEW))
    (store.root / "participants.tsv").write_text(f"participant_id\tgroup\n{rows}\n")
    words = ["evaluate", str(store.root), "--task", "column:group", "--model", str(folder), "--out", str(tmp_path / "x.json")]
    assert run_command(words) == 1
    assert (
        "was trained on 13 of the 18 participants to be evaluated: sub-00 by name, sub-01 by name, sub-02 by name, and 10 more; "
        in capsys.readouterr().err
    )
    card = (folder / "README.md").read_text()
    assert "| **unknown** | 12 | 12 |" in card and "fine_tuned_for: column:group" in card


def test_an_unknown_pretraining_stays_unknown(store: Store, model: HieraJEPA, tmp_path: Path) -> None:
    """As of the published weights: those of the fine-tuning are refused, and the table still says that more is not known."""
    assert model.provenance is not None
    plain = save_pretrained(model, tmp_path / "plain", replace(model.provenance, training={}))
    unknown = from_pretrained(plain)
    assert isinstance(unknown, HieraJEPA)
    tuning, target = tuning_and_target(store, unknown)
    quick = replace(tuning, config=QUICK.model_copy(update={"epochs": 1}))
    found = from_pretrained(save_tuned(tmp_path / "tuned", unknown, quick, target, "column:group")).provenance
    assert found is not None and not found.remembers and found.trained_on([Person("sub-03")]) == ["sub-03"]
    assert "The participants of its pretraining are unknown" in (tmp_path / "tuned" / "README.md").read_text()


def test_a_repeated_command_does_not_tune_again(store: Store, model: HieraJEPA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning, target = tuning_and_target(store, model)
    monkeypatch.setattr(FineTuning, "tune", lambda *arguments: pytest.fail("tuned again"))
    assert save_tuned(folder, model, tuning, target, "column:group") == folder
    with pytest.raises(InputError, match="is not empty and holds another model"):
        save_tuned(folder, model, replace(tuning, config=FinetuneConfig()), target, "column:group")


def test_who_is_stopped_while_saving_starts_again(store: Store, model: HieraJEPA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning, target = tuning_and_target(store, model)
    quick = replace(tuning, config=QUICK.model_copy(update={"epochs": 1}))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slimbrain.evaluate.tuned.write_atomic", stop)
        save_tuned(tmp_path / "tuned", model, quick, target, "column:group")
    assert not (tmp_path / "tuned").exists()
    load_tuned(save_tuned(tmp_path / "tuned", model, quick, target, "column:group"))
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_a_head_of_other_weights_or_none_is_refused(model: HieraJEPA, folder: Path, tmp_path: Path) -> None:
    other = save_pretrained(model, tmp_path / "other")
    with pytest.raises(InputError, match=r"has no head\.safetensors, so it predicts no label"):
        load_tuned(other)
    shutil.copy(folder / HEAD_FILE, other)
    with pytest.raises(InputError, match="belongs to other weights"):
        load_tuned(other)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / HEAD_FILE).write_bytes((folder / HEAD_FILE).read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged"):
        load_tuned(copy)
    save_pretrained(from_pretrained(folder), copy)
    assert not (copy / HEAD_FILE).exists(), "other weights drop the head"
    assert json.loads((copy / "config.json").read_text())["training"]["fine_tuned_subjects"] == KNOWN
