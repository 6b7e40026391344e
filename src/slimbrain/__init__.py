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

__all__ = [
    "Grid",
    "HieraJEPA",
    "SlimBrainEncoder",
    "Store",
    "TemporalExtractor",
    "TrainingOverlapWarning",
    "__version__",
    "add_evaluation",
    "from_pretrained",
    "list_models",
    "push_to_hub",
    "save_pretrained",
]

if TYPE_CHECKING:
    from slimbrain.embed.encoder import SlimBrainEncoder
    from slimbrain.errors import TrainingOverlapWarning
    from slimbrain.evaluate.publish import add_evaluation
    from slimbrain.grid import Grid
    from slimbrain.models.hub import from_pretrained, push_to_hub, save_pretrained
    from slimbrain.models.jepa import HieraJEPA
    from slimbrain.models.shipped import list_models
    from slimbrain.models.temporal import TemporalExtractor
    from slimbrain.store import Store


def __getattr__(name: str) -> Any:
    """Import on first use: torch alone takes longer to load than the help text to print."""
    if name not in _HOMES:
        raise AttributeError(f"module 'slimbrain' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
