"""Nothing in the project reads a pickle that somebody else may have made."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "benchmarks", "examples", "tests")
CHECKPOINT = "torch.distributed.checkpoint"
"""Its reader keeps a pickle beside the tensors; what flattens a state in memory, `state_dict`, reads no file."""

BARRED = {("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("dill", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle")}


def unsafe(source: str) -> list[str]:
    """What could run what a file holds: torch.load that does not say weights_only=True, np.load that allows pickles, pickle.load, and
    imports of torch's reader of distributed checkpoints."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.startswith(CHECKPOINT) and name != f"{CHECKPOINT}.state_dict" for name in names):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)):
            continue
        call, arguments = (node.func.value.id, node.func.attr), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            call in BARRED
            or (call == ("torch", "load") and arguments.get("weights_only") != "True")
            or (call in (("np", "load"), ("numpy", "load")) and arguments.get("allow_pickle", "False") != "False")
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 1),
        ("torch.load(f, map_location='cpu', weights_only=True)", 0),
        ("np.load(f)", 0),
        ("np.load(f, allow_pickle=True)", 1),
        ("pickle.loads(b)", 1),
        ("json.load(f)", 0),
        ("import torch.distributed.checkpoint as dcp", 1),
        ("from torch.distributed.checkpoint.state_dict_loader import load", 1),
        ("from torch.distributed.checkpoint.state_dict import get_state_dict", 0),
    ],
)
def test_it_knows_one_when_it_sees_one(line: str, count: int) -> None:
    assert len(unsafe(line)) == count


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_source_opens_a_pickle(folder: str) -> None:
    calls = [(path, call) for path in (ROOT / folder).rglob("*.py") for call in unsafe(path.read_text(encoding="utf-8"))]
    if folder == "tests":
        # That copies are the same, a test sees by reading the pickle it has just written.
        calls = [(path, call) for path, call in calls if "torch.load" in call]
    assert [f"{path.relative_to(ROOT)}, {call}" for path, call in calls] == []
