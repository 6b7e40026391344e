"""Lists of sessions that many processes write each for itself, so that none rewrites the one manifest for every session it adds.

A manifest of N rows is N rows to write for every session; with hundreds of writers behind one lock that would take longer than
preparing (docs/scale.md). Each part is a manifest of its own, written and read by one process alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slimbrain.disk.atomic import write_text
from slimbrain.disk.locks import claim, locked
from slimbrain.errors import StoreError
from slimbrain.store.manifest import (
    MANIFEST_FILE,
    PARTS_FOLDER,
    SessionInfo,
    manifest_text,
    manifest_with,
    part_path,
    part_paths,
    read_manifest,
    read_part,
)


def part_names(root: Path) -> list[str]:
    """Parts that were not collected yet."""
    return [path.stem for path in part_paths(root)]


def add_to_part(root: Path, name: str, info: SessionInfo) -> None:
    """Add or replace a session in a part."""
    path = part_path(root, name)
    with claim(root, part_claim(name), wait=True):
        write_text(path, manifest_with(path, info) if path.exists() else manifest_text([info]))


def take_from_part(root: Path, name: str, key: str) -> None:
    """Take a session out of a part, if it is there."""
    with claim(root, part_claim(name), wait=True):
        listed = read_part(root, name).by_key()
        if listed.pop(key, None) is not None:
            write_text(part_path(root, name), manifest_text(list(listed.values())))


@contextmanager
def _held(root: Path) -> Iterator[list[Path]]:
    """All parts of a store, held for as long as the block lasts: who adds to one waits."""
    with ExitStack() as held:
        paths = part_paths(root)
        for path in paths:
            held.enter_context(claim(root, part_claim(path.stem), wait=True))
        # Another process may have collected some of them meanwhile.
        yield [path for path in paths if path.exists()]


def collect_parts(root: Path) -> int:
    """Bring the sessions that processes listed each for itself (`Store(root, part)`) into the manifest, in one write; how many.

    Raises
    ------
    StoreError
        If the manifest cannot be written.
    """
    with _held(root) as parts:
        if not parts:
            return 0
        added = {info.key: info for path in parts for info in read_manifest(path)}
        try:
            with locked(root):
                write_text(root / MANIFEST_FILE, manifest_text(read_manifest(root / MANIFEST_FILE).updated(added.values())))
            for path in parts:
                path.unlink()
        except OSError as error:
            raise StoreError(f"{root / MANIFEST_FILE}: cannot be written ({error.strerror}); free space, then collect again.") from error
        return len(added)


def part_claim(name: str) -> str:
    """What a process holds while it changes a part."""
    return f"{PARTS_FOLDER}-{name}"
