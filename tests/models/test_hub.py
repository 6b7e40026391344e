"""Model folders: what is saved is what is read, data that do not fit are refused, and damage is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.data.clip import Clip
from slimbrain.disk.seal import write_seal
from slimbrain.errors import ContractError, InputError, SlimbrainError
from slimbrain.governance.provenance import REMEMBERED, Person, Provenance, remember, subject_hash
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, is_sealed, read_training, require_model, save_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import Contract

SUBJECTS = ("sub-01", "sub-02", "sub-Ünal")


def provenance(grid: Grid | None) -> Provenance:
    contract = Contract(grid.lattice.id, grid.hash, "MNI152", 0.72) if grid else Contract("roi", "", "roi", 1.0)
    training = {"stage": "voxel", "steps": 3, "seed": 1, "last": {"loss": 0.5}, REMEMBERED: remember([Person(label) for label in SUBJECTS])}
    return Provenance(contract, WindowConfig(frames=4, k=3), grid, training)


def voxel_model() -> HieraJEPA:
    torch.manual_seed(0)
    config = HieraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), mlp_ratio=2, unit="region", recompute=False)
    return HieraJEPA(config, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2), 8)


def temporal_model() -> TemporalExtractor:
    torch.manual_seed(0)
    return TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=4))


@pytest.fixture
def folder(grid8: Grid, tmp_path: Path) -> Path:
    return save_pretrained(voxel_model(), tmp_path / "RUN" / "model", provenance(grid8))


# --- there and back


def test_a_voxel_model_comes_back(folder: Path, grid8: Grid) -> None:
    original, loaded = voxel_model().eval(), from_pretrained(folder)
    assert isinstance(loaded, HieraJEPA) and not loaded.training
    assert (loaded.config, loaded.jepa, loaded.voxels_per_patch) == (original.config, original.jepa, 8)
    assert loaded.state_dict().keys() == original.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in original.state_dict().items())
    clip = Clip(torch.randn(8, *grid8.voxel_mask.shape), torch.arange(8) * 0.72, grid8)
    with torch.no_grad():
        assert torch.equal(loaded.encoder([clip]).values, original.encoder([clip]).values)
    assert not any(parameter.requires_grad for parameter in loaded.target.parameters())


def test_a_temporal_model_comes_back(tmp_path: Path) -> None:
    original, loaded = temporal_model().eval(), from_pretrained(save_pretrained(temporal_model(), tmp_path, provenance(None)))
    assert isinstance(loaded, TemporalExtractor) and not loaded.training
    series, places = torch.randn(1, 21, 5), torch.randn(5, 3) * 40
    with torch.no_grad():
        assert torch.equal(loaded.embed(series, places, 1.0)[0], original.embed(series, places, 1.0)[0])
    assert loaded.provenance is not None and loaded.provenance.grid is None


def test_where_it_came_from_comes_back(folder: Path, grid8: Grid) -> None:
    read, written = from_pretrained(str(folder)).provenance, provenance(grid8)
    assert read is not None and read.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert replace(read, weights_sha256="") == written
    assert read is not None and read.trained_on([Person(label) for label in SUBJECTS]) == sorted(SUBJECTS)


def test_hashes_are_of_one_name_and_do_not_tell_it() -> None:
    hashes = {subject_hash(f"sub-{number:03d}") for number in range(1000)}
    assert len(hashes) == 1000 and not any("sub" in value for value in hashes)
    assert replace(provenance(None), training={}).trained_on([Person("sub-01")]) == []


def test_a_folder_holds_all_that_a_stranger_needs(folder: Path, grid8: Grid) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "desc-brain_mask.nii.gz", "model.safetensors", "seal.json"),
    ]
    contract = json.loads((folder / "config.json").read_text())["contract"]
    assert (
        contract["mask"] == grid8.hash
        and contract["tr"] == 0.72
        and contract["window_frames"] == 4
        and "z-score" in contract["normalisation"]
    )
    card = (folder / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in voxel_model().parameters())
    assert card.startswith("---\n") and f"{parameters:,} parameters" in card and "0.72 s" in card and "arXiv 2512.21881" in card


def test_a_failed_export_keeps_the_model_there_was(folder: Path, grid8: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slimbrain.models.hub.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(voxel_model(), folder, provenance(grid8))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_on_the_hub_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(f"{name} {revision}")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert isinstance(from_pretrained("lab/model"), HieraJEPA) and asked == ["lab/model None"]


# --- refusals


def refused(source: Any, kind: type[SlimbrainError] = InputError, contract: Contract | None = None) -> str:
    with pytest.raises(kind) as refusal:
        from_pretrained(source, contract)
    message = str(refusal.value)
    assert "\n" not in message and message.endswith("."), message
    return message


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        ({"lattice": "mni-2mm-96-p4"}, "mni-8mm-24-p2", "mni-2mm-96-p4"),
        ({"mask": "f" * 64}, "mask", "f" * 24),
        ({"space": "roi"}, "MNI152", "roi"),
        ({"tr": 2.0}, "TR 0.72 s", "2 s"),
    ],
)
def test_data_that_do_not_fit_are_refused(change: dict[str, Any], ours: str, theirs: str, folder: Path, grid8: Grid) -> None:
    contract = provenance(grid8).contract
    from_pretrained(folder, contract)
    message = refused(folder, ContractError, replace(contract, **change))
    assert f"the model {folder} has" in message and "but the data has" in message and ours in message and theirs in message


@pytest.mark.parametrize("source", ["nothing", "/no/such/folder", "./here", "a/b/c", "", "lab/model with spaces"])
def test_what_is_no_model_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils._validators import validate_repo_id

    def no_network(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        validate_repo_id(name)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    refused(source)
    if source != "":
        assert source in refused(source)


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_network(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    assert "check the name or the network" in refused("lab/model")
    assert "slimbrain-temporal" in refused("lab/model")


@pytest.mark.parametrize("name", ["nowhere", "empty", "./nowhere", "far/away/nowhere"])
def test_where_there_is_no_model_those_that_can_be_named_are_listed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    said = refused(name)
    assert said.startswith(f"{name}: ") and "slimbrain-temporal" in said and "Errno" not in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("slimbrain-temporl", "slimbrain-temporal"),
        ("Slimbrain_Temporal", "slimbrain-temporal"),
        ("runs/voxl/model", "runs/voxel/model"),
        ("./run/voxel/modle", "runs/voxel/model"),
        ("./runs/voxl", "runs/voxel/model"),
        ("runs/voxl", "runs/voxel/model"),
        ("lab/slimbrain-temporal", "slimbrain-temporal"),
    ],
)
def test_a_name_like_that_of_a_model_is_answered_with_the_nearest(
    name: str, meant: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with one slash may be of the hub, which is asked first."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_network(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / "voxel" / "model")
    (tmp_path / "runs" / "notes").mkdir()
    assert refused(name).endswith(f"give {meant}, which is the nearest name.")
    assert "nearest" not in refused("./runs/note/model") and "nearest" not in refused("./nowhere")


def test_a_file_or_another_folder_is_refused(folder: Path) -> None:
    refused(folder / "config.json")
    assert refused(folder.parent).endswith(f"is the folder of a run; give {folder}.")


def change_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "config: text": lambda folder: (folder / "config.json").write_text("{"),
    "config: a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config: null": lambda folder: (folder / "config.json").write_text("null"),
    "config: bytes": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
    "config: missing": lambda folder: (folder / "config.json").unlink(),
    "config: no kind": change_config(lambda config: config.pop("kind")),
    "config: other kind": change_config(lambda config: config.update(kind="spectral")),
    "config: no model": change_config(lambda config: config.pop("model")),
    "config: no jepa": change_config(lambda config: config.pop("jepa")),
    "config: no contract": change_config(lambda config: config.pop("contract")),
    "config: contract null": change_config(lambda config: config.update(contract=None)),
    "config: no window": change_config(lambda config: config.pop("window")),
    "config: wrong window": change_config(lambda config: config["window"].update(frames="many")),
    "config: wrong patch": change_config(lambda config: config.update(voxels_per_patch="many")),
    "config: new setting": change_config(lambda config: config["model"].update(attention="linear")),
    "config: training null": change_config(lambda config: config.update(training=None)),
    "config: heads": change_config(lambda config: config["model"].update(heads=[3, 2, 4, 8])),
    "config: other width": change_config(lambda config: config["model"].update(embed=16)),
    "config: other lattice": change_config(lambda config: config["contract"].update(lattice="mni-3mm")),
    "config: other mask": change_config(lambda config: config["contract"].update(mask="0" * 64)),
    "weights: missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights: cut": lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
    "weights: text": lambda folder: (folder / "model.safetensors").write_text("weights"),
    "weights: one missing": change_weights(lambda tensors: tensors.pop("context.norm.weight")),
    "weights: one more": change_weights(lambda tensors: tensors.update(extra=torch.zeros(1))),
    "mask: missing": lambda folder: (folder / "desc-brain_mask.nii.gz").unlink(),
    "mask: cut": lambda folder: (folder / "desc-brain_mask.nii.gz").write_bytes((folder / "desc-brain_mask.nii.gz").read_bytes()[:-50]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_sealed_folder_that_was_changed_is_refused_before_it_is_parsed(name: str, folder: Path) -> None:
    DAMAGE[name](folder)
    file = {"config": "config.json", "weights": "model.safetensors", "mask": "desc-brain_mask.nii.gz"}[name.split(":")[0]]
    message = refused(folder)
    assert message.startswith(f"{folder / file}: ") and ("is missing" in message or "its SHA-256 is not the one in seal.json" in message)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_without_a_seal_is_refused_by_the_name_of_the_file(name: str, folder: Path) -> None:
    (folder / "seal.json").unlink()
    DAMAGE[name](folder)
    message = refused(folder, SlimbrainError)
    file = {"config": "config.json", "weights": "model.safetensors", "mask": "desc-brain_mask.nii.gz"}[name.split(":")[0]]
    if name not in ("config: other width", "config: other mask", "config: other lattice", "config: heads", "config: contract null"):
        assert str(folder / file) in message


def flip_a_bit(content: bytes) -> bytes:
    """Damage that leaves a valid file of the same tensors: only their hash can tell."""
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def lie_about_a_shape(content: bytes) -> bytes:
    return content.replace(b'"shape":[8]', b'"shape":[9]', 1)


def lie_about_a_place(content: bytes) -> bytes:
    return content.replace(b'"data_offsets":[', b'"data_offsets":[9', 1)


@pytest.mark.parametrize("recorded", [True, False], ids=["hash", "no hash"])
@pytest.mark.parametrize(
    "tamper",
    [flip_a_bit, lie_about_a_shape, lie_about_a_place, *(lambda content, end=end: content[:end] for end in (0, 4, 9, 200, -1))],
)
def test_truncated_and_tampered_weights_are_one_sentence(tamper: Callable[[bytes], bytes], recorded: bool, folder: Path) -> None:
    path = folder / "model.safetensors"
    before = path.read_bytes()
    path.write_bytes(tamper(before))
    assert path.read_bytes() != before
    assert refused(folder) == (
        f"{path}: was cut short, damaged or exchanged: its SHA-256 is not the one in seal.json; export the model again, or fetch it again."
    )
    (folder / "seal.json").unlink()
    if not recorded:
        # A folder of other programs may have no hash; safetensors' own checks find all but a changed number.
        change_config(lambda config: config.pop("weights_sha256"))(folder)
        if tamper is flip_a_bit:
            from_pretrained(folder)
            return
    assert f"{path}: does not hold the weights that config.json describes" in refused(folder)


def test_every_flipped_bit_of_what_is_sealed_is_found(folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "desc-brain_mask.nii.gz", "seal.json"):
        path, rng = folder / name, random.Random(name)
        whole = path.read_bytes()
        for bit in rng.sample(range(8 * len(whole)), 10):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            refused(folder)
        path.write_bytes(whole)
    assert isinstance(from_pretrained(folder), HieraJEPA)


def test_a_changed_configuration_is_not_believed_by_those_who_read_it_alone(folder: Path) -> None:
    assert read_training(folder)["steps"] == 3
    change_config(lambda config: config["training"].update(steps=9))(folder)
    with pytest.raises(InputError, match=r"config.json: was cut short, damaged or exchanged"):
        read_training(folder)


def test_a_model_from_before_seals_is_read(folder: Path) -> None:
    assert is_sealed(folder)
    (folder / "seal.json").unlink()
    from_pretrained(folder)
    assert not is_sealed(folder) and read_training(folder)["steps"] == 3
    save_pretrained(voxel_model(), folder, from_pretrained(folder).provenance)
    assert is_sealed(folder)


@pytest.mark.parametrize("weights_alone", [True, False])
def test_a_seal_that_leaves_out_the_configuration_is_refused(weights_alone: bool, folder: Path) -> None:
    write_seal(folder, ["model.safetensors"] if weights_alone else ["config.json"])
    assert "seal.json: does not seal" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["model"].update(norm_eps=1e308),
        lambda config: config["model"].update(norm_eps=float("inf")),
        lambda config: config["model"].update(embed=10**9),
        lambda config: config["model"].update(depths=[10**7, 1, 1, 1]),
        lambda config: config["model"].update(depths=[1, 1, 900, 1]),
        lambda config: config["model"].update(embed=8000, heads=[1, 1, 1, 1]),
        lambda config: config["model"].update(learned_positions=[1000, 10]),
        lambda config: config["model"].update(mlp_ratio=60, depths=[1000, 1000, 1000, 1000]),
        lambda config: config["jepa"].update(predictor_depth=1000, predictor_width=4096),
        lambda config: config["jepa"].update(predictor_width=60_000),
        lambda config: config.update(voxels_per_patch=10**12),
    ],
)
def test_a_configuration_out_of_all_bounds_is_refused_before_anything_is_built(
    change: Callable[[dict[str, Any]], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimbrain.models.hub.HieraJEPA", None)
    (folder / "seal.json").unlink()
    change_config(change)(folder)
    message = refused(folder)
    assert message.startswith(f"{folder / 'config.json'}: ") or "model.safetensors: does not hold the weights" in message


def silence(name: str, value: float) -> Callable[[HieraJEPA | TemporalExtractor], None]:
    def change(model: HieraJEPA | TemporalExtractor) -> None:
        torch.nn.init.constant_(model.get_parameter(name), value)

    return change


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_model_that_says_the_same_of_everything_is_refused(value: float, grid8: Grid, tmp_path: Path) -> None:
    for model, name, origin in ((voxel_model(), "target.norm.weight", grid8), (temporal_model(), "norm.weight", None)):
        assert isinstance(from_pretrained(save_pretrained(model, tmp_path, provenance(origin))), type(model))
        silence(name, value)(model)
        assert "gives two different inputs the same vector" in refused(save_pretrained(model, tmp_path, provenance(origin)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt", "model.pkl"])
def test_a_pickle_is_refused_unopened(name: str, folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return trap.touch, ()

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    message = refused(folder)
    assert f"{folder / name}: is a pickle" in message and message.endswith("ask its authors for model.safetensors.")
    assert not trap.exists()
    (folder / "config.json").unlink()
    assert "is a pickle" in refused(folder)


def test_a_pickle_beside_safetensors_is_let_be(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    from_pretrained(folder)


def test_a_folder_has_no_revisions(folder: Path) -> None:
    with pytest.raises(InputError, match="is a folder, which has no revisions"):
        from_pretrained(folder, revision="v1")


def test_a_model_brings_its_own_provenance(folder: Path, tmp_path: Path) -> None:
    model = from_pretrained(folder)
    assert from_pretrained(save_pretrained(model, tmp_path / "copy")).provenance == model.provenance
    with pytest.raises(InputError, match="does not say what it was trained on"):
        save_pretrained(voxel_model(), tmp_path / "none")


def test_the_other_stages_model_is_refused() -> None:
    require_model(temporal_model(), TemporalExtractor, "x")
    with pytest.raises(InputError, match="RUN/model: is a TemporalExtractor, a HieraJEPA is needed"):
        require_model(temporal_model(), HieraJEPA, "RUN/model")


def test_weights_are_not_pickled(folder: Path) -> None:
    """A file from a stranger must not be able to run code: safetensors holds numbers alone."""
    content = (folder / "model.safetensors").read_bytes()
    length = int(np.frombuffer(content[:8], "<u8")[0])
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"] == {"format": "pt"} and len(content) == 8 + length + max(
        tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
    )
