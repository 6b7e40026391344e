"""Pretrained models that come with the package: `weights/NAME/`, each a model folder with its card and licence."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

TEMPORAL = "slimbrain-temporal"
"""The stage 1 model that `rank`, `embed`, `group`, `connectome` and `evaluate` use where none is named."""


def list_models() -> list[str]:
    """Names of the models that come with the package, each of which `from_pretrained` takes.

    Examples
    --------
    >>> import slimbrain
    >>> "slimbrain-temporal" in slimbrain.list_models()
    True
    """
    root = _root()
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("_")) if root.is_dir() else []


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that comes with the package; None if there is none of this name."""
    return _root() / name if name in list_models() else None


def model_sources() -> str:
    """What a user may name as a model, for messages."""
    names = ", ".join(list_models()) or "there is none"
    return f"RUN/model of a pretraining run, a model of the package ({names}), or a hub id such as lab/model"


def _root() -> Path:
    return Path(str(resources.files("slimbrain"))) / "weights"
