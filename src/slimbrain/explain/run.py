"""Explain a store: maps of every session and their averages; finished maps of the same settings are kept."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain import __version__
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.evaluate.tuned import load_tuned
from slimbrain.explain.folder import PICTURES, MapFolder, Output
from slimbrain.explain.methods import MapRequest, Model, Opened, open_method
from slimbrain.explain.regions import Atlas, read_atlas, unit_atlas
from slimbrain.models.hub import HEAD_FILE, from_pretrained, model_folder, weights_sha256
from slimbrain.progress import track
from slimbrain.store import ROI, Store
from slimbrain.train import pick_device


@dataclass
class Summary:
    """Sessions explained, kept, and refused, with the reason; `trained_on` counts the first two that are of training participants."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    trained_on: int = 0


def explain_store(store: Store, source: str | Path, request: MapRequest, output: Output, out: Path, device: str = "auto") -> Summary:
    """Write maps of every session of a store, and their averages, to a folder.

    Parameters
    ----------
    store : Store
        Whose sessions are explained; with a task, also what probes are fitted on.
    source : str or Path
        Model folder or hub id; the head of a fine-tuned model is explained where the request names no task.
    request : MapRequest
        What to explain, and how.
    output : Output
        What is written beside the maps.
    out : Path
        Folder; a session whose map is there, made with the same settings, is not explained again.
    device : str
        `auto` (CUDA where there is one), or a device of torch such as `cpu`.

    Returns
    -------
    Summary
        Keys of sessions that were explained (`made`), were there (`kept`), or `refused`, with the reason; these do not stop the others.

    Raises
    ------
    InputError
        If no session can be explained, or the settings, the model or the atlas do not fit.
    ContractError
        If the store does not fit the model.

    Examples
    --------
    >>> from pathlib import Path
    >>> from slimbrain import Store
    >>> from slimbrain.explain import MapRequest, Output, explain_store
    >>> store, request = Store("store"), MapRequest("surprise", k=1)
    >>> summary = explain_store(store, "runs/voxel/model", request, Output(pictures="none"), Path("surprise"), device="cpu")
    >>> len(summary.made), summary.refused
    (3, {})
    """
    if output.pictures not in PICTURES:
        raise InputError(f"--pictures {output.pictures}: choose one of {', '.join(PICTURES)}.")
    if output.by_window and request.method == "occlusion":
        raise InputError("--by-window: occlusion deletes a unit in all windows at once, so it has no map by window; leave it out.")
    tuned = load_tuned(source) if (model_folder(source) / HEAD_FILE).exists() else None
    model = tuned.model if tuned else from_pretrained(source, store.contract)
    atlas = _atlas(store, output)
    opened = open_method(store, model, source, request, pick_device(device), tuned)
    folder = MapFolder(store, out, request, opened, atlas, _facts(store, model, source, request, output, opened), output)
    summary = Summary(refused=dict(opened.refused))
    for info in track(opened.sessions, f"explain by {request.method}", shorter=_shorter(request.method)):
        try:
            fresh = folder.add(info, picture=output.pictures == "all")
            (summary.made if fresh else summary.kept).append(info.key)
            summary.trained_on += info.subject in opened.trained_on
        except (SlimbrainError, OSError) as error:
            summary.refused[info.key] = str(error)
    for key, reason in summary.refused.items():
        print(f"{key}: left out: {reason}", file=sys.stderr)
    if not summary.made and not summary.kept:
        raise InputError(f"{store.root}: no session could be explained; the reasons are above.")
    folder.finish(summary.refused, picture=output.pictures != "none")
    return summary


def _shorter(method: str) -> str:
    """How a user makes it take less time."""
    if method == "channels":
        return "fewer participants (--participants)"
    quicker = "--method gradient, fewer steps (--steps), " if method == "integrated" else ""
    return f"{quicker}fewer windows (--k) or participants (--participants)"


def _atlas(store: Store, output: Output) -> Atlas | None:
    """Regions of the store's voxels; None where it has parcels, which are regions themselves."""
    if all(info.space == ROI for info in store.sessions):
        if output.atlas:
            raise InputError(f"{output.atlas}: {store.root} has parcels and no voxels; its channels are the regions, leave --atlas out.")
        return None
    if output.atlas is None:
        if output.labels:
            raise InputError(f"{output.labels}: names the regions of an atlas; give that with --atlas.")
        return unit_atlas(store.grid)
    return read_atlas(output.atlas, output.labels, store.grid)


def _facts(store: Store, model: Model, source: str | Path, request: MapRequest, output: Output, opened: Opened) -> dict[str, Any]:
    """What every record of the folder says."""
    explained = {info.subject for info in opened.sessions}
    return {
        "model": {"source": str(source), "kind": type(model).__name__, "weights_sha256": weights_sha256(source)},
        "store": {"name": store.root.name, "contract": store.contract.to_dict()},
        "task": opened.task or None,
        "decided_by": dict(opened.deciders.known) if opened.deciders else None,
        "participants": len(explained),
        "in_training": len(explained & opened.trained_on),
        "seed": request.seed,
        "version": __version__,
        "commands": list(output.commands),
    }
