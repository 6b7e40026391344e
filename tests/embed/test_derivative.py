"""Embeddings as a BIDS derivative: the numbers of the npz file, found by nilearn and read by pandas, and only one model in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from encoder_samples import write_models
from nilearn.interfaces.bids import get_bids_files
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.doctor import inspect_path
from slimbrain.embed.derivative import read_derivative
from slimbrain.embed.encoder import SlimBrainEncoder
from slimbrain.embed.features import read_embeddings
from slimbrain.errors import InputError
from slimbrain.governance.withdraw import withdraw
from slimbrain.grid import Grid
from slimbrain.store import Store


@pytest.fixture(scope="module")
def root(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three people and two models with random weights; only to be read."""
    folder = tmp_path_factory.mktemp("derivative")
    make_store(folder / "store", grid8, frames=24)
    write_models(folder, grid8)
    return folder


def embed(root: Path, out: Path, *options: str, model: str = "voxel") -> int:
    return run_command(["embed", str(root / "store"), "--model", str(root / model), "--out", str(out), *options])


def test_tables_hold_the_numbers_of_the_npz_file(root: Path, tmp_path: Path) -> None:
    assert embed(root, tmp_path / "x.npz") == embed(root, tmp_path / "bids") == 0
    one, many = read_embeddings(tmp_path / "x.npz"), read_embeddings(tmp_path / "bids")
    assert many.keys == one.keys and many.subjects == one.subjects and np.array_equal(many.values, one.values)
    assert many.contract == one.contract and (many.weights_sha256, many.pooling) == (one.weights_sha256, one.pooling)
    assert all(np.array_equal(many.frames_used[key], one.frames_used[key]) for key in one.keys)


def test_other_tools_find_and_read_them(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "bids"
    assert embed(root, out, "--pooling", "mean") == 0
    found = get_bids_files(str(out), file_tag="embedding", file_type="tsv", sub_label="02")
    name = "sub-02_task-rest_run-1_space-MNI152NLin6Asym_embedding"
    assert [Path(path).relative_to(out).as_posix() for path in found] == [f"sub-02/func/{name}.tsv"]
    table = pd.read_csv(found[0], sep="\t")
    encoder = SlimBrainEncoder(root / "voxel", pooling="mean").fit()
    np.testing.assert_array_equal(table.to_numpy(np.float32)[0], encoder.transform(Store(root / "store"))[1])
    assert list(table.columns) == list(encoder.get_feature_names_out())
    sidecar = json.loads((out / "sub-02" / "func" / f"{name}.json").read_text())
    assert sidecar["Sources"] == ["bids:store:sub-02/func/sub-02_task-rest_run-1_space-MNI152NLin6Asym_desc-slimbrain_bold.safetensors"]
    assert (sidecar["Pooling"], sidecar["Model"]) == ("mean", str(root / "voxel")) and list(sidecar["Columns"]) == ["mean_N"]
    assert sidecar["FramesUsed"] == [[0, 24]] and len(sidecar["WeightsSha256"]) == 64
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and (out / description["DatasetLinks"]["store"]).resolve() == root / "store"


def test_shards_share_the_folder(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "bids"
    assert embed(root, out, "--shard", "1/2") == 0 and len(read_derivative(out).keys) < 3
    assert embed(root, out, "--shard", "2/2") == 0
    assert embed(root, tmp_path / "whole") == 0
    np.testing.assert_array_equal(read_derivative(out).values, read_derivative(tmp_path / "whole").values)


def test_the_folder_records_the_commands_that_wrote_into_it(root: Path, tmp_path: Path) -> None:
    """Each once, without its shard, after the one that chose the participants."""
    store, out, tables = root / "store", tmp_path / "bids", tmp_path / "tables"
    assert run_command(["split", str(store), "--out", str(tables)]) == 0
    chosen = ["--participants", str(tables / "evaluation.tsv")]
    for part in ("1/2", "2/2"):
        assert embed(root, out, "--shard", part) == 0
    assert embed(root, out, *chosen) == 0
    typed = f"slimbrain embed {store} --model {root / 'voxel'} --out {out}"
    wanted = (typed, f"slimbrain split {store} --out {tables}", f"{typed} {' '.join(chosen)}")
    assert read_embeddings(out).commands == wanted
    # As every BIDS tool reads it.
    (by,) = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
    assert tuple(by["CommandLines"]) == wanted


def test_a_folder_holds_embeddings_of_one_model(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bids"
    assert embed(root, out, "--pooling", "mean") == 0
    assert embed(root, out, model="temporal") == 1
    assert "differ in WeightsSha256 and Pooling; choose another --out" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    assert embed(root, tmp_path / "mine") == 1
    assert "is not empty and holds no embeddings" in capsys.readouterr().err
    assert embed(root, tmp_path / "x.csv") == 1
    assert "a name that ends in .npz, or a folder's" in capsys.readouterr().err


def test_what_was_damaged_is_named(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "bids"
    assert embed(root, out) == 0
    table = next(out.rglob("sub-03*_embedding.tsv"))
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"sub-03.*is not a table of one vector"):
        read_embeddings(out)
    table.unlink()
    assert inspect_path(out)["sessions"] == 2
    with pytest.raises(InputError, match="holds no embeddings"):
        read_embeddings(tmp_path)


def test_the_vector_of_a_withdrawn_participant_is_found(grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path / "store", grid8, frames=24)
    write_models(tmp_path, grid8)
    assert embed(tmp_path, tmp_path / "results" / "bids") == 0
    found = withdraw(tmp_path / "store", "02", folders=[tmp_path / "results"])
    assert [(Path(trace.path).name.split("_")[0], trace.kind) for trace in found.traces] == [("sub-02", "embeddings")]
