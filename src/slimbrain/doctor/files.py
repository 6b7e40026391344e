"""Identify a single file: image, session, table, result, embeddings or settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from slimbrain.errors import InputError
from slimbrain.evaluate.result import as_result, is_result
from slimbrain.prep.source import IMAGE_SUFFIXES

_Facts = dict[str, Any]

_READABLE = ".nii[.gz], .safetensors, .npz, .tsv, .json, .jsonl or .yaml file"


def describe_file(path: Path) -> _Facts:
    """Kind and contents of a file, by its suffix and then by its contents.

    Raises
    ------
    InputError
        If it is of no kind that slimbrain reads or writes, or damaged.
    """
    if path.name.endswith(IMAGE_SUFFIXES):
        return _image(path)
    if path.suffix in _READERS:
        return _READERS[path.suffix](path)
    from slimbrain.models.remote import pickles

    if pickles([path.name]):
        raise InputError(
            f"{path}: is a pickle, which could run code on this machine, and was not opened; "
            "`slimbrain convert` reads the published .pth file, models of slimbrain are folders with model.safetensors."
        )
    raise InputError(f"{path}: is nothing slimbrain reads; give a {_READABLE}, or a folder.")


def _image(path: Path) -> _Facts:
    import nibabel

    from slimbrain.prep.bids import describe_image
    from slimbrain.prep.runs import MNI152
    from slimbrain.prep.source import open_source, require_whole
    from slimbrain.prep.timing import stated_time

    try:
        image: Any = nibabel.load(path)
        flat = len(image.shape) == 3
    except Exception:
        # The reader of recordings reports what is wrong with it.
        flat = False
    if flat:
        return _flat_image(path)
    source, run = open_source(path), describe_image(path)
    require_whole(source)
    space, stated = run.entities.get("space", ""), run.sidecar.get("RepetitionTime")
    facts = {"kind": "NIfTI", "shape": source.shape, "voxel mm": source.voxel_mm.round(3).tolist(), "orientation": source.orientation}
    facts |= {"header TR (s)": source.header_tr, "TR of its JSON sidecar (s)": stated, "space by its name": space or "not said"}
    if source.notes:
        facts["transform"] = " ".join(source.notes)
    if source.header_tr is None and stated is None:
        facts["note"] = "no TR in the header or a JSON sidecar: `slimbrain prep --tr`, or the column tr of a table, gives it"
    try:
        stated_time(path, run.sidecar, run.tr_from)
    except InputError as error:
        facts["note"] = str(error)
    if space and not MNI152.fullmatch(space):
        facts["note"] = f"{space} is no MNI152 space: `slimbrain prep` refuses it"
    return {**facts, "read by": "slimbrain prep (in a folder, or listed in a table), SlimBrainEncoder"}


def _flat_image(path: Path) -> _Facts:
    import nibabel
    import numpy as np

    from slimbrain.transform import image_transform

    image: Any = nibabel.load(path)
    inside = int(np.count_nonzero(np.nan_to_num(np.asarray(image.dataobj)) > 0.5))
    try:
        affine, note = image_transform(path, image)
    except InputError as error:
        affine, note = image.affine, str(error).removeprefix(f"{path}: ")
    facts = {"kind": "NIfTI, one volume", "shape": image.shape, "voxel mm": [round(float(mm), 3) for mm in image.header.get_zooms()[:3]]}
    facts |= {"orientation": "".join(nibabel.aff2axcodes(affine)), "voxels above 0.5": inside}
    if note:
        facts["transform"] = note
    return {**facts, "read by": "slimbrain prep --mask, if it is a brain mask; recordings have four axes"}


def _tensors(path: Path) -> _Facts:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.offset_keys()}
            shapes = {name: f"{part.get_dtype()} {tuple(part.get_shape())}" for name, part in slices.items()}
            metadata = dict(tensors.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is damaged ({error}); make it again.") from error
    if "slimbrain" not in metadata:
        return {"kind": "safetensors", **metadata, "tensors": len(shapes), **shapes}
    told = json.loads(metadata.pop("slimbrain"))
    sidecar = path.resolve().with_suffix(".json")
    beside = _object(sidecar) if sidecar.is_file() else {}
    facts = {"kind": "session of a store", **told.pop("contract", {}), **told, **metadata, **shapes}
    facts["sidecar"] = sidecar.name if beside else "none beside it"
    return {**facts, "warnings": beside.get("Warnings", []), "read by": "slimbrain, through its store"}


def _arrays(path: Path) -> _Facts:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = {name: f"{arrays[name].dtype} {arrays[name].shape}" for name in arrays.files}
            if not {"session", "subject", "embedding", "contract"} <= set(arrays.files):
                return {"kind": "npz", **shapes}
            people, contract = len(set(arrays["subject"].tolist())), json.loads(str(arrays["contract"]))
            finite = bool(np.isfinite(arrays["embedding"]).all())
            facts = {"kind": "embeddings", "sessions": len(arrays["session"]), "participants": people, **shapes, **contract}
            return {**facts, "model": str(arrays["model"]), "all numbers finite": finite}
    except (OSError, ValueError, BadZipFile) as error:
        raise InputError(f"{path}: is damaged ({error}); make it again.") from error


_TABLES = {
    "session scores": {"session", "window", "onset_s", "score", "rank"},
    "sessions of a store": {"session", "participant_id", "space", "n_frames", "tr", "path"},
    "runs that a threshold left out": {"file", "session", "measure", "value", "threshold"},
    "runs that could not be used": {"file", "reason"},
    "images to prepare": {"path", "participant_id", "space"},
    "events of a run": {"onset", "duration"},
    "regions of interest": {"name", "x", "y", "z"},
    "participants": {"participant_id"},
    "confounds of a run": {"framewise_displacement"},
}
"""Tables by the columns that they must have; the first that fits."""


def _table(path: Path) -> _Facts:
    from slimbrain.disk.tsv import read_tsv

    rows = read_tsv(path)
    columns = list(rows[0]) if rows else []
    kind = next((kind for kind, needed in _TABLES.items() if needed <= set(columns)), "table")
    if kind == "session scores":
        return _windows(path)
    return {"kind": kind, "rows": len(rows), "columns": ", ".join(columns) or "none"}


def _windows(path: Path) -> _Facts:
    from slimbrain.saliency import read_window_table

    sessions = read_window_table(path)
    rows = [row for session in sessions.values() for row in session]
    first = next(iter(sessions))
    best = ", ".join(f"{row.onset_s:g}" for row in sorted(sessions[first], key=lambda row: row.rank)[:5])
    return {
        "kind": "window table",
        "rows": len(rows),
        "sessions": len(sessions),
        "windows per session": f"{min(map(len, sessions.values()))} to {max(map(len, sessions.values()))}",
        "seconds per window": rows[0].duration_s,
        "chosen": sum(row.chosen for row in rows),
        "first of the first session (s)": best,
        "read by": "slimbrain pretrain voxel, embed, evaluate, report, each with --windows",
    }


def _json(path: Path) -> _Facts:
    value = _object(path)
    for says in (_result, _sidecar, _truth, _configuration):
        if facts := says(value):
            return facts
    kinds = {
        "RepetitionTime": "metadata of a recording",
        "BIDSVersion": "description of a BIDS dataset",
        "training_set": "settings of a pretraining run",
    }
    kind = next((kind for name, kind in kinds.items() if name in value), "JSON")
    return {"kind": kind, "fields": ", ".join(map(str, value)) or "none"}


def _result(value: _Facts) -> _Facts | None:
    if not is_result(value):
        return None
    try:
        result = as_result("the file", value)
    except InputError as error:
        return {"kind": "damaged evaluation", "reason": str(error)}
    names = {"task", "cohort", "n_subjects", "n_sessions", "split"}
    facts = {"kind": "evaluation", **result.model_dump(include=names)}
    facts |= {"models": ", ".join(dict.fromkeys(model for model, _ in result.by_predictor)), "first row": result.rows[0].model_dump()}
    facts |= {"best baseline": result.best_baseline.model_dump(), "difference": result.differences[0].model_dump()}
    facts["tested participants the model was pretrained on"] = result.seen_in_pretraining
    return {**facts, "read by": "slimbrain report --evaluation, slimbrain.add_evaluation"}


def _sidecar(value: _Facts) -> _Facts | None:
    row = value.get("SessionRow")
    if not isinstance(row, dict):
        return None
    facts = {"kind": "sidecar of a session", **row, "cohort": value.get("Cohort"), "SHA-256": value.get("DataSha256")}
    return {**facts, "warnings": value.get("Warnings", []), "fields": ", ".join(value)}


def _truth(value: _Facts) -> _Facts | None:
    if not {"spec", "subjects", "sessions"} <= set(value):
        return None
    return {
        "kind": "truth of a simulated cohort",
        "participants": len(value["subjects"]),
        "sessions": len(value["sessions"]),
        **value["spec"],
    }


def _configuration(value: _Facts) -> _Facts | None:
    if value.get("kind") not in ("temporal", "voxel") or "contract" not in value:
        return None
    return {"kind": f"configuration of a {value['kind']} model", **value["contract"], "read by": "slimbrain, through its folder"}


def _lines(path: Path) -> _Facts:
    from slimbrain.train import METRICS_FILE, read_metrics

    try:
        if path.name != METRICS_FILE:
            return {"kind": "JSON lines", "lines": len(path.read_text(encoding="utf-8").splitlines())}
        lines = read_metrics(path.parent)
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); restore it from where it came.") from error
    return {"kind": "training log", "lines": len(lines), "first": lines[0] if lines else {}, "last": lines[-1] if lines else {}}


def _preset(path: Path) -> _Facts:
    from slimbrain.config import load_preset

    preset = load_preset(path)
    facts = {"kind": "preset", "name": preset.name}
    return {**facts, **preset.model_dump(mode="json", exclude={"name"}), "read by": "slimbrain pretrain --preset, plan, doctor"}


def _object(path: Path) -> _Facts:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); make it again.") from error
    return value if isinstance(value, dict) else {"a list of": len(value) if isinstance(value, list) else value}


_READERS: dict[str, Callable[[Path], _Facts]] = {
    ".safetensors": _tensors,
    ".npz": _arrays,
    ".tsv": _table,
    ".json": _json,
    ".jsonl": _lines,
    ".yaml": _preset,
    ".yml": _preset,
}
