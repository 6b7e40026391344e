"""Embeddings as a BIDS derivative: one table with a JSON sidecar per session, which other tools find by their names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimbrain import __version__
from slimbrain.disk.atomic import write_json, write_text
from slimbrain.disk.tsv import format_tsv, read_columns
from slimbrain.embed.features import Embeddings, frames_of, stretches_of
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.governance.withdraw import EMBEDDING_SUFFIX
from slimbrain.store import Contract, Store
from slimbrain.store.description import COMMANDS, DESCRIPTION_FILE, commands_in, read_object

_MODEL = "Embedding"
"""Field of the description: what all tables of the folder were made by."""

_COLUMNS = {
    "mean": "mean of feature N over the tokens",
    "deviation": "standard deviation of feature N over time",
    "persistence": "correlation of feature N with itself one step later",
    "unit": "mean over time of feature N in the 32 mm unit whose centre is at X, Y, Z (MNI, mm)",
    "connectome": "column N of the connectome: scores on axes and sums of the tangent vector, turned so that all columns vary alike",
    "token": "column N of the network's features on their leading axes, turned",
    "axis": "score on axis N of the connectome; axes are ordered, and their columns are not to be standardised",
    "tangent": "entry N of the tangent vector between anchors, lower triangle row by row",
    "native": "entry N of the logarithm of the channels' own correlation, lower triangle row by row",
}


def write_derivative(folder: Path, embeddings: Embeddings, model: str, names: Sequence[str], store: Store) -> Path:
    """Write one `sub-*_embedding.tsv` per session, with a header and one row, and a JSON sidecar with the same name.

    Tables of other sessions in the folder stay, so that shards may share it; tables of sessions that are embedded again are replaced.

    Parameters
    ----------
    folder : Path
        Root of the derivative; made if missing.
    embeddings : Embeddings
        N vectors, D wide.
    model : str
        Folder or hub id of the model.
    names : Sequence[str]
        D names of the columns.
    store : Store
        Where the sessions are from.

    Raises
    ------
    InputError
        If the folder holds something else, or embeddings of another model or pooling.
    """
    made_by = {"Model": model, "WeightsSha256": embeddings.weights_sha256, "Pooling": embeddings.pooling, "Version": __version__}
    _claim(folder, made_by, os.path.relpath(store.root, folder), embeddings.commands)
    about = {
        "Description": f"Embedding of the session, a vector of {len(names)} numbers.",
        **made_by,
        "Columns": _described(names),
        "Contract": embeddings.contract.to_dict(),
    }
    for key, vector in embeddings.by_session().items():
        info = store.session(key)
        table = folder / Path(info.path).parent / f"{key}{EMBEDDING_SUFFIX}"
        source = {"Sources": [f"bids:store:{info.path}"], "FramesUsed": stretches_of(embeddings.frames_used[key])}
        write_json(table.with_suffix(".json"), {**about, **source})
        # str of a float32 is the shortest text that gives the same number again.
        write_text(table, format_tsv(names, [dict(zip(names, map(str, vector.astype(np.float32)), strict=True))]))
    return folder


def read_derivative(folder: Path) -> Embeddings:
    """What `write_derivative` wrote, in the order of the sessions' names.

    Raises
    ------
    InputError
        If the folder holds nothing of the kind, or a damaged table.
    """
    made_by = _made_by(folder)
    if made_by is None:
        raise InputError(f"{folder}: holds no embeddings; give the --out of `slimbrain embed`.")
    tables = {path.name.removesuffix(EMBEDDING_SUFFIX): path for path in sorted(folder.glob(f"sub-*/**/*{EMBEDDING_SUFFIX}"))}
    if not tables:
        raise InputError(f"{folder}: has no sub-*{EMBEDDING_SUFFIX}; embed again.")
    keys = tuple(sorted(tables))
    sidecars = {key: _sidecar(tables[key].with_suffix(".json")) for key in keys}
    try:
        contracts = {Contract.from_dict(sidecar["Contract"]) for sidecar in sidecars.values()}
        frames = {key: frames_of(sidecar["FramesUsed"]) for key, sidecar in sidecars.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: a sidecar is not what `slimbrain embed` writes ({error}); embed again.") from error
    if len(contracts) > 1:
        raise InputError(f"{folder}: its tables are of different stores; embed again into an empty folder.")
    values = np.stack([_vector(tables[key]) for key in keys])
    subjects = tuple(key.split("_", 1)[0] for key in keys)
    weights, pooling = made_by["WeightsSha256"], made_by["Pooling"]
    return Embeddings(keys, subjects, values, frames, contracts.pop(), (), weights, pooling, commands_in(folder))


def is_derivative(folder: Path) -> bool:
    """Whether a folder holds embeddings as `write_derivative` writes them."""
    return _made_by(folder) is not None


def _claim(folder: Path, made_by: Mapping[str, str], store: str, commands: Sequence[str]) -> None:
    """Describe the folder, and add command lines to those that made it; refuse what others have in it."""
    there = _made_by(folder)
    if there is None and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no embeddings; choose another --out.")
    other = [name for name in ("WeightsSha256", "Pooling") if there is not None and there[name] != made_by[name]]
    if other:
        raise InputError(f"{folder}: holds embeddings that differ in {' and '.join(other)}; choose another --out, or delete it.")
    description = {
        "Name": "slimbrain embeddings",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "slimbrain", "Version": __version__, COMMANDS: list(dict.fromkeys((*commands_in(folder), *commands)))}],
        "DatasetLinks": {"store": store},
        _MODEL: dict(made_by),
    }
    write_json(folder / DESCRIPTION_FILE, description)


def _made_by(folder: Path) -> dict[str, str] | None:
    """What the description says of the model; None where the folder holds no embeddings."""
    if not (folder / DESCRIPTION_FILE).is_file():
        return None
    try:
        said = read_object(folder / DESCRIPTION_FILE).get(_MODEL)
    except SlimbrainError:
        return None
    return said if isinstance(said, dict) and {"WeightsSha256", "Pooling"} <= said.keys() else None


def _described(names: Sequence[str]) -> dict[str, str]:
    """Meaning of each family of columns; N is the number at the end of a column's name."""
    families = dict.fromkeys(name.split("_", 1)[0] for name in names)
    return {"unit_X_Y_Z_N" if family == "unit" else f"{family}_N": _COLUMNS[family] for family in families}


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); embed again.") from error
    return value if isinstance(value, dict) else {}


def _vector(path: Path) -> Any:
    """(D,) float32."""
    try:
        (row,) = zip(*read_columns(path)[1], strict=True)
        return np.array(row, np.float32)
    except (SlimbrainError, ValueError) as error:
        raise InputError(f"{path}: is not a table of one vector ({error}); embed again.") from error
