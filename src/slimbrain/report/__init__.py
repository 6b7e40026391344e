"""One self-contained HTML page: what went in, what was learnt, which windows were chosen, how it compares."""

from __future__ import annotations

from slimbrain.report.inputs import ReportInputs
from slimbrain.report.page import write_report

__all__ = ["ReportInputs", "write_report"]
