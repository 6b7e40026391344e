"""Pretrained models that come with the package: `weights/NAME/`, each a model folder with its card and licence."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from slimbrain.governance.provenance import CONFIG_FILE, MODEL_FOLDER

TEMPORAL = "slimbrain-temporal"
"""The stage 1 model that `rank`, `embed`, `group`, `connectome` and `evaluate` use where none is named."""

VOXEL = "slimbrain-voxel-8mm"
"""The stage 2 model, of images prepared with `--resolution 8mm-p1`; nothing uses it unasked."""


def list_models() -> list[str]:
    """Names of the models that come with the package, each of which `from_pretrained` takes.

    Returns
    -------
    list of str
        In alphabetical order.

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


def model_sources(named: str = "") -> str:
    """What a user may name as a model, for messages; where a name that was typed is like that of a model, this one alone."""
    if near := nearest_model(named):
        return f"{near}, which is the nearest name"
    names = ", ".join(list_models()) or "there is none"
    return f"RUN/model of a pretraining run, a model of the package ({names}), or a hub id such as lab/model"


def is_hub_id(source: str | Path) -> bool:
    """Whether a name may be one of the hub, such as `lab/model`; where `lab` is a folder here, it is a path."""
    return _looks_like_hub_id(str(source)) and not Path(source).parent.is_dir()


def is_missing_path(named: str) -> bool:
    """Whether a name, though it looks like one of the hub, is that of a path which is not there: a typo."""
    return _looks_like_hub_id(named) and not is_hub_id(named) and not Path(named).exists()


def _looks_like_hub_id(named: str) -> bool:
    return named.count("/") == 1 and len(Path(named).parts) == 2 and not named.startswith((".", "/"))


def nearest_model(named: str) -> str:
    """The model of the package, or the folder of one, whose name is most like what was typed; empty if there is none."""
    if close := get_close_matches(named.lower(), list_models(), n=1):
        return close[0]
    found = Path()
    try:
        for part in Path(named).parts:
            folder = found / part
            if not folder.is_dir():
                close = get_close_matches(part, [path.name for path in found.iterdir() if path.is_dir()], n=1)
                if not close:
                    return ""
                folder = found / close[0]
            found = folder
    except OSError:
        # A folder that may not be read has nothing to offer.
        return ""
    return next((str(folder) for folder in (found, found / MODEL_FOLDER) if (folder / CONFIG_FILE).is_file()), "")


def _root() -> Path:
    return Path(str(resources.files("slimbrain"))) / "weights"
