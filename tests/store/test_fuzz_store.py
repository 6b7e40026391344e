"""The reader of stores on damaged files: a refusal of ours or what was written, never another exception; `verify` misses no flip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import BYTE_VALUES, Mutate, byte_edits, cell_edits, fuzzing, header_edits, json_edits, little_memory
from store_samples import SPACE, TR_S, entities, make_store

from slimbrain.errors import SlimbrainError
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.store import Channels, Store
from slimbrain.store.verify import verify
from slimbrain.store.write import write_roi_session

KEY = f"sub-01_task-rest_run-1_space-{SPACE}"
DATA = f"sub-01/func/{KEY}_desc-slimbrain_bold.safetensors"
ROI_DATA = "sub-01/func/sub-01_task-rest_run-1_space-roi_desc-slimbrain_bold.safetensors"
SIDECARS = [name.replace(".safetensors", ".json") for name in (DATA, ROI_DATA)]
FRAMES = 4
HEADER_FOCUS = 500


class Tables(dict[str, Any]):
    """What a store gives, by name; short in the report of a failing case."""

    def __repr__(self) -> str:
        return f"Tables of {len(self)}"


@pytest.fixture(scope="module")
def whole(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    """A small store of both kinds of session, and what it holds."""
    small = Grid(grid8.lattice, grid8.mask & (np.indices(grid8.mask.shape)[0] == 11))
    root = tmp_path_factory.mktemp("fuzz") / "store"
    store = make_store(root, small, 1, frames=FRAMES)
    series = np.random.default_rng(0).normal(size=(FRAMES, 3)).astype(np.float32)
    write_roi_session(store, entities("01"), series, Channels(("a", "b", "ç"), np.arange(9.0).reshape(3, 3)), TR_S)
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\n")
    return root, everything(root)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of progress for each of thousands, and the tables of one mask are worked out once."""
    monkeypatch.setattr("slimbrain.store.verify.track", lambda items, label: items)
    load, known = Grid.load, {}

    def load_once(path: Path, lattice: str) -> Grid:
        key = path.read_bytes() if path.is_file() else b"", lattice
        known[key] = known.get(key) or load(path, lattice)
        return known[key]

    monkeypatch.setattr(Grid, "load", load_once)


def rewrite(path: Path, content: bytes) -> None:
    """As a new file: some file systems wait for the disk when an old one is emptied."""
    path.unlink()
    path.write_bytes(content)


@pytest.fixture
def restore(whole: tuple[Path, Tables]) -> Iterator[Callable[[], Path]]:
    """The store's folder, as it was made, each time it is called."""
    root = whole[0]
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def fresh() -> Path:
        for path, content in files.items():
            if path.read_bytes() != content:
                rewrite(path, content)
        return root

    yield fresh
    fresh()


def everything(root: Path) -> Tables:
    """All that the reader gives, by name, or the error of ours that it gives instead; any other exception passes through."""
    found = Tables()

    def ask(name: str, read: Callable[[], Any]) -> Any:
        try:
            found[name] = read()
        except SlimbrainError as error:
            assert str(error).endswith(".") and "\n" not in str(error), str(error)
            found[name] = error
        return found[name]

    with little_memory():
        store = ask("store", lambda: Store(root))
        if isinstance(store, SlimbrainError):
            return found
        ask("participants", lambda: store.participants)
        sessions = ask("sessions", lambda: store.sessions)
        for info in [] if isinstance(sessions, SlimbrainError) else sessions:
            for name in ("sidecar", "coarse", "voxels", "moments", "session_contract", "is_whole"):
                ask(f"{name} {info.key}", lambda name=name, info=info: getattr(store, name)(info.key))  # type: ignore[misc]
            ask(f"channels {info.key}", lambda info=info: store.channels(info.key).mm)  # type: ignore[misc]
            ask(f"window {info.key}", lambda info=info: store.voxels(info.key, 1, 3))  # type: ignore[misc]
    return found


def differences(found: Tables, expected: Tables) -> list[str]:
    """Names of arrays that were given and are not those that were written."""
    arrays = {name: value for name, value in found.items() if isinstance(value, (np.ndarray, tuple)) and name in expected}
    return [name for name, value in arrays.items() if not np.array_equal(np.asarray(value), np.asarray(expected[name]))]


def shapes(found: Tables) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (value.shape, value.dtype) for name, value in found.items() if isinstance(value, np.ndarray)}


def try_damage(fresh: Callable[[], Path], expected: Tables, file: str, mutate: Mutate) -> Path:
    """Damage one file that holds no data: what is still given is what was written."""
    root = fresh()
    path = root / file
    rewrite(path, mutate(path.read_bytes()))
    found = everything(root)
    assert differences(found, expected) == []
    return root


def sweeping(root: Path) -> bool:
    """Whether `verify` finds something, or refuses the store as a whole; nothing else is let out."""
    try:
        with little_memory():
            return bool(verify(root).problems)
    except SlimbrainError:
        return True


@pytest.mark.slow
@fuzzing(200)
@given(mutate=json_edits() | byte_edits(200))
def test_the_description(mutate: Mutate, restore: Callable[[], Path], whole: tuple[Path, Tables]) -> None:
    sweeping(try_damage(restore, whole[1], "dataset_description.json", mutate))


@pytest.mark.slow
@fuzzing(400)
@given(file=st.sampled_from(["sessions.tsv", "sessions.tsv", "participants.tsv"]), mutate=cell_edits() | byte_edits(400))
def test_the_tables(file: str, mutate: Mutate, restore: Callable[[], Path], whole: tuple[Path, Tables]) -> None:
    sweeping(try_damage(restore, whole[1], file, mutate))


@pytest.mark.slow
@fuzzing(300)
@given(file=st.sampled_from(SIDECARS), mutate=json_edits() | byte_edits(400))
def test_the_sidecars(file: str, mutate: Mutate, restore: Callable[[], Path], whole: tuple[Path, Tables]) -> None:
    sweeping(try_damage(restore, whole[1], file, mutate))


@pytest.mark.slow
@fuzzing(100)
@given(mutate=byte_edits(400))
def test_the_mask(mutate: Mutate, restore: Callable[[], Path], whole: tuple[Path, Tables]) -> None:
    sweeping(try_damage(restore, whole[1], MASK_FILE, mutate))


@pytest.mark.slow
@fuzzing(500)
@given(file=st.sampled_from([DATA, ROI_DATA]), mutate=header_edits() | byte_edits(HEADER_FOCUS))
def test_the_data(file: str, mutate: Mutate, restore: Callable[[], Path], whole: tuple[Path, Tables]) -> None:
    """A reader cannot know of a flipped bit in a number, but gives the shapes and types that it promises; `verify` knows of any."""
    root = restore()
    path = root / file
    before = path.read_bytes()
    rewrite(path, mutate(before))
    found = everything(root)
    assert shapes(found).items() <= shapes(whole[1]).items()
    assert sweeping(root) == (path.read_bytes() != before)


@pytest.mark.slow
@fuzzing(200)
@given(where=st.floats(0, 1), value=BYTE_VALUES, file=st.sampled_from([DATA, ROI_DATA]))
def test_verify_knows_of_every_byte(where: float, value: int, file: str, restore: Callable[[], Path]) -> None:
    root = restore()
    content = bytearray((root / file).read_bytes())
    place = int(where * (len(content) - 1))
    changed = content[place] != value
    content[place] = value
    rewrite(root / file, bytes(content))
    assert [problem.file for problem in verify(root).problems] == [file] * changed


# --- what fuzzing found


@pytest.mark.parametrize(
    ("file", "mutate", "name"),
    [
        ("sessions.tsv", lambda content: content.replace(b"\t4\t", b"\t99999999999999999999\t"), f"voxels {KEY}"),
        ("sessions.tsv", lambda content: content.replace(b"\t4\t", b"\t3\t"), f"voxels {KEY}"),
        ("sessions.tsv", lambda content: content.replace(b"\t4\t", b"\t-4\t"), "sessions"),
        ("sessions.tsv", lambda content: content.replace(b"\t0.72\t", b"\tnan\t"), "sessions"),
        ("sessions.tsv", lambda content: content.replace(b"\tsub-01/", b"\t../sub-01/"), "sessions"),
        ("sessions.tsv", lambda content: content.replace(b"\nsub-01_", b"\nsub-01/_"), "sessions"),
        ("sessions.tsv", lambda content: content.replace(b"\nsub-01_", b"\nsub-01\0_"), "sessions"),
        (SIDECARS[1], lambda content: content.replace(b'"Channels"', b'"channels"'), "channels sub-01_task-rest_run-1_space-roi"),
        (SIDECARS[0], lambda content: b"[" * 100_000, f"sidecar {KEY}"),
        (SIDECARS[0], lambda content: b'{"a": ' + b"1" * 10_000 + b"}", f"sidecar {KEY}"),
        (MASK_FILE, lambda content: content[:40] + b"\xff\xff" + content[42:], f"channels {KEY}"),
    ],
)
def test_damage_that_once_was_an_exception_or_passed(
    file: str, mutate: Mutate, name: str, restore: Callable[[], Path], whole: tuple[Path, Tables]
) -> None:
    root = try_damage(restore, whole[1], file, mutate)
    assert isinstance(everything(root)[name], SlimbrainError)
    assert sweeping(root)


@pytest.mark.parametrize("row", [None, [], "x", {"task": ["rest"]}])
def test_a_sidecar_with_another_kind_of_row_is_not_whole(row: object, restore: Callable[[], Path]) -> None:
    root = restore()
    sidecar = json.loads((root / SIDECARS[0]).read_text())
    (root / SIDECARS[0]).write_text(json.dumps({**sidecar, "SessionRow": row}))
    assert not Store(root).is_whole(KEY)
    assert [problem.session for problem in verify(root).problems] == [KEY]
