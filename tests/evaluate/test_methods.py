"""From model folders to one table: which rows stand in it, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.errors import InputError
from slimbrain.evaluate import methods
from slimbrain.evaluate.methods import Options, Tuning, _choose_methods, evaluate_models
from slimbrain.evaluate.result import ModelWeights, Result, read_result
from slimbrain.evaluate.table import to_markdown
from slimbrain.evaluate.tasks import get_task
from slimbrain.evaluate.tuned import load_tuned
from slimbrain.governance.provenance import Provenance
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hub import save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Store
from slimbrain.store.write import write_session

SUBJECTS, FRAMES = 12, 4
SMALL = HieraConfig(embed=4, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), mlp_ratio=1, recompute=False)


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimbrain.evaluate.probes.STRENGTHS", (1.0,))
        patch.setattr("slimbrain.evaluate.attention.EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two noisy sessions of twelve subjects of two sites, with an age each."""
    lattice = LATTICES["8mm"]
    mask = np.zeros((lattice.edge,) * 3, bool)
    mask[8:16, 8:16, 8:12] = True
    grid, root = Grid(lattice, mask), tmp_path_factory.mktemp("methods") / "cohort"
    store, rng, shape = Store.create(root, grid, 0.72), np.random.default_rng(0), grid.voxel_mask.shape
    for subject in range(SUBJECTS):
        for session in "12":
            voxels = np.where(grid.voxel_mask, rng.normal(size=(6 * FRAMES, *shape)), 0).astype(np.float16)
            entities = {"sub": f"{subject:02d}", "ses": session, "task": "rest", "space": "MNI152NLin6Asym"}
            write_session(store, entities, voxels, np.zeros(shape), np.ones(shape), 0.72, qc={"fd_mean": 0.1 + 0.01 * subject})
    rows = [f"sub-{number:02d}\t{'ab'[number % 2]}\t{20 + number}\t{'xy'[number % 4 // 2]}" for number in range(SUBJECTS)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tgroup\tage\tsite", *rows]) + "\n")
    return Store(root)


@pytest.fixture(scope="module")
def models(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each stage; what the weights are does not matter here, if they are not those of the untrained network."""
    torch.manual_seed(7)
    root, provenance = tmp_path_factory.mktemp("models"), Provenance(store.contract, WindowConfig(frames=FRAMES, k=2), store.grid, {})
    jepa = JepaConfig(predictor_width=8, predictor_depth=1, predictor_heads=1)
    voxel = HieraJEPA(SMALL, jepa, store.grid.voxels_per_patch)
    temporal = TemporalExtractor(TemporalConfig(width=8, depth=1, heads=1, groups=1, window_frames=FRAMES))
    return {name: save_pretrained(model, root / name, provenance) for name, model in (("voxel", voxel), ("temporal", temporal))}


def rows_of(result: Result) -> set[tuple[str, str]]:
    return set(result.by_predictor)


KINDS = ("correlation", "partial correlation", "tangent", "tangent towards the population")
FRAMES_OF = ("whole run", "frames used")


def test_every_method_stands_beside_every_baseline(store: Store, models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "group.json"
    asked = [word for name in ("attention", "probe", "finetune") for word in ("--method", name)]
    arguments = ["evaluate", str(store.root), "--task", "column:group", "--model", str(models["voxel"]), "--out", str(out)]
    assert run_command([*arguments, *asked, "--epochs", "1", "--save", str(tmp_path / "tuned")]) == 0
    result = read_result(out)
    there = rows_of(result)
    ours = [("slimbrain voxel", name) for name in ("attention probe", "linear probe", "fine-tuning")]
    assert [gap.predictor for gap in result.differences] == ours
    assert result.rows[0].predictor == ours[0]
    assert {*ours, *(("untrained", method) for _, method in ours)} <= there
    best = "best of 4 chosen inside"
    assert {("connectivity", f"{kind}, {frames}") for kind in (*KINDS, best) for frames in FRAMES_OF} <= there
    assert {("channels", f"mean and std, {frames}") for frames in FRAMES_OF} <= there
    assert {("confounds", "age, fd_mean, site"), ("majority", "majority class or mean")} <= there
    assert result.best_baseline.model != "slimbrain voxel" and len(result.seeds) == 3
    table = out.with_suffix(".md").read_text()
    assert sum("the best baseline," in line for line in table.splitlines()) == 3
    assert load_tuned(tmp_path / "tuned").head.classes == ("a", "b")
    # 3 seeds of 5 folds, two encoders.
    assert len(list(out.with_suffix(".folds").glob("*.npz"))) == 30


def test_a_regression_has_all_baselines_too(store: Store, models: dict[str, Path]) -> None:
    there = rows_of(evaluate_models(store, "column:age", [models["voxel"]], Options(methods=["attention"])))
    assert {("slimbrain voxel", "attention probe"), ("untrained", "attention probe"), ("confounds", "fd_mean, site")} <= there
    assert {("connectivity", f"{kind}, {frames}") for kind in KINDS for frames in FRAMES_OF} <= there
    assert {("channels", "mean and std, whole run"), ("majority", "majority class or mean")} <= there


def test_an_identification_has_all_baselines_too(store: Store, models: dict[str, Path]) -> None:
    result = evaluate_models(store, "identity", [models["voxel"], models["temporal"]])
    there = rows_of(result)
    assert {("slimbrain voxel", "identification"), ("slimbrain temporal", "identification"), ("untrained", "identification")} <= there
    assert {("connectivity", f"{kind}, {frames}") for kind in KINDS for frames in FRAMES_OF} <= there
    assert {("channels", "mean and std, whole run"), ("confounds", "age, fd_mean, site"), ("chance", "everybody alike")} <= there
    assert set(result.metrics) == {"top1", "mrr"}


def test_stage_one_gives_its_windows_to_the_attention_probe(store: Store, models: dict[str, Path]) -> None:
    there = rows_of(evaluate_models(store, "column:group", [models["temporal"]], Options(methods=["attention"])))
    assert ("slimbrain temporal", "attention probe") in there


def test_what_does_not_go_together_is_refused(store: Store, models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="there is no such method"):
        _choose_methods(["probing"], get_task("column:group"))
    with pytest.raises(InputError, match="is for --task identity"):
        _choose_methods(["identify"], get_task("column:group"))
    with pytest.raises(InputError, match="takes identify"):
        _choose_methods(["finetune"], get_task("identity"))
    assert _choose_methods([], get_task("column:group")) == ("probe",) and _choose_methods([], get_task("identity")) == ("identify",)
    assert _choose_methods(["probe", "attention", "probe"], get_task("column:group")) == ("probe", "attention")
    with pytest.raises(InputError, match="fine-tuning is for stage 2"):
        evaluate_models(store, "column:group", [models["temporal"]], Options(methods=["finetune"]))
    with pytest.raises(InputError, match="only a fine-tuned model is saved"):
        evaluate_models(store, "column:group", [models["voxel"]], Options(tuning=Tuning(save=Path("tuned"))))


def test_the_result_names_its_weights_and_reads_a_series_once_for_each_use(
    store: Store, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = Store.coarse
    monkeypatch.setattr(Store, "coarse", lambda self, key: read.append(key) or plain(self, key))
    result = evaluate_models(store, "column:group", [models["voxel"]])
    # A signature, and baselines on the whole run and on the frames used; embedding reads voxels.
    assert sorted(read) == sorted([info.key for info in store.sessions] * 3)
    weights = hashlib.sha256((models["voxel"] / "model.safetensors").read_bytes()).hexdigest()
    assert result.models == (ModelWeights(name="slimbrain voxel", weights_sha256=weights, pooling="moments"),)
    assert f"Weights (SHA-256): slimbrain voxel {weights[:12]}." in to_markdown(result)


def test_embeddings_made_before_give_the_same_table(
    store: Store, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "x.npz"
    words = [str(store.root), "--model", str(models["voxel"]), "--k", "3"]
    assert run_command(["embed", *words, "--out", str(made)]) == 0
    task = ["evaluate", *words, "--task", "column:group"]
    assert run_command([*task, "--out", str(tmp_path / "plain.json")]) == 0
    embedded: list[str] = []
    plain = methods.embed_store
    monkeypatch.setattr(methods, "embed_store", lambda *given, label: embedded.append(label) or plain(*given, label=label))
    assert run_command([*task, "--embeddings", str(made), "--out", str(tmp_path / "again.json")]) == 0
    assert embedded == ["embed with untrained"]
    first, again = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "again.json"))
    assert [len(result.pop("commands")) for result in (first, again)] == [1, 2], "evaluate alone, and embed before it"
    assert first == again


def test_embeddings_of_something_else_are_refused(store: Store, models: dict[str, Path], tmp_path: Path) -> None:
    def evaluated(model: str, file: Path, k: int) -> None:
        evaluate_models(store, "column:group", [models[model]], Options(k=k, embeddings=[file]))

    def embedded(*more: str) -> Path:
        words = ["embed", str(store.root), "--model", str(models["voxel"]), "--out", str(tmp_path / "x.npz"), *more]
        assert run_command(words) == 0
        return tmp_path / "x.npz"

    with pytest.raises(InputError, match="was made by none of the models"):
        evaluated("temporal", embedded("--k", "2"), 2)
    with pytest.raises(InputError, match=r"has no vector of sub-00_ses-1.*, or of other frames; embed again with the same --windows"):
        evaluated("voxel", embedded("--k", "2"), 3)
    with pytest.raises(InputError, match="is pooled by mean, and a probe reads moments"):
        evaluated("voxel", embedded("--k", "2", "--pooling", "mean"), 2)
    (tmp_path / "x.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="does not hold what `slimbrain embed` writes now"):
        evaluated("voxel", tmp_path / "x.npz", 2)
