"""One self-contained HTML page: what went in, what was learnt, which windows were chosen, how it compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ReportInputs", "write_report"]

if TYPE_CHECKING:
    from slimbrain.report.inputs import ReportInputs
    from slimbrain.report.page import write_report
else:

    def __getattr__(name: str) -> Any:
        """Import on first use: both load torch, and `slimbrain report` refuses what it cannot use before that."""
        if name not in __all__:
            raise AttributeError(f"module 'slimbrain.report' has no attribute {name!r}")
        from slimbrain.report import inputs, page

        return inputs.ReportInputs if name == "ReportInputs" else page.write_report
