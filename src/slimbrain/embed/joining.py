"""Where embeddings are written, and those that several processes wrote, each a part of a store's sessions, as one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimbrain.disk.atomic import write_atomic
from slimbrain.disk.shards import Shard
from slimbrain.errors import InputError
from slimbrain.store import Store

_ALIKE = ("contract", "model", "weights_sha256", "pooling")
"""Arrays that all parts must agree on."""

_OF_ONE = "commands"
"""The array that is taken from the first part."""

_BY_SESSION = "frames_used"
"""JSON by session; the remaining arrays have one row per session."""


def sessions_of(store: Store, shard: Shard) -> Store:
    """The store, showing the sessions of one shard; they weigh as much as they have frames.

    Raises
    ------
    InputError
        If there are fewer sessions than shards.
    """
    sessions = store.sessions
    mine = shard.take(sessions, [info.n_frames for info in sessions])
    if not mine:
        raise InputError(f"--shard {shard}: the store {store.root} has only {len(sessions)} sessions; make fewer shards.")
    return store.only([info.key for info in mine])


def is_npz(path: str | Path) -> bool:
    """Whether embeddings of this name are one npz file, and not a BIDS derivative, whose name is that of a folder.

    Raises
    ------
    InputError
        If the name is that of another file; it is refused before the work and not after it.
    """
    path = Path(path)
    if path.suffix not in ("", ".npz") and not path.is_dir():
        raise InputError(f"{path}: embeddings are one npz file or a BIDS derivative; give a name that ends in .npz, or a folder's.")
    return path.suffix == ".npz"


def part_path(out: Path, shard: Shard) -> Path:
    """Where a shard's embeddings lie: beside what they will be joined to."""
    return out.with_name(f"{out.stem}.{shard.name}{out.suffix}")


def join_embeddings(out: Path, parts: Sequence[Path], keys: Sequence[str]) -> None:
    """Write one npz from those of all shards, the same as one process would have written, and remove the parts.

    Parameters
    ----------
    keys : Sequence[str]
        Sessions, in the order they are to have.

    Raises
    ------
    InputError
        If parts disagree on the model, or do not hold every session once.
    """
    loaded = [_load(path) for path in parts]
    for name in _ALIKE:
        if len({str(part[name]) for part in loaded}) > 1:
            raise InputError(f"{out}: its parts differ in {name}; delete {parts[0].parent}/{out.stem}.*{out.suffix} and embed again.")
    joined = {name: np.concatenate([part[name] for part in loaded]) for name in loaded[0] if name not in (*_ALIKE, _OF_ONE, _BY_SESSION)}
    used: dict[str, Any] = {}
    for part in loaded:
        used |= json.loads(str(part[_BY_SESSION]))
    places = {key: place for place, key in enumerate(joined["session"].tolist())}
    if len(joined["session"]) != len(keys) or places.keys() != set(keys):
        raise InputError(f"{out}: its parts do not hold every session of the store once; delete them and embed again.")
    order = [places[key] for key in keys]
    arrays: dict[str, Any] = {name: joined[name][order] if name in joined else loaded[0][name] for name in loaded[0]}
    arrays[_BY_SESSION] = json.dumps({key: used[key] for key in keys if key in used})
    write_atomic(out, lambda temporary: np.savez(temporary, **arrays))
    for path in parts:
        path.unlink()


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in dict.fromkeys((*file.files, _BY_SESSION))}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it and embed again.") from error
