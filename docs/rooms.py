"""The map of the package's rooms in CONTRIBUTING.md, made from the code: `python docs/rooms.py` writes it, a test compares it.

A room is a file or folder of `src/slimbrain`; an arrow goes from a room to another that it imports, anywhere in its code.
`python docs/rooms.py ROOT` prints the totals of another checkout.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "slimbrain"
PAGE = ROOT / "CONTRIBUTING.md"
_BEFORE_COMMIT = "`5ea4a25`"
_BEFORE = {
    "rooms": 47,
    "arrows between rooms": 324,
    "arrows that run back up": 0,
    "public names": 1524,
    "files": 186,
    "lines": 29720,
}
"""What `python docs/rooms.py ROOT` printed of that commit, when every module was a room of its own."""

BEGIN, END = "<!-- rooms: made by docs/rooms.py -->", "<!-- rooms: end -->"


@dataclass(frozen=True)
class Room:
    """A file or folder of the package.

    Attributes
    ----------
    owns : str
        First sentence of its docstring.
    files, lines, names : int
        Python files, their lines, and their public names: defined at module level, without an underscore.
    imports : frozenset of str
        The rooms that it imports.
    """

    name: str
    is_folder: bool
    owns: str
    files: int
    lines: int
    names: int
    imports: frozenset[str]


@dataclass(frozen=True)
class House:
    """All rooms, and the layers that pyproject.toml gives them, from the top."""

    rooms: tuple[Room, ...]
    layers: tuple[tuple[str, ...], ...]

    @property
    def totals(self) -> dict[str, int]:
        floor = {name: place for place, names in enumerate(self.layers) for name in names}
        arrows = [(room.name, other) for room in self.rooms for other in room.imports]
        return {
            "rooms": len(self.rooms),
            "arrows between rooms": len(arrows),
            "arrows that run back up": sum(floor[other] <= floor[name] for name, other in arrows),
            "public names": sum(room.names for room in self.rooms),
            "files": sum(room.files for room in self.rooms),
            "lines": sum(room.lines for room in self.rooms),
        }


def read_house(root: Path = ROOT) -> House:
    """Rooms in the order of the layers."""
    settings: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    rows = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = tuple(tuple(re.findall(r"\w+", row)) for row in rows)
    source = root / "src" / PACKAGE
    found = {path.stem: path for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    del found["__init__"]
    order = [name for names in layers for name in names if name in found]
    return House(tuple(_room(name, found[name], frozenset(found)) for name in [*order, *sorted(found.keys() - order)]), layers)


def _room(name: str, path: Path, others: frozenset[str]) -> Room:
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    first = trees[path / "__init__.py" if path.is_dir() else path]
    docstring = " ".join((ast.get_docstring(first) or "").partition("\n\n")[0].split())
    return Room(
        name,
        path.is_dir(),
        re.split(r"(?<=[.;]) ", docstring)[0].rstrip(".;"),
        len(files),
        sum(len(text.splitlines()) for text in texts.values()),
        sum(len(_public(tree)) for tree in trees.values()),
        frozenset(other for tree in trees.values() for other in _imported(tree) if other in others and other != name),
    )


def _public(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def _imported(tree: ast.AST) -> Iterator[str]:
    """Rooms of every import that runs; one under TYPE_CHECKING binds nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != PACKAGE else [f"{PACKAGE}.{alias.name}" for alias in node.names]
            yield from _rooms_of(names)
        elif isinstance(node, ast.Import):
            yield from _rooms_of([alias.name for alias in node.names])
        yield from _imported(node)


def _rooms_of(modules: list[str]) -> Iterator[str]:
    yield from (parts[1] for parts in (module.split(".") for module in modules) if parts[0] == PACKAGE and len(parts) > 1)


def table(house: House) -> str:
    """Markdown: one row per room, from the top layer to the bottom; then the sums, before the package had rooms and now."""
    lines = ["| room | files | lines | public names | owns | imports |", "|---|---|---|---|---|---|"]
    for room in house.rooms:
        imports = ", ".join(f"`{other}`" for other in sorted(room.imports))
        lines.append(
            f"| `{room.name}{'/' if room.is_folder else '.py'}` | {room.files} | {room.lines:,} | {room.names} | {room.owns} | {imports} |"
        )
    lines += ["", f"| in all | before, at {_BEFORE_COMMIT} | now |", "|---|---|---|"]
    lines += [f"| {name} | {_BEFORE[name]:,} | {value:,} |" for name, value in house.totals.items()]
    return "\n".join(lines)


def with_table(page: str, text: str) -> str:
    """The page, with what stands between the two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


def main(words: list[str]) -> None:
    if words:
        print(read_house(Path(words[0])).totals)
        return
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(read_house())), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
