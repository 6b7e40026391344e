"""How objects show themselves: one line in a terminal, a table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from slimbrain.errors import SlimbrainError


class Displayed:
    """Gives a class `__repr__` and `_repr_html_` from the facts it states of itself."""

    def display_facts(self) -> Mapping[str, object]:
        """Names and values, the most important first."""
        raise NotImplementedError

    def _facts_or_why_not(self) -> Mapping[str, object]:
        try:
            return self.display_facts()
        except (SlimbrainError, OSError) as error:
            # To show a thing must work, above all where the thing is damaged.
            return {"cannot be read": error}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}: {value}" for name, value in self._facts_or_why_not().items())
        return f"<{type(self).__name__} {facts}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
            for name, value in self._facts_or_why_not().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
