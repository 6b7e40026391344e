"""Models as folders: safetensors, config.json, a card and the mask; written by training, read by everyone else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimbrain import __version__
from slimbrain.config import HieraConfig, JepaConfig, TemporalConfig, WindowConfig
from slimbrain.disk.atomic import write_atomic, write_json, write_text
from slimbrain.disk.seal import SEAL_FILE, BrokenSealError, check_seal, sha256, write_seal
from slimbrain.errors import ContractError, InputError
from slimbrain.governance.provenance import CONFIG_FILE, MODEL_FOLDER, Provenance
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.models.card import Measured, model_card
from slimbrain.models.connectome import ConnectomeConfig
from slimbrain.models.health import tells_apart
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.remote import fetch, pickles, pickles_of, put
from slimbrain.models.shipped import is_hub_id, model_sources, shipped_folder
from slimbrain.models.size import jepa_parameters, temporal_parameters
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import ROI, Contract

_Kind = TypeVar("_Kind", bound=nn.Module)

_WEIGHTS_FILE, CARD_FILE, EVALUATIONS_FILE = "model.safetensors", "README.md", "evaluations.json"
HEAD_FILE = "head.safetensors"
"""Of a fine-tuned model: the head that predicts a label from its vectors."""

_OF_THESE_WEIGHTS = (EVALUATIONS_FILE, HEAD_FILE)
"""Files that other weights make worthless."""

_MODEL_FILES = (_WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, MASK_FILE, SEAL_FILE, *_OF_THESE_WEIGHTS)
"""All that a model folder consists of."""

_LEAST_BYTES = 2
"""Of a weight, in half precision."""

_NORMALISATION = "voxelwise z-score over the session"


def save_pretrained(
    model: HieraJEPA | TemporalExtractor,
    folder: str | Path,
    provenance: Provenance | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a model folder; each file appears whole or not at all, then weights, config.json and mask are sealed by their SHA-256.

    Evaluations, and a head, of other weights that the folder held are dropped; `slimbrain.add_evaluation` adds those of these.

    Parameters
    ----------
    model : HieraJEPA or TemporalExtractor
        From `from_pretrained`, or trained.
    folder : str or Path
        Made if it is not there; files of a model in it are replaced.
    provenance : Provenance or None
        What the weights cannot say; the model's own if None.
    weights : mapping of str to Tensor or None
        The state dict, where the model holds only a part of it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If there is no provenance.

    Examples
    --------
    >>> import slimbrain
    >>> model = slimbrain.from_pretrained("runs/voxel/model")
    >>> folder = slimbrain.save_pretrained(model, "copy")
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'config.json', 'desc-brain_mask.nii.gz', 'model.safetensors', 'seal.json']
    """
    folder, provenance = Path(folder), provenance or model.provenance
    if provenance is None:
        raise InputError(f"{folder}: the model does not say what it was trained on; give its provenance.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights or model.state_dict()).items()}
    write_atomic(folder / _WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    for name in (SEAL_FILE, *_OF_THESE_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if provenance.grid:
        provenance.grid.save_mask(folder / MASK_FILE)
    config = {
        **_describe(model),
        "window": provenance.window.model_dump(),
        "contract": {**provenance.contract.to_dict(), "normalisation": _NORMALISATION, "window_frames": provenance.window.frames},
        "training": dict(provenance.training),
        "weights_sha256": sha256(folder / _WEIGHTS_FILE),
        "version": __version__,
    }
    write_text(folder / CARD_FILE, model_card(model, config))
    write_json(folder / CONFIG_FILE, config)
    write_seal(folder, [_WEIGHTS_FILE, CONFIG_FILE, *([MASK_FILE] if provenance.grid else [])])
    return folder


def from_pretrained(source: str | Path, contract: Contract | None = None, revision: str | None = None) -> HieraJEPA | TemporalExtractor:
    """Read a model folder, one that comes with the package, or one of the Hugging Face hub, from the cache where it cannot be reached.

    Weights are read from safetensors alone; a pickle, which can run code, is never opened. A model that is sealed is compared with its
    seal first; one without a seal is read as it is (`is_sealed`).

    Parameters
    ----------
    source : str or Path
        Folder, one of `list_models`, or hub id such as `lab/model`.
    contract : Contract or None
        Contract of the data to be read; compared with the model's if given.
    revision : str or None
        Branch, tag or commit on the hub; the default branch if None.

    Returns
    -------
    HieraJEPA or TemporalExtractor
        In evaluation mode, with its `provenance`.

    Raises
    ------
    InputError
        If the folder is not a slimbrain model, is damaged, gives every input the same vector, or the hub cannot give it.
    ContractError
        If the data do not fit the model.

    Examples
    --------
    >>> import slimbrain
    >>> model = slimbrain.from_pretrained("slimbrain-temporal")
    >>> model.provenance.window.frames, model.provenance.contract.tr
    (8, 0.72)
    """
    folder = model_folder(source, revision)
    sealed = _check(folder)
    config = _read_config(folder)
    model = _build(config, folder)
    provenance = _provenance(config, folder)
    if contract:
        provenance.require(contract, f"the model {source}", "the data")
    try:
        found = _unchanged(folder, config, sealed.get(_WEIGHTS_FILE))
        model.load_state_dict(load_file(folder / _WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / _WEIGHTS_FILE}: does not hold the weights that {CONFIG_FILE} describes ({reason}); export the model again."
        ) from error
    model.provenance = replace(provenance, weights_sha256=found)
    if not tells_apart(model.eval()):
        raise InputError(
            f"{source}: gives two different inputs the same vector, or numbers that are not finite; its training collapsed, or its "
            f"{CONFIG_FILE} was changed: export the model again, or train longer."
        )
    return model


def is_sealed(folder: Path) -> bool:
    """Whether a model folder records the SHA-256 of its configuration; without, changes of it cannot be detected."""
    return (folder / SEAL_FILE).is_file()


def _check(folder: Path, only: str | None = None) -> dict[str, str]:
    """Compare a sealed folder, or one file of it, with its seal, before anything is parsed; SHA-256 by file, empty without a seal."""
    if not is_sealed(folder):
        return {}
    try:
        sealed = check_seal(folder, only=only)
        if missing := {_WEIGHTS_FILE, CONFIG_FILE} - sealed.keys():
            raise BrokenSealError(SEAL_FILE, f"does not seal {min(missing)}")
        return sealed
    except BrokenSealError as error:
        raise InputError(f"{folder / error.file}: {error.reason}; export the model again, or fetch it again.") from error


def _unchanged(folder: Path, config: Mapping[str, Any], known: str | None) -> str:
    """The SHA-256 of the weights, computed unless it is known; ValueError if it is not the one in a configuration that has one."""
    found = known or sha256(folder / _WEIGHTS_FILE)
    if config.get("weights_sha256", "") not in ("", found):
        raise ValueError("its SHA-256 is another: it was cut short, damaged or exchanged")
    return found


def weights_sha256(source: str | Path, revision: str | None = None) -> str:
    """SHA-256 of a model's weights, by which a result names them; `source` and `revision` as of `from_pretrained`."""
    return sha256(model_folder(source, revision) / _WEIGHTS_FILE)


def require_model(model: nn.Module, kind: type[_Kind], source: str | Path) -> _Kind:
    """The model, or an InputError if it is one of the other stage."""
    if not isinstance(model, kind):
        raise InputError(
            f"{source}: is a {type(model).__name__}, a {kind.__name__} is needed here; give the folder of the other stage's run."
        )
    return model


def push_to_hub(
    folder: str | Path,
    name: str,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Upload a slimbrain model",
) -> str:
    """Put a model folder on the Hugging Face hub, once it has been read and found whole; its own files and no others.

    After `hf auth login`. `slimbrain.from_pretrained` then reads it by its id, logged in as somebody who may see it.

    Parameters
    ----------
    folder : str or Path
        RUN/model of a pretraining run, or what `save_pretrained` wrote.
    name : str
        Hub id such as `lab/model`; made if it is not there.
    private : bool
        Whether only you and your organisation see it. One that is public already is refused then.
    revision : str or None
        Branch to put it on; the default branch if None.
    token : str or None
        The one of `hf auth login` if None.
    message : str
        Of the commit.

    Returns
    -------
    str
        The address of the commit.

    Raises
    ------
    InputError
        If the folder is no model, or the hub refuses, or cannot be reached.

    Examples
    --------
    >>> import slimbrain
    >>> url = slimbrain.push_to_hub("runs/voxel/model", "lab/model")  # doctest: +SKIP
    >>> model = slimbrain.from_pretrained("lab/model")  # doctest: +SKIP
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give RUN/model of a pretraining run.")
    from_pretrained(folder)
    stale = [name for name in (SEAL_FILE, *_OF_THESE_WEIGHTS) if not (folder / name).exists()]
    return put(folder, name, _MODEL_FILES, stale, private, revision, token, message)


def write_card(folder: Path, model: HieraJEPA | TemporalExtractor, measured: Sequence[Measured]) -> Path:
    """Write the card of a model folder again, with these evaluations."""
    return write_text(folder / CARD_FILE, model_card(model, _read_config(folder), measured))


def read_training(source: str | Path) -> dict[str, Any]:
    """The record of training in a model folder, or in a model on the hub; the weights are not read.

    Raises
    ------
    InputError
        If it is no model.
    """
    folder = model_folder(source)
    _check(folder, only=CONFIG_FILE)
    training = _read_config(folder).get("training", {})
    if not isinstance(training, dict):
        raise InputError(f"{source}: its {CONFIG_FILE} does not say what it was trained on; export the model again.")
    return training


def model_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: as it is, of one that comes with the package, or fetched from the hub.

    Raises
    ------
    InputError
        If there is none, or it has a pickle in place of safetensors.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{source}: is a folder, which has no revisions; leave revision={revision!r} out, or give a hub id.")
        _require_safetensors(folder, [path.name for path in folder.iterdir()])
        return folder
    if (shipped := shipped_folder(str(source))) is not None:
        if revision is not None:
            raise InputError(f"{source}: comes with the package, in one version; leave revision={revision!r} out.")
        return shipped
    if folder.is_file() or not is_hub_id(source):
        raise InputError(f"{source}: is not a model folder; give {model_sources(str(source))}.")
    fetched = fetch(str(source), revision, _MODEL_FILES)
    if not (fetched / _WEIGHTS_FILE).exists():
        _require_safetensors(Path(source), pickles_of(str(source), revision))
    return fetched


def _require_safetensors(folder: Path, names: Sequence[str]) -> None:
    if _WEIGHTS_FILE not in names and (found := pickles(names)):
        raise InputError(
            f"{folder / found[0]}: is a pickle, which could run code here; it is not opened, ask its authors for {_WEIGHTS_FILE}."
        )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if config["kind"] in ("temporal", "voxel"):
            return config
    except FileNotFoundError as error:
        if (folder / MODEL_FOLDER / CONFIG_FILE).is_file():
            raise InputError(f"{folder}: is the folder of a run; give {folder / MODEL_FOLDER}.") from error
        raise InputError(f"{folder}: holds no model, since {folder / CONFIG_FILE} is missing; give {model_sources()}.") from error
    except OSError as error:
        raise InputError(
            f"{folder / CONFIG_FILE}: cannot be read ({error.strerror}); make it readable, or give {model_sources()}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG_FILE}: is not a slimbrain model's configuration ({error}); give RUN/model of a pretraining run."
        ) from error
    raise InputError(
        f"{folder / CONFIG_FILE}: names the kind {config['kind']}, not temporal or voxel; use the version of slimbrain that wrote it."
    )


def _describe(model: HieraJEPA | TemporalExtractor) -> dict[str, Any]:
    beside = {} if model.connectome is None else {"connectome": model.connectome.config.model_dump()}
    if isinstance(model, TemporalExtractor):
        return {"kind": "temporal", "model": model.config.model_dump(), **beside}
    return {
        "kind": "voxel",
        "model": model.config.model_dump(),
        "jepa": model.jepa.model_dump(),
        "voxels_per_patch": model.voxels_per_patch,
        **beside,
    }


def _build(config: Mapping[str, Any], folder: Path) -> HieraJEPA | TemporalExtractor:
    try:
        beside = ConnectomeConfig.model_validate(config["connectome"]) if "connectome" in config else None
        n_bytes = beside.entries * beside.axes // 2 if beside else 0
        if config["kind"] == "temporal":
            temporal = TemporalConfig.model_validate(config["model"])
            _require_weights(folder, temporal_parameters(temporal), n_bytes)
            return TemporalExtractor(temporal, beside)
        encoder, jepa = HieraConfig.model_validate(config["model"]), JepaConfig.model_validate(config["jepa"])
        values = int(config["voxels_per_patch"])
        _require_weights(folder, jepa_parameters(encoder, jepa) + 2 * values * encoder.embed, n_bytes)
        return HieraJEPA(encoder, jepa, values, beside)
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong_setting(folder, error) from error


def _require_weights(folder: Path, count: int, n_bytes: int = 0) -> None:
    """Refuse a configuration of more weights, and bytes beside them, than the file can hold, before a network of that size is built."""
    path = folder / _WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{path}: is missing; export the model again, or fetch it again.")
    if count * _LEAST_BYTES + n_bytes > path.stat().st_size:
        raise InputError(
            f"{path}: does not hold the weights that {CONFIG_FILE} describes (at least {count:,}, in {path.stat().st_size:,} bytes); "
            "export the model again."
        )


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
    return Provenance(contract, window, grid, training, any_channels="connectome" in config and config["kind"] == "temporal")
