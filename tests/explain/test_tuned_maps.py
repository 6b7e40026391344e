"""`slimbrain explain` of a saved fine-tuned model: its head's own decisions, which integrated gradients add up to, and whom it knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from explain_samples import TINY, corner, record_of
from store_samples import entities, network_series

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, JepaConfig, WindowConfig
from slimbrain.data.clip import Clip, read_clip
from slimbrain.disk.tsv import read_tsv
from slimbrain.evaluate.finetune import FinetuneConfig, FineTuning, Views
from slimbrain.evaluate.tasks import Target
from slimbrain.evaluate.tuned import load_tuned, save_tuned
from slimbrain.explain import list_maps
from slimbrain.governance.provenance import REMEMBERED, Provenance, people_in, remember
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.store import Store
from slimbrain.store.write import write_session

KNOWN, NEW, FRAMES = 6, 5, 4
QUICK = FinetuneConfig(epochs=2, warmup_epochs=1, head_lr=2e-2, lr=1e-3, batch=6, patience=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of eleven people, every second of whom is `high`, and two models tuned on the first six: of classes, and of a value."""
    folder = tmp_path_factory.mktemp("tuned-maps")
    store = Store.create(folder / "store", corner(), 0.72)
    for number in range(KNOWN + NEW):
        voxels = network_series(store.grid, 4 * FRAMES, number)
        voxels[:, store.grid.patch_unit == 0] += 2 * (number % 2)
        shape = voxels.shape[1:]
        write_session(store, entities(f"{number:02d}"), np.where(store.grid.voxel_mask, voxels, 0), np.ones(shape), np.ones(shape), 0.72)
    rows = [f"sub-{number:02d}\t{('low', 'high')[number % 2]}\t{40 + 10 * (number % 2)}" for number in range(KNOWN + NEW)]
    (folder / "store" / "participants.tsv").write_text("\n".join(["participant_id\tgroup\tage", *rows]) + "\n")
    tune(Store(store.root), folder)
    return folder


def tune(store: Store, folder: Path) -> None:
    torch.manual_seed(0)
    first = HieraJEPA(HieraConfig.model_validate(TINY), JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2), 8)
    provenance = Provenance(store.contract, WindowConfig(frames=FRAMES, k=2), store.grid, {REMEMBERED: remember(people_in(store, []))})
    model = from_pretrained(save_pretrained(first, folder / "voxel", provenance))
    assert isinstance(model, HieraJEPA)
    keys = tuple(info.key for info in store.sessions[:KNOWN])
    who, high = np.array([key.split("_")[0] for key in keys]), np.arange(KNOWN) % 2
    tuning = FineTuning(
        "m", model.encoder, store, keys, dict.fromkeys(keys, Views((0, 2), (0, 1, 2, 3))), FRAMES, QUICK, torch.device("cpu")
    )
    for name, labels, kind in (("group", np.where(high, "high", "low"), "classification"), ("age", 40.0 + 10 * high, "regression")):
        save_tuned(folder / name, model, tuning, Target(keys, who, labels, kind, None, {}), f"column:{name}")


def explain(root: Path, out: Path, *words: object, model: str = "group", store: str = "store") -> int:
    named = ["--model", str(root / model), "--out", str(out), "--pictures", "none"]
    return run_command(["explain", str(root / store), *named, *map(str, words)])


def said_by_hand(root: Path, model: str, clip: Clip) -> float:
    """The tuned model itself, asked as in training: log-odds of the first class, or the value in years."""
    tuned = load_tuned(root / model)
    with torch.no_grad():
        (said,) = tuned.encoder()([clip]).double()
    return float(said[0] - said[1]) if tuned.head.classes else float(said[0]) * tuned.head.scale + tuned.head.centre


@pytest.mark.parametrize(("model", "words"), [("group", ("--target", "high")), ("age", ())])
def test_integrated_gradients_add_up_to_what_the_saved_model_says(root: Path, tmp_path: Path, model: str, words: tuple[str, ...]) -> None:
    (tmp_path / "four.tsv").write_text("participant_id\nsub-00\nsub-03\nsub-07\nsub-08\n")
    assert explain(root, tmp_path, "--method", "integrated", "--participants", tmp_path / "four.tsv", *words, model=model) == 0
    store, explained = Store(root / "store"), 0
    for entry in list_maps(tmp_path):
        if not entry.session:
            continue
        windows = record_of(entry)["windows"]
        clip = read_clip(store, store.session(entry.session), windows, FRAMES)
        zeros = Clip(torch.zeros_like(clip.voxels), clip.seconds, clip.grid)
        difference = said_by_hand(root, model, clip) - said_by_hand(root, model, zeros)
        assert entry.image is not None
        total = float(nibabel.load(entry.image).get_fdata().sum()) * len(windows)
        assert total == pytest.approx(difference, rel=0.01), entry.session
        explained += abs(difference) > 1e-3
    assert explained == 4, "a decision that nothing moves adds up to nothing with any code"


def test_decisions_are_those_of_predict_and_the_known_are_marked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["predict", str(root / "store"), "--model", str(root / "group"), "--out", str(tmp_path / "said.tsv")]) == 0
    predicted = {row["session"]: row for row in read_tsv(tmp_path / "said.tsv")}
    capsys.readouterr()
    assert explain(root, tmp_path / "maps", "--method", "gradient") == 0
    assert f"{KNOWN} of them are of participants that the model was trained on" in capsys.readouterr().out
    average, *_ = entries = list_maps(tmp_path / "maps")
    for entry in entries:
        if entry.session:
            row = predicted[entry.session]
            odds = float(row["p_low"]) / float(row["p_high"])
            assert record_of(entry)["decision"] == pytest.approx(np.log(odds), abs=1e-3)
            assert record_of(entry)["in_training"] is (row["in_training"] == "yes")
    record = record_of(average)
    assert (record["task"], record["unit"], record["average"]) == ("column:group", "log-odds of low", "low less others")
    assert (record["participants"], record["in_training"]) == (KNOWN + NEW, KNOWN)
    # The score is of the five whom the model was not tuned on: pairs in the right order by the probabilities of `predict`.
    unseen = [row for row in predicted.values() if row["in_training"] == "no"]
    low, high = ([float(row["p_low"]) for row in unseen if int(row["participant_id"][4:]) % 2 == side] for side in (0, 1))
    auc = np.mean([(one > other) + 0.5 * (one == other) for one in low for other in high])
    assert record["decided_by"]["kind"] == "fine-tuned head" and record["decided_by"]["unseen"] == NEW
    assert record["decided_by"]["mean"] == pytest.approx(auc)
    assert f"trained on {KNOWN} of {KNOWN + NEW} participants" in average.note and "held-out AUC" in average.note


def test_without_labels_the_contrast_is_the_slope_on_the_decision(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "store", tmp_path / "store")
    (tmp_path / "store" / "participants.tsv").unlink()
    (tmp_path / "group").symlink_to(root / "group")
    assert explain(tmp_path, tmp_path / "maps", "--method", "occlusion") == 0
    assert "no label to compare with" in capsys.readouterr().err
    contrast, *others = list_maps(tmp_path / "maps")
    assert record_of(contrast)["average"] == "change with the decision" and "is not known" in contrast.note
    store = Store(tmp_path / "store")
    sessions = {entry.session: entry for entry in others if entry.session}
    maps, decisions = [], []
    for info in store.sessions:
        entry = sessions[info.key]
        assert entry.image is not None
        maps.append(nibabel.load(entry.image).get_fdata()[store.grid.mask])
        decisions.append(-said_by_hand(tmp_path, "group", read_clip(store, info, record_of(entry)["windows"], FRAMES)))
    slope = np.polyfit(decisions, np.array(maps), 1)[0]
    assert contrast.image is not None
    np.testing.assert_allclose(nibabel.load(contrast.image).get_fdata()[store.grid.mask], slope, rtol=1e-3, atol=1e-6)


def test_a_task_asks_for_probes_on_the_tuned_encoder(root: Path, tmp_path: Path) -> None:
    assert explain(root, tmp_path, "--method", "gradient", "--task", "column:age") == 0
    average = list_maps(tmp_path)[0]
    assert record_of(average)["decided_by"]["kind"] == "probe" and record_of(average)["task"] == "column:age"
    assert record_of(average)["in_training"] == KNOWN and "trained on 6 of 11" in average.note


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "surprise"), "predictor was never trained beside the tuned encoder"),
        (("--method", "gradient", "--target", "middle"), "one of high, low"),
        (("--method", "channels"), "a TemporalExtractor is needed"),
    ],
)
def test_what_a_tuned_model_does_not_decide_is_refused(
    root: Path, tmp_path: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(root, tmp_path / "maps", *words) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "maps").exists()
