"""What is launched: a command as shards of itself, and what is left to do once they are done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Words = tuple[str, ...]


def _always_the_same() -> str:
    """What a command reads, where it has one shard."""
    return ""


def _nothing_left(_: bool) -> str:
    """What to do at the end where the shards write everything themselves."""
    return ""


@dataclass(frozen=True)
class Work:
    """A command, cut up.

    Attributes
    ----------
    command : Words
        Its words after `slimbrain`, as they were typed.
    out : Path
        What it writes; logs and the state of shards lie beside it.
    shards : mapping
        Words after `slimbrain` of each shard, by name; each could be typed.
    distributed : bool
        Whether its one shard is started by `torchrun`, on every node.
    result : Path or None
        Of a command that a signal makes save, so that it resumes from there: what exists once it has ended, and not if it was stopped.
        Others start their shard again and skip what is done.
    gather : callable
        Called with whether all shards are done, once none is queued or running; returns a line to print.
    inputs : callable
        Returns a checksum of what is divided among the shards. If it changes, so may the division, and no shard counts as done.
    """

    command: Words
    out: Path
    shards: Mapping[str, Words]
    distributed: bool = False
    result: Path | None = None
    gather: Callable[[bool], str] = _nothing_left
    inputs: Callable[[], str] = _always_the_same


def cut(command: Words, out: Path, parts: int, gather: Callable[[bool], str], inputs: Callable[[], str], found: Words = ()) -> Work:
    """A command that has an option `--shard`, in so many parts; `found` are further options, so that they need not find out the same."""
    from slimbrain.disk.shards import Shard

    all_parts = [Shard(number, parts) for number in range(1, parts + 1)]
    shards = {shard.name: (*command, *found, "--shard", str(shard)) for shard in all_parts} if parts > 1 else {"all": command}
    return Work(command, out, shards, gather=gather, inputs=inputs)


def checksum(items: Iterable[tuple[str, int]]) -> str:
    """Checksum of the names and sizes that are divided among shards."""
    return hashlib.sha256("\n".join(f"{name}\t{size}" for name, size in items).encode()).hexdigest()
