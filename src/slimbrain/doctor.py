"""What is this file, and is this machine fit for the work."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from slimbrain import __version__
from slimbrain.errors import InputError

PACKAGES = ("torch", "numpy", "scipy", "nibabel", "nilearn", "scikit-learn", "safetensors")


def inspect_path(path: Path) -> dict[str, Any]:
    """Name, kind and contents of a store, model folder, run, safetensors, NIfTI, window table or embeddings file.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist; check the path.")
    for says in (_store, _run, _model, _tensors, _embeddings, _windows, _image):
        facts = says(path)
        if facts:
            return {"path": str(path), **facts}
    raise InputError(
        f"{path}: is nothing slimbrain reads; give a store, run, model folder, safetensors, NIfTI, window table or embeddings file."
    )


def examine() -> dict[str, Any]:
    """Versions, devices, memory, disk, and how long one training step of the preset `tiny` takes here."""
    import torch

    facts: dict[str, Any] = {"slimbrain": __version__, "python": platform.python_version(), "system": platform.platform()}
    facts |= {package: metadata.version(package) for package in PACKAGES}
    facts["cores"] = os.cpu_count()
    facts["torch threads"] = torch.get_num_threads()
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    facts["disk free here"] = f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"
    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    facts["CUDA devices"] = ", ".join(cuda) or "none; the CPU is used"
    facts["one tiny stage 2 step"] = f"{_step_seconds():.2f} s forward and backward"
    return facts


def _step_seconds() -> float:
    import numpy as np
    import torch

    from slimbrain.config import load_preset
    from slimbrain.grid import Grid
    from slimbrain.masking import sample_jepa_mask
    from slimbrain.models.jepa import HieraJEPA
    from slimbrain.models.packing import Clip

    preset, grid = load_preset("tiny"), Grid.mni152("8mm")
    frames = preset.window.frames * preset.window.k
    model = HieraJEPA(preset.voxel, preset.jepa, grid.voxels_per_patch)
    clip = Clip(torch.randn(frames, *grid.voxel_mask.shape), torch.arange(frames) * 0.72, grid)
    mask = sample_jepa_mask(grid.units.mm, preset.window.k, preset.window.frames // preset.voxel.unit_frames, 0.3, np.random.default_rng(0))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        model([clip], [mask]).loss.backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _store(path: Path) -> dict[str, Any] | None:
    from slimbrain.ledger import entries_of, summary
    from slimbrain.store import DESCRIPTION_FILE, Store

    if not (path / DESCRIPTION_FILE).is_file() or "Slimbrain" not in (path / DESCRIPTION_FILE).read_text(encoding="utf-8"):
        return None
    store = Store(path)
    frames = sum(info.n_frames for info in store.sessions)
    subjects = len({info.subject for info in store.sessions})
    counts = {"sessions": len(store.sessions), "participants": subjects, "frames": frames}
    return {"kind": "store", **counts, **store.contract.to_dict(), "ledger": summary(entries_of(store, store.sessions))}


def _run(path: Path) -> dict[str, Any] | None:
    if not (path / "run.json").is_file():
        return None
    from slimbrain.train import RUN_FILE, read_metrics

    run = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    lines = read_metrics(path)
    return {
        "kind": "pretraining run",
        "stage": run["stage"],
        "preset": run["preset"]["name"],
        "seed": run["seed"],
        "command": run["command"],
        "last": lines[-1] if lines else {},
    }


def _model(path: Path) -> dict[str, Any] | None:
    if not (path / "config.json").is_file():
        return None
    from slimbrain.ledger import LEDGER, TIMES, entries_from, summary
    from slimbrain.models.hub import from_pretrained
    from slimbrain.models.provenance import OLD_HASHES, REMEMBERED

    model = from_pretrained(path)
    assert model.provenance is not None
    training = {name: value for name, value in model.provenance.training.items() if name not in (OLD_HASHES, REMEMBERED, TIMES)}
    training[LEDGER] = summary(entries_from(training))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"kind": f"model ({type(model).__name__})", "parameters": parameters, **model.provenance.contract.to_dict(), **training}


def _tensors(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.offset_keys()}
            shapes = {name: f"{part.get_dtype()} {tuple(part.get_shape())}" for name, part in slices.items()}
            return {"kind": "safetensors", **(tensors.metadata() or {}), **shapes}
    except SafetensorError as error:
        raise InputError(f"{path}: is damaged ({error}); make it again.") from error


def _embeddings(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".npz":
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {"kind": "npz", **{name: f"{arrays[name].dtype} {arrays[name].shape}" for name in arrays.files}}
    except (OSError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: is damaged ({error}); make it again.") from error


def _windows(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".tsv":
        return None
    from slimbrain.tsv import read_tsv

    rows = read_tsv(path)
    return {"kind": "table", "rows": len(rows), "columns": ", ".join(rows[0]) if rows else "none"}


def _image(path: Path) -> dict[str, Any] | None:
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    from slimbrain.prep.source import open_source

    source = open_source(path)
    return {
        "kind": "NIfTI",
        "shape": source.shape,
        "voxel mm": source.voxel_mm.round(3).tolist(),
        "orientation": source.orientation,
        "header TR (s)": source.header_tr,
    }
