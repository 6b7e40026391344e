"""Damage for fuzzing: what disks, transfers and careless editors do to bytes, tables and JSON."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

Mutate = Callable[[bytes], bytes]
SPARE_BYTES = 512 * 2**20
FEW_EDITS = 6

BYTE_VALUES = st.integers(0, 255) | st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
ODD_NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf")])
SCALARS = st.none() | st.booleans() | ODD_NUMBERS | st.text(max_size=6) | st.sampled_from(["..", "/", "n/a", "sub-01"])
JSON_VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=4), SCALARS, max_size=3)


def fuzzing(examples: int) -> settings:
    """The same cases on every machine, as many as asked for."""
    from hypothesis import HealthCheck

    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextmanager
def little_memory() -> Iterator[None]:
    """Let one more allocation of half a GiB than there is now fail, so that a header cannot ask for gigabytes unnoticed."""
    with open("/proc/self/statm") as handle:
        now = int(handle.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@st.composite
def byte_edits(draw: st.DrawFn, focus: int) -> Mutate:
    """A few edits: bytes changed, mostly among the first `focus`, pieces cut out, put in, or the end cut off."""
    edits = draw(
        st.lists(
            st.tuples(st.sampled_from(["set", "set", "set", "flip", "cut", "insert", "end"]), st.floats(0, 1), st.booleans(), BYTE_VALUES),
            min_size=1,
            max_size=FEW_EDITS,
        )
    )

    def mutate(content: bytes) -> bytes:
        changed = bytearray(content)
        for kind, where, in_focus, value in edits:
            place = int(where * min(focus if in_focus else len(changed), len(changed)))
            if kind == "set" and place < len(changed):
                changed[place] = value
            elif kind == "flip" and place < len(changed):
                changed[place] ^= 1 << value % 8
            elif kind == "cut":
                del changed[place : place + value]
            elif kind == "insert":
                changed[place:place] = bytes([value]) * (1 + value % 9)
            elif kind == "end":
                del changed[place:]
        return bytes(changed)

    return mutate


@st.composite
def json_edits(draw: st.DrawFn) -> Mutate:
    """One value, wherever it stands, replaced, removed, or given another name."""
    where, value = draw(st.floats(0, 1)), draw(JSON_VALUES)
    kind = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))

    def mutate(content: bytes) -> bytes:
        tree = json.loads(content)
        places = list(_places(tree))
        holder, name = places[int(where * (len(places) - 1))]
        old = holder.pop(name) if kind != "replace" else None
        if kind == "replace":
            holder[name] = value
        elif kind == "rename" and isinstance(holder, dict):
            holder[str(value)] = old
        return json.dumps(tree).encode()

    return mutate


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for name in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, name
        if isinstance(tree[name], (dict, list)):
            yield from _places(tree[name])


@st.composite
def cell_edits(draw: st.DrawFn) -> Mutate:
    """One cell of a tab-separated table replaced, a line doubled or removed."""
    where, across = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    value = str(draw(SCALARS))
    kind = draw(st.sampled_from(["cell", "cell", "cell", "double", "remove"]))

    def mutate(content: bytes) -> bytes:
        lines = content.decode().splitlines()
        number = int(where * (len(lines) - 1))
        if kind == "cell":
            cells = lines[number].split("\t")
            cells[int(across * (len(cells) - 1))] = value
            lines[number] = "\t".join(cells)
        else:
            lines[number : number + 1] = [lines[number]] * (2 if kind == "double" else 0)
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")

    return mutate


@st.composite
def header_edits(draw: st.DrawFn) -> Mutate:
    """A safetensors file whose header is changed as JSON, with its length put right or not."""
    edit, right = draw(json_edits()), draw(st.booleans())

    def mutate(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = edit(content[8 : 8 + length])
        return struct.pack("<Q", len(header) if right else length) + header + content[8 + length :]

    return mutate


def restore(files: dict[Path, bytes]) -> None:
    """Write the files as they were."""
    for path, content in files.items():
        path.write_bytes(content)
