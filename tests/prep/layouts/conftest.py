"""One command, whatever the source is."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_samples import Prep

from slimbrain.prep import PrepOptions, PrepSummary, prepare


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def prep(out: Path, mask8: Path) -> Prep:
    """Prepare a source into `out` on the small brain."""

    def run(source: Path, **options: object) -> PrepSummary:
        return prepare(source, out, PrepOptions(mask=mask8, resolution="8mm", **options))

    return run
