"""List the test files that a change can affect, nearest first: `python tests/changed.py [COMMIT]` prints one per line (for `make check`).

Changes are what git sees since COMMIT (main), committed or not. The distance of a test file from a change is the number of imports between
them; samples and conftest.py count like any other module. A file that Python does not import (page, preset, template, benchmark) counts as
imported by every Python file whose text has its name, or in double quotes the name of its folder.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("tests/test_project.py", "tests/models/test_no_pickle.py")
"""Look at every file of the repository."""


def changed_files(since: str, root: Path = ROOT) -> list[str]:
    """Paths that differ from the merge base with `since`: also deleted files, and new ones that git does not ignore."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"changed.py: {done.stderr.strip()}; name a commit to compare with: make check SINCE=COMMIT")
        return [name for name in done.stdout.split("\0") if name]

    (start,) = (line.strip() for line in git("merge-base", since, "HEAD"))
    names = git("diff", "--name-only", "--no-renames", "-z", start) + git("ls-files", "--others", "--exclude-standard", "-z")
    return sorted(set(names))


def imported_names(source: str, inside: bool = True) -> set[str]:
    """Dotted names that Python code imports, also inside functions if so wished; of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def imports_of_package(root: Path = ROOT) -> dict[str, set[str]]:
    """For each module's file, the files of the modules that it imports directly."""
    graph = grimp.build_graph("slimbrain", cache_dir=None, exclude_type_checking_imports=True)
    files = {name: _file_of(name, root) for name in graph.modules}
    return {files[name]: {files[other] for other in graph.find_modules_directly_imported_by(name)} for name in files}


def _file_of(module: str, root: Path) -> str:
    path = root.joinpath("src", *module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(root).as_posix()


@cache
def imports_of_tests(root: Path = ROOT) -> dict[str, set[str]]:
    """The same for the files of tests/, each of which also depends on the conftest.py of its folder and of the folders above.

    What a fixture of a conftest.py imports inside is left out: tests that use the fixture import that room themselves. The public
    names, which `slimbrain` imports on first use, count for tests that import it whole.
    """
    public = imported_names((root / "src" / "slimbrain" / "__init__.py").read_text(encoding="utf-8"))
    paths = {path.relative_to(root).as_posix(): path for path in sorted((root / "tests").rglob("*.py"))}
    samples = {Path(name).stem: name for name in paths}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        imported = imported_names(path.read_text(encoding="utf-8"), inside=path.name != "conftest.py")
        found[name] = {samples[module] for module in imported if module in samples}
        if "slimbrain" in imported:
            imported |= public
        ours = [_file_of(module, root) for module in imported if module.startswith("slimbrain")]
        found[name] |= {file for file in ours if (root / file).is_file()}
        found[name] |= {file for folder in Path(name).parents if (file := f"{folder.as_posix()}/conftest.py") in paths} - {name}
    return found


def named_in(text: str, file: str) -> bool:
    """Whether Python code has the name of a file, or in quotes the name of its folder."""
    folder = Path(file).parent.name
    return Path(file).name in text or (folder != "" and f'"{folder}"' in text)


def distances(changed: Iterable[str], imports: Mapping[str, set[str]]) -> dict[str, int]:
    """Files that depend on changed ones, and over how many imports."""
    found = dict.fromkeys(changed, 0)
    ring = set(found)
    while ring:
        step = found[next(iter(ring))] + 1
        ring = {file for file, others in imports.items() if file not in found and others & ring}
        found |= dict.fromkeys(ring, step)
    return found


def affected_tests(changed: Iterable[str], root: Path = ROOT) -> list[str]:
    """Test files to run, nearest first; among equals, those of the room that changed come first."""
    imports = imports_of_package(root) | imports_of_tests(root)
    texts = {file: (root / file).read_text(encoding="utf-8") for file in imports}
    for file in set(changed) - imports.keys():
        for reader, text in texts.items():
            if named_in(text, file):
                imports[reader] = imports[reader] | {file}
    found = distances(changed, imports)
    tests = [file for file in imports if Path(file).name.startswith("test_") and (file in found or file in ALWAYS)]
    rooms = {Path(file).with_suffix("").parts[2] for file in changed if file.startswith("src/slimbrain/")}

    def order(file: str) -> tuple[int, bool, str]:
        own = Path(file).with_suffix("").parts[1].removeprefix("test_") in rooms
        return found.get(file, len(imports)), not own, file

    return sorted(tests, key=order)


if __name__ == "__main__":
    if names := changed_files(sys.argv[1] if len(sys.argv) > 1 else "main"):
        print("\n".join(affected_tests(names)))
