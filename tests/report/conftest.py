"""One set of made-up inputs, and its page, for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_samples import make_inputs

from slimbrain.grid import Grid
from slimbrain.report import ReportInputs, write_report


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, grid8: Grid) -> ReportInputs:
    return make_inputs(tmp_path_factory.mktemp("report"), grid8)


@pytest.fixture(scope="session")
def page_path(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("page") / "deep" / "report.html", inputs)


@pytest.fixture(scope="session")
def text(page_path: Path) -> str:
    return page_path.read_text(encoding="utf-8")
