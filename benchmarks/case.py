"""The line that a benchmark prints for each thing it measures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One measured number beside another of the same run.

    Attributes
    ----------
    case : what was measured, `part/quantity`.
    value, unit : the number and its unit.
    against, against_value : what it is compared with, and that one's number.
    detail : what one has to know to measure it again.
    """

    case: str
    value: float
    unit: str
    against: str
    against_value: float
    detail: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One JSON object, `ratio` being value over against_value; numbers keep four significant digits."""
        values = asdict(self)
        numbers = {
            "value": _short(self.value),
            "against_value": _short(self.against_value),
            "ratio": _short(self.value / self.against_value),
        }
        ordered = {**values, **numbers}
        ordered["detail"] = ordered.pop("detail")
        return json.dumps(ordered)

    def print(self) -> None:
        """Print the line at once: whoever reads it may be waiting."""
        print(self.line(), flush=True)


def _short(number: float) -> float:
    return float(f"{number:.4g}")
