"""The examples run as a user would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_scikit_learn_pipeline(tmp_path: Path) -> None:
    """From images to a cross-validated score; the planted groups are told apart."""
    words = [sys.executable, EXAMPLES / "scikit_learn_pipeline.py", "--out", tmp_path / "run", "--seed", "1"]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    assert result["participants"] == 16 and result["mean_auc"] > 0.7


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"scikit_learn_pipeline.py"}
