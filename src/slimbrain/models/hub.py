"""Models as folders: safetensors, config.json, a card and the mask; written by training, read by everyone else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimbrain import __version__
from slimbrain.atomic import write_atomic, write_json, write_text
from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.errors import ContractError, InputError
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.provenance import Provenance
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import ROI, Contract

Kind = TypeVar("Kind", bound=nn.Module)

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
NORMALISATION = "voxelwise z-score over the session"


def save_pretrained(
    model: HieraJEPA | TemporalExtractor, folder: str | Path, provenance: Provenance, weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a model folder; each file appears whole or not at all, config.json last.

    Parameters
    ----------
    weights : the state dict, where the model holds only a part of it.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights or model.state_dict()).items()}
    write_atomic(folder / WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    if provenance.grid:
        provenance.grid.save_mask(folder / MASK_FILE)
    config = {
        **_describe(model),
        "window": provenance.window.model_dump(),
        "contract": {**provenance.contract.to_dict(), "normalisation": NORMALISATION, "window_frames": provenance.window.frames},
        "training": dict(provenance.training),
        "version": __version__,
    }
    write_text(folder / CARD_FILE, _card(model, config))
    write_json(folder / CONFIG_FILE, config)
    return folder


def from_pretrained(source: str | Path, contract: Contract | None = None) -> HieraJEPA | TemporalExtractor:
    """Read a model folder, or download one from the Hugging Face hub by its id.

    Parameters
    ----------
    source : folder, or hub id such as `lab/model`.
    contract : of the data to be read; compared with the model's if given.

    Returns
    -------
    The model in evaluation mode, with its `provenance`.

    Raises
    ------
    InputError
        If the folder is not a slimbrain model.
    ContractError
        If the data do not fit the model.
    """
    folder = _resolve(source)
    config = _read_config(folder)
    model = _build(config, folder)
    model.provenance = provenance = _provenance(config, folder)
    if contract:
        provenance.contract.require(contract, f"the model {source}", "the data")
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS_FILE}: does not hold the weights that {CONFIG_FILE} describes ({reason}); export the model again."
        ) from error
    return model.eval()


def require_model(model: nn.Module, kind: type[Kind], source: str | Path) -> Kind:
    """The model, or an InputError if it is one of the other stage."""
    if not isinstance(model, kind):
        raise InputError(
            f"{source}: is a {type(model).__name__}, a {kind.__name__} is needed here; give the folder of the other stage's run."
        )
    return model


def _resolve(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_file() or str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise InputError(f"{source}: is not a model folder; give RUN/model of a pretraining run, or a hub id such as lab/model.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=[WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, MASK_FILE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{source}: is neither a folder here nor a model that the hub gave ({type(error).__name__}); check the name or the network."
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if config["kind"] in ("temporal", "voxel"):
            return config
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG_FILE}: is not a slimbrain model's configuration ({error}); give RUN/model of a pretraining run."
        ) from error
    raise InputError(
        f"{folder / CONFIG_FILE}: names the kind {config['kind']}, not temporal or voxel; use the version of slimbrain that wrote it."
    )


def _describe(model: HieraJEPA | TemporalExtractor) -> dict[str, Any]:
    if isinstance(model, TemporalExtractor):
        return {"kind": "temporal", "model": model.config.model_dump()}
    return {
        "kind": "voxel",
        "model": model.config.model_dump(),
        "jepa": model.jepa.model_dump(),
        "voxels_per_patch": model.voxels_per_patch,
    }


def _build(config: Mapping[str, Any], folder: Path) -> HieraJEPA | TemporalExtractor:
    try:
        if config["kind"] == "temporal":
            return TemporalExtractor(TemporalConfig.model_validate(config["model"]))
        return HieraJEPA(
            HieraConfig.model_validate(config["model"]), JepaConfig.model_validate(config["jepa"]), int(config["voxels_per_patch"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_setting(folder, error) from error


def _wrong_setting(folder: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).splitlines()[:1])
    return InputError(f"{folder / CONFIG_FILE}: has a wrong setting ({reason}); use the version of slimbrain that wrote it.")


def _provenance(config: Mapping[str, Any], folder: Path) -> Provenance:
    try:
        contract, training = Contract.from_dict(config["contract"]), dict(config.get("training", {}))
        window = WindowConfig.model_validate(config["window"])
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_setting(folder, error) from error
    grid = None if contract.lattice == ROI else Grid.load(folder / MASK_FILE, contract.lattice)
    if grid and grid.hash != contract.mask:
        raise ContractError(f"{folder / MASK_FILE}: is not the mask that {CONFIG_FILE} names; export the model again.")
    return Provenance(contract, window, grid, training)


def _card(model: nn.Module, config: Mapping[str, Any]) -> str:
    contract, training = config["contract"], config["training"]
    stage = "temporal extractor (stage 1)" if config["kind"] == "temporal" else "Hiera-JEPA voxel encoder (stage 2)"
    lines = [
        "---",
        "library_name: slimbrain",
        "tags: [fmri, neuroimaging, self-supervised]",
        "---",
        f"# slimbrain {stage}",
        "",
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, written by slimbrain {config['version']}.",
        "Method: SLIM-Brain, arXiv 2512.21881.",
        "",
        "## What it reads",
        "",
        f"Sessions prepared by `slimbrain prep` on lattice `{contract['lattice']}`, mask `{contract['mask'][:12]}`, "
        f"space {contract['space']}, TR {contract['tr']:g} s, {contract['normalisation']}, "
        f"windows of {contract['window_frames']} frames. Anything else is refused.",
        "",
        "## What it was trained on",
        "",
        *(f"- {name}: {value}" for name, value in training.items() if not isinstance(value, (dict, list))),
        "",
        "## Use",
        "",
        "    import slimbrain",
        '    model = slimbrain.from_pretrained("path/to/this/folder")',
        "",
        "For research. Not validated for any clinical decision. Evaluate on subjects that were not in pretraining.",
        "",
    ]
    return "\n".join(lines)
