"""The page that stands in a store: what it holds, what was refused, what a quality threshold excluded."""

from __future__ import annotations

from pathlib import Path

from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import read_tsv
from slimbrain.prep.exclusion import EXCLUDED_FILE
from slimbrain.prep.run import FAILURES_FILE
from slimbrain.report.inputs import ReportInputs
from slimbrain.report.page import write_report
from slimbrain.report.place import REPORT_FILE
from slimbrain.store import Store


def write_data_page(out: Path, command: str) -> Path:
    """Write it, unless there is nothing to show yet.

    Parameters
    ----------
    out : Path
        The store.
    command : str
        To show on the page.
    """
    store, path = Store(out), out / REPORT_FILE
    failures, excluded = (out / name if (out / name).exists() else None for name in (FAILURES_FILE, EXCLUDED_FILE))
    if store.sessions or any(table and read_tsv(table) for table in (failures, excluded)):
        inputs = ReportInputs(store=store, failures=failures, excluded=excluded, commands=(command,), title="Data")
        with claim(out, REPORT_FILE, wait=True):
            write_report(path, inputs)
    return path
