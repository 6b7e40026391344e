"""Embeddings written in parts are, joined, the file that one process writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from store_samples import make_store

from slimbrain.disk.shards import Shard
from slimbrain.embed.features import Embeddings
from slimbrain.embed.joining import join_embeddings, part_path, sessions_of
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.store import Store


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), grid8, subjects=5, frames=12)


def save(store: Store, keys: Sequence[str], out: Path, model: str = "m") -> Path:
    """Embeddings of some sessions, which depend on the session alone."""
    subjects = tuple(store.session(key).subject for key in keys)
    values = np.array([[len(key), int(subject[-2:])] for key, subject in zip(keys, subjects, strict=True)], np.float32)
    seen = {key: np.r_[0:4, 6 : 6 + int(subject[-2:])] for key, subject in zip(keys, subjects, strict=True)}
    by = {"weights_sha256": "ab", "pooling": "mean", "commands": ("slimbrain split", "slimbrain embed")}
    made = Embeddings(tuple(keys), subjects, values, seen, store.contract, **by)
    return made.save(out, model)


def parts(store: Store, out: Path, of: int = 3) -> list[Path]:
    shards = [Shard(number, of) for number in range(1, of + 1)]
    return [save(store, [info.key for info in sessions_of(store, shard).sessions], part_path(out, shard)) for shard in shards]


def test_joined_parts_are_the_file_of_one_process(store: Store, tmp_path: Path) -> None:
    keys = [info.key for info in store.sessions]
    out, whole = tmp_path / "joined.npz", save(store, keys, tmp_path / "whole.npz")
    join_embeddings(out, parts(store, out), keys)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joined.npz", "whole.npz"]


def test_every_session_is_one_shards(store: Store) -> None:
    keys = [info.key for number in (1, 2, 3) for info in sessions_of(store, Shard(number, 3)).sessions]
    assert sorted(keys) == [info.key for info in store.sessions]


def test_more_shards_than_sessions_are_refused(store: Store) -> None:
    with pytest.raises(InputError, match="has only 5 sessions; make fewer shards"):
        sessions_of(store, Shard(6, 6))


@pytest.mark.parametrize("fault", ["missing", "twice", "model", "unreadable"])
def test_parts_that_do_not_make_a_whole_are_refused(fault: str, store: Store, tmp_path: Path) -> None:
    keys, out = [info.key for info in store.sessions], tmp_path / "out.npz"
    paths = parts(store, out)
    if fault == "missing":
        paths = paths[1:]
    elif fault == "twice":
        paths = [*paths[1:], paths[1]]
    elif fault == "model":
        save(store, [info.key for info in sessions_of(store, Shard(1, 3)).sessions], paths[0], model="another")
    else:
        paths[0].write_bytes(b"no zip")
    with pytest.raises(InputError, match={"model": "differ in model", "unreadable": "cannot be read"}.get(fault, "every session")):
        join_embeddings(out, paths, keys)
    assert not out.exists() and paths[0].exists()
