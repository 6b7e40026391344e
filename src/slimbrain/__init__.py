"""slimbrain: fMRI sessions into representations, from voxels, on modest hardware."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Grid": "slimbrain.grid",
    "Store": "slimbrain.store",
    "TemporalExtractor": "slimbrain.models.temporal",
    "HieraJEPA": "slimbrain.models.jepa",
    "TrainingOverlapWarning": "slimbrain.errors",
    "SlimBrainEncoder": "slimbrain.embed.encoder",
    "from_pretrained": "slimbrain.models.hub",
    "list_models": "slimbrain.models.shipped",
    "save_pretrained": "slimbrain.models.hub",
    "push_to_hub": "slimbrain.models.hub",
    "add_evaluation": "slimbrain.evaluate.publish",
}
_MODULES = ("datasets", "plotting")
"""Modules that are public by their own name."""

__all__ = [
    "Grid",
    "HieraJEPA",
    "SlimBrainEncoder",
    "Store",
    "TemporalExtractor",
    "TrainingOverlapWarning",
    "__version__",
    "add_evaluation",
    "datasets",
    "from_pretrained",
    "list_models",
    "plotting",
    "push_to_hub",
    "save_pretrained",
]

if TYPE_CHECKING:
    from slimbrain import datasets, plotting
    from slimbrain.embed.encoder import SlimBrainEncoder
    from slimbrain.errors import TrainingOverlapWarning
    from slimbrain.evaluate.publish import add_evaluation
    from slimbrain.grid import Grid
    from slimbrain.models.hub import from_pretrained, push_to_hub, save_pretrained
    from slimbrain.models.jepa import HieraJEPA
    from slimbrain.models.shipped import list_models
    from slimbrain.models.temporal import TemporalExtractor
    from slimbrain.store import Store

if not TYPE_CHECKING:
    # A type checker would take it for any name at all, and find no slip.
    def __getattr__(name: str) -> Any:
        """Import on first use: torch alone takes longer to load than the help text to print."""
        if name in _MODULES:
            return import_module(f"slimbrain.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'slimbrain' has no attribute {name!r}{_suggestion(name)}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, whatever was imported so far."""
    return sorted(__all__)


def _suggestion(name: str) -> str:
    """The public name that was probably meant, as the end of a sentence."""
    # Only for whoever misspells a name.
    from difflib import get_close_matches

    lower = {public.lower(): public for public in __all__}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[close[0]]!r}?" if close else f"; public are {', '.join(sorted(__all__))}"
